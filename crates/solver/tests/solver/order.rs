//! What runs first, and how much at once.

use std::sync::Arc;
use std::time::Duration;

use llb::Graph;
use solver::ErrorClass;

use crate::fake::{Fake, job, soon};
use crate::graphs::Builder;

#[tokio::test]
async fn no_more_containers_run_at_once_than_allowed() {
    let fake = Fake::new();
    let solver = fake.solver(3);
    let mut b = Builder::default();
    let base = b.source("local://base");
    let runs: Vec<_> = (0..20)
        .map(|number| b.run(base, &format!("run {number}")))
        .collect();
    let merge = b.merge(&runs);
    let graph = b.graph(merge);
    for number in 0..20 {
        fake.hold(&format!("run {number}"));
    }
    let (job, _) = job(&solver, "job");
    let build = tokio::spawn(async move { job.realize(&graph).await });
    fake.until(|state| state.running == 3).await;
    fake.with(|state| state.held.clear());
    soon(build).await.unwrap().unwrap();
    assert_eq!(fake.with(|state| state.most_running), 3);
}

#[tokio::test]
async fn what_the_build_waits_longest_for_starts_first() {
    let fake = Fake::new();
    let solver = fake.solver(1);
    let mut b = Builder::default();
    let base = b.source("local://base");
    let short = b.run(base, "short");
    let slow = b.run(base, "slow");
    let long = b.run(base, "long 1");
    let long = b.run(long, "long 2");
    let merge = b.merge(&[short, slow, long]);
    let graph = b.graph(merge);
    let key = graph.vertex(&slow.digest).unwrap().keying().op_key;
    fake.remember_duration(key, Duration::from_secs(60));
    let (job, _) = job(&solver, "job");
    soon(job.realize(&graph)).await.unwrap();
    let begun = fake.with(|state| state.begun.clone());
    assert_eq!(begun[..3], ["slow", "long 1", "short"], "{begun:?}");
}

#[tokio::test]
async fn a_job_with_much_to_do_leaves_room_for_others() {
    let fake = Fake::new();
    let solver = fake.solver(1);
    let graph = |count: usize, name: &str| {
        let mut b = Builder::default();
        let base = b.source("local://base");
        let runs: Vec<_> = (0..count)
            .map(|number| b.run(base, &format!("{name} {number}")))
            .collect();
        let merge = b.merge(&runs);
        b.graph(merge)
    };
    fake.hold("big 0");
    let (big, small) = (graph(20, "big"), graph(2, "small"));
    for number in 0..20 {
        fake.hold(&format!("big {number}"));
    }
    let (one, _) = job(&solver, "one");
    let first = tokio::spawn(async move { one.realize(&big).await });
    fake.until(|state| state.running == 1).await;
    let (two, _) = job(&solver, "two");
    let second = tokio::spawn(async move { two.realize(&small).await });
    // When it knows what is there it queues what is not.
    fake.until(|state| state.exists == 2).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    fake.with(|state| state.held.clear());
    soon(second).await.unwrap().unwrap();
    let begun = fake.with(|state| state.begun.clone());
    let at = begun
        .iter()
        .position(|name| name.starts_with("merge (small"))
        .unwrap();
    assert!(at <= 6, "{begun:?}");
    soon(first).await.unwrap().unwrap();
}

/// A graph that copies from stages, one after the other, into what runs a command in between.
fn copies(b: &mut Builder, stages: &[&str]) -> Arc<Graph> {
    let base = b.source("local://base");
    let mut last = base;
    for stage in stages {
        let made = b.run(base, stage);
        last = b.copy(last, made);
        last = b.run(last, &format!("after {stage}"));
    }
    std::mem::take(b).graph(last)
}

#[tokio::test]
async fn stages_that_are_copied_from_run_at_a_time() {
    let fake = Fake::new();
    let solver = fake.solver(10);
    let stages = ["one", "two", "three"];
    let graph = copies(&mut Builder::default(), &stages);
    stages.iter().for_each(|stage| fake.hold(stage));
    let (job, _) = job(&solver, "job");
    let build = tokio::spawn(async move { job.realize(&graph).await });
    fake.until(|state| state.running == 3).await;
    fake.with(|state| state.held.clear());
    soon(build).await.unwrap().unwrap();
    assert_eq!(fake.runs(), 9, "each stage, copy and command once");
}

#[tokio::test]
async fn a_stage_that_fails_ends_the_build_though_another_is_copied_first() {
    let fake = Fake::new();
    let solver = fake.solver(10);
    let graph = copies(&mut Builder::default(), &["slow", "broken"]);
    fake.hold("slow");
    fake.fail("broken", ErrorClass::User);
    let (job, _) = job(&solver, "job");
    let error = soon(job.realize(&graph)).await.unwrap_err();
    assert!(error.to_string().contains("broken"), "{error}");
}
