//! Filesystems as stacks of layers.
//!
//! Owns the directories that hold layers, how a stack of them is mounted, how a new one is made on
//! top, and how two stacks are compared. Does not know what a layer is for or when it may go:
//! `refs` does. Nothing here waits for the disk. Start at [`Snapshots`]; the format is in
//! `docs/format-snapshots.md`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod active;
mod copy;
mod diff;
mod direct;
mod error;
mod groups;
mod merge;
mod native;
mod parts;
mod ready;
mod store;
mod trash;
mod tree;
mod usage;

pub use active::Active;
pub use direct::Found;
pub use error::{
    CloneError, CommitError, DiffError, MountError, OpenError, PrepareError, RemoveError,
};
pub use store::{Diff, DiskSpace, Kind, LayerId, Snapshots};
pub use usage::Usage;
