//! From one call to all the jobs that wait for it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use oci::Digest;
use tokio::sync::mpsc;

use super::{EventKind, JobEvent, LogChunk};

/// How many bytes of output are kept for jobs that join late. More than any step prints that
/// somebody reads; a hundred steps that print without end still leave the daemon standing.
const MAX_KEPT_LOG: usize = 16 << 20;

/// What a chunk of output costs beside its bytes, so that many small ones are bounded, too.
const CHUNK_COST: usize = 64;

/// How many other events are kept: an image has up to some hundred layers with a status each.
const MAX_KEPT_EVENTS: usize = 4096;

/// Where the events of a job go. Unbounded, because the engine takes them at once into a log of
/// its own; a bound here would let one slow job hold up another that waits for the same step.
pub(crate) type JobSink = mpsc::UnboundedSender<JobEvent>;

/// The events of one call, for the jobs that wait for it.
pub(crate) struct Fanout(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    is_closed: bool,
    listeners: Vec<Listener>,
    kept: Vec<EventKind>,
    kept_log: usize,
    kept_events: usize,
    lost_log: usize,
    /// Where in `kept` the last status of each item is: only the last matters to who joins late.
    statuses: HashMap<String, usize>,
}

struct Listener {
    job: u64,
    vertex: Digest,
    sink: JobSink,
}

impl Fanout {
    pub(crate) fn new() -> Fanout {
        Fanout(Mutex::new(Inner::default()))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a vertex of a job hear everything, from the start.
    pub(crate) fn join(&self, job: u64, vertex: Digest, sink: JobSink) {
        let mut inner = self.inner();
        if inner.is_closed {
            return;
        }
        if inner
            .listeners
            .iter()
            .any(|one| one.job == job && one.vertex == vertex)
        {
            return;
        }
        // A receiver that is gone belongs to a job that is ending.
        for kind in &inner.kept {
            let _ = sink.send(JobEvent {
                vertex,
                kind: kind.clone(),
            });
        }
        if inner.lost_log > 0 {
            let kind = EventKind::Log(gap(inner.lost_log));
            let _ = sink.send(JobEvent { vertex, kind });
        }
        inner.listeners.push(Listener { job, vertex, sink });
    }

    /// Lets a vertex of a job hear no more.
    pub(crate) fn leave(&self, job: u64, vertex: Digest) {
        self.inner()
            .listeners
            .retain(|one| one.job != job || one.vertex != vertex);
    }

    /// Lets nobody hear any more.
    pub(crate) fn close(&self) {
        let mut inner = self.inner();
        inner.listeners.clear();
        inner.kept.clear();
        inner.statuses.clear();
        inner.is_closed = true;
    }

    /// Tells all.
    pub(crate) fn send(&self, kind: EventKind) {
        let mut inner = self.inner();
        if inner.is_closed {
            return;
        }
        for listener in &inner.listeners {
            let event = JobEvent {
                vertex: listener.vertex,
                kind: kind.clone(),
            };
            let _ = listener.sink.send(event);
        }
        inner.keep(kind);
    }
}

impl Inner {
    fn keep(&mut self, kind: EventKind) {
        match &kind {
            EventKind::Log(chunk) => {
                let cost = chunk.data.len() + CHUNK_COST;
                if self.lost_log > 0 || self.kept_log + cost > MAX_KEPT_LOG {
                    self.lost_log += chunk.data.len();
                    return;
                }
                self.kept_log += cost;
                self.kept.push(kind);
                return;
            }
            EventKind::Status(status) => {
                if let Some(&at) = self.statuses.get(&status.id) {
                    self.kept[at] = kind;
                    return;
                }
                if self.kept_events >= MAX_KEPT_EVENTS {
                    return;
                }
                self.kept_events += 1;
                self.statuses.insert(status.id.clone(), self.kept.len());
            }
            EventKind::Warning(_) if self.kept_events < MAX_KEPT_EVENTS => self.kept_events += 1,
            EventKind::Warning(_)
            | EventKind::Known { .. }
            | EventKind::Started { .. }
            | EventKind::Completed { .. } => return,
        }
        self.kept.push(kind);
    }
}

/// What a job that joins late reads in place of output that was not kept.
fn gap(bytes: usize) -> LogChunk {
    let text = format!("[{bytes} bytes of earlier output are not shown]\n");
    LogChunk {
        stream: 2,
        data: Bytes::from(text),
        time: SystemTime::now(),
    }
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout")
            .field("listeners", &self.inner().listeners.len())
            .finish()
    }
}
