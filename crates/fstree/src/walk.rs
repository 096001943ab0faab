//! Walking a tree in the order of fsutil: each directory before its entries, entries by name.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use sys::root::{FileKind, Follow, Metadata, RootDir};

use crate::filter::{Filter, FilterState};
use crate::path::join;
use crate::pattern::PatternError;
use crate::resolve::{follow_paths, is_missing, without_nested};

/// What to walk.
#[derive(Clone, Debug, Default)]
pub struct WalkOptions {
    /// If any, only what matches one of these patterns is given.
    pub include: Vec<String>,
    /// What matches these patterns is left out.
    pub exclude: Vec<String>,
    /// Paths that are added to `include` with every link on the way and its target.
    pub follow_paths: Vec<String>,
    /// Whether extended attributes are read, which costs a system call for each entry.
    pub xattrs: bool,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path from the root, without a `/` at the start.
    pub path: PathBuf,
    /// What it is.
    pub metadata: Metadata,
    /// The target, if it is a symbolic link.
    pub link: Option<PathBuf>,
    /// The entry given earlier that is the same file, if there is one.
    pub hardlink_to: Option<PathBuf>,
    /// Its extended attributes, if they were asked for.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// Why a tree cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A pattern is not well formed.
    #[error("invalid include or exclude patterns")]
    Pattern(#[from] PatternError),
    /// An entry cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The entry.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The entries of a tree; see [`walk`].
#[derive(Debug)]
pub struct Walk {
    root: RootDir,
    filter: Filter,
    xattrs: bool,
    levels: Vec<Level>,
    ready: VecDeque<Entry>,
    /// Where a file with several names was given first.
    names: HashMap<(u64, u64), PathBuf>,
}

/// A directory being walked. Nothing of it is kept open: trees can be deep.
#[derive(Debug)]
struct Level {
    /// The directory itself, while it waits for the first of its entries to be taken.
    pending: Option<Entry>,
    entries: std::vec::IntoIter<Listed>,
}

#[derive(Debug)]
struct Listed {
    entry: Entry,
    taken: bool,
    enter: Option<FilterState>,
}

/// Walks the tree of `root`, without the root itself.
///
/// A directory that is not selected is given all the same before the first selected entry below
/// it. Entries that vanish during the walk are left out, and so are overlay whiteouts.
pub fn walk(root: &RootDir, options: &WalkOptions) -> Result<Walk, WalkError> {
    let read = |source| WalkError::Read {
        path: PathBuf::from("/"),
        source,
    };
    let mut include = options.include.clone();
    if !options.follow_paths.is_empty() {
        include = match follow_paths(root, &options.follow_paths).map_err(read)? {
            Some(followed) => {
                include.extend(followed);
                without_nested(include).unwrap_or_default()
            }
            None => include,
        };
    }
    let mut walk = Walk {
        root: root.try_clone().map_err(read)?,
        filter: Filter::new(&include, &options.exclude)?,
        xattrs: options.xattrs,
        levels: Vec::new(),
        ready: VecDeque::new(),
        names: HashMap::new(),
    };
    let entries = walk.list(Path::new(""), &FilterState::default())?;
    walk.levels.push(Level {
        pending: None,
        entries: entries.into_iter(),
    });
    Ok(walk)
}

impl Iterator for Walk {
    type Item = Result<Entry, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(mut entry) = self.ready.pop_front() {
                self.name_first(&mut entry);
                return Some(Ok(entry));
            }
            let Some(listed) = self.levels.last_mut()?.entries.next() else {
                self.levels.pop();
                continue;
            };
            if let Err(error) = self.take(listed) {
                return Some(Err(error));
            }
        }
    }
}

