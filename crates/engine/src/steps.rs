//! The solver's events, as progress of a build.
//!
//! Layers of an image come in when the first step needs them, which is told of that step. Clients
//! expect it where the image is named, so it is shown there: the end of an image's vertex is held back
//! until a step that builds on it has something to say for itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use oci::Digest;
use solver::{EventKind, Events, ItemStatus, JobEvent};
use tokio::task::JoinHandle;

use crate::progress::{Event, ItemState, Log, VertexState};
use crate::sources::SourceMaps;

/// Writes the events of a job into a build's log.
pub(crate) struct Follower {
    task: JoinHandle<()>,
}

impl Follower {
    /// Follows `events` until the job has ended.
    pub(crate) fn spawn(mut events: Events, log: Arc<Log>, sources: Arc<SourceMaps>) -> Follower {
        let task = tokio::spawn(async move {
            let mut images = Images::new(log.clone(), sources);
            while let Some(event) = events.next().await {
                if let Some(event) = images.look(event) {
                    apply(&log, event);
                }
            }
            images.end();
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

/// The images of a build whose layers may still come in.
struct Images {
    log: Arc<Log>,
    sources: Arc<SourceMaps>,
    /// Vertices that nobody is told of.
    internal: HashSet<Digest>,
    /// Vertices that others build on.
    used: HashSet<Digest>,
    resolved: HashSet<Digest>,
    held: HashMap<Digest, Held>,
}

/// The end of an image's vertex that is not told yet.
struct Held {
    found: SystemTime,
    /// When the last layer that had to come in was there.
    pulled: Option<SystemTime>,
}

impl Images {
    fn new(log: Arc<Log>, sources: Arc<SourceMaps>) -> Images {
        Images {
            log,
            sources,
            internal: HashSet::new(),
            used: HashSet::new(),
            resolved: HashSet::new(),
            held: HashMap::new(),
        }
    }

    /// Takes an event that is about images; others are answered, to be told as they are.
    fn look(&mut self, event: JobEvent) -> Option<JobEvent> {
        let vertex = event.vertex;
        if let EventKind::Known { internal: true, .. } = &event.kind {
            self.internal.insert(vertex);
        }
        if self.internal.contains(&vertex) {
            return None;
        }
        match &event.kind {
            EventKind::Known { inputs, .. } => self.used.extend(inputs),
            EventKind::Started { time } => {
                let time = *time;
                apply(&self.log, event);
                self.show_resolved(vertex, time);
                return None;
            }
            EventKind::Completed {
                time,
                cached: true,
                error: None,
            } if self.used.contains(&vertex) && self.sources.image(&vertex).is_some() => {
                let (found, pulled) = (*time, None);
                self.held.insert(vertex, Held { found, pulled });
                return None;
            }
            EventKind::Status(item) if is_layer(item) && !self.held.is_empty() => {
                let Some(image) = self.images_below(&vertex).first().copied() else {
                    return Some(event);
                };
                if let Some(held) = self.held.get_mut(&image) {
                    held.pulled = Some(item.completed.unwrap_or(item.time));
                }
                return Some(JobEvent {
                    vertex: image,
                    kind: event.kind,
                });
            }
            EventKind::Completed { .. } | EventKind::Log(_) if !self.held.is_empty() => {
                for image in self.images_below(&vertex) {
                    self.tell_end(image);
                }
            }
            EventKind::Completed { .. }
            | EventKind::Log(_)
            | EventKind::Status(_)
            | EventKind::Warning(_) => {}
        }
        Some(event)
    }

    /// All that was held back, when the job has ended.
    fn end(mut self) {
        let held: Vec<Digest> = self.held.keys().copied().collect();
        for image in held {
            self.tell_end(image);
        }
    }

    fn show_resolved(&mut self, vertex: Digest, time: SystemTime) {
        let Some(reference) = self.sources.image(&vertex) else {
            return;
        };
        if self.resolved.insert(vertex) {
            self.log.push(Event::Item(ItemState {
                id: format!("resolve {reference}"),
                vertex,
                name: String::new(),
                current: 0,
                total: 0,
                timestamp: time,
                started: Some(time),
                completed: Some(time),
            }));
        }
    }

    /// The images whose end is held back and that `vertex` builds on at once.
    fn images_below(&self, vertex: &Digest) -> Vec<Digest> {
        let inputs = self.log.vertex(vertex).map(|state| state.inputs);
        let mut inputs = inputs.unwrap_or_default();
        inputs.retain(|input| self.held.contains_key(input));
        inputs
    }

    fn tell_end(&mut self, image: Digest) {
        let Some(held) = self.held.remove(&image) else {
            return;
        };
        self.log.update(image, |state| {
            state.started.get_or_insert(held.found);
            state.completed = Some(held.pulled.unwrap_or(held.found));
            state.cached = held.pulled.is_none();
        });
    }
}

/// Whether an item is a layer that is fetched or unpacked.
fn is_layer(item: &ItemStatus) -> bool {
    let name = item.id.strip_prefix("extracting ").unwrap_or(&item.id);
    name.starts_with("sha256:")
}

fn apply(log: &Log, event: JobEvent) {
    let vertex = event.vertex;
    match event.kind {
        EventKind::Known {
            name,
            inputs,
            group,
            internal: _,
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
            let error = error.map(|e| e.to_string()).unwrap_or_default();
            // What BuildKit says of the build, but not of the step.
            let error = error
                .strip_prefix("failed to compute cache key: ")
                .unwrap_or(&error);
            state.error = error.to_owned();
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
