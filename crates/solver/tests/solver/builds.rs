//! What is run, and what is found.

use llb::{BuildOp, Graph, Input, OpKind, PassthroughOp};
use oci::Digest;
use solver::ErrorClass;
use std::sync::Arc;

use crate::fake::{Fake, job, soon};
use crate::graphs::{Builder, chain};

async fn build(fake: &Fake, graph: &Arc<Graph>) -> Result<Digest, solver::SolveError> {
    let solver = fake.solver(4);
    let (job, _) = job(&solver, "job");
    let result = soon(job.realize(graph)).await;
    drop(job);
    solver.shutdown().await;
    result
}

/// The names of what runs when a graph is built.
async fn runs(fake: &Fake, graph: &Arc<Graph>) -> Vec<String> {
    fake.with(|state| state.begun.clear());
    build(fake, graph).await.unwrap();
    fake.with(|state| state.begun.clone())
}

#[tokio::test]
async fn what_was_built_is_found() {
    let fake = Fake::new();
    assert_eq!(
        runs(&fake, &chain(2)).await,
        ["docker-image://base", "step 0", "step 1"]
    );
    assert!(runs(&fake, &chain(2)).await.is_empty());
    assert_eq!(runs(&fake, &chain(3)).await, ["step 2"]);
}

#[tokio::test]
async fn what_is_below_something_found_need_not_be_there() {
    let fake = Fake::new();
    let result = build(&fake, &chain(5)).await.unwrap();
    fake.with(|state| state.refs.retain(|id| *id == result));
    assert!(runs(&fake, &chain(5)).await.is_empty());
    fake.with(|state| state.refs.clear());
    assert_eq!(runs(&fake, &chain(5)).await.len(), 6);
}

#[tokio::test]
async fn identifying_a_graph_runs_nothing() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    let (job, _) = job(&solver, "job");
    let graph = chain(5);
    let named = soon(job.identify(&graph)).await.unwrap();
    assert_eq!(fake.runs(), 0);
    assert_eq!(soon(job.realize(&graph)).await.unwrap(), named.id);
    let records = soon(job.records(&graph)).await;
    assert_eq!(records.len(), 6);
    assert_eq!(records[5].output_ids[0], named.id);
    assert_eq!(records[5].inputs[0].id, records[4].output_ids[0]);
    assert_eq!(records[0].fast, None);
}

#[tokio::test]
async fn a_source_is_pinned_once_in_a_job() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    let (job, _) = job(&solver, "job");
    soon(job.realize(&chain(1))).await.unwrap();
    soon(job.realize(&chain(2))).await.unwrap();
    assert_eq!(fake.with(|state| state.pinned), 1);
}

#[tokio::test]
async fn equal_content_is_found_though_the_source_differs() {
    let fake = Fake::new();
    let graph = || {
        let mut b = Builder::default();
        let base = b.source("docker-image://base");
        let context = b.source("local://context");
        let copy = b.copy(base, context);
        let run = b.run(copy, "make");
        b.graph(run)
    };
    let version = |identity: &str, content: &str| {
        fake.with(|state| {
            state.pins.insert("local://context".into(), identity.into());
            state.contents.insert(Digest::of(identity), content.into());
        });
    };
    version("one", "same");
    assert_eq!(runs(&fake, &graph()).await.len(), 3);
    version("two", "same");
    assert!(runs(&fake, &graph()).await.is_empty());
    let digests = fake.with(|state| state.digests);
    assert!(runs(&fake, &graph()).await.is_empty());
    assert_eq!(
        fake.with(|state| state.digests),
        digests,
        "the link answers the second time"
    );
    version("three", "other");
    assert_eq!(runs(&fake, &graph()).await, ["copy /src /dest", "make"]);
}

#[tokio::test]
async fn a_fresh_result_is_what_later_builds_find() {
    let fake = Fake::new();
    let graph = |ignore_cache| {
        let mut b = Builder::default();
        let base = b.source("docker-image://base");
        let context = b.source("local://context");
        b.ignore_cache(ignore_cache);
        let copy = b.copy(base, context);
        let run = b.run(copy, "make");
        b.graph(run)
    };
    let old = build(&fake, &graph(false)).await.unwrap();
    let fresh = build(&fake, &graph(true)).await.unwrap();
    assert_ne!(old, fresh);
    assert_eq!(build(&fake, &graph(false)).await.unwrap(), fresh);
    // Also by content, from another source.
    fake.with(|state| {
        state.contents.insert(
            Digest::of("moved"),
            Digest::of("local://context").to_string(),
        );
        state.contents.insert(
            Digest::of("local://context"),
            Digest::of("local://context").to_string(),
        );
    });
    let fresh = build(&fake, &graph(true)).await.unwrap();
    fake.with(|state| state.pins.insert("local://context".into(), "moved".into()));
    assert_eq!(build(&fake, &graph(false)).await.unwrap(), fresh);
}

