//! Copying one source with all that is below it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use sys::root::{FileKind, Follow, Metadata, RootDir, set_xattr_of, xattrs_of};

use super::changed::{Changed, concerns};
use super::leaf::{Leaf, LeafCopier, set_xattr, stat_if_any};
use super::pool::{BATCH, Batch, Pool, Shared};
use super::{CopyError, CopyOptions, CopySummary};
use crate::filter::{Filter, FilterState};
use crate::path::join;

pub(super) struct Copier<'a> {
    src: &'a RootDir,
    dst: &'a RootDir,
    options: &'a CopyOptions,
    filter: &'a Filter,
    /// If any, only this is copied, as paths from the source.
    only: Option<&'a Changed>,
    /// Where a file with several names was copied to first.
    names: HashMap<(u64, u64), PathBuf>,
    /// Further names of files, made when all files are there.
    links: Vec<Link>,
    /// The directories between the top and where we are.
    open: Vec<OpenDir>,
    /// Directories in which everything has been taken, those inside before those around them.
    left: Vec<OpenDir>,
    pub(super) summary: CopySummary,
}

/// A directory whose entries are being copied.
struct OpenDir {
    src: PathBuf,
    dst: PathBuf,
    metadata: Metadata,
    /// `None` while nothing in it has been taken and it may turn out not to be needed.
    made: Option<Finish>,
    /// It is the source itself.
    top: bool,
}

/// What is left to do for a directory once everything in it is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finish {
    All,
    /// It was there before and keeps what it is; only its time is set.
    Time,
    Nothing,
}

enum Task {
    Enter(Box<Entering>),
    Leave,
}

/// A directory that is still to be looked into.
struct Entering {
    dir: OpenDir,
    /// From the source, for patterns.
    relative: PathBuf,
    taken: bool,
    state: FilterState,
}

