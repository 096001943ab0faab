//! What is known of a build's progress, for any number of watchers.
//!
//! A build has one [`Log`] of events. Watchers read it with a cursor of their own, so that a slow
//! one holds up nobody, a late one sees all from the start, and nothing is lost.

mod spill;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use frontend::{SourceLocation, Warning};
use oci::Digest;
use tokio::sync::Notify;

use spill::{Spill, Stored};

/// A vertex as clients see it; sent anew whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VertexState {
    /// The vertex.
    pub digest: Digest,
    /// The vertices that it waits for.
    pub inputs: Vec<Digest>,
    /// What is shown.
    pub name: String,
    /// Whether its result was found instead of made.
    pub cached: bool,
    /// When it last began.
    pub started: Option<SystemTime>,
    /// When it last ended.
    pub completed: Option<SystemTime>,
    /// Why it failed; empty when it did not.
    pub error: String,
    /// The group that it is shown in.
    pub group: Option<llb::ProgressGroup>,
}

/// One item of a vertex's progress, e.g. a layer that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemState {
    /// Names the item within its vertex.
    pub id: String,
    /// The vertex.
    pub vertex: Digest,
    /// What is shown.
    pub name: String,
    /// Bytes done.
    pub current: i64,
    /// Bytes in all; 0 when not known.
    pub total: i64,
    /// When this was true.
    pub timestamp: SystemTime,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A vertex is new or has changed.
    Vertex(VertexState),
    /// An item has changed.
    Item(ItemState),
    /// A step printed something.
    Output {
        /// The step.
        vertex: Digest,
        /// 1 stdout, 2 stderr.
        stream: i64,
        /// What, in raw bytes.
        data: Bytes,
        /// When.
        time: SystemTime,
    },
    /// Somebody should know something.
    Warning {
        /// What.
        warning: Warning,
    },
}

/// The events of one build.
#[derive(Default)]
pub struct Log {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    events: Vec<Stored>,
    spill: Spill,
    warnings: usize,
    vertices: HashMap<Digest, VertexState>,
    /// In order of their first appearance, for the flush at the end.
    order: Vec<Digest>,
    closed: bool,
}

/// Reads a [`Log`] from its beginning.
pub struct Watcher {
    log: Arc<Log>,
    position: usize,
}

/// The most events that a watcher is handed at once: about a screen of a busy build.
const BATCH: usize = 512;

impl Log {
    /// An empty log.
    pub fn new() -> Arc<Log> {
        Arc::new(Log::default())
    }

    /// An empty log that keeps what is too much for memory in a file in `dir`.
    pub fn spilling_to(dir: PathBuf) -> Arc<Log> {
        let log = Log::default();
        log.lock().spill = Spill::to(dir);
        Arc::new(log)
    }

