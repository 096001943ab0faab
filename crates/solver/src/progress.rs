//! What is told of a job while it is solved.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use llb::ProgressGroup;
use oci::Digest;

use crate::OpError;

mod fanout;

pub(crate) use fanout::{Fanout, JobSink};

/// Something that happened to a vertex of a job.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// The vertex.
    pub vertex: Digest,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a vertex.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// It is part of the job now. Comes before all else about the vertex.
    Known {
        /// What it is called.
        name: String,
        /// The vertices it builds on.
        inputs: Vec<Digest>,
        /// The group it is shown in.
        group: Option<ProgressGroup>,
        /// Whether it is for ourselves only (see [`OpMetadata::internal`](llb::OpMetadata::internal)).
        internal: bool,
    },
    /// Work on it began. May come again after it has completed: a source is first looked up and
    /// later brought in.
    Started {
        /// When.
        time: SystemTime,
    },
    /// Work on it ended, or nothing was to be done.
    Completed {
        /// When.
        time: SystemTime,
        /// Whether nothing was to be done, because its result was there, or was not needed.
        cached: bool,
        /// Why it failed.
        error: Option<Arc<OpError>>,
    },
    /// It printed something.
    Log(LogChunk),
    /// Something that is part of it has moved on.
    Status(ItemStatus),
    /// It has something to say that is no error.
    Warning(Warning),
}

/// Output of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// 1 is standard output, 2 standard error.
    pub stream: u32,
    /// The bytes, not split at lines.
    pub data: Bytes,
    /// When they were read.
    pub time: SystemTime,
}

/// How far something is, for example the download of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemStatus {
    /// Names it within the vertex.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// How much is done.
    pub current: i64,
    /// How much there is; 0 if that is not known.
    pub total: i64,
    /// When this was so.
    pub time: SystemTime,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

/// Something to be said that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// How important it is.
    pub level: i64,
    /// In one line.
    pub short: String,
    /// In more lines.
    pub detail: Vec<String>,
    /// Where to read more.
    pub url: String,
}

/// Where a worker tells how far a call is. All jobs that wait for it hear it; one that joins late
/// hears it from the start.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Fanout>);

impl Progress {
    pub(crate) fn new(fanout: Arc<Fanout>) -> Progress {
        Progress(fanout)
    }

    /// Tells of output.
    pub fn log(&self, chunk: LogChunk) {
        self.0.send(EventKind::Log(chunk));
    }

    /// Tells how far an item is.
    pub fn status(&self, status: ItemStatus) {
        self.0.send(EventKind::Status(status));
    }

    /// Says something that is no error.
    pub fn warning(&self, warning: Warning) {
        self.0.send(EventKind::Warning(warning));
    }
}
