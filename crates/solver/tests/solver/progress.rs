//! What jobs are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use llb::{BuildOp, Graph};
use oci::Digest;
use solver::{EventKind, Events, LogChunk};

use crate::fake::{Fake, job, soon};
use crate::graphs::{Builder, chain};

fn chunk(text: &'static str) -> LogChunk {
    LogChunk {
        stream: 1,
        data: text.into(),
        time: SystemTime::UNIX_EPOCH,
    }
}

/// Everything that is told until the job has ended, in short.
async fn all(mut events: Events, graph: &Graph) -> Vec<String> {
    let names: HashMap<Digest, &str> = graph
        .vertices()
        .map(|vertex| (vertex.digest(), vertex.name()))
        .collect();
    let mut all = Vec::new();
    while let Some(event) = soon(events.next()).await {
        let what = match event.kind {
            EventKind::Known { inputs, .. } => format!("known on {}", inputs.len()),
            EventKind::Started { .. } => "started".to_owned(),
            EventKind::Completed { cached, error, .. } => match (cached, error) {
                (true, _) => "cached".to_owned(),
                (false, None) => "completed".to_owned(),
                (false, Some(error)) => error.to_string(),
            },
            EventKind::Log(chunk) => String::from_utf8_lossy(&chunk.data).into_owned(),
            EventKind::Status(status) => status.id,
            EventKind::Warning(warning) => warning.short,
        };
        all.push(format!("{}: {what}", names[&event.vertex]));
    }
    all
}

async fn told(fake: &Fake, graph: &Arc<Graph>) -> Vec<String> {
    let solver = fake.solver(4);
    let (job, events) = job(&solver, "job");
    let _ = soon(job.realize(graph)).await;
    drop(job);
    all(events, graph).await
}

#[tokio::test]
async fn each_vertex_is_known_started_and_completed() {
    let told = told(&Fake::new(), &chain(1)).await;
    assert_eq!(
        told,
        [
            "docker-image://base: known on 0",
            "step 0: known on 1",
            "docker-image://base: started",
            "docker-image://base: completed",
            "docker-image://base: started",
            "docker-image://base: completed",
            "step 0: started",
            "step 0: completed",
        ]
    );
}

#[tokio::test]
async fn what_is_found_is_told_to_be_cached_after_all_below_but_not_an_image_that_nothing_needs() {
    let fake = Fake::new();
    let graph = chain(2);
    told(&fake, &graph).await;
    let again = told(&fake, &graph).await.split_off(3);
    assert_eq!(
        again,
        [
            "docker-image://base: started",
            "docker-image://base: completed",
            "step 0: started",
            "step 0: cached",
            "step 1: started",
            "step 1: cached",
        ]
    );
}

#[tokio::test]
async fn an_image_that_is_there_is_told_before_the_first_step_on_it_starts() {
    let fake = Fake::new();
    told(&fake, &chain(0)).await;
    let again = told(&fake, &chain(2)).await.split_off(3);
    assert_eq!(
        again,
        [
            "docker-image://base: started",
            "docker-image://base: completed",
            "docker-image://base: cached",
            "step 0: started",
            "step 0: completed",
            "step 1: started",
            "step 1: completed",
        ]
    );
}

/// Two stages on one base that meet in a merge, and a step on top of it.
fn stages(last: &str) -> Arc<Graph> {
    let mut b = Builder::default();
    let base = b.source("local://base");
    let left = b.run(base, "left 0");
    let right = b.run(base, "right 0");
    let left = b.run(left, "left 1");
    let right = b.run(right, "right 1");
    let merge = b.merge(&[right, left]);
    let last = b.run(merge, last);
    b.graph(last)
}

#[tokio::test]
async fn what_is_found_is_told_in_the_order_of_the_definition_before_what_runs() {
    let fake = Fake::new();
    told(&fake, &stages("last")).await;
    let again = told(&fake, &stages("another")).await;
    let ends = again.iter().filter(|line| {
        line.ends_with(": cached") || line.ends_with("another: started") || line.contains(": known")
    });
    assert_eq!(
        ends.collect::<Vec<_>>(),
        [
            "local://base: known on 0",
            "left 0: known on 1",
            "right 0: known on 1",
            "left 1: known on 1",
            "right 1: known on 1",
            "merge (right 1, left 1): known on 2",
            "another: known on 1",
            "left 0: cached",
            "right 0: cached",
            "left 1: cached",
            "right 1: cached",
            "merge (right 1, left 1): cached",
            "another: started",
        ]
    );
}

#[tokio::test]
async fn a_definition_from_a_result_is_told_before_the_op_that_loads_it() {
    let fake = Fake::new();
    let inner = chain(1);
    let bytes = inner.definition().encode();
    let name = BuildOp::DEFINITION.to_owned();
    fake.with(|state| state.definitions.insert(name, bytes.into()));
    let mut b = Builder::default();
    let definition = b.source("local://definition");
    let built = b.build(definition);
    let last = b.run(built, "last");
    let graph = b.graph(last);
    let solver = fake.solver(4);
    let (first, _) = job(&solver, "first");
    soon(first.realize(&graph)).await.unwrap();
    let (second, mut events) = job(&solver, "second");
    soon(second.realize(&graph)).await.unwrap();
    drop(second);
    let mut cached = Vec::new();
    while let Some(event) = soon(events.next()).await {
        if let EventKind::Completed { cached: true, .. } = event.kind {
            cached.push(event.vertex);
        }
    }
    let digests = |graph: &Graph| graph.vertices().map(|v| v.digest()).collect::<Vec<_>>();
    // But for the sources: they are below what was found.
    let expected = [&digests(&inner)[1..], &digests(&graph)[1..]].concat();
    assert_eq!(cached, expected);
}

#[tokio::test]
async fn a_failure_is_told_at_the_vertex_that_failed() {
    let fake = Fake::new();
    fake.fail("step 0", solver::ErrorClass::User);
    let told = told(&fake, &chain(2)).await;
    assert_eq!(told.last().unwrap(), "step 0: step 0 failed");
    assert!(!told.iter().any(|line| line.starts_with("step 1: started")));
}

#[tokio::test]
async fn who_joins_late_hears_everything_from_the_start() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    fake.hold("step 0");
    let mut b = Builder::default();
    let base = b.source("local://base");
    let run = b.run(base, "step 0");
    let graph = b.graph(run);
    let (one, first_events) = job(&solver, "one");
    let g1 = graph.clone();
    let first = tokio::spawn(async move { one.realize(&g1).await });
    fake.until_begun("step 0").await;
    let mut run = fake.with(|state| state.last_run.take()).unwrap();
    run.progress.log(chunk("early "));

    let (two, second_events) = job(&solver, "two");
    let g2 = graph.clone();
    let second = tokio::spawn(async move { two.realize(&g2).await });
    soon(run.sessions.changed()).await;
    run.progress.log(chunk("late"));
    fake.let_go("step 0");
    soon(first).await.unwrap().unwrap();
    soon(second).await.unwrap().unwrap();
    run.progress.log(chunk("too late"));

    for events in [first_events, second_events] {
        let told = all(events, &graph).await;
        let of_step = told.iter().filter_map(|line| line.strip_prefix("step 0: "));
        let expected = ["known on 1", "started", "early ", "late", "completed"];
        assert_eq!(of_step.collect::<Vec<_>>(), expected);
    }
}