/// A further name of a file.
struct Link {
    /// The name in the destination that it got first.
    first: PathBuf,
    from: PathBuf,
    to: PathBuf,
    metadata: Metadata,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        src: &'a RootDir,
        dst: &'a RootDir,
        options: &'a CopyOptions,
        filter: &'a Filter,
    ) -> Copier<'a> {
        Copier {
            src,
            dst,
            options,
            filter,
            only: None,
            names: HashMap::new(),
            links: Vec::new(),
            open: Vec::new(),
            left: Vec::new(),
            summary: CopySummary::default(),
        }
    }

    /// Copies of the source, a directory, only what is in `only`.
    pub(super) fn copy_only(
        mut self,
        only: &'a Changed,
        source: &Path,
        metadata: Metadata,
        target: &Path,
    ) -> Result<CopySummary, CopyError> {
        self.only = Some(only);
        self.copy(source, metadata, target)?;
        Ok(self.summary)
    }

    /// Copies the source to exactly `target`, whose parent exists.
    pub(super) fn copy(
        &mut self,
        source: &Path,
        metadata: Metadata,
        target: &Path,
    ) -> Result<(), CopyError> {
        if metadata.kind != FileKind::Dir {
            let src = open_parent(self.src, source).map_err(CopyError::read("open", source))?;
            let dst = open_parent(self.dst, target).map_err(CopyError::write("open", target))?;
            let leaf = Leaf {
                src: &src,
                dst: &dst,
                from: source,
                to: target,
                metadata,
            };
            self.summary.files += 1;
            self.count_bytes(&metadata);
            return self.leaves().copy(&leaf);
        }
        let (shared, sender) = Shared::new(self.leaves());
        let walked = thread::scope(|scope| {
            // Dropped with the closure, which lets the threads end.
            let mut pool = Pool::new(scope, &shared, sender);
            self.walk(source, metadata, target, &mut pool)
        });
        // A walk that was stopped has no error of its own.
        if let Some(error) = shared.into_error() {
            return Err(error);
        }
        walked?;
        self.make_links()?;
        for dir in std::mem::take(&mut self.left) {
            self.finish(&dir)?;
        }
        Ok(())
    }

    /// Goes through the directory `source` and hands its files to `pool`.
    fn walk(
        &mut self,
        source: &Path,
        metadata: Metadata,
        target: &Path,
        pool: &mut Pool<'_, '_>,
    ) -> Result<(), CopyError> {
        let dir = OpenDir {
            src: source.to_owned(),
            dst: target.to_owned(),
            metadata,
            made: None,
            top: true,
        };
        // Trees are deeper than stacks: the directories to come are kept here.
        let mut tasks = vec![Task::Enter(Box::new(Entering {
            dir,
            relative: PathBuf::new(),
            taken: true,
            state: FilterState::default(),
        }))];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Enter(entering) => {
                    let Entering {
                        dir,
                        relative,
                        taken,
                        state,
                    } = *entering;
                    self.open.push(dir);
                    if taken {
                        self.make_open_dirs()?;
                    }
                    tasks.push(Task::Leave);
                    let dirs = self.copy_entries(&relative, &state, pool)?;
                    let Some(dirs) = dirs else { return Ok(()) };
                    tasks.extend(dirs.into_iter().rev());
                }
                Task::Leave => self.left.extend(self.open.pop()),
            }
        }
        Ok(())
    }

    fn leaves(&self) -> LeafCopier<'a> {
        LeafCopier {
            options: self.options,
        }
    }

    fn count_bytes(&mut self, metadata: &Metadata) {
        if metadata.kind == FileKind::File {
            self.summary.bytes += metadata.size;
        }
    }

    /// Has the entries of the innermost open directory copied that are not directories; returns
    /// those that are, or nothing once something has failed.
    fn copy_entries(
        &mut self,
        relative: &Path,
        state: &FilterState,
        pool: &mut Pool<'_, '_>,
    ) -> Result<Option<Vec<Task>>, CopyError> {
        let Some(dir) = self.open.last() else {
            return Ok(None);
        };
        let (src_path, dst_path) = (dir.src.clone(), dir.dst.clone());
        let src = self
            .src
            .open_dir(&src_path)
            .map_err(CopyError::read("open", &src_path))?;
        let entries = src
            .read_dir(Path::new("."))
            .map_err(CopyError::read("open", &src_path))?;
        let mut files = Vec::new();
        let mut tasks = Vec::new();
        for entry in entries {
            let relative = join(relative, &entry.name);
            if self.only.is_some_and(|only| !concerns(only, &relative)) {
                continue;
            }
            let verdict = self
                .filter
                .judge(&relative, entry.kind == FileKind::Dir, state);
            if !verdict.taken && !verdict.enter {
                continue;
            }
            let (from, to) = (join(&src_path, &entry.name), join(&dst_path, &entry.name));
            let metadata = src
                .stat(Path::new(&entry.name), Follow::No)
                .map_err(CopyError::read("lstat", &from))?;
            if metadata.kind == FileKind::Dir {
                let dir = OpenDir {
                    src: from,
                    dst: to,
                    metadata,
                    made: None,
                    top: false,
                };
                tasks.push(Task::Enter(Box::new(Entering {
                    dir,
                    relative,
                    taken: verdict.taken,
                    state: verdict.state,
                })));
            } else if verdict.taken && !metadata.is_whiteout() {
                self.summary.files += 1;
                files.extend(self.unless_linked(from, to, metadata));
            }
        }
        if files.is_empty() {
            return Ok(Some(tasks));
        }
        self.make_open_dirs()?;
        let dst = self
            .dst
            .open_dir(&dst_path)
            .map_err(CopyError::write("open", &dst_path))?;
        let mut files = files.into_iter().peekable();
        while files.peek().is_some() {
            let batch = Batch {
                src: src
                    .try_clone()
                    .map_err(CopyError::read("open", &src_path))?,
                dst: dst
                    .try_clone()
                    .map_err(CopyError::write("open", &dst_path))?,
                files: files.by_ref().take(BATCH).collect(),
            };
            if !pool.copy(batch) {
                return Ok(None);
            }
        }
        Ok(Some(tasks))
    }

    /// Makes the open directories that were not made yet, the outermost first.
    fn make_open_dirs(&mut self) -> Result<(), CopyError> {
        for dir in self.open.iter_mut().filter(|dir| dir.made.is_none()) {
            let write = |action| CopyError::write(action, &dir.dst);
            let mut existing = stat_if_any(self.dst, &dir.dst).map_err(write("lstat"))?;
            if existing.is_some_and(|kind| kind != FileKind::Dir) {
                if !self.options.always_replace {
                    return Err(CopyError::NotADirectory(Path::new("/").join(&dir.dst)));
                }
                self.dst.unlink(&dir.dst).map_err(write("remove"))?;
                existing = None;
            }
            dir.made = Some(match existing {
                None => {
                    self.dst.mkdir(&dir.dst, 0o700).map_err(write("mkdir"))?;
                    Finish::All
                }
                Some(_) if dir.top => Finish::Time,
                Some(_) => Finish::All,
            });
        }
        Ok(())
    }

    /// Gives a directory in which everything is there what it shall have.
    fn finish(&self, dir: &OpenDir) -> Result<(), CopyError> {
        match dir.made.unwrap_or(Finish::Nothing) {
            Finish::All => {
                let write = |action| CopyError::write(action, &dir.dst);
                let dst = self.dst.open_dir(&dir.dst).map_err(write("open"))?;
                self.leaves()
                    .apply_to(dst.as_fd(), &dir.metadata)
                    .map_err(write("chmod"))?;
                let src = self.src.open_dir(&dir.src);
                let xattrs = src.and_then(|src| xattrs_of(src.as_fd()));
                for (name, value) in xattrs.map_err(CopyError::read("listxattr", &dir.src))? {
                    set_xattr(&name, || set_xattr_of(dst.as_fd(), &name, &value))
                        .map_err(write("setxattr"))?;
                }
                Ok(())
            }
            Finish::Time => self
                .dst
                .set_mtime(&dir.dst, self.leaves().mtime(&dir.metadata), Follow::No)
                .map_err(CopyError::write("utimensat", &dir.dst)),
            Finish::Nothing => Ok(()),
        }
    }

    /// Gives the file back, unless it is one that is copied under another name already.
    fn unless_linked(
        &mut self,
        from: PathBuf,
        to: PathBuf,
        metadata: Metadata,
    ) -> Option<(PathBuf, PathBuf, Metadata)> {
        if metadata.nlink < 2 {
            self.count_bytes(&metadata);
            return Some((from, to, metadata));
        }
        let file = (metadata.dev, metadata.ino);
        if let Some(first) = self.names.get(&file) {
            self.links.push(Link {
                first: first.clone(),
                from,
                to,
                metadata,
            });
            return None;
        }
        self.names.insert(file, to.clone());
        self.count_bytes(&metadata);
        Some((from, to, metadata))
    }

    /// Makes the further names of files.
    fn make_links(&mut self) -> Result<(), CopyError> {
        for link in std::mem::take(&mut self.links) {
            let dst =
                open_parent(self.dst, &link.to).map_err(CopyError::write("open", &link.to))?;
            let leaf = Leaf {
                src: self.src,
                dst: &dst,
                from: &link.from,
                to: &link.to,
                metadata: link.metadata,
            };
            self.leaves().put(&leaf, "link", |dst, name| {
                dst.hard_link_from(self.dst, &link.first, name)
            })?;
        }
        Ok(())
    }
}

fn open_parent(root: &RootDir, path: &Path) -> io::Result<RootDir> {
    root.open_dir(path.parent().unwrap_or(Path::new("")))
}
