//! Copying one source with all that is below it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};
use sys::root::{FileKind, Follow, Metadata, RootDir, set_xattr_of, xattrs_of};

use super::content::copy_content;
use super::{CopyError, CopyOptions, CopySummary};
use crate::filter::{Filter, FilterState};
use crate::path::join;
use crate::resolve::is_missing;

pub(super) struct Copier<'a> {
    src: &'a RootDir,
    dst: &'a RootDir,
    options: &'a CopyOptions,
    filter: &'a Filter,
    /// Where a file with several names was copied to first.
    names: HashMap<(u64, u64), PathBuf>,
    /// The directories between the top and where we are.
    open: Vec<OpenDir>,
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
    Enter {
        dir: OpenDir,
        relative: PathBuf,
        taken: bool,
        state: FilterState,
    },
    Leave,
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
            names: HashMap::new(),
            open: Vec::new(),
            summary: CopySummary::default(),
        }
    }

    /// Copies the source to exactly `target`, whose parent exists.
    pub(super) fn copy(
        &mut self,
        source: &Path,
        metadata: Metadata,
        target: &Path,
    ) -> Result<(), CopyError> {
        if metadata.kind != FileKind::Dir {
            let src = open_parent(self.src, source).map_err(CopyError::read(source))?;
            let dst = open_parent(self.dst, target).map_err(CopyError::write(target))?;
            let leaf = Leaf {
                src: &src,
                dst: &dst,
                from: source,
                to: target,
                metadata,
            };
            return self.copy_leaf(&leaf);
        }
        let dir = OpenDir {
            src: source.to_owned(),
            dst: target.to_owned(),
            metadata,
            made: None,
            top: true,
        };
        // Trees are deeper than stacks: the directories to come are kept here.
        let mut tasks = vec![Task::Enter {
            dir,
            relative: PathBuf::new(),
            taken: true,
            state: FilterState::default(),
        }];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Enter {
                    dir,
                    relative,
                    taken,
                    state,
                } => {
                    self.open.push(dir);
                    if taken {
                        self.make_open_dirs()?;
                    }
                    tasks.push(Task::Leave);
                    let dirs = self.copy_entries(&relative, &state)?;
                    tasks.extend(dirs.into_iter().rev());
                }
                Task::Leave => self.leave()?,
            }
        }
        Ok(())
    }

    /// Copies the entries of the innermost open directory that are not directories; returns those
    /// that are.
    fn copy_entries(
        &mut self,
        relative: &Path,
        state: &FilterState,
    ) -> Result<Vec<Task>, CopyError> {
        let Some(dir) = self.open.last() else {
            return Ok(Vec::new());
        };
        let (src_path, dst_path) = (dir.src.clone(), dir.dst.clone());
        let src = self
            .src
            .open_dir(&src_path)
            .map_err(CopyError::read(&src_path))?;
        let entries = src
            .read_dir(Path::new("."))
            .map_err(CopyError::read(&src_path))?;
        let mut dst = None;
        let mut tasks = Vec::new();
        for entry in entries {
            let relative = join(relative, &entry.name);
            let verdict = self
                .filter
                .judge(&relative, entry.kind == FileKind::Dir, state);
            if !verdict.taken && !verdict.enter {
                continue;
            }
            let (from, to) = (join(&src_path, &entry.name), join(&dst_path, &entry.name));
            let metadata = src
                .stat(Path::new(&entry.name), Follow::No)
                .map_err(CopyError::read(&from))?;
            if metadata.kind == FileKind::Dir {
                let dir = OpenDir {
                    src: from,
                    dst: to,
                    metadata,
                    made: None,
                    top: false,
                };
                let (taken, state) = (verdict.taken, verdict.state);
                tasks.push(Task::Enter {
                    dir,
                    relative,
                    taken,
                    state,
                });
            } else if verdict.taken && !metadata.is_whiteout() {
                let dst = match &dst {
                    Some(dst) => dst,
                    None => {
                        self.make_open_dirs()?;
                        dst.insert(
                            self.dst
                                .open_dir(&dst_path)
                                .map_err(CopyError::write(&dst_path))?,
                        )
                    }
                };
                let (from, to) = (&from, &to);
                self.copy_leaf(&Leaf {
                    src: &src,
                    dst,
                    from,
                    to,
                    metadata,
                })?;
            }
        }
        Ok(tasks)
    }

    /// Makes the open directories that were not made yet, the outermost first.
    fn make_open_dirs(&mut self) -> Result<(), CopyError> {
        for dir in self.open.iter_mut().filter(|dir| dir.made.is_none()) {
            let write = || CopyError::write(&dir.dst);
            let mut existing = stat_if_any(self.dst, &dir.dst).map_err(write())?;
            if existing.is_some_and(|kind| kind != FileKind::Dir) {
                if !self.options.always_replace {
                    return Err(CopyError::NotADirectory(Path::new("/").join(&dir.dst)));
                }
                self.dst.unlink(&dir.dst).map_err(write())?;
                existing = None;
            }
            dir.made = Some(match existing {
                None => {
                    self.dst.mkdir(&dir.dst, 0o700).map_err(write())?;
                    Finish::All
                }
                Some(_) if dir.top => Finish::Time,
                Some(_) => Finish::All,
            });
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), CopyError> {
        let Some(dir) = self.open.pop() else {
            return Ok(());
        };
        match dir.made.unwrap_or(Finish::Nothing) {
            Finish::All => {
                self.apply_by_path(self.dst, &dir.dst, &dir.metadata)
                    .map_err(CopyError::write(&dir.dst))?;
                let xattrs = self
                    .src
                    .xattrs(&dir.src)
                    .map_err(CopyError::read(&dir.src))?;
                for (name, value) in xattrs {
                    set_xattr(&name, || self.dst.set_xattr(&dir.dst, &name, &value))
                        .map_err(CopyError::write(&dir.dst))?;
                }
                Ok(())
            }
            Finish::Time => self
                .dst
                .set_mtime(&dir.dst, self.mtime(&dir.metadata), Follow::No)
                .map_err(CopyError::write(&dir.dst)),
            Finish::Nothing => Ok(()),
        }
    }

    /// Copies something that is not a directory.
    fn copy_leaf(&mut self, leaf: &Leaf<'_>) -> Result<(), CopyError> {
        self.summary.files += 1;
        if self.link_to_first(leaf)? {
            return Ok(());
        }
        let write = || CopyError::write(leaf.to);
        match leaf.metadata.kind {
            FileKind::File => return self.copy_file(leaf),
            FileKind::Symlink => {
                let target = leaf
                    .src
                    .read_link(leaf.src_name())
                    .map_err(CopyError::read(leaf.from))?;
                self.put(leaf, |dst, name| dst.symlink(&target, name))?;
            }
            // A socket is copied as an empty file, as BuildKit does: it means nothing elsewhere.
            FileKind::Socket => {
                self.put(leaf, |dst, name| dst.mknod(name, FileKind::File, 0, 0))?;
            }
            kind @ (FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo) => {
                let rdev = if kind == FileKind::Fifo {
                    0
                } else {
                    leaf.metadata.rdev
                };
                self.put(leaf, |dst, name| dst.mknod(name, kind, 0, rdev))?;
            }
            FileKind::Dir => return Err(CopyError::IsADirectory(leaf.to.to_owned())),
        }
        self.apply_by_path(leaf.dst, leaf.dst_name(), &leaf.metadata)
            .map_err(write())?;
        let xattrs = leaf
            .src
            .xattrs(leaf.src_name())
            .map_err(CopyError::read(leaf.from))?;
        for (name, value) in xattrs {
            set_xattr(&name, || leaf.dst.set_xattr(leaf.dst_name(), &name, &value))
                .map_err(write())?;
        }
        Ok(())
    }

    /// If the file was copied under another name already, makes a second name of that copy.
    fn link_to_first(&mut self, leaf: &Leaf<'_>) -> Result<bool, CopyError> {
        if leaf.metadata.nlink < 2 {
            return Ok(false);
        }
        let file = (leaf.metadata.dev, leaf.metadata.ino);
        let Some(first) = self.names.get(&file).cloned() else {
            self.names.insert(file, leaf.to.to_owned());
            return Ok(false);
        };
        self.put(leaf, |dst, name| dst.hard_link_from(self.dst, &first, name))?;
        Ok(true)
    }

    fn copy_file(&mut self, leaf: &Leaf<'_>) -> Result<(), CopyError> {
        let from = leaf
            .src
            .open_seen_file(leaf.src_name())
            .map_err(CopyError::read(leaf.from))?;
        let to = self.put(leaf, RootDir::create_private)?;
        self.summary.bytes += leaf.metadata.size;
        let copied = copy_content(&from, &to, &leaf.metadata)
            .and_then(|()| self.apply_to_file(&to, &leaf.metadata));
        copied.map_err(CopyError::write(leaf.to))?;
        for (name, value) in xattrs_of(&from).map_err(CopyError::read(leaf.from))? {
            set_xattr(&name, || set_xattr_of(&to, &name, &value))
                .map_err(CopyError::write(leaf.to))?;
        }
        Ok(())
    }

    /// Makes something new under the destination's name, in place of what is there.
    fn put<T>(
        &self,
        leaf: &Leaf<'_>,
        make: impl Fn(&RootDir, &Path) -> io::Result<T>,
    ) -> Result<T, CopyError> {
        let name = leaf.dst_name();
        match make(leaf.dst, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map_err(CopyError::write(leaf.to)),
        }
        let write = || CopyError::write(leaf.to);
        if stat_if_any(leaf.dst, name).map_err(write())? == Some(FileKind::Dir) {
            if !self.options.always_replace {
                return Err(CopyError::IsADirectory(Path::new("/").join(leaf.to)));
            }
            leaf.dst.remove_all(name).map_err(write())?;
        } else {
            leaf.dst.unlink(name).map_err(write())?;
        }
        make(leaf.dst, name).map_err(write())
    }

    fn owner(&self, source: &Metadata) -> (u32, u32) {
        self.options.owner.unwrap_or((source.uid, source.gid))
    }

    fn mtime(&self, source: &Metadata) -> i64 {
        self.options.timestamp_ns.unwrap_or(source.mtime_ns)
    }

    /// Owner, then mode (changing the owner clears set-user-id), then time.
    fn apply_by_path(&self, dst: &RootDir, path: &Path, source: &Metadata) -> io::Result<()> {
        let (uid, gid) = self.owner(source);
        dst.chown(path, uid, gid, Follow::No)?;
        if source.kind != FileKind::Symlink {
            let is_dir = source.kind == FileKind::Dir;
            dst.chmod(path, self.options.mode.apply(source.mode, is_dir))?;
        }
        dst.set_mtime(path, self.mtime(source), Follow::No)
    }

    fn apply_to_file(&self, file: &File, source: &Metadata) -> io::Result<()> {
        let (uid, gid) = self.owner(source);
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        let mode = self.options.mode.apply(source.mode, false);
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        let ns = self.mtime(source);
        let time = Timespec {
            tv_sec: ns.div_euclid(1_000_000_000),
            tv_nsec: ns.rem_euclid(1_000_000_000),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        Ok(rustix::fs::futimens(file, &times)?)
    }
}

/// Something to copy that is not a directory: its parents, opened, and its paths from the roots.
struct Leaf<'a> {
    src: &'a RootDir,
    dst: &'a RootDir,
    from: &'a Path,
    to: &'a Path,
    metadata: Metadata,
}

impl Leaf<'_> {
    fn src_name(&self) -> &Path {
        name_of(self.from)
    }

    fn dst_name(&self) -> &Path {
        name_of(self.to)
    }
}

fn name_of(path: &Path) -> &Path {
    Path::new(path.file_name().unwrap_or(OsStr::new(".")))
}

fn open_parent(root: &RootDir, path: &Path) -> io::Result<RootDir> {
    root.open_dir(path.parent().unwrap_or(Path::new("")))
}

fn stat_if_any(root: &RootDir, path: &Path) -> io::Result<Option<FileKind>> {
    match root.stat(path, Follow::No) {
        Ok(metadata) => Ok(Some(metadata.kind)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets an attribute, if the destination can have it.
///
/// BuildKit lets every failure pass here; a disk that is full is not one of the reasons for that.
fn set_xattr(name: &OsStr, set: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if name.as_encoded_bytes().starts_with(b"trusted.overlay.") {
        return Ok(());
    }
    match set() {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}
