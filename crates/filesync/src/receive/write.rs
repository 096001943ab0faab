//! Writing the files whose data arrives.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Mode, Timespec, Timestamps};
use sys::root::RootDir;
use tokio::sync::mpsc;

use super::ReceiveError;
use crate::wire::Stat;

/// Files whose data arrives at the same time, for one writer. Senders give four at a time.
const MAX_OPEN: usize = 128;

/// A piece of at least this many zeros becomes a hole.
const HOLE: usize = 4096;

/// What a writer is to do.
pub(super) enum Work {
    /// Data of these files will come.
    Expect(Vec<Expected>),
    /// Data, or with no bytes the end of a file.
    Data(Vec<(u32, Bytes)>),
    /// No more will be expected.
    Last,
}

/// A file whose data was asked for.
pub(super) struct Expected {
    /// Its position in the list.
    pub(super) id: u32,
    /// What it shall be.
    pub(super) stat: Stat,
    /// Whether there is something in its place.
    pub(super) replace: bool,
    /// Whether it would not get the right owner by itself.
    pub(super) chown: bool,
}

struct Open {
    expected: Expected,
    file: File,
    /// The name until it is complete, if that is not its own.
    temporary: Option<OsString>,
    length: u64,
    /// Whether the file ends in a hole, so that its length is still to be set.
    hole: bool,
}

/// Writes files into the tree of `root`.
pub(super) struct Writer {
    root: Arc<RootDir>,
    expected: HashMap<u32, Expected>,
    open: HashMap<u32, Open>,
    /// The directory of the last file: the next one is mostly in it, too.
    dir: Option<(PathBuf, Arc<RootDir>)>,
}

impl Writer {
    pub(super) fn new(root: Arc<RootDir>) -> Writer {
        Writer {
            root,
            expected: HashMap::new(),
            open: HashMap::new(),
            dir: None,
        }
    }

    /// Works until everything that was expected is there.
    ///
    /// Ends without an error, too, when nobody has more for it to do: the reason is known there.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Work>) -> Result<(), ReceiveError> {
        let mut last = false;
        while !(last && self.expected.is_empty() && self.open.is_empty()) {
            match queue.blocking_recv() {
                Some(Work::Expect(files)) => {
                    self.expected
                        .extend(files.into_iter().map(|file| (file.id, file)));
                }
                Some(Work::Data(pieces)) => {
                    for (id, piece) in pieces {
                        self.data(id, &piece)?;
                    }
                }
                Some(Work::Last) => last = true,
                None => return Err(ReceiveError::Ended),
            }
        }
        Ok(())
    }

    fn data(&mut self, id: u32, piece: &[u8]) -> Result<(), ReceiveError> {
        let mut open = match self.open.remove(&id) {
            Some(open) => open,
            None => {
                let expected = self
                    .expected
                    .remove(&id)
                    .ok_or(ReceiveError::UnexpectedData(id))?;
                if self.open.len() == MAX_OPEN {
                    return Err(ReceiveError::TooManyOpen);
                }
                let path = expected.stat.path().to_owned();
                self.create(expected)
                    .map_err(|source| ReceiveError::Write { path, source })?
            }
        };
        let failed = |open: &Open, source| {
            let path = open.expected.stat.path().to_owned();
            Err(ReceiveError::Write { path, source })
        };
        if piece.is_empty() {
            return match self.complete(&mut open) {
                Ok(()) => Ok(()),
                Err(error) => failed(&open, error),
            };
        }
        match open.write(piece) {
            Ok(()) => drop(self.open.insert(id, open)),
            Err(error) => return failed(&open, error),
        }
        Ok(())
    }

    fn create(&mut self, expected: Expected) -> io::Result<Open> {
        let dir = self.dir_of(expected.stat.path())?;
        let temporary = expected
            .replace
            .then(|| OsString::from(format!(".part-{}", expected.id)));
        let name = temporary
            .as_deref()
            .or(expected.stat.path().file_name())
            .unwrap_or_default();
        let file = match dir.create_private(Path::new(name)) {
            // Left over from a transfer that has failed.
            Err(error) if temporary.is_some() && error.kind() == io::ErrorKind::AlreadyExists => {
                dir.remove_all(Path::new(name))?;
                dir.create_private(Path::new(name))?
            }
            created => created?,
        };
        Ok(Open {
            expected,
            file,
            temporary,
            length: 0,
            hole: false,
        })
    }

    fn complete(&mut self, open: &mut Open) -> io::Result<()> {
        let stat = &open.expected.stat;
        if open.hole {
            open.file.set_len(open.length)?;
        }
        if open.expected.chown {
            std::os::unix::fs::fchown(&open.file, Some(stat.uid), Some(stat.gid))?;
        }
        // Changing the owner takes set-user-id and capabilities away: they come after it.
        rustix::fs::fchmod(&open.file, Mode::from_raw_mode(stat.permissions()))?;
        for (name, value) in stat.xattrs.iter().filter(|(name, _)| may_set(name)) {
            forgive(sys::root::set_xattr_of(&open.file, OsStr::new(name), value))?;
        }
        rustix::fs::futimens(&open.file, &times(stat.mtime_ns))?;
        if let Some(temporary) = &open.temporary {
            let name = stat.path().file_name().unwrap_or_default();
            let (from, to) = (Path::new(temporary), Path::new(name));
            self.dir_of(stat.path())?.rename(from, to)?;
        }
        Ok(())
    }

    fn dir_of(&mut self, path: &Path) -> io::Result<Arc<RootDir>> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match &self.dir {
            Some((opened, dir)) if opened == parent => Ok(dir.clone()),
            _ => {
                let dir = Arc::new(self.root.open_dir(parent)?);
                self.dir = Some((parent.to_owned(), dir.clone()));
                Ok(dir)
            }
        }
    }
}

impl Open {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.length += piece.len() as u64;
        self.hole = piece.len() >= HOLE && is_zero(piece);
        if self.hole {
            self.file.seek(SeekFrom::Start(self.length))?;
            Ok(())
        } else {
            self.file.write_all(piece)
        }
    }
}

/// Compares each byte with the one after it, which the compiler's `memcmp` does fast.
fn is_zero(piece: &[u8]) -> bool {
    piece.first() == Some(&0) && piece[1..] == piece[..piece.len() - 1]
}

/// Whether a sender may set this attribute: none of those by which overlayfs is told what to show.
pub(super) fn may_set(name: &str) -> bool {
    !name.starts_with("trusted.") && !name.starts_with("user.overlay.")
}

/// An attribute that the filesystem, or our lack of rights, does not allow is left out: it says
/// nothing about the content, and the sender's machine may be quite another.
pub(super) fn forgive(set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Last change and last access at the same time.
fn times(ns: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: ns.div_euclid(1_000_000_000),
        tv_nsec: ns.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
