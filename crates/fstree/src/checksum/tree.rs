//! What is known of a tree: names and stamps of what was looked at, digests of what was asked for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::{Digest, Hasher};
use sys::root::{FileKind, Follow, Metadata, RootDir};

use super::ChecksumError;
use super::hash::{Job, hash_all};
use crate::path::join;

/// A node by its place among all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(usize);

const ROOT: Id = Id(0);

/// All nodes of a tree that were looked at. The first is the root.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    /// Places of nodes that are gone.
    free: Vec<Id>,
}

/// One entry of the tree.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: OsString,
    pub(super) metadata: Metadata,
    /// The target, if it is a symbolic link.
    pub(super) link: Option<PathBuf>,
    /// The digest of the header and, for a regular file, of the content.
    own: Option<Digest>,
    /// What is in it, if it is a directory.
    dir: Option<Dir>,
}

/// What is in a directory.
#[derive(Clone, Debug, Default)]
struct Dir {
    /// Whether `entries` are known.
    listed: bool,
    /// Sorted by the bytes of their names.
    entries: Vec<Id>,
    /// The digest of all of it.
    contents: Option<Digest>,
}

/// What the texts of a node take beside it, in bytes: its name, and its place in its directory.
const TEXTS: usize = 48;

impl Nodes {
    /// About how many bytes of memory they take.
    pub(super) fn memory(&self) -> usize {
        self.nodes.len() * (size_of::<Node>() + TEXTS)
    }
}

impl Node {
    fn new(name: OsString, metadata: Metadata, link: Option<PathBuf>) -> Node {
        let dir = (metadata.kind == FileKind::Dir).then(Dir::default);
        Node {
            name,
            metadata,
            link,
            own: None,
            dir,
        }
    }

    pub(super) fn is_symlink(&self) -> bool {
        self.metadata.kind == FileKind::Symlink
    }

    pub(super) fn is_dir(&self) -> bool {
        self.metadata.kind == FileKind::Dir
    }
}

