//! One vertex of the graph: what is to be done.

use std::collections::BTreeMap;

use oci::{Digest, Platform};

use crate::{ExecOp, FileOp};

/// An operation, its inputs and where it may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The results this op builds on, in the order by which its kind refers to them.
    pub inputs: Vec<Input>,
    /// What is done.
    pub kind: OpKind,
    /// The platform it runs for; `None` is the worker's own.
    pub platform: Option<Platform>,
    /// Filters that a worker must match. `None` (no message) and an empty list differ in bytes only.
    pub constraints: Option<Vec<String>>,
}

/// One output of another vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Input {
    /// Names the vertex: the sha256 of its bytes.
    pub digest: Digest,
    /// Which of its outputs.
    pub output: u32,
}

/// What an [`Op`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Runs a command in a container.
    Exec(Box<ExecOp>),
    /// Brings in something from outside.
    Source(SourceOp),
    /// Changes files.
    File(FileOp),
    /// Solves a definition that is itself a result.
    Build(BuildOp),
    /// Stacks its inputs.
    Merge(MergeOp),
    /// Keeps what changed between two inputs.
    Diff(DiffOp),
    /// Gives its inputs back.
    Passthrough(PassthroughOp),
}

/// Something from outside: an image, a git repository, an URL, a directory of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceOp {
    /// `<scheme>://<rest>`.
    pub identifier: String,
    /// Options of the scheme, e.g. `local.followpaths`.
    pub attrs: BTreeMap<String, String>,
}

/// Solves, in place, a definition that is a file in an input (the only builder there is).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildOp {
    /// Inputs by name; `None` is empty.
    pub inputs: BTreeMap<String, Option<u32>>,
    /// Options; see [`BuildOp::FILENAME_ATTR`].
    pub attrs: BTreeMap<String, String>,
}

impl BuildOp {
    /// The name under which `inputs` holds the definition, and its file name by default.
    pub const DEFINITION: &str = "buildkit.llb.definition";
    /// The attribute that names the file in the input.
    pub const FILENAME_ATTR: &str = "llbbuild.filename";

    /// The input that holds the definition: `Graph` admits no build op without one.
    pub fn definition_input(&self) -> Option<u32> {
        self.inputs.get(BuildOp::DEFINITION).copied().flatten()
    }

    /// The file that holds the definition, inside its input.
    pub fn filename(&self) -> &str {
        self.attrs
            .get(BuildOp::FILENAME_ATTR)
            .map_or(BuildOp::DEFINITION, String::as_str)
    }
}

/// Stacks inputs, the later over the earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeOp {
    /// Indices of inputs; `None` is empty.
    pub inputs: Vec<Option<u32>>,
}

/// The changes that make `upper` of `lower`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffOp {
    /// Index of an input; `None` is empty.
    pub lower: Option<u32>,
    /// Index of an input; `None` is empty.
    pub upper: Option<u32>,
}

/// Gives inputs back as they are, once all of them are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassthroughOp {
    /// Makes the digest distinct.
    pub id: String,
    /// Per output the index of the input it is.
    pub outputs: Vec<u32>,
}
