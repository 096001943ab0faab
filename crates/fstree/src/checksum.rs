//! Content digests of trees: equal content, equal digest, wherever and whenever it was made.
//!
//! The digests are those of BuildKit (cache/contenthash): a file's is over a tarsum header (mode,
//! owner, size, kind, link, device and extended attributes; neither name nor time) and its content;
//! a directory's is over its own header and the names and digests of its entries. The formats are
//! described with the code: `header.rs` for one file, `Nodes::fold` in `tree.rs` for a directory,
//! and `select.rs` for selections by wildcards and patterns.
//!
//! A [`Tree`] reads only what is asked for and remembers it. [`Tree::after`] is for a tree of which
//! it is known what has changed.

mod hash;
mod header;
mod select;
#[cfg(test)]
mod tests;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci::Digest;
use sys::root::RootDir;

use crate::pattern::PatternError;
use tree::Nodes;

/// Which part of a tree is to be digested.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// The path in the tree; with `wildcard` it may have wildcards. Empty is the root.
    pub path: String,
    /// Whether wildcards in the path mean something.
    pub wildcard: bool,
    /// Whether a link that the path ends in is followed.
    pub follow_links: bool,
    /// If any, only what matches one of these patterns, relative to the path, counts.
    pub include: Vec<String>,
    /// What matches these patterns does not count.
    pub exclude: Vec<String>,
    /// Paths that something must be selected under.
    pub required: Vec<String>,
}

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub enum ChecksumError {
    /// The path, or a required one, is not in the tree.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// A path leads from link to link and on.
    #[error("too many links")]
    TooManyLinks(String),
    /// A pattern is not well formed.
    #[error("invalid include or exclude patterns")]
    Pattern(#[from] PatternError),
    /// The tree cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The entry.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ChecksumError {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> ChecksumError {
        let path = Path::new("/").join(path);
        move |source| ChecksumError::Read { path, source }
    }
}

/// What is known of the content of one tree.
///
/// Selecting takes the root each time, so that a tree can be kept while nothing is mounted. It must
/// be the root of the same tree, unchanged; [`Tree::after`] is for one that was changed.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Mutex<Nodes>,
    /// What `nodes` took when they were last let go of.
    memory: AtomicUsize,
}

impl Tree {
    /// A tree of which nothing is known yet.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// The digest of the whole tree of `root`, as [`Tree::select_all`] gives it, and what is known
    /// of it then, where it is this tree but for what is at the paths `changed`: made, replaced,
    /// changed or removed. What is below a path need not be named if the path was removed.
    pub fn after<'a>(
        &self,
        root: &RootDir,
        changed: impl IntoIterator<Item = &'a Path>,
    ) -> Result<(Digest, Tree), ChecksumError> {
        let mut nodes = self.lock().clone();
        for path in changed {
            nodes.forget_at(path);
        }
        let digest = select::select(&mut nodes, root, &Selector::default())?;
        let memory = AtomicUsize::new(nodes.memory());
        let nodes = Mutex::new(nodes);
        Ok((combined(&[digest]), Tree { nodes, memory }))
    }

    /// About how many bytes of memory it takes. Waits for nobody who is selecting.
    pub fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// The digest of what `selector` selects in the tree of `root`.
    ///
    /// Files are read on all cores. Blocks: not for an async context.
    pub fn select(&self, root: &RootDir, selector: &Selector) -> Result<Digest, ChecksumError> {
        let mut nodes = self.lock();
        let digest = select::select(&mut nodes, root, selector);
        self.memory.store(nodes.memory(), Ordering::Relaxed);
        digest
    }

    /// The digest of several selections in order, or of the whole tree if there are none.
    pub fn select_all(
        &self,
        root: &RootDir,
        selectors: &[Selector],
    ) -> Result<Digest, ChecksumError> {
        let whole = [Selector::default()];
        let selectors = if selectors.is_empty() {
            &whole
        } else {
            selectors
        };
        let mut digests = Vec::with_capacity(selectors.len());
        for selector in selectors {
            digests.push(self.select(root, selector)?);
        }
        Ok(combined(&digests))
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // A panic while selecting leaves only digests that are whole.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn combined(digests: &[Digest]) -> Digest {
    let texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
    Digest::of(texts.join("\0"))
}
