//! A graph as it travels: ops as bytes, and what is said about them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use oci::Digest;

use crate::{Input, Op, OpMetadata, SourceMap, encode_terminal};

/// A graph as it travels, not yet checked. [`crate::Graph::new`] checks it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definition {
    /// The ops as bytes. The last one only names the result.
    pub ops: Vec<Bytes>,
    /// What is said about each op, by the digest of its bytes.
    pub metadata: BTreeMap<Digest, OpMetadata>,
    /// Where the ops were written.
    pub source: Option<SourceMap>,
}

impl Definition {
    /// Adds `op` (whose inputs must have been added before) and returns its digest. An op that is
    /// there already is not added again; its metadata is merged.
    pub fn push(&mut self, op: &Op, metadata: OpMetadata) -> Digest {
        let bytes = Bytes::from(op.encode());
        let digest = Digest::of(&bytes);
        match self.metadata.entry(digest) {
            Entry::Vacant(entry) => {
                entry.insert(metadata);
                self.ops.push(bytes);
            }
            Entry::Occupied(entry) => entry.into_mut().merge(metadata),
        }
        digest
    }

    /// Adds the last op, which names the result, with the metadata that BuildKit's client gives it
    /// (`State.Marshal`): the capabilities that the definition as a whole needs.
    pub fn finish(&mut self, result: Input) {
        let mut caps = vec!["constraints", "platform"];
        let any = |what: fn(&OpMetadata) -> bool| self.metadata.values().any(what);
        if any(|metadata| metadata.ignore_cache) {
            caps.push("meta.ignorecache");
        }
        if any(|metadata| !metadata.description.is_empty()) {
            caps.push("meta.description");
        }
        if any(|metadata| metadata.export_cache.is_some()) {
            caps.push("meta.exportcache");
        }
        let bytes = Bytes::from(encode_terminal(result));
        let caps = caps.into_iter().map(|cap| (cap.to_owned(), true)).collect();
        self.metadata.insert(
            Digest::of(&bytes),
            OpMetadata {
                caps,
                ..OpMetadata::default()
            },
        );
        self.ops.push(bytes);
    }

    /// Whether there is no op at all, which stands for an empty result.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}
