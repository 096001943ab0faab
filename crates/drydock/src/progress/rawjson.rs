//! Messages as JSON, one a line, in the shape of BuildKit's Go client.

use std::io::Write;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::progress::{Progress, Vertex, VertexLog, VertexStatus, VertexWarning};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) struct RawJson<W> {
    out: W,
}

impl<W: Write> RawJson<W> {
    pub(super) fn new(out: W) -> RawJson<W> {
        RawJson { out }
    }

    pub(super) fn update(&mut self, progress: &Progress) {
        // A closed standard error has no reader to tell.
        let _ = writeln!(self.out, "{}", to_json(progress));
    }
}

fn to_json(progress: &Progress) -> Value {
    object([
        ("vertexes", list(&progress.vertexes, vertex)),
        ("statuses", list(&progress.statuses, status)),
        ("logs", list(&progress.logs, log)),
        ("warnings", list(&progress.warnings, warning)),
    ])
}

fn vertex(vertex: &Vertex) -> Value {
    let group = vertex.group.as_ref().map(|group| {
        object([
            ("id", text(&group.id)),
            ("name", text(&group.name)),
            ("weak", group.weak.then_some(Value::Bool(true))),
        ])
    });
    object([
        ("digest", text(&vertex.digest)),
        ("inputs", list(&vertex.inputs, |input| json!(input))),
        ("name", text(&vertex.name)),
        ("started", vertex.started.map(timestamp)),
        ("completed", vertex.completed.map(timestamp)),
        ("cached", vertex.cached.then_some(Value::Bool(true))),
        ("error", text(&vertex.error)),
        ("progressGroup", group),
    ])
}

fn status(status: &VertexStatus) -> Value {
    object([
        ("id", Some(json!(status.id))),
        ("vertex", text(&status.vertex)),
        ("name", text(&status.name)),
        ("total", (status.total != 0).then(|| json!(status.total))),
        ("current", Some(json!(status.current))),
        ("timestamp", Some(timestamp(status.timestamp))),
        ("started", status.started.map(timestamp)),
        ("completed", status.completed.map(timestamp)),
    ])
}

fn log(log: &VertexLog) -> Value {
    object([
        ("vertex", text(&log.vertex)),
        ("stream", (log.stream != 0).then(|| json!(log.stream))),
        ("data", Some(json!(STANDARD.encode(&log.data)))),
        ("timestamp", Some(timestamp(log.timestamp))),
    ])
}

fn warning(warning: &VertexWarning) -> Value {
    let encoded = |line: &String| json!(STANDARD.encode(line));
    let source = warning.source.as_ref();
    let info = source.map(|source| {
        object([
            ("filename", text(&source.filename)),
            ("data", Some(json!(STANDARD.encode(&source.data)))),
            ("language", text(&source.language)),
        ])
    });
    let ranges = source.and_then(|source| {
        list(&source.ranges, |range| {
            json!({
                "start": { "line": range.start_line, "character": range.start_character },
                "end": { "line": range.end_line, "character": range.end_character },
            })
        })
    });
    object([
        ("vertex", text(&warning.vertex)),
        ("level", (warning.level != 0).then(|| json!(warning.level))),
        (
            "short",
            (!warning.short.is_empty()).then(|| encoded(&warning.short)),
        ),
        ("detail", list(&warning.detail, encoded)),
        ("url", text(&warning.url)),
        ("sourceInfo", info),
        ("range", ranges),
    ])
}

/// An object of the members that are there; Go leaves out what is empty.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let present = members
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

fn list<T>(items: &[T], to_value: impl Fn(&T) -> Value) -> Option<Value> {
    (!items.is_empty()).then(|| Value::Array(items.iter().map(to_value).collect()))
}

fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| json!(text))
}

fn timestamp(time: SystemTime) -> Value {
    json!(
        OffsetDateTime::from(time)
            .format(&Rfc3339)
            .unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn empty_members_are_left_out() {
        let started = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
        let progress = Progress {
            vertexes: vec![Vertex {
                digest: "sha256:a".into(),
                started,
                ..Vertex::default()
            }],
            logs: vec![VertexLog {
                vertex: "sha256:a".into(),
                timestamp: SystemTime::UNIX_EPOCH,
                stream: 2,
                data: b"hi\n".to_vec(),
            }],
            ..Progress::default()
        };
        let expected = concat!(
            r#"{"vertexes":[{"digest":"sha256:a","started":"1970-01-01T00:00:01.5Z"}],"#,
            r#""logs":[{"vertex":"sha256:a","stream":2,"data":"aGkK","timestamp":"1970-01-01T00:00:00Z"}]}"#
        );
        assert_eq!(to_json(&progress).to_string(), expected);
    }
}
