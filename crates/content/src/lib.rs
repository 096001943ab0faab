//! Blobs by digest: written whole or not at all.
//!
//! Owns the directory of blobs, how one gets into it, and what is left there by a crash. Knows
//! nothing of why a blob is kept: `refs` decides that, and syncs the filesystem before it records
//! one. Nothing here waits for the disk. Start at [`Content`]; the format is in
//! `docs/format-content.md`.

mod store;
mod writer;

pub use store::{Blob, Content, Detached, OpenError, ReadError, RemoveError};
pub use writer::{CommitError, Whole, Writer};