impl Walk {
    fn take(&mut self, listed: Listed) -> Result<(), WalkError> {
        let Listed {
            entry,
            taken,
            enter,
        } = listed;
        let path = entry.path.clone();
        let mut pending = None;
        if taken {
            self.ready.extend(
                self.levels
                    .iter_mut()
                    .filter_map(|level| level.pending.take()),
            );
            self.ready.push_back(entry);
        } else {
            pending = Some(entry);
        }
        if let Some(state) = enter {
            let entries = match self.list(&path, &state) {
                Ok(entries) => entries,
                Err(WalkError::Read { source, .. })
                    if is_missing(&source)
                        || !taken && source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            self.levels.push(Level {
                pending,
                entries: entries.into_iter(),
            });
        }
        Ok(())
    }

    /// The entries of a directory that are taken or may lead to some.
    fn list(&self, dir: &Path, state: &FilterState) -> Result<Vec<Listed>, WalkError> {
        let failed = |source| WalkError::Read {
            path: dir.to_owned(),
            source,
        };
        let opened = self.root.open_dir(dir).map_err(failed)?;
        let mut listed = Vec::new();
        for found in opened.read_dir(Path::new(".")).map_err(failed)? {
            let path = join(dir, &found.name);
            let verdict = self.filter.judge(&path, found.kind == FileKind::Dir, state);
            if !verdict.taken && !verdict.enter {
                continue;
            }
            match self.entry(&opened, Path::new(&found.name), path) {
                Ok(entry) if entry.metadata.is_whiteout() => {}
                Ok(entry) => {
                    let enter = verdict.enter && entry.metadata.kind == FileKind::Dir;
                    let enter = enter.then_some(verdict.state);
                    listed.push(Listed {
                        entry,
                        taken: verdict.taken,
                        enter,
                    });
                }
                Err(WalkError::Read { source, .. }) if is_missing(&source) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }

    fn entry(&self, dir: &RootDir, name: &Path, path: PathBuf) -> Result<Entry, WalkError> {
        let read = || -> io::Result<_> {
            let metadata = dir.stat(name, Follow::No)?;
            let link = match metadata.kind {
                FileKind::Symlink => Some(dir.read_link(name)?),
                _ => None,
            };
            let xattrs = if self.xattrs {
                dir.xattrs(name)?
            } else {
                BTreeMap::new()
            };
            Ok((metadata, link, xattrs))
        };
        match read() {
            Ok((metadata, link, xattrs)) => Ok(Entry {
                path,
                metadata,
                link,
                hardlink_to: None,
                xattrs,
            }),
            Err(source) => Err(WalkError::Read { path, source }),
        }
    }

    fn name_first(&mut self, entry: &mut Entry) {
        if entry.metadata.nlink < 2 || entry.metadata.kind == FileKind::Dir {
            return;
        }
        let file = (entry.metadata.dev, entry.metadata.ino);
        match self.names.get(&file) {
            Some(first) => entry.hardlink_to = Some(first.clone()),
            None => drop(self.names.insert(file, entry.path.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn fixture(paths: &[&str]) -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            let at = dir.path().join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            if path.ends_with('/') {
                fs::create_dir_all(at).unwrap();
            } else {
                fs::write(at, path).unwrap();
            }
        }
        let root = RootDir::open(dir.path()).unwrap();
        (dir, root)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn check(root: &RootDir, include: &[&str], exclude: &[&str], follow: &[&str], want: &str) {
        let options = WalkOptions {
            include: strings(include),
            exclude: strings(exclude),
            follow_paths: strings(follow),
            xattrs: true,
        };
        let found: Vec<String> = walk(root, &options)
            .unwrap()
            .map(|entry| entry.unwrap().path.display().to_string())
            .collect();
        assert_eq!(found.join(" "), want, "{include:?} {exclude:?} {follow:?}");
    }

    #[test]
    fn entries_come_component_by_component_and_filtered() {
        let (dir, root) = fixture(&["a/b/c", "a/d", "a-x", "a.y/z", "e/"]);
        symlink("/a/b", dir.path().join("link")).unwrap();
        let all = "a a/b a/b/c a/d a-x a.y a.y/z e link";
        check(&root, &[], &[], &[], all);
        check(&root, &["a/b/c"], &[], &[], "a a/b a/b/c");
        check(&root, &["*/*/c", "e"], &[], &[], "a a/b a/b/c e");
        check(&root, &["a/none"], &[], &[], "");
        check(
            &root,
            &[],
            &["a", "!a/d"],
            &[],
            "a a/d a-x a.y a.y/z e link",
        );
        check(&root, &["a"], &["**/c"], &[], "a a/b a/d");
        check(&root, &[], &[], &["link/c"], "a a/b a/b/c link");
        check(&root, &["e"], &[], &["link"], "a a/b a/b/c e link");
        check(&root, &[], &[], &["/"], all);
    }

    #[test]
    fn a_second_name_tells_the_first() {
        let (dir, root) = fixture(&["b/one", "c/three"]);
        fs::hard_link(dir.path().join("b/one"), dir.path().join("a")).unwrap();
        root.mknod(Path::new("w"), FileKind::CharDevice, 0, 0)
            .unwrap();
        let entries: Vec<Entry> = walk(&root, &WalkOptions::default())
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let links: Vec<_> = entries
            .iter()
            .map(|entry| (entry.path.to_str().unwrap(), entry.hardlink_to.as_deref()))
            .collect();
        let want = [
            ("a", None),
            ("b", None),
            ("b/one", Some(Path::new("a"))),
            ("c", None),
            ("c/three", None),
        ];
        assert_eq!(links, want);
    }
}
