//! Single changes to a tree: the file operations other than copy.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sys::root::{Follow, RootDir};

use crate::path::relative;
use crate::resolve::{blocking, in_root, is_missing, wildcards};

/// Why a tree was not changed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct EditError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl EditError {
    /// Whether it is because something is not there.
    pub fn is_not_found(&self) -> bool {
        is_missing(&self.source)
    }

    /// What was done, as the system call is called, and to what.
    fn new(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> EditError {
        let path = Path::new("/").join(path);
        move |source| EditError {
            action,
            path,
            source,
        }
    }
}

/// Who owns what is made, and when it was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Made {
    /// The user and group; `None` leaves those of this process.
    pub owner: Option<(u32, u32)>,
    /// The time of change in nanoseconds since 1970; `None` is now.
    pub timestamp_ns: Option<i64>,
}

impl Made {
    fn apply(&self, root: &RootDir, path: &Path) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            root.chown(path, uid, gid, Follow::No)?;
        }
        if let Some(time) = self.timestamp_ns {
            root.set_mtime(path, time, Follow::No)?;
        }
        Ok(())
    }
}

/// Makes the directory `path` with the permission bits `mode`, with `parents` also those that lead
/// there. What exists is left as it is.
pub fn mkdir(
    root: &RootDir,
    path: &str,
    mode: u32,
    parents: bool,
    made: Made,
) -> Result<(), EditError> {
    let make = || -> io::Result<()> {
        let target = in_root(root, Path::new(path), Follow::Yes)?;
        let dirs = if parents {
            root.mkdir_all(&target, mode & 0o777)?
        } else {
            match root.mkdir(&target, mode & 0o777) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                result => result?,
            }
            vec![target]
        };
        // From the innermost out, as making an entry changes the directory's time.
        dirs.iter().rev().try_for_each(|dir| made.apply(root, dir))
    };
    make().map_err(|error| {
        let path = blocking(root, Path::new(path), &error);
        EditError::new("mkdir", path)(error)
    })
}

/// Writes `data` to the file `path`. If it exists it keeps its permission bits, else it gets
/// `mode`.
pub fn mkfile(
    root: &RootDir,
    path: &str,
    mode: u32,
    data: &[u8],
    made: Made,
) -> Result<(), EditError> {
    let make = || -> io::Result<()> {
        let target = in_root(root, Path::new(path), Follow::Yes)?;
        root.create(&target, mode & 0o777, false)?.write_all(data)?;
        made.apply(root, &target)
    };
    make().map_err(EditError::new("open", path))
}

/// Makes the symbolic link `path` that says `target`.
pub fn symlink(root: &RootDir, target: &str, path: &str, made: Made) -> Result<(), EditError> {
    let make = || -> io::Result<()> {
        let path = in_root(root, Path::new(path), Follow::Yes)?;
        root.symlink(Path::new(target), &path)?;
        made.apply(root, &path)
    };
    make().map_err(EditError::new("symlink", path))
}

/// Removes `path` and all below it; a link in its last component is removed itself.
///
/// With `allow_wildcard`, everything that the path matches is removed, also nothing.
pub fn remove(
    root: &RootDir,
    path: &str,
    allow_not_found: bool,
    allow_wildcard: bool,
) -> Result<(), EditError> {
    let run = || -> io::Result<()> {
        let found = if allow_wildcard {
            match wildcards(root, path, Follow::No) {
                Err(error) if is_missing(&error) && allow_not_found => return Ok(()),
                result => result?,
            }
        } else {
            vec![relative(Path::new(path))]
        };
        found
            .iter()
            .try_for_each(|path| remove_one(root, path, allow_not_found))
    };
    run().map_err(EditError::new("stat", path))
}

fn remove_one(root: &RootDir, path: &Path, allow_not_found: bool) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the root cannot be removed",
        ));
    }
    if !allow_not_found {
        root.stat(path, Follow::No)?;
    }
    root.remove_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    const MADE: Made = Made {
        owner: Some((3, 4)),
        timestamp_ns: Some(1_000_000_000),
    };

    #[test]
    fn directories_files_and_links_are_made_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        mkdir(&root, "/a/b", 0o711, true, MADE).unwrap();
        mkdir(&root, "/a/b", 0o700, false, MADE).unwrap();
        assert!(
            mkdir(&root, "/x/y", 0o711, false, MADE)
                .unwrap_err()
                .is_not_found()
        );
        for path in ["a", "a/b"] {
            let metadata = fs::metadata(dir.path().join(path)).unwrap();
            assert_eq!(
                (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
                (0o711, 3, 4)
            );
            assert_eq!(metadata.mtime(), 1);
        }
        symlink(&root, "/../../a/b", "/l", MADE).unwrap();
        assert!(symlink(&root, "x", "/a", MADE).is_err());
        mkfile(&root, "/l/f", 0o4640, b"one", MADE).unwrap();
        mkfile(&root, "/l/f", 0o777, b"2", Made::default()).unwrap();
        let file = dir.path().join("a/b/f");
        assert_eq!(fs::read(&file).unwrap(), b"2");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn removal_stops_at_links_and_at_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        mkdir(&root, "/a/b/c", 0o755, true, Made::default()).unwrap();
        mkfile(&root, "/a/x1", 0o644, b"", Made::default()).unwrap();
        mkfile(&root, "/a/x2", 0o644, b"", Made::default()).unwrap();
        symlink(&root, "/a", "/l", Made::default()).unwrap();
        assert!(
            remove(&root, "/none", false, false)
                .unwrap_err()
                .is_not_found()
        );
        remove(&root, "/none", true, false).unwrap();
        assert!(remove(&root, "/", true, false).is_err());
        remove(&root, "/a/x*", false, true).unwrap();
        assert!(root.exists(Path::new("a/b/c")).unwrap());
        assert!(!root.exists(Path::new("a/x1")).unwrap());
        remove(&root, "/l", false, false).unwrap();
        assert!(root.exists(Path::new("a")).unwrap());
        remove(&root, "/*", false, true).unwrap();
        assert!(root.read_dir(Path::new("")).unwrap().is_empty());
    }
}
