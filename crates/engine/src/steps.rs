//! The solver's events, as progress of a build.

use std::sync::Arc;

use solver::{EventKind, Events, JobEvent};
use tokio::task::JoinHandle;

use crate::progress::{Event, ItemState, Log, VertexState};

/// Writes the events of a job into a build's log.
pub(crate) struct Follower {
    task: JoinHandle<()>,
}

impl Follower {
    /// Follows `events` until the job has ended.
    pub(crate) fn spawn(mut events: Events, log: Arc<Log>) -> Follower {
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                apply(&log, event);
            }
        });
        Follower { task }
    }

    /// Waits until all that the job told is in the log.
    pub(crate) async fn finish(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "following a job's progress failed");
        }
    }
}

fn apply(log: &Log, event: JobEvent) {
    let vertex = event.vertex;
    match event.kind {
        EventKind::Known {
            name,
            inputs,
            group,
        } => {
            // Several graphs of a build share vertices: what is known of one stays.
            if log.vertex(&vertex).is_none() {
                log.push(Event::Vertex(VertexState {
                    digest: vertex,
                    inputs,
                    name,
                    cached: false,
                    started: None,
                    completed: None,
                    error: String::new(),
                    group,
                }));
            }
        }
        EventKind::Started { time } => log.update(vertex, |state| {
            state.started = Some(time);
            state.completed = None;
            state.cached = false;
        }),
        EventKind::Completed {
            time,
            cached,
            error,
        } => log.update(vertex, |state| {
            state.started.get_or_insert(time);
            state.completed = Some(time);
            state.cached = cached;
            state.error = error.map(|e| e.to_string()).unwrap_or_default();
        }),
        EventKind::Log(chunk) => log.push(Event::Output {
            vertex,
            stream: i64::from(chunk.stream),
            data: chunk.data,
            time: chunk.time,
        }),
        EventKind::Status(item) => log.push(Event::Item(ItemState {
            id: item.id,
            vertex,
            name: item.name,
            current: item.current,
            total: item.total,
            timestamp: item.time,
            started: item.started,
            completed: item.completed,
        })),
        EventKind::Warning(w) => log.push(Event::Warning {
            warning: frontend::Warning {
                vertex,
                level: w.level,
                short: w.short,
                detail: w.detail,
                url: w.url,
                location: None,
            },
        }),
    }
}
