//! One directory at a time, by descriptor.
//!
//! Everything here names single components, taken from directory listings, below descriptors that
//! were opened without following links: no file that a build left behind can lead out of its tree.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, XattrFlags};
use rustix::io::Errno;

/// Makes a directory hide what lies below it.
pub(crate) const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// Present on a directory, tells overlayfs that whiteouts may be in it. Without it the kernel lists
/// their names when nothing lies below the directory.
pub(crate) const ORIGIN: &CStr = c"trusted.overlay.origin";

/// What overlayfs keeps for itself.
pub(crate) const PRIVATE: &[u8] = b"trusted.overlay.";

/// Large enough that most directories take one or two system calls.
const LIST_BUFFER: usize = 32 * 1024;

/// Linux allows no larger list or value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LARGEST_XATTR: usize = 64 * 1024;

/// One name in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) name: CString,
    pub(crate) kind: FileType,
}

/// Opens the directory at the trusted path `path`.
pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory `name` in `parent`.
pub(crate) fn open_dir(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// What `name` in `parent` is, without following it.
pub(crate) fn stat(parent: impl AsFd, name: &CStr) -> io::Result<Stat> {
    Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The entries of `dir`, in no order.
pub(crate) fn list(dir: &OwnedFd) -> io::Result<Vec<Item>> {
    let mut buffer = Vec::with_capacity(LIST_BUFFER);
    let mut items = Vec::new();
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut raw = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(stat(dir, name)?.st_mode),
            kind => kind,
        };
        items.push(Item {
            name: name.to_owned(),
            kind,
        });
    }
    Ok(items)
}

/// Whether the entry `item` of `dir` is a whiteout.
pub(crate) fn is_whiteout(dir: &OwnedFd, item: &Item) -> io::Result<bool> {
    Ok(item.kind == FileType::CharacterDevice && stat(dir, &item.name)?.st_rdev == 0)
}

/// Makes a whiteout.
pub(crate) fn make_whiteout(dir: impl AsFd, name: &CStr) -> io::Result<()> {
    let kind = FileType::CharacterDevice;
    Ok(rustix::fs::mknodat(dir, name, kind, Mode::empty(), 0)?)
}

/// Whether `dir` hides what lies below it.
pub(crate) fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    let mut value = [0u8; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::RANGE | Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes `dir` hide what lies below it.
pub(crate) fn set_opaque(dir: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(
        dir,
        OPAQUE,
        b"y",
        XattrFlags::empty(),
    )?)
}

/// Tells overlayfs that whiteouts are in `dir`.
pub(crate) fn announce_whiteouts(dir: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(
        dir,
        ORIGIN,
        b"",
        XattrFlags::empty(),
    )?)
}

/// Makes the directory `name` in `parent` and opens it.
pub(crate) fn make_dir(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
    open_dir(parent, name)
}

/// Gives the directory `to` the owner, mode and extended attributes of `from`, except overlayfs's.
/// Times are left to [`copy_times`], since filling a directory changes them.
pub(crate) fn copy_dir_metadata(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    copy_owner(&stat, to)?;
    copy_xattrs(&Xattrs::Of(from.as_fd()), &Xattrs::Of(to.as_fd()))
}

/// Gives `to` the owner and mode of `stat`.
pub(crate) fn copy_owner(stat: &Stat, to: &OwnedFd) -> io::Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    Ok(rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?)
}

/// Gives `to` the times of `from`.
pub(crate) fn copy_times(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::futimens(to, &times(&rustix::fs::fstat(from)?))?)
}

/// The times of `stat`.
pub(crate) fn times(stat: &Stat) -> rustix::fs::Timestamps {
    let time = |seconds, rest: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(rest).unwrap_or(0),
    };
    rustix::fs::Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Whose extended attributes are meant.
pub(crate) enum Xattrs<'a> {
    /// Those of an open file or directory.
    Of(BorrowedFd<'a>),
    /// Those of a name, which is not followed. There is no `getxattrat` before Linux 6.13, so the
    /// name is reached through the magic link of its directory.
    At(PathBuf),
}

impl Xattrs<'_> {
    /// Those of `name` in `dir`.
    pub(crate) fn at(dir: &OwnedFd, name: &CStr) -> Xattrs<'static> {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
        Xattrs::At(PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
    }

    /// The names, except overlayfs's, sorted.
    pub(crate) fn names(&self) -> io::Result<Vec<CString>> {
        let listed = grow(|buffer| match self {
            Xattrs::Of(fd) => rustix::fs::flistxattr(fd, buffer),
            Xattrs::At(path) => rustix::fs::llistxattr(path, buffer),
        });
        let listed = match listed {
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut names: Vec<CString> = listed
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty() && !name.starts_with(PRIVATE))
            .filter_map(|name| CString::new(name).ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The value of `name`; `None` if it is gone or cannot be read by anyone.
    pub(crate) fn get(&self, name: &CStr) -> io::Result<Option<Vec<u8>>> {
        let value = grow(|buffer| match self {
            Xattrs::Of(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Xattrs::At(path) => rustix::fs::lgetxattr(path, name, buffer),
        });
        match value {
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            value => Ok(Some(value?)),
        }
    }

    fn set(&self, name: &CStr, value: &[u8]) -> io::Result<()> {
        match self {
            Xattrs::Of(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())?,
            Xattrs::At(path) => rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())?,
        }
        Ok(())
    }
}

/// Gives `to` the extended attributes of `from`, except overlayfs's.
pub(crate) fn copy_xattrs(from: &Xattrs<'_>, to: &Xattrs<'_>) -> io::Result<()> {
    for name in from.names()? {
        if let Some(value) = from.get(&name)? {
            to.set(&name, &value)?;
        }
    }
    Ok(())
}

/// Calls `read` with a buffer that grows until what it gives fits.
fn grow(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < LARGEST_XATTR => {
                buffer = vec![0; LARGEST_XATTR];
            }
            Err(error) => return Err(error),
        }
    }
}
