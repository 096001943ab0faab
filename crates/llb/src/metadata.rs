//! What is said about a vertex, apart from what it does.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci::Digest;

use crate::Definition;

/// What a definition says about one vertex. Nothing of it is in a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpMetadata {
    /// Whether known results are passed over.
    pub ignore_cache: bool,
    /// For display, e.g. `llb.customname`.
    pub description: BTreeMap<String, String>,
    /// Whether the result goes into an exported build cache; `None` leaves it to the export's mode.
    pub export_cache: Option<bool>,
    /// Capabilities that the vertex needs.
    pub caps: BTreeMap<String, bool>,
    /// The group under which clients show it.
    pub progress_group: Option<ProgressGroup>,
    /// Limits of its container.
    pub linux_resources: Option<LinuxResources>,
}

/// The description of vertices that a build has for itself.
const INTERNAL: &str = "drydock.internal";

impl OpMetadata {
    /// Whether clients are told nothing of the vertex: the build has it for itself.
    pub fn internal(&self) -> bool {
        self.description.contains_key(INTERNAL)
    }

    /// Has clients told nothing of the vertex.
    #[must_use]
    pub fn as_internal(mut self) -> OpMetadata {
        self.description
            .insert(INTERNAL.to_owned(), "true".to_owned());
        self
    }

    /// Adds what `other` says of the same op, as BuildKit's client merges it: `other` wins.
    pub fn merge(&mut self, other: OpMetadata) {
        self.ignore_cache |= other.ignore_cache;
        self.description.extend(other.description);
        self.export_cache = other.export_cache.or(self.export_cache);
        self.caps.extend(other.caps);
        self.progress_group = other.progress_group.or_else(|| self.progress_group.take());
        self.linux_resources = other
            .linux_resources
            .or_else(|| self.linux_resources.take());
    }
}

/// A group under which clients show vertices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressGroup {
    /// Identity of the group.
    pub id: String,
    /// Its title.
    pub name: String,
    /// Whether the group is shown only if it has a member that is not weak.
    pub weak: bool,
}

/// Limits of a container; 0 or empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of memory and swap; −1 is unlimited.
    pub memory_swap: i64,
    /// Weight.
    pub cpu_shares: u64,
    /// Period of `cpu_quota`, in µs.
    pub cpu_period: u64,
    /// Time per period, in µs.
    pub cpu_quota: i64,
    /// Processors, as in `0-3`.
    pub cpuset_cpus: String,
    /// Memory nodes, as in `0,1`.
    pub cpuset_mems: String,
}

/// Where in which source files the vertices of a definition were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceMap {
    /// Per vertex.
    pub locations: BTreeMap<Digest, Vec<Location>>,
    /// The files.
    pub infos: Vec<SourceInfo>,
}

/// A source file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceInfo {
    /// Its name.
    pub filename: String,
    /// Its text.
    pub data: Bytes,
    /// Where it came from.
    pub definition: Option<Box<Definition>>,
    /// As in `Dockerfile`.
    pub language: String,
}

/// Places in a source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Index into [`SourceMap::infos`].
    pub source_index: i32,
    /// The places.
    pub ranges: Vec<Range>,
}

/// From `start` to `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first position.
    pub start: Position,
    /// The last position.
    pub end: Position,
}

/// A position in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Counted from 1.
    pub line: i32,
    /// Counted from 0.
    pub character: i32,
}
