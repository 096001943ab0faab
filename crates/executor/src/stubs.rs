//! Files and directories that exist only because something was mounted on them.

use std::io;
use std::path::{Path, PathBuf};

use sys::root::{FileKind, Follow, RootDir};

/// Which of the mount points that were made for a container are removed after it, if nothing has been
/// put into them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stubs {
    /// The mount points themselves.
    #[default]
    Leaves,
    /// The directories on the way to them, too.
    Recursive,
    /// None.
    Kept,
}

/// Mount points that are missing before the container starts.
#[derive(Debug)]
pub(crate) struct Missing {
    root: RootDir,
    paths: Vec<PathBuf>,
}

impl Missing {
    /// Looks which of `destinations` (absolute, clean) are not there yet.
    pub(crate) fn look<'a>(
        root: RootDir,
        destinations: impl Iterator<Item = &'a Path>,
        stubs: Stubs,
    ) -> Missing {
        let mut paths = Vec::new();
        for destination in destinations {
            for path in destination.ancestors() {
                if path.parent().is_none() || exists(&root, path) {
                    break;
                }
                paths.push(path.to_owned());
                if stubs != Stubs::Recursive {
                    break;
                }
            }
        }
        // What is deeper goes first, also when mount points are below one another.
        paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        paths.dedup();
        Missing { root, paths }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Removes those that are there now and empty, and leaves no trace in the times of the
    /// directories they were in.
    pub(crate) fn remove(self) {
        for path in &self.paths {
            // Whatever keeps one from being removed, it is the layer's content then.
            let _ = remove_empty(&self.root, path);
        }
    }
}

/// Whether `path` is there. One that cannot be looked at is taken to be: it is not ours.
fn exists(root: &RootDir, path: &Path) -> bool {
    match root.stat(path, Follow::Yes) {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}

fn remove_empty(root: &RootDir, path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let before = root.stat(parent, Follow::Yes)?;
    let metadata = root.stat(path, Follow::No)?;
    match metadata.kind {
        FileKind::Dir => root.rmdir(path)?,
        FileKind::File if metadata.size == 0 => root.unlink(path)?,
        _ => return Ok(()),
    }
    root.set_mtime(parent, before.mtime_ns, Follow::Yes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(stubs: Stubs, left: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("here")).unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        let paths = ["/here", "/a/b/c", "/here/x", "/full", "/a/b/c/inner"].map(Path::new);
        let missing = Missing::look(root, paths.into_iter(), stubs);
        fs::create_dir_all(dir.path().join("a/b/c/inner")).unwrap();
        fs::write(dir.path().join("here/x"), "").unwrap();
        fs::write(dir.path().join("full"), "full").unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        fs::File::open(dir.path().join("here"))
            .unwrap()
            .set_modified(old)
            .unwrap();
        missing.remove();
        for path in ["here", "here/x", "a", "a/b", "a/b/c", "full"] {
            assert_eq!(
                dir.path().join(path).exists(),
                left.contains(&path),
                "{stubs:?} {path}"
            );
        }
        let here = fs::metadata(dir.path().join("here")).unwrap();
        assert_eq!(here.modified().unwrap(), old);
    }

    #[test]
    fn empty_stubs_go_and_times_stay() {
        check(Stubs::Leaves, &["here", "a", "a/b", "full"]);
        check(Stubs::Recursive, &["here", "full"]);
    }
}
