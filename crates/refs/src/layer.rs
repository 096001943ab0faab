//! Layers, as refs see them.

use std::fmt;

use oci::{Descriptor, Digest};
use snapshot::{Active, LayerId};

/// Names a layer for as long as a ref has it, whether its files are here or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerKey(pub(crate) u64);

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of a layer at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name.
    pub key: LayerKey,
    /// The directory with its files; `None` while it is lazy.
    pub snapshot: Option<LayerId>,
    /// The digest of its uncompressed tar, once that was made or seen.
    pub diff_id: Option<Digest>,
    /// Its tars that are in the content store, one for each way to compress it.
    pub blobs: Vec<Descriptor>,
    /// Where its tar can be had.
    pub sources: Vec<LayerSource>,
    pub(crate) chain_id: Option<Digest>,
    pub(crate) family: Option<String>,
}

/// A place that has a layer's tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSource {
    /// The tar.
    pub descriptor: Descriptor,
    /// Who has it, in the words of whoever can fetch it, e.g. an image reference.
    pub provider: String,
}

/// One layer of a ref that is put together.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart at once, a few at a time"
)]
pub enum LayerSpec {
    /// One that a ref has already.
    Existing(LayerKey),
    /// One whose tar is known and whose files are not here.
    Lazy {
        /// The tar.
        descriptor: Descriptor,
        /// The digest of the uncompressed tar.
        diff_id: Digest,
        /// Who has it, in the words of whoever can fetch it.
        provider: String,
    },
    /// A new one.
    New(Active),
}
