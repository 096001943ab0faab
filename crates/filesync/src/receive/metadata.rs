//! Transfers in which most entries are only listed.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use fstree::pattern::Matcher;
use prost::Message;
use sys::root::{FileKind, RootDir};

use super::METADATA_FILE;
use crate::wire::Stat;

/// Keeps the list and picks what is transferred.
pub(super) struct MetadataOnly {
    transferred: Arc<Matcher>,
    /// The frames of [`METADATA_FILE`].
    frames: Vec<u8>,
    /// The directories on the way to the last entry that are not transferred, as nothing in them
    /// is so far.
    pending: Vec<(u32, Stat)>,
}

impl MetadataOnly {
    pub(super) fn new(transferred: Arc<Matcher>) -> MetadataOnly {
        MetadataOnly {
            transferred,
            frames: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Takes the next entry of the list; gives what is to be transferred now.
    pub(super) fn entry(&mut self, id: u32, stat: Stat) -> Vec<(u32, Stat)> {
        if stat.path() == Path::new(METADATA_FILE) {
            return Vec::new();
        }
        // An entry is a path, some numbers and attributes: far from what four bytes can say.
        let length = u32::try_from(stat.encoded_len()).unwrap_or(u32::MAX);
        self.frames.extend_from_slice(&length.to_le_bytes());
        self.frames.extend_from_slice(&stat.encode_to_vec());

        while self
            .pending
            .last()
            .is_some_and(|(_, dir)| !stat.path().starts_with(dir.path()))
        {
            self.pending.pop();
        }
        if self.transferred.matches(stat.path()) {
            let mut now = std::mem::take(&mut self.pending);
            now.push((id, stat));
            return now;
        }
        if stat.kind() == Some(FileKind::Dir) {
            self.pending.push((id, stat));
        }
        Vec::new()
    }

    /// Writes the list into the root of the tree.
    pub(super) fn write(self, root: &RootDir) -> io::Result<()> {
        let path = Path::new(METADATA_FILE);
        root.remove_all(path)?;
        root.create(path, 0o644, true)?.write_all(&self.frames)
    }
}