impl Nodes {
    /// Makes what is at `path`, and all digests that depend on it, be looked at again.
    pub(super) fn forget_at(&mut self, path: &Path) {
        if self.nodes.is_empty() {
            return;
        }
        let mut id = ROOT;
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            let Some(dir) = &mut self.nodes[id.0].dir else {
                return;
            };
            dir.contents = None;
            let last = names.peek().is_none();
            dir.listed &= !last;
            let entry = self.find(id, name);
            if let Some(entry) = entry.filter(|_| last) {
                let node = &mut self.nodes[entry.0];
                node.own = None;
                if let Some(dir) = &mut node.dir {
                    dir.contents = None;
                }
            }
            // What is in a directory that is not known is not known either.
            let Some(entry) = entry else { return };
            id = entry;
        }
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0]
    }

    /// The entries of a directory that has been listed; none of anything else.
    pub(super) fn entries(&self, id: Id) -> &[Id] {
        self.nodes[id.0]
            .dir
            .as_ref()
            .map_or(&[], |dir| &dir.entries)
    }

    /// The digest of a file, or of a directory's header, that [`Nodes::hash`] has taken.
    pub(super) fn own(&self, id: Id) -> Option<Digest> {
        self.nodes[id.0].own
    }

    /// The root of the tree.
    pub(super) fn root(&mut self, root: &RootDir) -> Result<Id, ChecksumError> {
        if self.nodes.is_empty() {
            let metadata = root
                .stat(Path::new(""), Follow::No)
                .map_err(ChecksumError::read(Path::new("")))?;
            self.nodes.push(Node::new(OsString::new(), metadata, None));
        }
        Ok(ROOT)
    }

    /// The entry `name` of a directory, which is at `path`.
    pub(super) fn entry(
        &mut self,
        root: &RootDir,
        path: &Path,
        id: Id,
        name: &OsStr,
    ) -> Result<Option<Id>, ChecksumError> {
        if !self.node(id).is_dir() {
            return Ok(None);
        }
        self.list(root, path, id)?;
        Ok(self.find(id, name))
    }

    /// The entry `name` among those that are known of a directory.
    fn find(&self, id: Id, name: &OsStr) -> Option<Id> {
        let entries = self.entries(id);
        let found = entries.binary_search_by(|entry| self.node(*entry).name.as_os_str().cmp(name));
        found.ok().map(|at| entries[at])
    }

    /// Lists the directory at `path` if that is still to be done, keeping what is known of entries.
    fn list(&mut self, root: &RootDir, path: &Path, id: Id) -> Result<(), ChecksumError> {
        let Some(dir) = &mut self.nodes[id.0].dir else {
            return Ok(());
        };
        if dir.listed {
            return Ok(());
        }
        let found = read_entries(root, path).map_err(ChecksumError::read(path))?;
        let mut before = std::mem::take(&mut dir.entries).into_iter().peekable();
        let mut entries = Vec::with_capacity(found.len());
        for mut node in found {
            while let Some(gone) =
                before.next_if(|old| self.nodes[old.0].name.as_os_str() < node.name.as_os_str())
            {
                self.forget(gone);
            }
            match before.next_if(|old| self.nodes[old.0].name == node.name) {
                Some(old) if self.nodes[old.0].is_dir() == node.is_dir() => {
                    let known = &mut self.nodes[old.0];
                    node.own = known.own;
                    node.dir = known.dir.take().or(node.dir);
                    *known = node;
                    entries.push(old);
                }
                Some(old) => {
                    self.forget(old);
                    entries.push(self.add(node));
                }
                None => entries.push(self.add(node)),
            }
        }
        before.for_each(|gone| self.forget(gone));
        if let Some(dir) = &mut self.nodes[id.0].dir {
            dir.entries = entries;
            dir.listed = true;
            dir.contents = None;
        }
        Ok(())
    }

    /// Lists the directory at `path` and all below it.
    pub(super) fn list_all(
        &mut self,
        root: &RootDir,
        path: &Path,
        id: Id,
    ) -> Result<(), ChecksumError> {
        let mut waiting = vec![(path.to_owned(), id)];
        while let Some((path, id)) = waiting.pop() {
            self.list(root, &path, id)?;
            let dirs = self
                .entries(id)
                .iter()
                .filter(|entry| self.node(**entry).is_dir());
            waiting.extend(dirs.map(|entry| (join(&path, &self.node(*entry).name), *entry)));
        }
        Ok(())
    }

    /// The digest of what is at `path` with all below it, of which nothing need be listed yet.
    pub(super) fn digest(
        &mut self,
        root: &RootDir,
        path: &Path,
        id: Id,
    ) -> Result<Digest, ChecksumError> {
        // Parents come before what is in them; what is already digested is not entered.
        let mut order = Vec::new();
        let mut missing = Vec::new();
        let mut waiting = vec![(path.to_owned(), id)];
        while let Some((path, id)) = waiting.pop() {
            if self.contents(id).is_some() {
                continue;
            }
            order.push(id);
            self.list(root, &path, id)?;
            for entry in self.entries(id) {
                let node = self.node(*entry);
                if node.is_dir() {
                    waiting.push((join(&path, &node.name), *entry));
                }
            }
            missing.push((path, id));
        }
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut jobs = vec![Job {
            dir: parent,
            ids: vec![id],
        }];
        for (path, id) in missing {
            jobs.push(Job {
                dir: path,
                ids: self.entries(id).to_vec(),
            });
        }
        self.hash(root, jobs)?;
        for id in order.into_iter().rev() {
            self.fold(id);
        }
        Ok(self
            .contents(id)
            .or_else(|| self.own(id))
            .unwrap_or_else(|| Digest::of("")))
    }

    /// Takes the digests that are missing of the files and directory headers in `jobs`, all listed.
    pub(super) fn hash(&mut self, root: &RootDir, jobs: Vec<Job>) -> Result<(), ChecksumError> {
        let mut missing = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            job.ids.retain(|id| self.node(*id).own.is_none());
            if !job.ids.is_empty() {
                missing.push(job);
            }
        }
        let taken = hash_all(root, self, missing)?;
        for (id, digest) in taken {
            self.nodes[id.0].own = Some(digest);
        }
        Ok(())
    }

    fn contents(&self, id: Id) -> Option<Digest> {
        self.node(id).dir.as_ref()?.contents
    }

    /// Takes the digest of a directory with all in it, from the digests of its parts: over NUL and
    /// the text of its header's digest, then for each entry NUL, its name and the text of its
    /// digest.
    fn fold(&mut self, id: Id) {
        let Some(header) = self.own(id) else { return };
        let mut hasher = Hasher::new();
        hasher.update(b"\0");
        hasher.update(header.to_string());
        for entry in self.entries(id) {
            hasher.update(b"\0");
            hasher.update(self.node(*entry).name.as_bytes());
            if let Some(digest) = self.contents(*entry).or_else(|| self.own(*entry)) {
                hasher.update(digest.to_string());
            }
        }
        if let Some(dir) = &mut self.nodes[id.0].dir {
            dir.contents = Some(hasher.finish());
        }
    }

    fn add(&mut self, node: Node) -> Id {
        match self.free.pop() {
            Some(id) => {
                self.nodes[id.0] = node;
                id
            }
            None => {
                self.nodes.push(node);
                Id(self.nodes.len() - 1)
            }
        }
    }

    /// Gives back the places of a node and of all below it.
    fn forget(&mut self, id: Id) {
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            if let Some(dir) = self.nodes[id.0].dir.take() {
                waiting.extend(dir.entries);
            }
            self.free.push(id);
        }
    }
}

fn read_entries(root: &RootDir, path: &Path) -> io::Result<Vec<Node>> {
    let opened = root.open_dir(path)?;
    let mut nodes = Vec::new();
    for entry in opened.read_dir(Path::new("."))? {
        let name = Path::new(&entry.name);
        let metadata = opened.stat(name, Follow::No)?;
        // A mark that something below was deleted is not content.
        if metadata.is_whiteout() {
            continue;
        }
        let link = match metadata.kind {
            FileKind::Symlink => Some(opened.read_link(name)?),
            _ => None,
        };
        nodes.push(Node::new(entry.name, metadata, link));
    }
    Ok(nodes)
}
