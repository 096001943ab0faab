//! What jobs are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use llb::Graph;
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
async fn what_is_found_is_told_to_be_cached_with_all_below() {
    let fake = Fake::new();
    let graph = chain(2);
    told(&fake, &graph).await;
    let mut again = told(&fake, &graph).await.split_off(3);
    again.sort();
    assert_eq!(
        again,
        [
            "docker-image://base: cached",
            "docker-image://base: completed",
            "docker-image://base: started",
            "step 0: cached",
            "step 0: started",
            "step 1: cached",
            "step 1: started",
        ]
    );
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
