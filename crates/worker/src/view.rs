//! Filesystems to read from.

use std::ops::Deref;

use snapshot::{LayerId, MountError, Snapshots};
use sys::root::RootDir;

/// A stack of layers, mounted to be read. The mount is taken down behind the back of whoever had it,
/// as that waits for every processor.
pub(crate) struct View(Option<RootDir>);

impl View {
    /// Mounts `stack`, lowest layer first. Blocks.
    pub(crate) fn of(snapshots: &Snapshots, stack: &[LayerId]) -> Result<View, MountError> {
        let mount = snapshots.view(stack)?;
        Ok(View(Some(RootDir::from_fd(mount.into_fd()))))
    }

    /// Files that somebody else keeps mounted.
    pub(crate) fn live(root: RootDir) -> View {
        View(Some(root))
    }
}

impl Deref for View {
    type Target = RootDir;

    fn deref(&self) -> &RootDir {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(root) = self.0.take() {
            sys::mount::close_later(root.into_fd());
        }
    }
}