    /// A new watcher, at the beginning.
    pub fn watch(self: &Arc<Log>) -> Watcher {
        Watcher {
            log: self.clone(),
            position: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event; a closed log takes none. Credentials in names and errors of vertices are masked:
    /// they come from whoever described the build, and all see them, later also in the history.
    pub fn push(&self, mut event: Event) {
        if let Event::Vertex(vertex) = &mut event {
            for text in [&mut vertex.name, &mut vertex.error] {
                if text.contains('@') {
                    *text = oci::redact_text(text);
                }
            }
        }
        let mut state = self.lock();
        if state.closed {
            return;
        }
        if let Event::Vertex(vertex) = &event
            && state
                .vertices
                .insert(vertex.digest, vertex.clone())
                .is_none()
        {
            state.order.push(vertex.digest);
        }
        state.warnings += usize::from(matches!(event, Event::Warning { .. }));
        let stored = state.spill.store(event);
        state.events.push(stored);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Changes a vertex and tells the watchers; one that is not known is made with `digest` as name.
    pub fn update(&self, digest: Digest, change: impl FnOnce(&mut VertexState)) {
        let mut vertex = self.vertex(&digest).unwrap_or_else(|| VertexState {
            digest,
            inputs: Vec::new(),
            name: digest.to_string(),
            cached: false,
            started: None,
            completed: None,
            error: String::new(),
            group: None,
        });
        change(&mut vertex);
        self.push(Event::Vertex(vertex));
    }

    /// What is known of a vertex.
    pub fn vertex(&self, digest: &Digest) -> Option<VertexState> {
        self.lock().vertices.get(digest).cloned()
    }

    /// How many warnings were pushed.
    pub fn warnings(&self) -> usize {
        self.lock().warnings
    }

    /// Ends the log. Vertices that began and did not end are told to be cancelled, as BuildKit does.
    pub fn close(&self, now: SystemTime) {
        let open: Vec<VertexState> = {
            let state = self.lock();
            state
                .order
                .iter()
                .filter_map(|digest| state.vertices.get(digest))
                .filter(|v| v.started.is_some() && v.completed.is_none())
                .cloned()
                .collect()
        };
        for mut vertex in open {
            vertex.completed = Some(now);
            vertex.error = "context canceled".to_owned();
            self.push(Event::Vertex(vertex));
        }
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// The next events from `position` on, for whoever reads an ended log without waiting.
    pub fn read(&self, position: usize) -> Vec<Arc<Event>> {
        self.since(position).0
    }

    /// The events so far, and whether there will be no more.
    fn since(&self, position: usize) -> (Vec<Arc<Event>>, bool) {
        let state = self.lock();
        let end = state.events.len().min(position + BATCH);
        let stored = state.events.get(position..end).map(<[_]>::to_vec);
        let closed = state.closed;
        drop(state);
        let stored = stored.unwrap_or_default();
        (stored.iter().map(Stored::load).collect(), closed)
    }
}

impl Watcher {
    /// The next events; `None` when the build has ended and all was told.
    pub async fn next(&mut self) -> Option<Vec<Arc<Event>>> {
        let log = self.log.clone();
        loop {
            let changed = log.changed.notified();
            tokio::pin!(changed);
            // Registers before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            let (events, closed) = log.since(self.position);
            if !events.is_empty() {
                self.position += events.len();
                return Some(events);
            }
            if closed {
                return None;
            }
            changed.await;
        }
    }
}

/// A vertex that the engine itself makes: `[internal] load metadata for …`, `exporting to image`.
///
/// Dropped without [`Step::done`] or [`Step::failed`] it counts as cancelled.
pub struct Step {
    log: Arc<Log>,
    digest: Digest,
    open: bool,
}

impl Step {
    /// Begins the vertex `digest`.
    pub fn begin(log: &Arc<Log>, digest: Digest, name: impl Into<String>) -> Step {
        log.push(Event::Vertex(VertexState {
            digest,
            inputs: Vec::new(),
            name: name.into(),
            cached: false,
            started: Some(SystemTime::now()),
            completed: None,
            error: String::new(),
            group: None,
        }));
        Step {
            log: log.clone(),
            digest,
            open: true,
        }
    }

    /// The vertex.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The vertex ended well.
    pub fn done(mut self) {
        self.finish(String::new());
    }

    /// The vertex failed.
    pub fn failed(mut self, error: &str) {
        self.finish(error.to_owned());
    }

    fn finish(&mut self, error: String) {
        self.open = false;
        self.log.update(self.digest, |vertex| {
            vertex.completed = Some(SystemTime::now());
            vertex.error = error;
        });
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.open {
            self.finish("context canceled".to_owned());
        }
    }
}

/// The part of a location that a warning shows.
pub fn first_line(location: &SourceLocation) -> Option<i32> {
    location.ranges.first().map(|range| range.0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_watcher_sees_all_and_open_vertices_end_as_canceled() {
        let log = Log::new();
        let step = Step::begin(&log, Digest::of("a"), "a");
        step.done();
        let open = Step::begin(&log, Digest::of("b"), "b");
        log.close(SystemTime::now());
        drop(open);
        let mut watcher = log.watch();
        let mut last = HashMap::new();
        while let Some(events) = watcher.next().await {
            for event in events {
                if let Event::Vertex(vertex) = &*event {
                    last.insert(vertex.name.clone(), vertex.clone());
                }
            }
        }
        assert_eq!(last["a"].error, "");
        assert_eq!(last["b"].error, "context canceled");
        assert!(last.values().all(|v| v.completed.is_some()));
    }

    #[tokio::test]
    async fn watchers_are_woken() {
        let log = Log::new();
        let mut watcher = log.watch();
        let waiting = tokio::spawn(async move { watcher.next().await.map(|e| e.len()) });
        tokio::task::yield_now().await;
        Step::begin(&log, Digest::of("a"), "a").done();
        assert!(waiting.await.unwrap().is_some());
    }
}
