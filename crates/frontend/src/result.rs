//! What a build gives back.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

/// One filesystem of a result, lazily solved: the graph that makes it, or nothing at all.
#[derive(Clone, Debug, Default)]
pub struct ResultRef {
    /// The engine's name of the ref within this build; empty for an empty filesystem.
    pub id: String,
    /// What makes it; `None` for an empty filesystem (scratch).
    pub graph: Option<Arc<llb::Graph>>,
}

impl ResultRef {
    /// The empty filesystem.
    pub fn scratch() -> ResultRef {
        ResultRef::default()
    }

    /// Whether this is the empty filesystem.
    pub fn is_scratch(&self) -> bool {
        self.graph.is_none()
    }
}

/// A statement about a result, to be attached to its image.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// Whether the ref holds several statements (`Bundle`) or one.
    pub bundle: bool,
    /// Free metadata.
    pub metadata: BTreeMap<String, Bytes>,
    /// Where the statement is.
    pub result: ResultRef,
    /// The path in it.
    pub path: String,
    /// The in-toto predicate type.
    pub predicate_type: String,
}

/// The outcome of a build: one ref, or one for each platform, and metadata.
#[derive(Clone, Debug, Default)]
pub struct BuildResult {
    /// The result of a build for one platform.
    pub single: Option<ResultRef>,
    /// The results of a build for several, by platform id, in the order of the platforms.
    pub refs: Vec<(String, ResultRef)>,
    /// Metadata, e.g. `containerimage.config`, `refs.platforms`.
    pub metadata: BTreeMap<String, Bytes>,
    /// Attestations by platform id.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

impl BuildResult {
    /// All refs of the result with their keys; the key of a single result is empty.
    pub fn all_refs(&self) -> impl Iterator<Item = (&str, &ResultRef)> {
        let single = self.single.iter().map(|r| ("", r));
        single.chain(self.refs.iter().map(|(key, r)| (key.as_str(), r)))
    }
}
