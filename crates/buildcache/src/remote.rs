//! The config of a build cache that travels: BuildKit's `application/vnd.buildkit.cacheconfig.v0`.
//!
//! The format is a graph of records by digest with chains of layers as their results. Which digests
//! are records is the solver's own business. Here each id is a record whose only input is any of
//! the keys that stand for it:
//!
//! ```text
//! {digest: key}
//! {digest: id,     inputs: [[{selector: "drydock.key.v1", link: key} …]], layers: […]}
//! {digest: output, inputs: [[{selector: "drydock.output.v1", link: id}]], layers: […]}
//! ```
//!
//! The selectors tell our records from those of other writers, which are passed over.

mod config;
mod read;
#[cfg(test)]
mod tests;
mod write;

use oci::Digest;
use time::OffsetDateTime;

pub use crate::stacks::Stacks;
pub use read::{decode, decode_inline};
pub use write::{encode, encode_inline};

/// The media type of the config.
pub const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Where an image's config carries the records of its own layers.
pub const INLINE_KEY: &str = "moby.buildkit.cache.v0";

/// Layers of a build cache: a hundred images have fewer.
const MAX_LAYERS: usize = 10_000;
/// Records of a build cache, and keys that they name.
const MAX_RECORDS: usize = 50_000;
/// Layers of one result, more than can be mounted elsewhere.
const MAX_DEPTH: usize = 1000;

const KEY: &str = "drydock.key.v1";
const OUTPUT: &str = "drydock.output.v1";

/// What a build cache knows of one vertex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The vertex's id.
    pub id: Digest,
    /// The keys that stand for it.
    pub keys: Vec<Digest>,
    /// The results that go along, by the ids of the outputs.
    pub results: Vec<(Digest, Chain)>,
}

/// A result: its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The layers' blobs.
    pub blobs: Vec<Digest>,
    /// When it was made.
    pub created: OffsetDateTime,
}

/// What was read from a build cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Keys, and the ids for which they stand.
    pub links: Vec<(Digest, Digest)>,
    /// Results by id.
    pub results: Vec<(Digest, Top)>,
    /// The layers of all results.
    pub layers: Stacks,
}

/// A result that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Top {
    /// Its top layer.
    pub layer: usize,
    /// When it was made.
    pub created: OffsetDateTime,
}

/// Why a build cache cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not the JSON that it should be.
    #[error("failed to parse the config of a build cache")]
    Json(#[from] serde_json::Error),
    /// A record names another that is not there.
    #[error("invalid record `{0}` in the config of a build cache")]
    Record(i64),
    /// A record or layer names a layer that is not there, or that lies on itself.
    #[error("invalid layer `{0}` in the config of a build cache")]
    Layer(i64),
    /// There is more of something than is looked at.
    #[error("a build cache has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

/// Why a build cache cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A value has no JSON.
    #[error("failed to write the config of a build cache")]
    Json(#[from] serde_json::Error),
    /// A time has no text.
    #[error("failed to write a time in the config of a build cache")]
    Time(#[from] time::error::Format),
}
