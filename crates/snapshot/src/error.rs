//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::LayerId;

/// Why the snapshots cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory cannot be made or read.
    #[error("failed to prepare `{}`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Overlay mounts were asked for and do not work here.
    #[error("failed to mount an overlay in `{}`", path.display())]
    Overlay {
        /// The directory that was to hold its layers.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why no new layer can be started.
#[derive(Debug, thiserror::Error)]
#[error("failed to start layer `{layer}`")]
pub struct PrepareError {
    /// The number that it would have had.
    pub layer: LayerId,
    /// What the system said.
    pub source: io::Error,
}

/// Why a stack cannot be mounted or looked into.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// One of its layers is not there.
    #[error("failed to open layer `{layer}`")]
    Layer {
        /// The layer.
        layer: LayerId,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused the stack.
    #[error("failed to mount a stack of {depth} layers")]
    Stack {
        /// How many layers it has.
        depth: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A deep stack could not be made shallower.
    #[error("failed to merge {count} layers from `{first}` on")]
    Merge {
        /// The lowest of the layers.
        first: LayerId,
        /// How many there are.
        count: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The tree to be written could not be made (where overlays cannot be had).
    #[error("failed to copy the files below layer `{layer}`")]
    Copy {
        /// The new layer.
        layer: LayerId,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a layer cannot be finished.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// What changed cannot be found (where overlays cannot be had).
    #[error("failed to compare layer `{layer}` with what is below it")]
    Compare {
        /// The layer.
        layer: LayerId,
        /// What the system said.
        source: io::Error,
    },
    /// What is below it cannot be looked at.
    #[error("failed to look at what is below layer `{layer}`")]
    Below {
        /// The layer.
        layer: LayerId,
        /// Why.
        source: MountError,
    },
}

/// Why a layer cannot be removed.
#[derive(Debug, thiserror::Error)]
#[error("failed to remove layer `{layer}`")]
pub struct RemoveError {
    /// The layer.
    pub layer: LayerId,
    /// What the system said.
    pub source: io::Error,
}

/// Why the difference of two stacks cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// One of the stacks cannot be looked at.
    #[error("failed to look at a stack of {depth} layers")]
    View {
        /// How many layers it has.
        depth: usize,
        /// Why.
        source: MountError,
    },
    /// No layer for the difference.
    #[error("failed to start a layer for the difference")]
    Prepare(#[source] PrepareError),
    /// The files cannot be compared or copied.
    #[error("failed to write the difference to layer `{layer}`")]
    Write {
        /// The new layer.
        layer: LayerId,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a layer cannot be cloned.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// No layer for the clone.
    #[error("failed to start a layer for the clone")]
    Prepare(#[source] PrepareError),
    /// The files cannot be linked.
    #[error("failed to clone layer `{from}`")]
    Link {
        /// The layer that was to be cloned.
        from: LayerId,
        /// What the system said.
        source: io::Error,
    },
}
