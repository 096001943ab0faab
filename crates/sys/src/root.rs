//! A directory that no path can leave.
//!
//! [`RootDir`] is how every path that came from a client, an image or a container is opened. Each
//! lookup is one `openat2` with `RESOLVE_IN_ROOT`: the kernel itself keeps `..` and symlinks inside
//! the directory, also while somebody renames things under it. What changes the last component
//! (make, remove, rename, change owner) opens its parent that way and then names one component,
//! never followed.

mod entry;
mod metadata;
mod remove;
#[cfg(test)]
mod tests;
mod xattr;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};

pub use entry::DirEntry;
pub use metadata::{FileKind, Metadata};
pub use xattr::{set_xattr_of, xattrs_of};

/// How often a lookup is tried again when the kernel saw a rename race and could not tell whether
/// the path stayed inside (`EAGAIN`). A process that renames in a loop must not hold us forever.
const RACE_RETRIES: usize = 256;

/// A directory taken as the root of every path given to it.
///
/// Paths may be absolute or relative; both are taken from the directory. A trailing `/` means
/// nothing. All methods are single system calls or a few, and may be called from many threads.
#[derive(Debug)]
pub struct RootDir {
    dir: OwnedFd,
}

/// Whether the last component of a path is followed if it is a symbolic link.
///
/// Components before it always are, inside the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The link's target is meant.
    Yes,
    /// The link itself is meant.
    No,
}

/// The parent of a path, opened, and the one name under it.
///
/// The name is `.` if the path means a directory that it does not name (the root, or `a/..`).
struct Place<'a> {
    dir: Dir<'a>,
    name: &'a OsStr,
}

enum Dir<'a> {
    Root(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Dir::Root(fd) => *fd,
            Dir::Opened(fd) => fd.as_fd(),
        }
    }
}

/// The ids of an owner for the kernel. The highest number, which archives and clients can name, means
/// that the file keeps what it has.
fn owner(uid: u32, gid: u32) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    let uid = (uid != u32::MAX).then(|| rustix::fs::Uid::from_raw(uid));
    (
        uid,
        (gid != u32::MAX).then(|| rustix::fs::Gid::from_raw(gid)),
    )
}

/// Changes the owner of an open file; an id of `u32::MAX` is left as it is.
pub fn chown_file(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = owner(uid, gid);
    Ok(rustix::fs::fchown(file, uid, gid)?)
}

impl RootDir {
    /// Opens a directory of our own: `path` is trusted and its links are followed anywhere.
    pub fn open(path: &Path) -> io::Result<RootDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(RootDir {
            dir: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Takes an open directory, an `O_PATH` one or a detached mount included, as the root.
    pub fn from_fd(dir: OwnedFd) -> RootDir {
        RootDir { dir }
    }

    /// The descriptor of the directory.
    pub fn into_fd(self) -> OwnedFd {
        self.dir
    }

    /// Another handle of the same directory.
    pub fn try_clone(&self) -> io::Result<RootDir> {
        Ok(RootDir {
            dir: self.dir.try_clone()?,
        })
    }

    /// The directory itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens the directory at `path`, following links inside this root; it becomes a root of its
    /// own.
    pub fn open_dir(&self, path: &Path) -> io::Result<RootDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(RootDir {
            dir: self.open_in_root(path, flags)?,
        })
    }

    /// Looks up `path` without opening what it means (`O_PATH`).
    pub fn resolve(&self, path: &Path, follow: Follow) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match follow {
            Follow::Yes => self.open_in_root(path, flags),
            Follow::No => self.open_in_root(path, flags | OFlags::NOFOLLOW),
        }
    }

