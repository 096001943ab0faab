//! Reading directories.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, RawDir};

use super::FileKind;

/// Large enough that most directories take one or two system calls.
const BUFFER: usize = 32 * 1024;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name; never `.` or `..`.
    pub name: OsString,
    /// The kind of what it names.
    pub kind: FileKind,
}

/// All entries of `dir` by the bytes of their names; `dir` must be open for reading.
pub(super) fn read_sorted(dir: OwnedFd) -> io::Result<Vec<DirEntry>> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut entries = Vec::new();
    let mut raw = RawDir::new(&dir, buffer.spare_capacity_mut() as &mut [MaybeUninit<u8>]);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match FileKind::of(entry.file_type()) {
            Some(kind) => kind,
            None => match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileKind::of_mode(stat.st_mode),
                // Gone since: as if it had never been seen.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
        };
        entries.push(DirEntry {
            name: OsString::from_vec(name.to_bytes().to_vec()),
            kind,
        });
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
