//! What trees take on the disk.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use crate::tree;

/// What something takes on the disk, as `du` counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Files, directories and the rest; several names of one file count once.
    pub inodes: u64,
}

/// Whether files that have more names than those found are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// They are, once.
    Counted,
    /// They belong to somebody else.
    Skipped,
}

/// Counts trees, every file once, in whichever tree it is met first.
#[derive(Default)]
pub(crate) struct Counter {
    seen: HashSet<(u64, u64)>,
}

impl Counter {
    /// Counts the tree at the trusted path `path`.
    pub(crate) fn tree(&mut self, path: &Path, shared: Shared) -> io::Result<Usage> {
        let mut usage = Usage::default();
        let root = tree::open_root(path)?;
        self.add(&rustix::fs::fstat(&root)?, shared, &mut usage);
        let mut levels = vec![self.level(root, shared, &mut usage)?];
        while let Some((dir, names)) = levels.last_mut() {
            let Some(name) = names.pop() else {
                levels.pop();
                continue;
            };
            let below = match tree::open_dir(&*dir, &name) {
                Ok(below) => below,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            levels.push(self.level(below, shared, &mut usage)?);
        }
        Ok(usage)
    }

    /// Counts the entries of `dir` and answers the directories among them.
    fn level(
        &mut self,
        dir: OwnedFd,
        shared: Shared,
        usage: &mut Usage,
    ) -> io::Result<(OwnedFd, Vec<std::ffi::CString>)> {
        let mut dirs = Vec::new();
        for item in tree::list(&dir)? {
            // Mutable directories are counted while they are in use.
            let stat = match tree::stat(&dir, &item.name) {
                Ok(stat) => stat,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            self.add(&stat, shared, usage);
            if item.kind == FileType::Directory {
                dirs.push(item.name);
            }
        }
        Ok((dir, dirs))
    }

    fn add(&mut self, stat: &Stat, shared: Shared, usage: &mut Usage) {
        let several =
            stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if several && (shared == Shared::Skipped || !self.seen.insert((stat.st_dev, stat.st_ino))) {
            return;
        }
        usage.inodes += 1;
        usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    }
}
