//! One span of the daemon's own.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::telemetry::{AnyValue, KeyValue, any_value};
use proto::trace as wire;

use crate::SpanContext;

/// Bits of a span's flags: it is known whether the parent is another process's, and it is.
const PARENT_KNOWN: u32 = 1 << 8;
const PARENT_REMOTE: u32 = 1 << 9;

/// A longer name or error is cut: it only says what to look for.
const MAX_TEXT: usize = 4096;

/// On which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No call.
    Internal,
    /// The side that is called.
    Server,
    /// The side that calls.
    Client,
}

/// Something that was done.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its name within its trace.
    pub context: SpanContext,
    /// What it was done for.
    pub parent: Option<SpanContext>,
    /// The side of a call.
    pub kind: Kind,
    /// What is shown.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What else is known of it.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Span {
    pub(crate) fn into_wire(self) -> wire::Span {
        let remote = match self.kind {
            Kind::Server => PARENT_REMOTE,
            Kind::Internal | Kind::Client => 0,
        };
        let parent = self.parent.map(|parent| parent.span.to_vec());
        let end = nanoseconds(self.end);
        let mut events = Vec::new();
        let mut status = None;
        if let Some(error) = self.error {
            let error = cut(error);
            events.push(wire::span::Event {
                time_unix_nano: end,
                name: "exception".to_owned(),
                attributes: vec![text("exception.message", error.clone())],
                dropped_attributes_count: 0,
            });
            status = Some(wire::Status {
                message: error,
                code: wire::status::StatusCode::Error.into(),
            });
        }
        let kind = match self.kind {
            Kind::Internal => wire::span::SpanKind::Internal,
            Kind::Server => wire::span::SpanKind::Server,
            Kind::Client => wire::span::SpanKind::Client,
        };
        let attributes = self.attributes.into_iter();
        wire::Span {
            trace_id: self.context.trace.to_vec().into(),
            span_id: self.context.span.to_vec().into(),
            parent_span_id: parent.unwrap_or_default().into(),
            flags: u32::from(self.context.flags) | PARENT_KNOWN | remote,
            name: cut(self.name),
            kind: kind.into(),
            start_time_unix_nano: nanoseconds(self.start),
            end_time_unix_nano: end,
            attributes: attributes.map(|(key, value)| text(key, value)).collect(),
            events,
            status,
            ..wire::Span::default()
        }
    }
}

/// Whether the parent of a span is another process's.
pub(crate) fn has_remote_parent(span: &wire::Span) -> bool {
    span.flags & PARENT_REMOTE != 0
}

pub(crate) fn text(key: &str, value: String) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value)),
        }),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}
