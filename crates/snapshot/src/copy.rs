//! Copying single files and whole trees, with everything that belongs to them.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::tree::{self, Xattrs};

/// How a file gets from one tree into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// As a file of its own, sharing blocks where the filesystem can.
    Copy,
    /// As another name of the same file. Neither name may be written through afterwards.
    Link,
}

/// Makes `name` in `to` another name of the one in `from`; where the filesystem takes no further
/// name for the file, or none at all (an immutable file), it is copied.
pub(crate) fn link(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
    match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::MLINK | rustix::io::Errno::PERM) => {
            copy(from, to, name, &tree::stat(from, name)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn copy(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return regular(from, to, name, stat),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        }
        kind => {
            let mode = Mode::from_raw_mode(stat.st_mode);
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
            rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
        }
    }
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    tree::copy_xattrs(&Xattrs::at(from, name), &Xattrs::at(to, name))?;
    Ok(rustix::fs::utimensat(
        to,
        name,
        &tree::times(stat),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn regular(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
    let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        // Uses copy_file_range where both sides allow it.
        io::copy(
            &mut File::from(source.try_clone()?),
            &mut File::from(target.try_clone()?),
        )?;
    }
    tree::copy_owner(stat, &target)?;
    tree::copy_xattrs(&Xattrs::Of(source.as_fd()), &Xattrs::Of(target.as_fd()))?;
    Ok(rustix::fs::futimens(&target, &tree::times(stat))?)
}

/// Copies the content of the directory `from` into the directory `to`, which exists and gets the
/// metadata of `from`. Names of one file stay names of one file.
pub(crate) fn tree(from: &OwnedFd, to: &OwnedFd, transfer: Transfer) -> io::Result<()> {
    let mut links = Links::new(to, transfer)?;
    below(from.try_clone()?, to.try_clone()?, Vec::new(), &mut links)
}

/// Like [`tree()`], for a directory at `path` below the one that `links` was made for.
pub(crate) fn below(
    from: OwnedFd,
    to: OwnedFd,
    path: Vec<u8>,
    links: &mut Links,
) -> io::Result<()> {
    // Levels are kept on the heap: trees may be deeper than any stack.
    let mut levels = vec![Level::enter(from, to, path, links)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.dirs.pop() {
            let from = tree::open_dir(&level.from, &name)?;
            let to = tree::make_dir(&level.to, &name)?;
            let path = join(&level.path, &name);
            levels.push(Level::enter(from, to, path, links)?);
            continue;
        }
        tree::copy_dir_metadata(&level.from, &level.to)?;
        tree::copy_times(&level.from, &level.to)?;
        levels.pop();
    }
    Ok(())
}

/// `name` in the directory at `path`.
pub(crate) fn join(path: &[u8], name: &CStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.to_bytes());
    joined
}

/// A directory that is being copied.
struct Level {
    from: OwnedFd,
    to: OwnedFd,
    path: Vec<u8>,
    dirs: Vec<CString>,
}

impl Level {
    fn enter(from: OwnedFd, to: OwnedFd, path: Vec<u8>, links: &mut Links) -> io::Result<Level> {
        let mut dirs = Vec::new();
        for item in tree::list(&from)? {
            if item.kind == FileType::Directory {
                dirs.push(item.name);
            } else {
                links.node(&from, &to, &path, &item.name)?;
            }
        }
        Ok(Level {
            from,
            to,
            path,
            dirs,
        })
    }
}

/// Copies files into one tree, and remembers those with several names.
pub(crate) struct Links {
    transfer: Transfer,
    root: OwnedFd,
    /// Where a file (device and inode) was copied to, below `root`.
    seen: HashMap<(u64, u64), CString>,
}

impl Links {
    /// For copies into the tree below `root`.
    pub(crate) fn new(root: &OwnedFd, transfer: Transfer) -> io::Result<Links> {
        Ok(Links {
            transfer,
            root: root.try_clone()?,
            seen: HashMap::new(),
        })
    }

    /// Copies `name`, not a directory, from `from` to `to`, which is at `path` below the root.
    pub(crate) fn node(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &[u8],
        name: &CStr,
    ) -> io::Result<()> {
        if self.transfer == Transfer::Link {
            return link(from, to, name);
        }
        let stat = tree::stat(from, name)?;
        if stat.st_nlink < 2 {
            return copy(from, to, name, &stat);
        }
        let file = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.seen.get(&file)
            && rustix::fs::linkat(&self.root, first, to, name, AtFlags::empty()).is_ok()
        {
            return Ok(());
        }
        // Too far down to be named by a path, or no further name is taken: a file of its own.
        copy(from, to, name, &stat)?;
        if let Ok(place) = CString::new(join(path, name)) {
            self.seen.insert(file, place);
        }
        Ok(())
    }
}
