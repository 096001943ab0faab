//! Removing a tree of any depth with two open descriptors.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::FileKind;
use super::entry::read_sorted;

/// A directory on the way down whose other entries are still to be removed.
struct Level {
    /// Its name in the directory above.
    name: OsString,
    /// Which directory it is: proves, on the way back up, that `..` led where we came from.
    identity: (u64, u64),
    /// The directories in it that are left.
    dirs: Vec<OsString>,
}

/// Removes `name` in `parent` with all that is below it; `.` empties `parent` itself.
///
/// A step that ran in a container may leave a tree deeper than any stack or descriptor limit, so
/// this walks with `openat(name)` down and `openat("..")` up, and checks each step up.
pub(super) fn remove_all(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    if name != "." {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Linux says EISDIR for a directory, POSIX says EPERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let Some((mut dir, top)) = enter(parent, name)? else {
        return Ok(());
    };
    let mut levels = vec![top];
    while let Some(level) = levels.last_mut() {
        if let Some(child) = level.dirs.pop() {
            if let Some((opened, next)) = enter(dir.as_fd(), &child)? {
                dir = opened;
                levels.push(next);
            }
            continue;
        }
        let name = std::mem::take(&mut level.name);
        levels.pop();
        let Some(above) = levels.last() else {
            return if name == "." {
                Ok(())
            } else {
                remove_dir(parent, &name)
            };
        };
        let up = open_dir(dir.as_fd(), OsStr::new(".."))?;
        if identity(&up)? != above.identity {
            return Err(io::Error::other(
                "a directory was moved while it was being removed",
            ));
        }
        remove_dir(up.as_fd(), &name)?;
        dir = up;
    }
    Ok(())
}

/// Opens the directory `name` and removes everything in it that is not a directory.
fn enter(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<(OwnedFd, Level)>> {
    let dir = match open_dir(parent, name) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut dirs = Vec::new();
    for entry in read_sorted(dir.try_clone()?)? {
        if entry.kind == FileKind::Dir {
            dirs.push(entry.name);
            continue;
        }
        match rustix::fs::unlinkat(&dir, &entry.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let identity = identity(&dir)?;
    Ok(Some((
        dir,
        Level {
            name: name.to_owned(),
            identity,
            dirs,
        },
    )))
}

fn remove_dir(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_dir(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn identity(dir: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}
