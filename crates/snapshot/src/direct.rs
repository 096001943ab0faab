//! Writing to a layer without mounting the stack under it.
//!
//! A mount costs more than most changes of a build: making it costs the depth of the stack, and
//! taking it down waits for every processor. An entry that is new in the stack can as well be made in
//! the layer itself, once the directory that holds it is there. What that needs, looking a path up
//! through all layers and bringing directories up as overlayfs does, is here.
//!
//! No symbolic link is followed: where one is on the way, the caller mounts.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use crate::active::Active;
use crate::store::Mode as Form;
use crate::tree;

/// What is at a path of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing,
    /// A directory.
    Dir,
    /// Anything else, a symbolic link for example.
    Other,
}

/// A lookup that came to its end.
struct Walk {
    found: Found,
    /// For each directory on the way, the root included, that of the topmost layer that has it.
    tops: Vec<PathBuf>,
}

impl Active {
    /// Looks `path` up in the whole stack, without following links: what is behind one, or behind a
    /// file, is [`Found::Other`]. `None` where stacks are not overlays, or the path has `..` in it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        Ok(self.walk(path)?.map(|walk| walk.found))
    }

    /// Brings the directory `path` of the stack into this layer, with those that lead to it: entries
    /// can then be made in it through [`Active::fs`]. `false` when [`Active::find`] finds no directory
    /// there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn bring_up(&self, path: &Path) -> io::Result<bool> {
        let Some(walk) = self.walk(path)?.filter(|walk| walk.found == Found::Dir) else {
            return Ok(false);
        };
        let mut here = self.fs_path();
        let names = names(path).unwrap_or_default();
        // The first is the root, which the layer always has.
        for (name, top) in names.iter().zip(&walk.tops[1..]) {
            let parent = here.clone();
            here.push(name);
            if *top == here {
                continue;
            }
            let (above, from) = (tree::open_root(&parent)?, tree::open_root(top)?);
            let times = tree::times(&rustix::fs::fstat(&above)?);
            rustix::fs::mkdirat(&above, *name, Mode::RWXU)?;
            let to = tree::open_root(&here)?;
            tree::copy_dir_metadata(&from, &to)?;
            tree::copy_times(&from, &to)?;
            // Bringing something up is no change of the directory that holds it.
            rustix::fs::futimens(&above, &times)?;
        }
        Ok(true)
    }

    fn walk(&self, path: &Path) -> io::Result<Option<Walk>> {
        if self.inner.kind != Form::Overlay {
            return Ok(None);
        }
        let Some(names) = names(path) else {
            return Ok(None);
        };
        // Topmost first.
        let mut dirs = vec![self.fs_path()];
        let below = self.below();
        if !below.is_empty() {
            let lower = self.inner.lower(&below).map_err(io::Error::other)?;
            dirs.extend(lower.into_iter().rev());
        }
        let own = dirs[0].clone();
        let mut walk = Walk {
            found: Found::Dir,
            tops: vec![own.clone()],
        };
        for name in names {
            let (found, left) = self.merged(&own, dirs, name)?;
            dirs = left;
            walk.found = found;
            match found {
                Found::Dir => walk.tops.push(dirs[0].clone()),
                Found::Missing | Found::Other => return Ok(Some(walk)),
            }
        }
        Ok(Some(walk))
    }

    /// What `name` is in the directories `dirs` that make up one, topmost first; of a directory, the
    /// ones that make it up. `own` is this layer's root: only what is below it changes.
    fn merged(
        &self,
        own: &Path,
        dirs: Vec<PathBuf>,
        name: &OsStr,
    ) -> io::Result<(Found, Vec<PathBuf>)> {
        let mut found = Vec::new();
        for mut dir in dirs {
            let kind = if dir.starts_with(own) {
                look(&dir.join(name))?
            } else {
                self.inner.listings.kind(&dir, name)?
            };
            dir.push(name);
            match kind {
                None => {}
                Some(Kind::Dir) => {
                    let hides = is_opaque(&dir)?;
                    found.push(dir);
                    if hides {
                        break;
                    }
                }
                Some(Kind::Other) if found.is_empty() => return Ok((Found::Other, found)),
                // Hides what is below it, and is hidden itself where a directory is above.
                Some(Kind::Whiteout | Kind::Other) => break,
            }
        }
        let what = if found.is_empty() {
            Found::Missing
        } else {
            Found::Dir
        };
        Ok((what, found))
    }
}

/// What an entry is to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dir,
    Whiteout,
    Other,
}

/// Directories of committed layers with few entries, which most layers of a build are made of: what
/// is in them never changes.
#[derive(Debug, Default)]
pub(crate) struct Listings(Mutex<HashMap<PathBuf, Listing>>);

type Listing = Option<Arc<HashMap<OsString, Kind>>>;

/// When so many directories are known, all are forgotten.
const MAX_LISTINGS: usize = 10_000;
/// A directory with more entries is not kept.
const MAX_LISTED: usize = 64;

impl Listings {
    /// What `name` is in `dir`, which does not change any more.
    fn kind(&self, dir: &Path, name: &OsStr) -> io::Result<Option<Kind>> {
        match self.listing(dir)? {
            Some(listing) => Ok(listing.get(name).copied()),
            None => look(&dir.join(name)),
        }
    }

