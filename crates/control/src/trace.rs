//! The part of a trace that a build is: a span for each vertex and each of its items.
//!
//! They are told when the build has ended, from its log: while it runs they cost nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::SystemTime;

use engine::progress::{Event, ItemState, Log, VertexState};
use oci::Digest;
use spans::{Kind, Listening, Recorder, Span, SpanContext};

/// The trace that a build belongs to.
pub(crate) struct Trace {
    recorder: Recorder,
    /// The call that the build is.
    call: SpanContext,
    listening: Listening,
}

impl Trace {
    /// From now on the trace of `call` is kept.
    pub(crate) fn begin(recorder: &Recorder, call: SpanContext) -> Trace {
        Trace {
            recorder: recorder.clone(),
            call,
            listening: recorder.listen(&call),
        }
    }

    /// Adds what a build did that has ended.
    pub(crate) fn record(&self, log: &Log) {
        let mut told = Told::default();
        let mut spans = Vec::new();
        let mut position = 0;
        loop {
            let events = log.read(position);
            if events.is_empty() {
                break;
            }
            position += events.len();
            spans.extend(
                events
                    .iter()
                    .filter_map(|event| told.span(self.call, event)),
            );
        }
        self.recorder.record(spans);
    }

    /// All that is known of the trace by now.
    pub(crate) fn listening(self) -> Listening {
        self.listening
    }
}

/// What was seen of vertices.
#[derive(Default)]
struct Told {
    vertices: HashMap<Digest, Running>,
}

/// A vertex that began.
struct Running {
    context: SpanContext,
    started: SystemTime,
    ended: bool,
}

impl Told {
    /// The span of what ended with an event.
    fn span(&mut self, call: SpanContext, event: &Arc<Event>) -> Option<Span> {
        match &**event {
            Event::Vertex(state) => self.vertex(call, state),
            Event::Item(state) => self.item(state),
            Event::Output { .. } | Event::Warning { .. } => None,
        }
    }

    fn vertex(&mut self, call: SpanContext, state: &VertexState) -> Option<Span> {
        let started = state.started.or(state.completed)?;
        let fresh = || Running {
            context: call.child(),
            started,
            ended: false,
        };
        let running = match self.vertices.entry(state.digest) {
            Entry::Vacant(entry) => entry.insert(fresh()),
            // A vertex may be looked for, and be made when it is not found.
            Entry::Occupied(mut entry) if entry.get().started != started => {
                entry.insert(fresh());
                entry.into_mut()
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        let end = state.completed?;
        if std::mem::replace(&mut running.ended, true) {
            return None;
        }
        Some(Span {
            context: running.context,
            parent: Some(call),
            kind: Kind::Internal,
            name: match state.cached {
                true => format!("load cache: {}", state.name),
                false => state.name.clone(),
            },
            start: started,
            end,
            attributes: vec![("vertex", state.digest.to_string())],
            error: Some(state.error.clone()).filter(|error| !error.is_empty()),
        })
    }

    fn item(&self, state: &ItemState) -> Option<Span> {
        let (start, end) = (state.started?, state.completed?);
        let parent = self.vertices.get(&state.vertex)?.context;
        let name = match state.name.is_empty() {
            true => &state.id,
            false => &state.name,
        };
        Some(Span {
            context: parent.child(),
            parent: Some(parent),
            kind: Kind::Internal,
            name: name.clone(),
            start,
            end,
            attributes: Vec::new(),
            error: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::progress::Step;

    use super::*;

    #[test]
    fn each_time_that_a_vertex_ran_is_a_span_and_so_are_its_items() {
        let log = Log::new();
        let vertex = Digest::of("a");
        let step = Step::begin(&log, vertex, "a");
        let now = SystemTime::now();
        log.push(Event::Item(ItemState {
            id: "extracting".to_owned(),
            vertex,
            name: String::new(),
            current: 0,
            total: 0,
            timestamp: now,
            started: Some(now),
            completed: Some(now),
        }));
        step.done();
        // Told once more, and then run again.
        log.update(vertex, |_| {});
        log.update(vertex, |vertex| {
            vertex.started = Some(now + Duration::from_secs(1));
            vertex.completed = None;
        });
        log.update(vertex, |vertex| {
            vertex.completed = vertex.started;
            vertex.error = "no".to_owned();
        });
        let call = SpanContext::root();
        let mut told = Told::default();
        let events = log.read(0);
        let spans: Vec<Span> = events
            .iter()
            .filter_map(|event| told.span(call, event))
            .collect();
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["extracting", "a", "a"]);
        assert_eq!(spans[0].parent, Some(spans[1].context));
        assert_eq!(spans[1].parent, Some(call));
        assert_eq!(spans[2].error.as_deref(), Some("no"));
    }
}
