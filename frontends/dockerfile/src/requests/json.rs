//! Places and graphs as the JSON that Go's structs become.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use llb::builder::SourceFile;
use llb::{Definition, LinuxResources, Location, OpMetadata, SourceMap};
use serde_json::{Map, Value, json};

use crate::span::LineSpan;

/// Indented JSON.
pub(super) fn pretty(value: &Value) -> String {
    // A value has no keys that are not strings, so that it can always be written.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Bytes as Go writes them.
pub(super) fn bytes(data: &[u8]) -> Value {
    STANDARD.encode(data).into()
}

/// An object without the members that Go leaves out: nothing, empty, zero and false.
pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let mut object = Map::new();
    for (key, value) in members {
        let empty = match &value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            // A message that is there is written, even an empty one.
            Value::Object(_) => false,
        };
        if !empty {
            object.insert(key.to_owned(), value);
        }
    }
    Value::Object(object)
}

/// A place of one source file.
pub(super) fn place(span: LineSpan) -> Value {
    let spans: Vec<LineSpan> = (span.start..=span.end).map(LineSpan::line).collect();
    places(&spans)
}

/// Places of one source file.
pub(super) fn places(spans: &[LineSpan]) -> Value {
    let ranges = spans.iter().map(|span| {
        let position = |line: u32| object([("line", line.into())]);
        json!({"start": position(span.start), "end": position(span.end)})
    });
    object([("ranges", Value::Array(ranges.collect()))])
}

/// A source file with what brought it in.
pub(super) fn source_file(file: &SourceFile) -> Value {
    object([
        ("filename", file.filename.as_str().into()),
        ("data", bytes(&file.data)),
        (
            "definition",
            file.definition.as_ref().map_or(Value::Null, definition),
        ),
        ("language", file.language.as_str().into()),
    ])
}

fn definition(definition: &Definition) -> Value {
    let metadata = definition.metadata.iter();
    let metadata: Map<String, Value> = metadata
        .map(|(digest, item)| (digest.to_string(), op_metadata(item)))
        .collect();
    object([
        ("def", definition.ops.iter().map(|op| bytes(op)).collect()),
        ("metadata", map(metadata)),
        (
            "Source",
            definition.source.as_ref().map_or(Value::Null, source_map),
        ),
    ])
}

fn map(members: Map<String, Value>) -> Value {
    if members.is_empty() {
        Value::Null
    } else {
        Value::Object(members)
    }
}

/// What is said about a vertex.
pub(super) fn op_metadata(metadata: &OpMetadata) -> Value {
    let texts = metadata.description.iter();
    let texts = texts
        .map(|(key, text)| (key.clone(), Value::from(text.as_str())))
        .collect();
    let caps = metadata
        .caps
        .iter()
        .map(|(cap, on)| (cap.clone(), Value::from(*on)))
        .collect();
    let export = metadata
        .export_cache
        .map(|value| object([("Value", value.into())]));
    let group = metadata.progress_group.as_ref().map(|group| {
        object([
            ("id", group.id.as_str().into()),
            ("name", group.name.as_str().into()),
            ("weak", group.weak.into()),
        ])
    });
    object([
        ("ignore_cache", metadata.ignore_cache.into()),
        ("description", map(texts)),
        ("export_cache", export.unwrap_or_default()),
        ("caps", map(caps)),
        ("progress_group", group.unwrap_or_default()),
        (
            "linux_resources",
            metadata
                .linux_resources
                .as_ref()
                .map_or(Value::Null, resources),
        ),
    ])
}

fn resources(resources: &LinuxResources) -> Value {
    object([
        ("memory", resources.memory.into()),
        ("memorySwap", resources.memory_swap.into()),
        ("cpuShares", resources.cpu_shares.into()),
        ("cpuPeriod", resources.cpu_period.into()),
        ("cpuQuota", resources.cpu_quota.into()),
        ("cpusetCpus", resources.cpuset_cpus.as_str().into()),
        ("cpusetMems", resources.cpuset_mems.as_str().into()),
    ])
}

/// Where vertices were written.
pub(super) fn source_map(source: &SourceMap) -> Value {
    let locations = source.locations.iter().map(|(digest, places)| {
        let places: Vec<Value> = places.iter().map(location).collect();
        (digest.to_string(), object([("locations", places.into())]))
    });
    let infos = source.infos.iter().map(|info| {
        source_file(&SourceFile {
            filename: info.filename.clone(),
            language: info.language.clone(),
            data: info.data.clone(),
            definition: info.definition.as_deref().cloned(),
        })
    });
    object([
        ("locations", map(locations.collect())),
        ("infos", infos.collect()),
    ])
}

fn location(location: &Location) -> Value {
    let ranges = location.ranges.iter().map(|range| {
        let position = |position: llb::Position| {
            object([
                ("line", position.line.into()),
                ("character", position.character.into()),
            ])
        };
        json!({"start": position(range.start), "end": position(range.end)})
    });
    object([
        ("sourceIndex", location.source_index.into()),
        ("ranges", ranges.collect()),
    ])
}
