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
