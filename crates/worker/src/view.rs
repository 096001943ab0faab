//! Filesystems to read from.

use std::ops::Deref;

use refs::Ref;
use snapshot::{LayerId, MountError, Snapshots};
use sys::root::RootDir;

/// A stack of layers to be read. A mount is taken down behind the back of whoever had it, as that
/// waits for every processor.
pub(crate) struct View {
    root: Option<RootDir>,
    /// While it is held, its layers stay as they are.
    held: Option<Ref>,
}

impl View {
    /// Opens `stack`, lowest layer first. Blocks.
    pub(crate) fn of(snapshots: &Snapshots, stack: &[LayerId]) -> Result<View, MountError> {
        Ok(View::live(snapshots.read(stack)?))
    }

    /// Files that somebody else keeps mounted.
    pub(crate) fn live(root: RootDir) -> View {
        View {
            root: Some(root),
            held: None,
        }
    }

    /// Holds the ref whose layers are read, for whoever does not hold it until the reading ends: a
    /// blocking task goes on when the caller that waited for it is gone.
    pub(crate) fn holding(mut self, reference: Ref) -> View {
        self.held = Some(reference);
        self
    }
}

impl Deref for View {
    type Target = RootDir;

    fn deref(&self) -> &RootDir {
        self.root.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(root) = self.root.take() {
            sys::mount::close_later(root.into_fd());
        }
    }
}
