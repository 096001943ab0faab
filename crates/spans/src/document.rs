//! A trace as it is kept with a build's record (`application/vnd.buildkit.otlp.json.v0`): the spans as
//! Go's OpenTelemetry library writes them, one JSON object after another.

use std::collections::HashMap;

use proto::telemetry::{AnyValue, InstrumentationScope, KeyValue, any_value};
use proto::trace as wire;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::recorder::Recorded;
use crate::span::has_remote_parent;

/// Writes spans in the order in which they were recorded.
pub(crate) fn write(spans: &[Recorded]) -> Vec<u8> {
    let mut children: HashMap<&[u8], usize> = HashMap::new();
    for recorded in spans {
        *children.entry(&recorded.span.parent_span_id).or_default() += 1;
    }
    let mut out = Vec::new();
    for recorded in spans {
        let children = children.get(&*recorded.span.span_id).copied();
        let stub = Stub::new(recorded, children.unwrap_or_default());
        // Strings, numbers and lists can always be written.
        if serde_json::to_writer(&mut out, &stub).is_ok() {
            out.push(b'\n');
        }
    }
    out
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stub<'a> {
    name: &'a str,
    span_context: Context,
    parent: Context,
    span_kind: i32,
    start_time: String,
    end_time: String,
    attributes: Option<Vec<Attribute>>,
    events: Option<Vec<Event<'a>>>,
    links: Option<Vec<Link>>,
    status: Status<'a>,
    dropped_attributes: u32,
    dropped_events: u32,
    dropped_links: u32,
    child_span_count: usize,
    resource: Option<Vec<Attribute>>,
    /// Twice: older readers know it by its older name.
    instrumentation_scope: Scope<'a>,
    instrumentation_library: Scope<'a>,
}

#[derive(Serialize)]
struct Context {
    #[serde(rename = "TraceID")]
    trace: String,
    #[serde(rename = "SpanID")]
    span: String,
    #[serde(rename = "TraceFlags")]
    flags: String,
    #[serde(rename = "TraceState")]
    state: String,
    #[serde(rename = "Remote")]
    remote: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    key: String,
    value: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Event<'a> {
    name: &'a str,
    attributes: Option<Vec<Attribute>>,
    dropped_attribute_count: u32,
    time: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Link {
    span_context: Context,
    attributes: Option<Vec<Attribute>>,
    dropped_attribute_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status<'a> {
    code: u32,
    description: &'a str,
}

#[derive(Clone, Copy, Serialize)]
struct Scope<'a> {
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "Version")]
    version: &'a str,
    #[serde(rename = "SchemaURL")]
    schema: &'a str,
}

impl<'a> Stub<'a> {
    fn new(recorded: &'a Recorded, children: usize) -> Stub<'a> {
        let span = &recorded.span;
        let scope = scope(&recorded.maker.scope);
        Stub {
            name: &span.name,
            span_context: context(&span.trace_id, &span.span_id, span.flags, false),
            parent: parent(span),
            // The wire knows spans of no kind, Go does not.
            span_kind: span.kind.max(1),
            start_time: time(span.start_time_unix_nano),
            end_time: time(span.end_time_unix_nano),
            attributes: attributes(&span.attributes),
            events: list(span.events.iter().map(|event| Event {
                name: &event.name,
                attributes: attributes(&event.attributes),
                dropped_attribute_count: event.dropped_attributes_count,
                time: time(event.time_unix_nano),
            })),
            links: list(span.links.iter().map(|link| Link {
                span_context: context(&link.trace_id, &link.span_id, link.flags, false),
                attributes: attributes(&link.attributes),
                dropped_attribute_count: link.dropped_attributes_count,
            })),
            status: status(span.status.as_ref()),
            dropped_attributes: span.dropped_attributes_count,
            dropped_events: span.dropped_events_count,
            dropped_links: span.dropped_links_count,
            child_span_count: children,
            resource: attributes(&recorded.maker.resource.attributes),
            instrumentation_scope: scope,
            instrumentation_library: scope,
        }
    }
}

fn list<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    Some(items.collect::<Vec<T>>()).filter(|items| !items.is_empty())
}

