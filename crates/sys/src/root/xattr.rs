//! Extended attributes, never through a link.
//!
//! There is no `*xattrat` before Linux 6.13, so a file is named by the magic link of its opened
//! parent plus one component, and the `l*xattr` calls do not follow that component. Only the names
//! are listed by the new call where it is there: most files have none, and a walk asks each.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::path::Arg as _;

use super::{Place, RootDir, proc_path};

/// The first guess for the size of a list or value; most fit.
const FIRST_BUFFER: usize = 256;

/// Linux allows no larger list or value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LARGEST_BUFFER: usize = 64 * 1024;

impl RootDir {
    /// All extended attributes of `path`, which is not followed. None where the filesystem has
    /// none.
    pub fn xattrs(&self, path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
        let place = self.place(path)?;
        collect(
            |buffer| place.list_xattrs(buffer),
            |name, buffer| rustix::fs::lgetxattr(place.proc_path(), name, buffer),
        )
    }

    /// The extended attribute `name` of `path`, which is not followed.
    pub fn get_xattr(&self, path: &Path, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        let place = self.place(path)?;
        let file = place.proc_path();
        match grow(|buffer| rustix::fs::lgetxattr(&file, name.as_bytes(), buffer)) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the extended attribute `name` of `path`, which is not followed.
    pub fn set_xattr(&self, path: &Path, name: &OsStr, value: &[u8]) -> io::Result<()> {
        let file = self.place(path)?;
        let file = file.proc_path();
        Ok(rustix::fs::lsetxattr(
            &file,
            name.as_bytes(),
            value,
            XattrFlags::empty(),
        )?)
    }

    /// Removes the extended attribute `name` of `path`, which is not followed; a missing one is
    /// no error.
    pub fn remove_xattr(&self, path: &Path, name: &OsStr) -> io::Result<()> {
        let file = self.place(path)?;
        let file = file.proc_path();
        match rustix::fs::lremovexattr(&file, name.as_bytes()) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// All extended attributes of an open file or directory. None where the filesystem has none.
pub fn xattrs_of(file: impl AsFd) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let file = file.as_fd();
    collect(
        |buffer| rustix::fs::flistxattr(file, buffer),
        |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
    )
}

/// Sets the extended attribute `name` of an open file or directory.
pub fn set_xattr_of(file: impl AsFd, name: &OsStr, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(
        file,
        name.as_bytes(),
        value,
        XattrFlags::empty(),
    )?)
}

fn collect(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let names = match grow(list) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(found),
        Err(error) => return Err(error.into()),
    };
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        match grow(|buffer| get(name, buffer)) {
            Ok(value) => drop(found.insert(OsString::from_vec(name.to_vec()), value)),
            // Removed since it was listed, or listed but not readable for anyone.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// `listxattrat` has this number on all architectures.
const SYS_LISTXATTRAT: libc::c_long = 465;

/// The kernel, or who filters its calls, does not know `listxattrat`.
static NO_LISTXATTRAT: AtomicBool = AtomicBool::new(false);

impl Place<'_> {
    /// The names of the extended attributes, each with a NUL after it.
    fn list_xattrs(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if !NO_LISTXATTRAT.load(Ordering::Relaxed) {
            match self
                .name
                .into_with_c_str(|name| self.listxattrat(name, buffer))
            {
                // The last is what some filters of system calls answer.
                Err(Errno::NOSYS | Errno::PERM) => NO_LISTXATTRAT.store(true, Ordering::Relaxed),
                listed => return listed,
            }
        }
        rustix::fs::llistxattr(self.proc_path(), buffer)
    }

    fn listxattrat(&self, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        let dir = self.dir.as_fd();
        // SAFETY: the kernel reads `name` up to its NUL, which `CStr` guarantees, and writes at most
        // `buffer.len()` bytes to `buffer`, which is borrowed mutably. `dir` is borrowed, so its
        // descriptor stays open.
        let length = unsafe {
            libc::syscall(
                SYS_LISTXATTRAT,
                dir.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        usize::try_from(length)
            .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }

    fn proc_path(&self) -> PathBuf {
        proc_path(&self.dir.as_fd()).join(self.name)
    }
}

/// Calls `read` with a buffer that grows until what it gives fits.
fn grow(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < LARGEST_BUFFER => {
                buffer = vec![0; (buffer.len() * 16).min(LARGEST_BUFFER)];
            }
            Err(error) => return Err(error),
        }
    }
}
