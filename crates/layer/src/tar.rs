//! The tar format: ustar with PAX records, as Go's `archive/tar` writes and reads it.
//!
//! Read are also the older forms: v7, GNU long names, base-256 numbers, and GNU's sparse files
//! (old and PAX 1.0). A header that another reader could take for something else (a size in a PAX
//! record that is not the header's, a record that does not end where it says) is either taken as
//! Go takes it or refused, never guessed at.

mod number;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

pub use reader::{ReadError, Reader};
pub use writer::Writer;

/// The size of a header, and what everything is padded to.
const BLOCK: usize = 512;

/// One entry without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its path as stored, without the `/` that marks a directory.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its permission bits (`0o7777`).
    pub mode: u32,
    /// The user who owns it.
    pub uid: u32,
    /// The group that owns it.
    pub gid: u32,
    /// The length of its content in bytes; 0 for all but regular files.
    pub size: u64,
    /// The time of last change in nanoseconds since 1970. Written in whole seconds, as all who
    /// write image layers do.
    pub mtime_ns: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link and what it says.
    Symlink(PathBuf),
    /// Another name of the entry with this path.
    HardLink(PathBuf),
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// The prefix of PAX records that hold extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Where the fields of a header are.
mod field {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(super) const TYPE: usize = 156;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
    pub(super) const PREFIX: Range<usize> = 345..500;
    /// GNU's sparse map begins here, with four entries and then [`SPARSE_MORE`].
    pub(super) const SPARSE: usize = 386;
    pub(super) const SPARSE_MORE: usize = 482;
    pub(super) const SPARSE_SIZE: Range<usize> = 483..495;
}

/// The magic and version of POSIX and of GNU headers.
const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";

/// The checksum of a header: the sum of its bytes with the checksum's own taken as spaces. Some old
/// writers took bytes as signed; both are given.
fn checksums(block: &[u8; BLOCK]) -> (u64, i64) {
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if field::CHECKSUM.contains(&at) {
            b' '
        } else {
            *byte
        };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    (unsigned, signed)
}
