//! A build's progress as `StatusResponse`s.

use std::sync::Arc;
use std::time::SystemTime;

use engine::progress::{Event, ItemState, VertexState};
use proto::control as wire;
use proto::pb;

/// Log bytes in one response, so that no message comes near the limit of a client.
const MAX_LOG: usize = 1 << 20;

/// Turns events into responses, in order, with at most about [`MAX_LOG`] bytes of log in each.
pub(crate) fn responses(events: &[Arc<Event>]) -> Vec<wire::StatusResponse> {
    let mut all = Vec::new();
    let mut current = wire::StatusResponse::default();
    let mut logged = 0;
    for event in events {
        match &**event {
            Event::Vertex(state) => current.vertexes.push(vertex(state)),
            Event::Item(state) => current.statuses.push(item(state)),
            Event::Warning { warning: w } => current.warnings.push(warning(w)),
            Event::Output {
                vertex,
                stream,
                data,
                time,
            } => {
                if logged + data.len() > MAX_LOG && logged > 0 {
                    all.push(std::mem::take(&mut current));
                    logged = 0;
                }
                logged += data.len();
                current.logs.push(wire::VertexLog {
                    vertex: vertex.to_string(),
                    timestamp: Some((*time).into()),
                    stream: *stream,
                    msg: data.clone(),
                });
            }
        }
    }
    if current != wire::StatusResponse::default() {
        all.push(current);
    }
    all
}

fn stamp(time: Option<SystemTime>) -> Option<prost_types::Timestamp> {
    time.map(Into::into)
}

fn vertex(state: &VertexState) -> wire::Vertex {
    wire::Vertex {
        digest: state.digest.to_string(),
        inputs: state.inputs.iter().map(ToString::to_string).collect(),
        name: state.name.clone(),
        cached: state.cached,
        started: stamp(state.started),
        completed: stamp(state.completed),
        error: state.error.clone(),
        progress_group: state.group.as_ref().map(|group| pb::ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
    }
}

fn item(state: &ItemState) -> wire::VertexStatus {
    wire::VertexStatus {
        id: state.id.clone(),
        vertex: state.vertex.to_string(),
        name: state.name.clone(),
        current: state.current,
        total: state.total,
        timestamp: Some(state.timestamp.into()),
        started: stamp(state.started),
        completed: stamp(state.completed),
    }
}

fn warning(warning: &frontend::Warning) -> wire::VertexWarning {
    let location = warning.location.as_ref();
    wire::VertexWarning {
        vertex: warning.vertex.to_string(),
        level: warning.level,
        short: warning.short.clone().into(),
        detail: warning
            .detail
            .iter()
            .map(|line| line.clone().into())
            .collect(),
        url: warning.url.clone(),
        info: location.map(source_info),
        ranges: location.map(ranges).unwrap_or_default(),
    }
}

/// The file of a location.
pub(crate) fn source_info(location: &frontend::SourceLocation) -> pb::SourceInfo {
    pb::SourceInfo {
        filename: location.filename.clone(),
        data: location.data.to_vec().into(),
        definition: None,
        language: location.language.clone(),
    }
}

/// The lines of a location.
pub(crate) fn ranges(location: &frontend::SourceLocation) -> Vec<pb::Range> {
    let position = |(line, character)| pb::Position { line, character };
    location
        .ranges
        .iter()
        .map(|(start, end)| pb::Range {
            start: Some(position(*start)),
            end: Some(position(*end)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::Digest;

    #[test]
    fn a_long_log_is_split_and_whole() {
        let output = |n: u8| {
            Arc::new(Event::Output {
                vertex: Digest::of("v"),
                stream: 1,
                data: vec![n; 700 << 10].into(),
                time: SystemTime::now(),
            })
        };
        let all = responses(&[output(1), output(2), output(3)]);
        assert_eq!(all.len(), 3);
        let total: usize = all.iter().flat_map(|r| &r.logs).map(|l| l.msg.len()).sum();
        assert_eq!(total, 3 * (700 << 10));
    }
}
