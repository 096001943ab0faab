//! Writing a whole filesystem to its disk.

use std::io;
use std::os::fd::AsFd;

/// Waits until everything written before to the filesystem that `fd` is on has reached its disk.
pub fn syncfs(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}