    /// Opens the regular file at `path` for reading, following links inside the root.
    ///
    /// Anything else, a device or a pipe for example, is refused without being opened, since
    /// opening one can block or act.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let found = self.resolve(path, Follow::Yes)?;
        reopen_regular(&found, OFlags::RDONLY)
    }

    /// Opens the regular file at `path` for reading; its last component must not be a link.
    pub fn open_file_nofollow(&self, path: &Path) -> io::Result<File> {
        let found = self.resolve(path, Follow::No)?;
        reopen_regular(&found, OFlags::RDONLY)
    }

    /// Opens for reading what the caller has just seen to be a regular file, in a tree that nobody
    /// else changes; the last component is not followed.
    ///
    /// One system call where [`RootDir::open_file_nofollow`] takes four: for the many files of a
    /// tree.
    pub fn open_seen_file(&self, path: &Path) -> io::Result<File> {
        let place = self.place(path)?;
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(
            &place.dir,
            place.name,
            flags,
            Mode::empty(),
        )?))
    }

    /// Creates the regular file `path`, which must not exist, readable by its owner only, for a
    /// caller that sets the mode when the content is there.
    pub fn create_private(&self, path: &Path) -> io::Result<File> {
        self.create_new(path, 0o600)
    }

    /// Creates the regular file `path`, which must not exist, with what the process's umask and the
    /// directory's default list leave of the permission bits `mode`: for a caller that looks at
    /// what came of it when the content is there.
    pub fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        let place = self.place(path)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o777);
        Ok(File::from(rustix::fs::openat(
            &place.dir, place.name, flags, mode,
        )?))
    }

    /// Creates the regular file `path` with exactly the permission bits `mode`, open for writing.
    ///
    /// The last component is never followed. What exists already is an error if `exclusive`; else
    /// an existing regular file is emptied (keeping its mode) and anything else is an error.
    pub fn create(&self, path: &Path, mode: u32, exclusive: bool) -> io::Result<File> {
        let place = self.place(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&place.dir, place.name, flags, permissions(mode)) {
            Ok(file) => {
                // The process's umask has been taken off; the caller means what it says.
                rustix::fs::fchmod(&file, permissions(mode))?;
                Ok(File::from(file))
            }
            Err(rustix::io::Errno::EXIST) if !exclusive => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let found = rustix::fs::openat(&place.dir, place.name, flags, Mode::empty())?;
                reopen_regular(&found, OFlags::WRONLY | OFlags::TRUNC)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What `path` is.
    pub fn stat(&self, path: &Path, follow: Follow) -> io::Result<Metadata> {
        if follow == Follow::Yes {
            let found = self.resolve(path, Follow::Yes)?;
            return Ok(Metadata::from(&rustix::fs::fstat(&found)?));
        }
        let place = self.place(path)?;
        let stat = rustix::fs::statat(&place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Metadata::from(&stat))
    }

    /// Whether `path` exists; a dangling link does.
    pub fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.stat(path, Follow::No) {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The entries of the directory at `path`, sorted by the bytes of their names.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        entry::read_sorted(self.open_dir(path)?.dir)
    }

    /// The target of the symbolic link at `path`, as stored.
    pub fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let place = self.place(path)?;
        let target = rustix::fs::readlinkat(&place.dir, place.name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Makes the directory `path` with exactly the permission bits `mode`.
    pub fn mkdir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let place = self.place(path)?;
        rustix::fs::mkdirat(&place.dir, place.name, permissions(mode))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&place.dir, place.name, flags, Mode::empty())?;
        Ok(rustix::fs::fchmod(&made, permissions(mode))?)
    }

    /// Makes the directory `path` and those of its parents that are missing, all with `mode`.
    ///
    /// Returns the ones that it made, the outermost first. Links on the way are followed inside
    /// the root, also the last; one that leads nowhere is an error, as is a file on the way.
    pub fn mkdir_all(&self, path: &Path, mode: u32) -> io::Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        let mut missing = Vec::new();
        let mut at = path;
        loop {
            match self.stat(at, Follow::Yes) {
                Ok(metadata) if metadata.kind == FileKind::Dir => break,
                Ok(_) => return Err(rustix::io::Errno::NOTDIR.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing.push(at);
                    at = at.parent().ok_or(error)?;
                }
                Err(error) => return Err(error),
            }
        }
        for path in missing.into_iter().rev() {
            match self.mkdir(path, mode) {
                Ok(()) => made.push(path.to_owned()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if self.stat(path, Follow::Yes)?.kind != FileKind::Dir {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(made)
    }

    /// Makes the symbolic link `path` that says `target`.
    pub fn symlink(&self, target: &Path, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(rustix::fs::symlinkat(target, &place.dir, place.name)?)
    }

    /// Makes `to` another name of the file `from`; a link is not followed but linked itself.
    pub fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        Ok(rustix::fs::linkat(
            &from.dir,
            from.name,
            &to.dir,
            to.name,
            AtFlags::empty(),
        )?)
    }

    /// Makes `to` in this root another name of the file `from` in another root.
    pub fn hard_link_from(&self, root: &RootDir, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (root.place(from)?, self.place(to)?);
        Ok(rustix::fs::linkat(
            &from.dir,
            from.name,
            &to.dir,
            to.name,
            AtFlags::empty(),
        )?)
    }

    /// Makes a device, pipe, socket or empty regular file with exactly the permission bits `mode`.
    pub fn mknod(&self, path: &Path, kind: FileKind, mode: u32, rdev: u64) -> io::Result<()> {
        let place = self.place(path)?;
        rustix::fs::mknodat(
            &place.dir,
            place.name,
            kind.to_rustix(),
            permissions(mode),
            rdev,
        )?;
        if mode & 0o7777 == 0 {
            return Ok(());
        }
        place.chmod(mode)
    }

    /// Renames `from` to `to`, replacing it as `rename(2)` does; neither is followed.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        Ok(rustix::fs::renameat(
            &from.dir, from.name, &to.dir, to.name,
        )?)
    }

    /// Removes the file or link `path`.
    pub fn unlink(&self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(rustix::fs::unlinkat(
            &place.dir,
            place.name,
            AtFlags::empty(),
        )?)
    }

    /// Removes the empty directory `path`.
    pub fn rmdir(&self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(rustix::fs::unlinkat(
            &place.dir,
            place.name,
            AtFlags::REMOVEDIR,
        )?)
    }

    /// Removes `path` and everything below it; nothing there is no error.
    ///
    /// For the root itself, removes everything in it.
    pub fn remove_all(&self, path: &Path) -> io::Result<()> {
        let place = match self.place(path) {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            Err(error) => return Err(error),
        };
        remove::remove_all(place.dir.as_fd(), place.name)
    }

    /// Changes the owner of `path`, as [`chown_file`] does.
    pub fn chown(&self, path: &Path, uid: u32, gid: u32, follow: Follow) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid);
        match follow {
            Follow::Yes => {
                let found = self.resolve(path, Follow::Yes)?;
                Ok(rustix::fs::chownat(
                    &found,
                    "",
                    uid,
                    gid,
                    AtFlags::EMPTY_PATH,
                )?)
            }
            Follow::No => {
                let place = self.place(path)?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                Ok(rustix::fs::chownat(
                    &place.dir, place.name, uid, gid, flags,
                )?)
            }
        }
    }

    /// Sets the permission bits of `path`, which is not followed.
    ///
    /// A symbolic link has none on Linux: changing one is no error and does nothing.
    pub fn chmod(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.place(path)?.chmod(mode)
    }

    /// Sets the times of last change and last access of `path`, in nanoseconds since 1970.
    pub fn set_mtime(&self, path: &Path, ns: i64, follow: Follow) -> io::Result<()> {
        let time = Timespec {
            tv_sec: ns.div_euclid(1_000_000_000),
            tv_nsec: ns.rem_euclid(1_000_000_000),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        match follow {
            Follow::Yes => {
                let found = self.resolve(path, Follow::Yes)?;
                // The kernel takes the magic link for the file that the descriptor names.
                let link = proc_path(&found);
                Ok(rustix::fs::utimensat(
                    rustix::fs::CWD,
                    &link,
                    &times,
                    AtFlags::empty(),
                )?)
            }
            Follow::No => {
                let place = self.place(path)?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                Ok(rustix::fs::utimensat(
                    &place.dir, place.name, &times, flags,
                )?)
            }
        }
    }

    /// One `openat2` of `path` with this directory as its root.
    fn open_in_root(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RACE_RETRIES {
            match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
        Err(rustix::io::Errno::AGAIN.into())
    }

    /// Splits `path` into its opened parent and the last name.
    fn place<'a>(&'a self, path: &'a Path) -> io::Result<Place<'a>> {
        let Some(Component::Normal(name)) = path.components().next_back() else {
            // The root, or a path that ends in `..`: a directory known by its place only.
            let dir = if path.components().any(|part| part == Component::ParentDir) {
                Dir::Opened(self.open_in_root(path, OFlags::PATH | OFlags::CLOEXEC)?)
            } else {
                Dir::Root(self.dir.as_fd())
            };
            return Ok(Place {
                dir,
                name: OsStr::new("."),
            });
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        if matches!(parent.as_os_str().as_bytes(), b"" | b"/" | b".") {
            return Ok(Place {
                dir: Dir::Root(self.dir.as_fd()),
                name,
            });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Place {
            dir: Dir::Opened(self.open_in_root(parent, flags)?),
            name,
        })
    }
}

impl Place<'_> {
    fn chmod(&self, mode: u32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&self.dir, self.name, flags, Mode::empty())?;
        if FileKind::of_mode(rustix::fs::fstat(&found)?.st_mode) == FileKind::Symlink {
            return Ok(());
        }
        // fchmod refuses an O_PATH descriptor, and chmod of a name would follow a link that took
        // the file's place: the magic link names exactly what was opened.
        Ok(rustix::fs::chmod(proc_path(&found), permissions(mode))?)
    }
}

/// Opens for real what `found` (an `O_PATH` descriptor) names, if it is a regular file.
fn reopen_regular(found: &OwnedFd, flags: OFlags) -> io::Result<File> {
    match FileKind::of_mode(rustix::fs::fstat(found)?.st_mode) {
        FileKind::File => {
            let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
            Ok(File::from(rustix::fs::open(
                proc_path(found),
                flags,
                Mode::empty(),
            )?))
        }
        FileKind::Dir => Err(rustix::io::Errno::ISDIR.into()),
        FileKind::Symlink => Err(rustix::io::Errno::LOOP.into()),
        FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket => Err(
            io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"),
        ),
    }
}

/// The name under which this process reaches what `fd` has open.
fn proc_path(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}
