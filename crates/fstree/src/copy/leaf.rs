//! Copying one thing that is not a directory.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, Timespec, Timestamps};
use sys::root::{FileKind, Follow, Metadata, RootDir, chown_file, set_xattr_of, xattrs_of};

use super::content::copy_content;
use super::{CopyError, CopyOptions};
use crate::resolve::is_missing;

/// Something to copy that is not a directory: its parents, opened, and its paths from the roots.
pub(super) struct Leaf<'a> {
    pub(super) src: &'a RootDir,
    pub(super) dst: &'a RootDir,
    pub(super) from: &'a Path,
    pub(super) to: &'a Path,
    pub(super) metadata: Metadata,
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

/// Copies leaves, on any thread.
#[derive(Clone, Copy)]
pub(super) struct LeafCopier<'a> {
    pub(super) options: &'a CopyOptions,
}

impl LeafCopier<'_> {
    /// Copies something that is not a directory.
    pub(super) fn copy(self, leaf: &Leaf<'_>) -> Result<(), CopyError> {
        let write = |action| CopyError::write(action, leaf.to);
        match leaf.metadata.kind {
            FileKind::File => return self.copy_file(leaf),
            FileKind::Symlink => {
                let target = leaf
                    .src
                    .read_link(leaf.src_name())
                    .map_err(CopyError::read("readlink", leaf.from))?;
                self.put(leaf, "symlink", |dst, name| dst.symlink(&target, name))?;
            }
            // A socket is copied as an empty file, as BuildKit does: it means nothing elsewhere.
            FileKind::Socket => {
                self.put(leaf, "mknod", |dst, name| {
                    dst.mknod(name, FileKind::File, 0, 0)
                })?;
            }
            kind @ (FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo) => {
                let rdev = if kind == FileKind::Fifo {
                    0
                } else {
                    leaf.metadata.rdev
                };
                self.put(leaf, "mknod", |dst, name| dst.mknod(name, kind, 0, rdev))?;
            }
            FileKind::Dir => return Err(CopyError::IsADirectory(leaf.to.to_owned())),
        }
        self.apply_by_path(leaf.dst, leaf.dst_name(), &leaf.metadata)
            .map_err(write("chmod"))?;
        let xattrs = leaf
            .src
            .xattrs(leaf.src_name())
            .map_err(CopyError::read("listxattr", leaf.from))?;
        for (name, value) in xattrs {
            set_xattr(&name, || leaf.dst.set_xattr(leaf.dst_name(), &name, &value))
                .map_err(write("setxattr"))?;
        }
        Ok(())
    }

    fn copy_file(self, leaf: &Leaf<'_>) -> Result<(), CopyError> {
        let from = leaf
            .src
            .open_seen_file(leaf.src_name())
            .map_err(CopyError::read("open", leaf.from))?;
        let mode = self.options.mode.apply(leaf.metadata.mode, false);
        let to = self.put(leaf, "open", |dst, name| dst.create_new(name, mode))?;
        let copied = copy_content(&from, &to, &leaf.metadata)
            .and_then(|()| self.apply_to(to.as_fd(), &leaf.metadata));
        copied.map_err(CopyError::write("write", leaf.to))?;
        for (name, value) in xattrs_of(&from).map_err(CopyError::read("listxattr", leaf.from))? {
            set_xattr(&name, || set_xattr_of(&to, &name, &value))
                .map_err(CopyError::write("setxattr", leaf.to))?;
        }
        Ok(())
    }

    /// Makes something new under the destination's name, in place of what is there.
    pub(super) fn put<T>(
        self,
        leaf: &Leaf<'_>,
        action: &'static str,
        make: impl Fn(&RootDir, &Path) -> io::Result<T>,
    ) -> Result<T, CopyError> {
        let name = leaf.dst_name();
        match make(leaf.dst, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map_err(CopyError::write(action, leaf.to)),
        }
        let write = |action| CopyError::write(action, leaf.to);
        if stat_if_any(leaf.dst, name).map_err(write("lstat"))? == Some(FileKind::Dir) {
            if !self.options.always_replace {
                return Err(CopyError::IsADirectory(Path::new("/").join(leaf.to)));
            }
            leaf.dst.remove_all(name).map_err(write("unlinkat"))?;
        } else {
            leaf.dst.unlink(name).map_err(write("remove"))?;
        }
        make(leaf.dst, name).map_err(write(action))
    }

    fn owner(self, source: &Metadata) -> (u32, u32) {
        self.options.owner.unwrap_or((source.uid, source.gid))
    }

    pub(super) fn mtime(self, source: &Metadata) -> i64 {
        self.options.timestamp_ns.unwrap_or(source.mtime_ns)
    }

    /// Owner, then mode (changing the owner clears set-user-id), then time.
    pub(super) fn apply_by_path(
        self,
        dst: &RootDir,
        path: &Path,
        source: &Metadata,
    ) -> io::Result<()> {
        let (uid, gid) = self.owner(source);
        dst.chown(path, uid, gid, Follow::No)?;
        if source.kind != FileKind::Symlink {
            let is_dir = source.kind == FileKind::Dir;
            dst.chmod(path, self.options.mode.apply(source.mode, is_dir))?;
        }
        dst.set_mtime(path, self.mtime(source), Follow::No)
    }

    /// The same for something that is open. What it has already is left alone: each change is one
    /// more entry in the journal of the disk, and one look is less than that.
    pub(super) fn apply_to(self, file: BorrowedFd<'_>, source: &Metadata) -> io::Result<()> {
        let made = rustix::fs::fstat(file)?;
        let (uid, gid) = self.owner(source);
        if (made.st_uid, made.st_gid) != (uid, gid) {
            chown_file(file, uid, gid)?;
        }
        let is_dir = source.kind == FileKind::Dir;
        let mode = Mode::from_raw_mode(self.options.mode.apply(source.mode, is_dir));
        if Mode::from_raw_mode(made.st_mode) != mode {
            rustix::fs::fchmod(file, mode)?;
        }
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

pub(super) fn stat_if_any(root: &RootDir, path: &Path) -> io::Result<Option<FileKind>> {
    match root.stat(path, Follow::No) {
        Ok(metadata) => Ok(Some(metadata.kind)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets an attribute, if the destination can have it.
///
/// BuildKit lets every failure pass here; a disk that is full is not one of the reasons for that.
pub(super) fn set_xattr(name: &OsStr, set: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
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
