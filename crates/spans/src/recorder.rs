//! What is known of traces at the moment.
//!
//! Clients send their spans when their build has ended, so a trace is kept for a minute after the last
//! span of it; one that a build's record waits for, as long as that takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use proto::trace::{self as wire, ResourceSpans, ScopeSpans};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::resource::Maker;
use crate::{Exporter, Span, SpanContext, document};

/// How long a trace is kept that nobody waits for (BuildKit: `util/tracing/detect/recorder.go`).
const KEPT: Duration = Duration::from_secs(60);

/// Bytes of memory for the spans of one trace, and of all. Spans that are too much are lost: a trace must never be
/// what a daemon runs out of memory for.
const MAX_TRACE: usize = 4 << 20;
const MAX_ALL: usize = 8 << 20;

/// Keeps spans for a while and sends them on. Clones are handles of the same.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

struct Inner {
    this: Arc<Maker>,
    exporter: Option<Exporter>,
    traces: Mutex<Traces>,
    runtime: Handle,
}

type TraceId = [u8; 16];

#[derive(Default)]
struct Traces {
    by_id: HashMap<TraceId, Trace>,
    size: usize,
    /// Whether somebody will look for traces that are too old.
    watched: bool,
}

struct Trace {
    spans: Vec<Recorded>,
    size: usize,
    listeners: usize,
    last: Instant,
}

impl Trace {
    fn new() -> Trace {
        Trace {
            spans: Vec::new(),
            size: 0,
            listeners: 0,
            last: Instant::now(),
        }
    }
}

/// A span and who made it.
#[derive(Clone)]
pub(crate) struct Recorded {
    pub(crate) span: wire::Span,
    pub(crate) maker: Arc<Maker>,
}

impl Recorded {
    /// About how many bytes of memory it takes: a span of a few words takes several times what it takes
    /// on the wire.
    fn memory(&self) -> usize {
        let attributes = size_of_val(&self.span.attributes[..]);
        let events = size_of_val(&self.span.events[..]);
        size_of::<Recorded>() + attributes + events + self.span.encoded_len()
    }
}

impl Recorder {
    /// Keeps spans of this process, which is called `program`, and of its clients; what `exporter` there
    /// is gets them too. Must be called within a tokio runtime.
    pub fn new(program: &str, exporter: Option<Exporter>) -> Recorder {
        let this = Maker::this(program, |name| std::env::var(name).ok());
        Recorder {
            inner: Arc::new(Inner {
                this: Arc::new(this),
                exporter,
                traces: Mutex::default(),
                runtime: Handle::current(),
            }),
        }
    }

    /// Whether spans are sent on, so that also those have readers that belong to no client's trace.
    pub fn exports(&self) -> bool {
        self.inner.exporter.is_some()
    }

    /// Records spans of this process.
    pub fn record(&self, spans: Vec<Span>) {
        let spans: Vec<wire::Span> = spans
            .into_iter()
            .filter(|span| span.context.is_sampled())
            .map(Span::into_wire)
            .collect();
        if spans.is_empty() {
            return;
        }
        if let Some(exporter) = &self.inner.exporter {
            exporter.send(vec![ResourceSpans {
                resource: Some(self.inner.this.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(self.inner.this.scope.clone()),
                    spans: spans.clone(),
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }]);
        }
        let maker = &self.inner.this;
        self.keep(spans.into_iter().map(|span| Recorded {
            span,
            maker: maker.clone(),
        }));
    }

    /// Records spans of a client.
    pub(crate) fn import(&self, all: Vec<ResourceSpans>) {
        if let Some(exporter) = &self.inner.exporter {
            exporter.send(all.clone());
        }
        for of_resource in all {
            let resource = of_resource.resource.unwrap_or_default();
            for of_scope in of_resource.scope_spans {
                let maker = Arc::new(Maker {
                    resource: resource.clone(),
                    scope: of_scope.scope.unwrap_or_default(),
                });
                self.keep(of_scope.spans.into_iter().map(|span| Recorded {
                    span,
                    maker: maker.clone(),
                }));
            }
        }
    }

    /// Waits for spans of the trace of `context`: from now on they are kept until the answer is dropped.
    pub fn listen(&self, context: &SpanContext) -> Listening {
        let mut traces = self.traces();
        let trace = traces.by_id.entry(context.trace).or_insert_with(Trace::new);
        trace.listeners += 1;
        Listening {
            recorder: self.clone(),
            trace: context.trace,
        }
    }

    /// Sends on what is still to be sent; gives up after a while.
    pub async fn shutdown(&self) {
        if let Some(exporter) = &self.inner.exporter {
            exporter.shutdown().await;
        }
    }

    fn traces(&self) -> MutexGuard<'_, Traces> {
        let traces = self.inner.traces.lock();
        traces.unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, spans: impl Iterator<Item = Recorded>) {
        let mut traces = self.traces();
        let mut lost = 0;
        for recorded in spans {
            lost += usize::from(!traces.add(recorded));
        }
        if lost > 0 {
            tracing::debug!(lost, "there are more spans than are kept");
        }
        if !traces.watched && !traces.by_id.is_empty() {
            traces.watched = true;
            let recorder = self.clone();
            self.inner.runtime.spawn(async move {
                loop {
                    tokio::time::sleep(KEPT).await;
                    if recorder.traces().sweep() {
                        return;
                    }
                }
            });
        }
    }
}

