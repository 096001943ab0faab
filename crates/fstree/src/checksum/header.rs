//! The digest of one file.
//!
//! It is over these, each as its name followed by its value without a separator, numbers in
//! decimal: `name` (always empty), `mode` (permission bits with set-user-id and so on), `uid`,
//! `gid`, `size` (of regular files), `typeflag` (that of a tar), `linkname`, `uname` and `gname`
//! (always empty), `devmajor`, `devminor`; then the extended attributes that count, by name; then
//! the content. This is Docker's tarsum v1 without the time.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci::{Digest, Hasher};
use sys::root::{FileKind, Metadata, RootDir, xattrs_of};

/// Large enough that hashing, not reading, is what takes the time.
const BUFFER: usize = 256 * 1024;

#[cfg(test)]
thread_local! {
    /// How many files the thread has digested.
    pub(super) static DIGESTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Reads and digests files one after another.
pub(super) struct FileHasher {
    buffer: Vec<u8>,
}

impl FileHasher {
    pub(super) fn new() -> FileHasher {
        FileHasher { buffer: Vec::new() }
    }

    /// The digest of `name` in `dir`: its header and, for a regular file, its content.
    pub(super) fn digest(
        &mut self,
        dir: &RootDir,
        name: &OsStr,
        metadata: &Metadata,
        link: Option<&Path>,
    ) -> io::Result<Digest> {
        #[cfg(test)]
        DIGESTED.with(|count| count.set(count.get() + 1));
        let name = Path::new(name);
        if metadata.kind != FileKind::File {
            return Ok(header(metadata, link, &dir.xattrs(name)?).finish());
        }
        let file = dir.open_seen_file(name)?;
        let mut hasher = header(metadata, None, &xattrs_of(&file)?);
        self.read(&file, &mut hasher, metadata.size)?;
        Ok(hasher.finish())
    }

    fn read(&mut self, mut file: &File, hasher: &mut Hasher, size: u64) -> io::Result<()> {
        // One byte more than the file is long, so that a small file's end shows at once.
        let wanted = usize::try_from(size)
            .unwrap_or(BUFFER)
            .saturating_add(1)
            .min(BUFFER);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let mut left = size;
        while left > 0 {
            match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&self.buffer[..read]);
                    left = left.saturating_sub(read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn header(
    metadata: &Metadata,
    link: Option<&Path>,
    xattrs: &BTreeMap<OsString, Vec<u8>>,
) -> Hasher {
    let (kind, size) = match metadata.kind {
        FileKind::File => ("0", metadata.size),
        FileKind::Symlink => ("2", 0),
        FileKind::CharDevice => ("3", 0),
        FileKind::BlockDevice => ("4", 0),
        FileKind::Dir => ("5", 0),
        FileKind::Fifo => ("6", 0),
        // Copied as an empty file, so it counts as one.
        FileKind::Socket => ("0", 0),
    };
    let mode = if metadata.kind == FileKind::Symlink {
        0o777
    } else {
        metadata.mode
    };
    let (major, minor) = match metadata.kind {
        FileKind::CharDevice | FileKind::BlockDevice => metadata.device(),
        _ => (0, 0),
    };
    let mut hasher = Hasher::new();
    hasher.update(format!(
        "namemode{mode}uid{}gid{}size{size}typeflag{kind}linkname",
        metadata.uid, metadata.gid
    ));
    hasher.update(link.map_or(&b""[..], |link| link.as_os_str().as_bytes()));
    hasher.update(format!("unamegnamedevmajor{major}devminor{minor}"));
    for (name, value) in xattrs.iter().filter(|(name, _)| counts(name)) {
        hasher.update(name.as_bytes());
        hasher.update(value);
    }
    hasher
}

/// Whether an extended attribute is content: labels and access lists belong to the machine, and
/// overlay's own to how a layer is stored.
fn counts(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == b"security.capability"
        || ![&b"security."[..], b"system.", b"trusted.overlay."]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}
