//! The lifetime of every stored filesystem.
//!
//! Owns what is stored and why: refs by id, their layers (lazy ones too), images by name, directories
//! that change, who uses what, what it takes on the disk, and what goes when room is needed. Also owns
//! the database file, which others share. Does not know how a layer's files come to be: `snapshot`,
//! `layer` and the worker do. Start at [`Refs`]; the records are in `docs/format-database.md`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod blob;
mod db;
mod filter;
mod handle;
mod image;
mod layer;
mod lease;
mod mutable;
mod prune;
mod record;
mod refs;
mod state;
mod usage;

pub use blob::KeptBlob;
pub use db::{Db, OpenDbError, WriteDbError};
pub use filter::{Filter, FilterError};
pub use handle::Ref;
pub use image::Image;
pub use layer::{Layer, LayerKey, LayerSource, LayerSpec};
pub use lease::Lease;
pub use mutable::{Mutable, MutableError, MutableOptions, Sharing};
pub use prune::{PruneError, PruneOptions, default_policies, share_of_disk};
pub use refs::{BlobError, CommitError, Meta, OpenError, Options, RecordType, Refs};
pub use usage::UsageRecord;