impl Traces {
    /// Adds a span; `false` if there is no room for it, or it belongs nowhere.
    fn add(&mut self, recorded: Recorded) -> bool {
        let Ok(id) = TraceId::try_from(&*recorded.span.trace_id) else {
            return false;
        };
        if recorded.span.span_id.len() != 8 {
            return false;
        }
        let size = recorded.memory();
        if self.size + size > MAX_ALL {
            self.drop_oldest(id);
        }
        if self.size + size > MAX_ALL {
            return false;
        }
        let trace = self.by_id.entry(id).or_insert_with(Trace::new);
        trace.last = Instant::now();
        if trace.size + size > MAX_TRACE {
            return false;
        }
        trace.size += size;
        trace.spans.push(recorded);
        self.size += size;
        true
    }

    /// Lets go of the oldest trace that nobody waits for, but not of `except`.
    fn drop_oldest(&mut self, except: TraceId) {
        let unwanted = self.by_id.iter();
        let unwanted = unwanted.filter(|(id, trace)| trace.listeners == 0 && **id != except);
        let oldest = unwanted.min_by_key(|(_, trace)| trace.last);
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: TraceId) {
        if let Some(trace) = self.by_id.remove(&id) {
            self.size -= trace.size;
        }
    }

    /// Lets go of old traces; whether there are none left, so that nobody has to look again.
    fn sweep(&mut self) -> bool {
        let old = self.by_id.iter();
        let old = old.filter(|(_, trace)| trace.listeners == 0 && trace.last.elapsed() >= KEPT);
        let old: Vec<TraceId> = old.map(|(id, _)| *id).collect();
        for id in old {
            self.remove(id);
        }
        if self.by_id.is_empty() {
            self.by_id.shrink_to_fit();
            self.watched = false;
        }
        !self.watched
    }
}

/// A trace that somebody waits for.
pub struct Listening {
    recorder: Recorder,
    trace: TraceId,
}

impl Listening {
    /// The trace as BuildKit's clients read it: spans in JSON, one after another. `None` if there are none.
    #[must_use]
    pub fn document(&self) -> Option<Bytes> {
        let spans = self.recorder.traces().by_id.get(&self.trace)?.spans.clone();
        (!spans.is_empty()).then(|| document::write(&spans).into())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut traces = self.recorder.traces();
        let Some(trace) = traces.by_id.get_mut(&self.trace) else {
            return;
        };
        trace.listeners -= 1;
        if trace.listeners == 0 && trace.spans.is_empty() {
            traces.by_id.remove(&self.trace);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::Kind;

    fn span(context: SpanContext, name: &str) -> Span {
        Span {
            context,
            parent: None,
            kind: Kind::Internal,
            name: name.to_owned(),
            start: SystemTime::now(),
            end: SystemTime::now(),
            attributes: Vec::new(),
            error: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trace_is_kept_as_long_as_somebody_waits_for_it() {
        let recorder = Recorder::new("test", None);
        let (waited, other) = (SpanContext::root(), SpanContext::root());
        let listening = recorder.listen(&waited);
        recorder.record(vec![span(waited, "a"), span(other, "b")]);
        tokio::time::sleep(KEPT * 3).await;
        assert_eq!(recorder.traces().by_id.len(), 1);
        let document = listening.document().unwrap();
        assert!(String::from_utf8_lossy(&document).contains(r#""Name":"a""#));
        drop(listening);
        tokio::time::sleep(KEPT * 3).await;
        let traces = recorder.traces();
        assert!(traces.by_id.is_empty() && traces.size == 0 && !traces.watched);
    }

    #[tokio::test]
    async fn too_much_is_lost_and_the_oldest_first() {
        let recorder = Recorder::new("test", None);
        let long = "x".repeat(4000);
        let first = SpanContext::root();
        recorder.record(vec![span(first, "first")]);
        for _ in 0..4 {
            let context = SpanContext::root();
            let spans = (0..MAX_TRACE / 4000 + 10).map(|_| span(context.child(), &long));
            recorder.record(spans.collect());
        }
        let traces = recorder.traces();
        assert!(traces.size <= MAX_ALL && traces.by_id.len() <= 3);
        assert!(!traces.by_id.contains_key(&first.trace));
    }
}