fn context(trace: &[u8], span: &[u8], flags: u32, remote: bool) -> Context {
    Context {
        trace: format!("{:0>32}", hex::encode(trace)),
        span: format!("{:0>16}", hex::encode(span)),
        flags: format!("{:02x}", flags & 0xff),
        state: String::new(),
        remote,
    }
}

fn parent(span: &wire::Span) -> Context {
    match span.parent_span_id.is_empty() {
        true => context(&[], &[], 0, false),
        false => context(
            &span.trace_id,
            &span.parent_span_id,
            span.flags,
            has_remote_parent(span),
        ),
    }
}

/// Go's numbers: the wire has "ok" before "error".
fn status(status: Option<&wire::Status>) -> Status<'_> {
    let code = status.map_or(wire::status::StatusCode::Unset, wire::Status::code);
    Status {
        code: match code {
            wire::status::StatusCode::Unset => 0,
            wire::status::StatusCode::Error => 1,
            wire::status::StatusCode::Ok => 2,
        },
        description: status.map_or("", |status| &status.message),
    }
}

fn scope(scope: &InstrumentationScope) -> Scope<'_> {
    Scope {
        name: &scope.name,
        version: &scope.version,
        schema: "",
    }
}

fn attributes(all: &[KeyValue]) -> Option<Vec<Attribute>> {
    list(all.iter().filter_map(|attribute| {
        Some(Attribute {
            key: attribute.key.clone(),
            value: value(attribute.value.as_ref()?)?,
        })
    }))
}

/// A value with its kind; maps and bytes, which readers do not know, are passed over.
fn value(value: &AnyValue) -> Option<Value> {
    let (kind, value) = plain(value)?;
    Some(json!({ "Type": kind, "Value": value }))
}

fn plain(value: &AnyValue) -> Option<(&'static str, Value)> {
    Some(match value.value.as_ref()? {
        any_value::Value::StringValue(text) => ("STRING", json!(text)),
        any_value::Value::BoolValue(flag) => ("BOOL", json!(flag)),
        any_value::Value::IntValue(number) => ("INT64", json!(number)),
        any_value::Value::DoubleValue(number) => ("FLOAT64", json!(number)),
        any_value::Value::ArrayValue(array) => {
            let items: Vec<_> = array.values.iter().filter_map(plain).collect();
            let kind = match items.first()?.0 {
                "STRING" => "STRINGSLICE",
                "BOOL" => "BOOLSLICE",
                "INT64" => "INT64SLICE",
                "FLOAT64" => "FLOAT64SLICE",
                _ => return None,
            };
            let values: Vec<Value> = items.into_iter().map(|(_, value)| value).collect();
            (kind, Value::Array(values))
        }
        any_value::Value::KvlistValue(_) | any_value::Value::BytesValue(_) => return None,
    })
}

fn time(nanoseconds: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanoseconds));
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // Every time of the wire's is within the years that the format has.
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::resource::Maker;
    use crate::{Kind, Span, SpanContext};

    #[test]
    fn spans_are_written_as_go_writes_them() {
        let parent = SpanContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let mut context = parent.unwrap();
        context.span = [1; 8];
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        let span = Span {
            context,
            parent,
            kind: Kind::Server,
            name: "a/B".to_owned(),
            start,
            end: start + Duration::from_secs(1),
            attributes: vec![("vertex", "sha256:1".to_owned())],
            error: Some("no".to_owned()),
        };
        let recorded = Recorded {
            span: span.into_wire(),
            maker: Arc::new(Maker::this("p", |_| None)),
        };
        let text = write(&[recorded]);
        let span: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(span["SpanContext"]["SpanID"], "0101010101010101");
        assert_eq!(span["Parent"]["SpanID"], "00f067aa0ba902b7");
        assert_eq!(span["Parent"]["Remote"], true);
        assert_eq!(span["SpanKind"], 2);
        assert_eq!(span["StartTime"], "1970-01-01T00:00:01.5Z");
        assert_eq!(span["Status"], json!({ "Code": 1, "Description": "no" }));
        let attribute = json!({"Key": "vertex", "Value": {"Type": "STRING", "Value": "sha256:1"}});
        assert_eq!(span["Attributes"][0], attribute);
        assert_eq!(span["Links"], Value::Null);
    }
}
