//! Jobs that want the same.

use std::sync::Arc;

use solver::ErrorClass;

use crate::fake::{Fake, job, soon};
use crate::graphs::{Builder, chain};

async fn identical_builds(count: usize) {
    let fake = Fake::new();
    let solver = fake.solver(4);
    let graph = chain(30);
    let mut builds = tokio::task::JoinSet::new();
    for number in 0..count {
        let (job, _) = job(&solver, &format!("job {number}"));
        let graph = graph.clone();
        builds.spawn(async move { job.realize(&graph).await.unwrap() });
    }
    let ids: std::collections::HashSet<_> = soon(builds.join_all()).await.into_iter().collect();
    assert_eq!(ids.len(), 1);
    // The source and each step.
    assert_eq!(fake.runs(), 31);
    solver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_identical_builds_run_each_step_once() {
    identical_builds(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_identical_builds_run_each_step_once() {
    identical_builds(50).await;
}

#[tokio::test]
async fn a_task_is_cancelled_when_its_last_waiter_leaves() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    fake.hold("step 0");
    let (one, _) = job(&solver, "one");
    let (two, mut events) = job(&solver, "two");
    let graph = chain(2);
    let (g1, g2) = (graph.clone(), graph.clone());
    let first = tokio::spawn(async move { one.realize(&g1).await });
    fake.until_begun("step 0").await;
    let second = tokio::spawn(async move { two.realize(&g2).await });
    while !matches!(
        soon(events.next()).await.unwrap().kind,
        solver::EventKind::Started { .. }
    ) {}

    first.abort();
    let _ = first.await;
    fake.let_go("step 0");
    fake.hold("step 1");
    fake.until_begun("step 1").await;
    assert!(fake.with(|state| state.dropped.is_empty()));

    second.abort();
    let _ = second.await;
    fake.until(|state| state.dropped == ["step 1"]).await;
    solver.shutdown().await;
}

#[tokio::test]
async fn who_joins_a_task_that_is_being_cancelled_begins_it_anew() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    fake.hold("step 0");
    let (one, _) = job(&solver, "one");
    let graph = chain(1);
    let g1 = graph.clone();
    let first = tokio::spawn(async move { one.realize(&g1).await });
    fake.until_begun("step 0").await;
    first.abort();
    let _ = first.await;
    let (two, _) = job(&solver, "two");
    let second = tokio::spawn(async move { two.realize(&graph).await });
    fake.until(|state| state.dropped == ["step 0"] && state.begun.len() == 3)
        .await;
    fake.let_go("step 0");
    soon(second).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_wish_that_is_dropped_is_withdrawn_though_the_job_lives() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    fake.hold("step 0");
    let (job, _) = job(&solver, "one");
    let job = Arc::new(job);
    let (graph, same) = (chain(1), job.clone());
    let wish = tokio::spawn(async move { same.realize(&graph).await });
    fake.until_begun("step 0").await;
    wish.abort();
    fake.until(|state| state.dropped == ["step 0"]).await;
    fake.let_go("step 0");
    soon(job.realize(&chain(1))).await.unwrap();
}

#[tokio::test]
async fn a_failure_is_told_to_all_and_not_kept() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    fake.hold("step 0");
    fake.fail("step 0", ErrorClass::User);
    let graph = chain(3);
    let (one, _) = job(&solver, "one");
    let (two, mut events) = job(&solver, "two");
    let g1 = graph.clone();
    let first = tokio::spawn(async move { (one.realize(&g1).await, one) });
    fake.until_begun("step 0").await;
    let g2 = graph.clone();
    let second = tokio::spawn(async move { two.realize(&g2).await });
    while !matches!(
        soon(events.next()).await.unwrap().kind,
        solver::EventKind::Started { .. }
    ) {}
    let failing = graph.vertices().nth(1).unwrap().digest();
    loop {
        let event = soon(events.next()).await.unwrap();
        if event.vertex == failing && matches!(event.kind, solver::EventKind::Started { .. }) {
            break;
        }
    }
    fake.let_go("step 0");

    let (first, one) = soon(first).await.unwrap();
    for error in [first.unwrap_err(), soon(second).await.unwrap().unwrap_err()] {
        assert_eq!(
            (error.to_string().as_str(), error.vertex),
            ("step 0 failed", Some(failing))
        );
        assert_eq!(error.class(), ErrorClass::User);
    }
    assert_eq!(
        fake.with(|state| state.begun.clone()),
        ["docker-image://base", "step 0"]
    );
    soon(one.realize(&graph)).await.unwrap();
}

#[tokio::test]
async fn a_joining_job_serves_its_session_and_a_leaving_one_takes_it_along() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    fake.hold("step 0");
    let graph = chain(1);
    let (one, _) = job(&solver, "one");
    let g1 = graph.clone();
    let first = tokio::spawn(async move { one.realize(&g1).await });
    fake.until_begun("step 0").await;
    let mut sessions = fake.with(|state| state.last_run.take()).unwrap().sessions;
    assert_eq!(*sessions.current(), ["session of one"]);

    let (two, _) = job(&solver, "two");
    let second = tokio::spawn(async move { two.realize(&graph).await });
    let changed = soon(sessions.changed()).await.unwrap();
    assert_eq!(*changed, ["session of one", "session of two"]);

    first.abort();
    assert_eq!(*soon(sessions.changed()).await.unwrap(), ["session of two"]);
    fake.let_go("step 0");
    soon(second).await.unwrap().unwrap();
    assert_eq!(soon(sessions.changed()).await, None);
}

#[tokio::test]
async fn builds_that_pass_known_results_over_do_not_share() {
    let fake = Fake::new();
    let solver = fake.solver(4);
    let graph = || {
        let mut b = Builder::default();
        let base = b.source("docker-image://base");
        b.ignore_cache(true);
        let run = b.run(base, "fresh");
        b.graph(run)
    };
    let (one, _) = job(&solver, "same name");
    let (two, _) = job(&solver, "same name");
    let (first, second) = (graph(), graph());
    let (first, second) =
        soon(async { tokio::join!(one.realize(&first), two.realize(&second)) }).await;
    assert_ne!(first.unwrap(), second.unwrap());
    assert_eq!(
        fake.with(|state| state.begun.iter().filter(|one| *one == "fresh").count()),
        2
    );
}
