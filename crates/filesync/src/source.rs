//! What is sent: one tree, or several that become one.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fstree::walk::{Walk, WalkError, WalkOptions, walk};
use sys::root::{FileKind, RootDir};

use crate::wire::{Stat, go_mode};

/// Permissions of a directory that is in no tree.
const DIR_MODE: u32 = 0o755;

/// One of the trees that are sent.
#[derive(Debug)]
pub struct Tree {
    /// Where it is in what is sent; the empty path is the top. The directories on the way belong
    /// to root.
    pub at: PathBuf,
    /// Its files.
    pub root: RootDir,
    /// The time of change that is told for every entry in place of its own, in nanoseconds since
    /// 1970.
    pub mtime_ns: Option<i64>,
}

/// The trees that are sent as one. Of what several have, the first one's is sent.
#[derive(Debug)]
pub struct Source(Vec<Tree>);

impl From<RootDir> for Source {
    fn from(root: RootDir) -> Source {
        Source(vec![Tree {
            at: PathBuf::new(),
            root,
            mtime_ns: None,
        }])
    }
}

impl From<Vec<Tree>> for Source {
    fn from(trees: Vec<Tree>) -> Source {
        Source(trees)
    }
}

impl Source {
    /// Lists the entries of all trees in the protocol's order, each with the position of its tree.
    pub(crate) fn list(&self, options: &WalkOptions) -> Result<Listing<'_>, WalkError> {
        let trees = self.0.iter().map(|tree| Entries::new(tree, options));
        let trees = trees.map(|entries| Ok(entries?.peekable()));
        Ok(Listing {
            trees: trees.collect::<Result<_, WalkError>>()?,
            last: PathBuf::new(),
        })
    }

    /// Opens a file that was listed.
    pub(crate) fn open(&self, tree: usize, path: &Path) -> io::Result<File> {
        let tree = self.0.get(tree).ok_or(io::ErrorKind::NotFound)?;
        let path = path.strip_prefix(&tree.at).map_err(io::Error::other)?;
        tree.root.open_seen_file(path)
    }
}

/// The entries of all trees.
pub(crate) struct Listing<'a> {
    trees: Vec<Peekable<Entries<'a>>>,
    last: PathBuf,
}

impl Iterator for Listing<'_> {
    type Item = Result<(usize, Stat), WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let [tree] = &mut self.trees[..] {
            return Some(tree.next()?.map(|stat| (0, stat)));
        }
        loop {
            let (number, found) = self.first()?;
            match found {
                Ok(stat) if stat.path() == self.last => {}
                Ok(stat) => {
                    self.last = stat.path().to_owned();
                    return Some(Ok((number, stat)));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Listing<'_> {
    /// Takes the entry that is first in order, of the first tree that has it.
    fn first(&mut self) -> Option<(usize, Result<Stat, WalkError>)> {
        let mut first: Option<(usize, PathBuf)> = None;
        for (number, tree) in self.trees.iter_mut().enumerate() {
            let path = match tree.peek() {
                Some(Ok(stat)) => stat.path(),
                Some(Err(_)) => return Some((number, tree.next()?)),
                None => continue,
            };
            if first
                .as_ref()
                .is_none_or(|(_, other)| path.cmp(other) == Ordering::Less)
            {
                first = Some((number, path.to_owned()));
            }
        }
        let (number, _) = first?;
        Some((number, self.trees[number].next()?))
    }
}

/// The entries of one tree, after the directories on the way to it.
struct Entries<'a> {
    tree: &'a Tree,
    /// What is still to be listed of `at`: the shortest path is the last.
    way: Vec<&'a Path>,
    walk: Walk,
}

impl<'a> Entries<'a> {
    fn new(tree: &'a Tree, options: &WalkOptions) -> Result<Entries<'a>, WalkError> {
        let way = tree.at.ancestors();
        Ok(Entries {
            tree,
            way: way.filter(|path| *path != Path::new("")).collect(),
            walk: walk(&tree.root, options)?,
        })
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Stat, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Tree { at, mtime_ns, .. } = self.tree;
        if let Some(path) = self.way.pop() {
            return Some(Ok(Stat {
                path: path.as_os_str().as_bytes().to_vec(),
                mode: go_mode(FileKind::Dir, DIR_MODE),
                mtime_ns: mtime_ns.unwrap_or(0),
                ..Stat::default()
            }));
        }
        let mut entry = match self.walk.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        if at != Path::new("") {
            entry.path = at.join(entry.path);
            entry.hardlink_to = entry.hardlink_to.map(|first| at.join(first));
        }
        let mut stat = Stat::from(entry);
        stat.mtime_ns = mtime_ns.unwrap_or(stat.mtime_ns);
        Some(Ok(stat))
    }
}
