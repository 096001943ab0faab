//! Copying what is in a file.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, seek};
use rustix::io::Errno;
use sys::root::Metadata;

/// For filesystems between which the kernel cannot copy.
const BUFFER: usize = 128 * 1024;

/// Copies all of `from`, described by `metadata`, to the empty file `to`, keeping its holes.
///
/// The kernel copies, sharing the blocks where the filesystem can.
pub(super) fn copy_content(from: &File, to: &File, metadata: &Metadata) -> io::Result<()> {
    if metadata.size == 0 {
        return Ok(());
    }
    if metadata.allocated >= metadata.size {
        return copy_range(from, to, metadata.size);
    }
    let mut at = 0;
    while at < metadata.size {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data up to the end.
            Err(Errno::NXIO) => break,
            // The filesystem cannot tell.
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let end = match seek(from, SeekFrom::Hole(start)) {
            Ok(end) => end,
            Err(Errno::INVAL) => metadata.size,
            Err(error) => return Err(error.into()),
        };
        seek(from, SeekFrom::Start(start))?;
        seek(to, SeekFrom::Start(start))?;
        copy_range(from, to, end.saturating_sub(start))?;
        at = end.max(start + 1);
    }
    Ok(ftruncate(to, metadata.size)?)
}

/// Copies up to `length` bytes from where both files are; less if `from` ends.
fn copy_range(from: &File, to: &File, length: u64) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        // The kernel takes at most about 2 GiB at once and returns what it did.
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, None, to, None, wanted) {
            Ok(0) => return Ok(()),
            Ok(copied) => left -= copied as u64,
            Err(Errno::INTR) => {}
            // Other filesystems, or one that cannot do it.
            Err(
                Errno::XDEV
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::INVAL
                | Errno::PERM
                | Errno::IO,
            ) if left == length => {
                return copy_by_hand(from, to, left);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(mut from: &File, mut to: &File, mut left: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER.min(usize::try_from(left).unwrap_or(BUFFER))];
    while left > 0 {
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match from.read(&mut buffer[..wanted]) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                left -= read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