#[tokio::test]
async fn a_graph_that_passes_results_over_is_not_answered_with_those_of_an_earlier_one() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    let (job, _) = job(&solver, "job");
    let graph = |ignore_cache| {
        let mut b = Builder::default();
        let base = b.source("docker-image://base");
        b.ignore_cache(ignore_cache);
        let run = b.run(base, "one");
        b.ignore_cache(false);
        let run = b.run(run, "two");
        b.graph(run)
    };
    let known = soon(job.realize(&graph(false))).await.unwrap();
    let fresh = soon(job.realize(&graph(true))).await.unwrap();
    assert_ne!(known, fresh);
    // From now on the job knows the fresh one.
    assert_eq!(soon(job.realize(&graph(false))).await.unwrap(), fresh);
    assert_eq!(fake.runs(), 5);
}

#[tokio::test]
async fn two_outputs_are_made_by_one_run() {
    let fake = Fake::new();
    let mut b = Builder::default();
    let base = b.source("docker-image://base");
    let run = b.run(base, "make");
    let merge = b.merge(&[run, Input { output: 1, ..run }]);
    let graph = b.graph(merge);
    assert_eq!(runs(&fake, &graph).await.len(), 3);
    let request = fake.with(|state| state.last_run.take()).unwrap();
    assert_ne!(request.inputs[0], request.inputs[1]);
}

#[tokio::test]
async fn a_result_that_vanishes_is_made_anew() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    let (job, _) = job(&solver, "job");
    let graph = chain(2);
    fake.hold("step 1");
    fake.fail("step 1", ErrorClass::Transient);
    let realize = job.realize(&graph);
    tokio::pin!(realize);
    tokio::select! {
        _ = &mut realize => panic!("it is held"),
        () = fake.until_begun("step 1") => {}
    }
    fake.with(|state| state.refs.clear());
    fake.let_go("step 1");
    soon(realize).await.unwrap();
    let begun = fake.with(|state| state.begun.clone());
    assert_eq!(begun[3..], ["docker-image://base", "step 0", "step 1"]);
}

#[tokio::test]
async fn what_is_transient_for_ever_fails() {
    let fake = Fake::new();
    for _ in 0..10 {
        fake.fail("step 0", ErrorClass::Transient);
    }
    let error = build(&fake, &chain(1)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert_eq!(fake.runs(), 5);
}

#[tokio::test]
async fn a_worker_that_panics_fails_the_op_only() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    let (job, _) = job(&solver, "job");
    // The fake panics when it is to digest what is not there.
    let mut b = Builder::default();
    let base = b.source("docker-image://base");
    let context = b.source("local://panic");
    let copy = b.copy(base, context);
    let graph = b.graph(copy);
    let error = soon(job.realize(&graph)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Bug);
    soon(job.realize(&chain(2))).await.unwrap();
}

#[tokio::test]
async fn a_passthrough_is_its_inputs() {
    let fake = Fake::new();
    let mut b = Builder::default();
    let base = b.source("docker-image://base");
    let (one, two) = (b.run(base, "one"), b.run(base, "two"));
    let op = PassthroughOp {
        id: "both".into(),
        outputs: vec![1, 0],
    };
    let both = b.op(&[one, two], OpKind::Passthrough(op));
    let graph = b.graph(both);
    let mut b = Builder::default();
    let base = b.source("docker-image://base");
    let two = b.run(base, "two");
    let alone = b.graph(two);
    let result = build(&fake, &graph).await.unwrap();
    assert_eq!(fake.runs(), 3);
    assert_eq!(build(&fake, &alone).await.unwrap(), result);
    assert_eq!(fake.runs(), 3);
}

#[tokio::test]
async fn a_build_op_solves_the_definition_in_its_input() {
    let fake = Fake::new();
    let mut inner = Builder::default();
    let base = inner.source("docker-image://base");
    let run = inner.run(base, "inner");
    let inner = inner.definition(run);
    fake.with(|state| {
        state
            .definitions
            .insert(BuildOp::DEFINITION.into(), inner.encode().into())
    });
    let mut b = Builder::default();
    let definition = b.source("docker-image://frontend");
    let built = b.build(definition);
    let last = b.run(built, "outer");
    let graph = b.graph(last);
    let expected = [
        "docker-image://frontend",
        "docker-image://base",
        "inner",
        "outer",
    ];
    assert_eq!(runs(&fake, &graph).await, expected);
    assert!(runs(&fake, &graph).await.is_empty());
}

#[tokio::test]
async fn a_definition_that_builds_on_itself_is_refused() {
    let fake = Fake::new();
    let mut b = Builder::default();
    let definition = b.source("https://example.com/definition");
    let built = b.build(definition);
    let definition = b.definition(built);
    fake.with(|state| {
        state
            .definitions
            .insert(BuildOp::DEFINITION.into(), definition.encode().into())
    });
    let graph = Arc::new(Graph::new(&definition).unwrap());
    let error = build(&fake, &graph).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a definition builds on the op that loads it"
    );
    assert_eq!(error.class(), ErrorClass::User);
    fake.with(|state| {
        state
            .definitions
            .insert(BuildOp::DEFINITION.into(), "no".into())
    });
    let error = build(&fake, &graph).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("failed to load the definition in"),
        "{error}"
    );
}

#[tokio::test]
async fn a_graph_of_many_thousand_vertices_is_no_problem() {
    let fake = Fake::new();
    let graph = chain(5_000);
    assert_eq!(runs(&fake, &graph).await.len(), 5_001);
    assert!(runs(&fake, &graph).await.is_empty());
}