    /// What is in `dir`; `None` if it is much.
    fn listing(&self, dir: &Path) -> io::Result<Listing> {
        if let Some(known) = self.lock().get(dir) {
            return Ok(known.clone());
        }
        let open = tree::open_root(dir)?;
        let items = tree::list(&open)?;
        let listing = if items.len() > MAX_LISTED {
            None
        } else {
            let mut listing = HashMap::new();
            for item in items {
                let kind = match item.kind {
                    FileType::Directory => Kind::Dir,
                    _ if tree::is_whiteout(&open, &item)? => Kind::Whiteout,
                    _ => Kind::Other,
                };
                let name = OsStr::from_bytes(item.name.to_bytes()).to_owned();
                listing.insert(name, kind);
            }
            Some(Arc::new(listing))
        };
        let mut known = self.lock();
        if known.len() >= MAX_LISTINGS {
            known.clear();
        }
        known.insert(dir.to_owned(), listing.clone());
        Ok(listing)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Listing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look(path: &Path) -> io::Result<Option<Kind>> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Dir,
        FileType::CharacterDevice if stat.st_rdev == 0 => Kind::Whiteout,
        _ => Kind::Other,
    }))
}

fn is_opaque(path: &Path) -> io::Result<bool> {
    let mut value = [0u8; 1];
    match rustix::fs::lgetxattr(path, tree::OPAQUE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::RANGE | Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The names that a path is made of; `None` when it goes up.
fn names(path: &Path) -> Option<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::Normal(_) | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, LayerId, Snapshots};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use sys::root::RootDir;

    /// A layer on `lower` that is written through a mount.
    fn mounted(
        snapshots: &Snapshots,
        lower: &[LayerId],
        write: impl FnOnce(&RootDir),
    ) -> Vec<LayerId> {
        let active = snapshots.prepare(lower).unwrap();
        let root = RootDir::from_fd(active.mount().unwrap().into_fd());
        write(&root);
        drop(root);
        let mut stack = lower.to_vec();
        stack.push(active.commit().unwrap());
        stack
    }

    #[test]
    fn lookups_see_what_a_mount_shows() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path(), Kind::Overlay).unwrap();
        let path = Path::new;
        let stack = mounted(&snapshots, &[], |root| {
            for dir in ["/a", "/a/b", "/gone", "/again", "/again/old", "/file-later"] {
                root.mkdir(path(dir), 0o755).unwrap();
            }
            root.symlink(path("/a"), path("/link")).unwrap();
            root.create(path("/a/f"), 0o644, true).unwrap();
        });
        let stack = mounted(&snapshots, &stack, |root| {
            root.remove_all(path("/gone")).unwrap();
            root.remove_all(path("/again")).unwrap();
            root.mkdir(path("/again"), 0o755).unwrap();
            root.remove_all(path("/file-later")).unwrap();
            root.create(path("/file-later"), 0o644, true).unwrap();
            root.unlink(path("/a/f")).unwrap();
        });
        let active = snapshots.prepare(&stack).unwrap();
        let view = RootDir::from_fd(snapshots.view(&stack).unwrap().into_fd());
        for (name, found) in [
            ("/", Found::Dir),
            ("/a", Found::Dir),
            ("/a/./b/", Found::Dir),
            ("/a/f", Found::Missing),
            ("/a/b/none/deeper", Found::Missing),
            ("/gone", Found::Missing),
            ("/again", Found::Dir),
            ("/again/old", Found::Missing),
            ("/file-later", Found::Other),
            ("/file-later/x", Found::Other),
            ("/link", Found::Other),
            ("/link/b", Found::Other),
        ] {
            assert_eq!(active.find(path(name)).unwrap(), Some(found), "{name}");
            if found == Found::Missing {
                assert!(!view.exists(path(name)).unwrap(), "{name}");
            }
        }
        assert_eq!(active.find(path("/a/../b")).unwrap(), None);
    }

    #[test]
    fn directories_come_up_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path(), Kind::Overlay).unwrap();
        let path = Path::new;
        let stack = mounted(&snapshots, &[], |root| {
            root.mkdir(path("/a"), 0o711).unwrap();
            root.mkdir(path("/a/b"), 0o750).unwrap();
            root.create(path("/a/b/old"), 0o644, true).unwrap();
            root.chown(path("/a/b"), 3, 4, sys::root::Follow::No)
                .unwrap();
            root.set_xattr(path("/a/b"), "user.x".as_ref(), b"1")
                .unwrap();
            for dir in ["/a/b", "/a"] {
                root.set_mtime(path(dir), 1_000_000_000, sys::root::Follow::No)
                    .unwrap();
            }
        });
        let active = snapshots.prepare(&stack).unwrap();
        assert!(active.bring_up(path("/a/b")).unwrap());
        assert!(!active.bring_up(path("/a/b/old")).unwrap());
        let layer = active.fs_path();
        for (dir, mode) in [("a", 0o711), ("a/b", 0o750)] {
            let metadata = fs::metadata(layer.join(dir)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o7777, mode);
            assert_eq!(metadata.mtime(), 1);
        }
        let fs = active.fs().unwrap();
        assert_eq!(fs.stat(path("/a/b"), sys::root::Follow::No).unwrap().uid, 3);
        assert_eq!(fs.xattrs(path("/a/b")).unwrap().len(), 1);
        fs.create(path("/a/b/new"), 0o644, true).unwrap();
        drop(fs);
        let mut stack = stack;
        stack.push(active.commit().unwrap());
        let view = RootDir::from_fd(snapshots.view(&stack).unwrap().into_fd());
        let names: Vec<_> = view.read_dir(path("/a/b")).unwrap();
        let names: Vec<_> = names.into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["new", "old"]);
    }
}
