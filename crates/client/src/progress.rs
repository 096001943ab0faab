//! What a running build says of itself: steps, their sub-steps, their output and warnings.
//!
//! These are the messages of `Control.Status` as plain data; printers need nothing of the wire.

use std::time::SystemTime;

/// One message of the status stream: what changed since the message before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps, each with everything that is known of it now.
    pub vertexes: Vec<Vertex>,
    /// Sub-steps of steps, such as a layer being fetched.
    pub statuses: Vec<VertexStatus>,
    /// What steps wrote.
    pub logs: Vec<VertexLog>,
    /// Warnings about steps.
    pub warnings: Vec<VertexWarning>,
}

/// One step of a build. It may start and end more than once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vertex {
    /// Digest of the step's op, its name on this stream.
    pub digest: String,
    /// Digests of the steps it needs.
    pub inputs: Vec<String>,
    /// Name for people.
    pub name: String,
    /// True if it was found, not run.
    pub cached: bool,
    /// Start of the latest interval in which it was worked on.
    pub started: Option<SystemTime>,
    /// End of that interval.
    pub completed: Option<SystemTime>,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// The group of steps that is shown as one.
    pub group: Option<ProgressGroup>,
}

/// Steps that are shown as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressGroup {
    /// What members have in common.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// True if the step alone does not make the group worth showing.
    pub weak: bool,
}

/// One sub-step of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct VertexStatus {
    /// Names the sub-step within its step; also what people see.
    pub id: String,
    /// Digest of the step.
    pub vertex: String,
    /// A longer name, often empty.
    pub name: String,
    /// How much is done, in bytes or items.
    pub current: i64,
    /// How much there is; 0 if not known.
    pub total: i64,
    /// When this was said.
    pub timestamp: SystemTime,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

/// Bytes that a step wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct VertexLog {
    /// Digest of the step.
    pub vertex: String,
    /// When they were written.
    pub timestamp: SystemTime,
    /// 1 for standard output, 2 for standard error.
    pub stream: i64,
    /// The bytes, not cut at lines.
    pub data: Vec<u8>,
}

/// A warning about a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VertexWarning {
    /// Digest of the step.
    pub vertex: String,
    /// Severity, 1 is the gravest.
    pub level: i64,
    /// One line.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// Where to read more; may be empty.
    pub url: String,
    /// The lines it is about.
    pub source: Option<SourceExcerpt>,
}

/// Lines of a source file that an error or a warning is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceExcerpt {
    /// Name of the file.
    pub filename: String,
    /// Its whole text.
    pub data: Vec<u8>,
    /// Language, such as `Dockerfile`.
    pub language: String,
    /// The places meant.
    pub ranges: Vec<SourceRange>,
}

/// A place in a source file; lines count from 1, characters from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceRange {
    /// First line.
    pub start_line: i32,
    /// First character in it.
    pub start_character: i32,
    /// Last line.
    pub end_line: i32,
    /// Last character in it.
    pub end_character: i32,
}

impl From<proto::control::StatusResponse> for Progress {
    fn from(message: proto::control::StatusResponse) -> Progress {
        Progress {
            vertexes: message.vertexes.into_iter().map(Into::into).collect(),
            statuses: message.statuses.into_iter().map(Into::into).collect(),
            logs: message.logs.into_iter().map(Into::into).collect(),
            warnings: message.warnings.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<proto::control::Vertex> for Vertex {
    fn from(vertex: proto::control::Vertex) -> Vertex {
        let group = vertex.progress_group.map(|group| ProgressGroup {
            id: group.id,
            name: group.name,
            weak: group.weak,
        });
        Vertex {
            digest: vertex.digest,
            inputs: vertex.inputs,
            name: vertex.name,
            cached: vertex.cached,
            started: time(vertex.started),
            completed: time(vertex.completed),
            error: vertex.error,
            group,
        }
    }
}

impl From<proto::control::VertexStatus> for VertexStatus {
    fn from(status: proto::control::VertexStatus) -> VertexStatus {
        VertexStatus {
            id: status.id,
            vertex: status.vertex,
            name: status.name,
            current: status.current,
            total: status.total,
            timestamp: time(status.timestamp).unwrap_or(SystemTime::UNIX_EPOCH),
            started: time(status.started),
            completed: time(status.completed),
        }
    }
}

impl From<proto::control::VertexLog> for VertexLog {
    fn from(log: proto::control::VertexLog) -> VertexLog {
        VertexLog {
            vertex: log.vertex,
            timestamp: time(log.timestamp).unwrap_or(SystemTime::UNIX_EPOCH),
            stream: log.stream,
            data: log.msg.into(),
        }
    }
}

impl From<proto::control::VertexWarning> for VertexWarning {
    fn from(warning: proto::control::VertexWarning) -> VertexWarning {
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        let source = warning
            .info
            .map(|info| SourceExcerpt::new(info, warning.ranges));
        VertexWarning {
            vertex: warning.vertex,
            level: warning.level,
            short: text(&warning.short),
            detail: warning.detail.iter().map(|line| text(line)).collect(),
            url: warning.url,
            source,
        }
    }
}

impl SourceExcerpt {
    /// The places `ranges` in the file of `info`.
    pub(crate) fn new(info: proto::pb::SourceInfo, ranges: Vec<proto::pb::Range>) -> SourceExcerpt {
        let range = |range: proto::pb::Range| {
            let (start, end) = (
                range.start.unwrap_or_default(),
                range.end.unwrap_or_default(),
            );
            SourceRange {
                start_line: start.line,
                start_character: start.character,
                end_line: end.line,
                end_character: end.character,
            }
        };
        SourceExcerpt {
            filename: info.filename,
            data: info.data.into(),
            language: info.language,
            ranges: ranges.into_iter().map(range).collect(),
        }
    }
}

fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| SystemTime::try_from(timestamp).ok())
}
