//! The details that BuildKit knows.

use std::collections::BTreeMap;

use prost_types::Any;
use serde::{Deserialize, Serialize};

use super::json;

/// One detail of an error.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// The vertex that failed.
    Vertex {
        /// The digest of its op.
        digest: String,
    },
    /// A place in a source file.
    Source(Source),
    /// The frontend that failed.
    Frontend {
        /// `dockerfile.v0` or `gateway.v0`.
        name: String,
        /// The frontend's image.
        source: String,
    },
    /// A capability that a frontend would need.
    FrontendCap {
        /// Its name.
        name: String,
    },
    /// A request that a frontend does not know.
    Subrequest {
        /// Its name.
        name: String,
    },
    /// What is left of a failed step.
    Solve(Box<Solve>),
    /// A process ended with an error.
    Exit {
        /// Its exit code.
        code: u32,
    },
    /// A feature that the wanted compatibility version does not have.
    CompatibilityFeature(CompatibilityFeature),
    /// Materials that provenance cannot name.
    Incomplete(Vec<IncompleteMaterial>),
    /// A stack trace of a Go process.
    Stack(Stack),
    /// A source was denied by a client's policy.
    Denied {
        /// Why.
        messages: Vec<String>,
    },
    /// Any other, as it arrived.
    Other(Any),
}

/// A place in a source file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// The file, with its text.
    pub info: Option<proto::pb::SourceInfo>,
    /// The places in it; lines are counted from 1.
    pub ranges: Vec<proto::pb::Range>,
}

/// What is left of a failed step: its filesystems can be mounted to look into them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Solve {
    /// A result for each input of the op.
    pub input_ids: Vec<String>,
    /// A result for each mount of the op, as the step left it.
    pub mount_ids: Vec<String>,
    /// The op.
    pub op: Option<proto::pb::Op>,
    /// Which part of the op failed.
    pub subject: Option<Subject>,
    /// The description of the vertex.
    pub description: BTreeMap<String, String>,
}

/// A part of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The index of a file action.
    File(i64),
    /// The index of an input whose content was digested.
    Cache(i64),
}

/// A feature that the wanted compatibility version does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompatibilityFeature {
    /// The version that was asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub version: i64,
    /// The feature.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub feature: String,
}

/// A material that provenance cannot name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "the fields are BuildKit's and say what they are"
)]
pub struct IncompleteMaterial {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub final_uri: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A stack trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stack {
    /// The innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
    /// The process's arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmdline: Vec<String>,
    /// The process's number.
    #[serde(skip_serializing_if = "is_default")]
    pub pid: i32,
    /// The program's version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The commit it was made from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
}

/// One call in a [`Stack`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frame {
    /// The function.
    #[serde(rename = "Name", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its file.
    #[serde(rename = "File", skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// The line in it.
    #[serde(rename = "Line", skip_serializing_if = "is_default")]
    pub line: i32,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Detail {
    /// Reads one; what is not known or not readable is kept as it is.
    #[must_use]
    pub fn from_any(any: Any) -> Detail {
        json::decode(&any).unwrap_or(Detail::Other(any))
    }

    /// Writes it as BuildKit does.
    #[must_use]
    pub fn to_any(&self) -> Any {
        json::encode(self)
    }
}
