//! Files for other programs that live as long as whoever uses them, and never longer than the worker.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sys::root::RootDir;
use tempfile::{Builder, TempDir};

/// Below the worker's state.
const NAME: &str = "run";
/// Sockets and files in it are for the daemon alone.
const MODE: u32 = 0o700;

/// A directory that is empty when a worker starts.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it below `state_dir`. What a worker that was killed has left in it goes.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Scratch> {
        let state = RootDir::open(state_dir)?;
        let name = Path::new(NAME);
        state.remove_all(name)?;
        state.mkdir(name, MODE)?;
        Ok(Scratch(state_dir.join(name)))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A new directory under a name that nothing else has. It goes when it is dropped.
    pub(crate) fn directory(&self) -> io::Result<TempDir> {
        Builder::new()
            .prefix("")
            .permissions(Permissions::from_mode(MODE))
            .tempdir_in(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_gone_and_names_are_new() {
        let state = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(state.path()).unwrap();
        let left = scratch.directory().unwrap().keep();
        std::fs::write(left.join("agent.sock"), "").unwrap();

        let scratch = Scratch::open(state.path()).unwrap();
        assert!(!left.exists());
        let (one, other) = (scratch.directory().unwrap(), scratch.directory().unwrap());
        assert_ne!(one.path(), other.path());
        for path in [one.path(), one.path().parent().unwrap()] {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700);
        }
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists());
    }
}
