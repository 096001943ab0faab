//! One blob on its way in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use oci::{Digest, Hasher};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::store::Dirs;

/// Why a blob did not get into the store.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// What was written is not what was announced.
    #[error("expected blob `{expected}` but received `{actual}` ({size} bytes)")]
    Mismatch {
        /// The digest that was announced.
        expected: Digest,
        /// The digest of what was written.
        actual: Digest,
        /// How many bytes were written.
        size: u64,
    },
    /// The bytes could not be written.
    #[error("failed to write a blob")]
    Write(#[source] io::Error),
    /// The finished file could not be moved into place.
    #[error("failed to move blob `{digest}` into place")]
    Rename {
        /// The blob.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
}

/// A blob that is being written, invisible until it is committed. Dropped before that, it is gone.
///
/// Each write is one system call: write large pieces.
pub struct Writer {
    dirs: Arc<Dirs>,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Writer {
    pub(crate) fn create(dirs: Arc<Dirs>) -> io::Result<Writer> {
        let path = dirs.unused();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Writer {
            dirs,
            path,
            file,
            hasher: Hasher::new(),
            size: 0,
        })
    }

    /// How many bytes were written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends the blob and makes it visible under its digest, which is the answer. With `expected`,
    /// only a blob of that digest is taken. It is no error if the blob is there already.
    ///
    /// # Errors
    /// [`CommitError::Mismatch`] when the bytes are not those of `expected`.
    pub fn commit(self, expected: Option<Digest>) -> Result<Digest, CommitError> {
        let mut whole = self.finish(expected)?;
        whole.place()?;
        Ok(whole.digest())
    }

    /// Ends the blob, without making it visible yet.
    ///
    /// # Errors
    /// [`CommitError::Mismatch`] when the bytes are not those of `expected`.
    pub fn finish(mut self, expected: Option<Digest>) -> Result<Whole, CommitError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(CommitError::Mismatch {
                expected,
                actual: digest,
                size: self.size,
            });
        }
        Ok(Whole {
            writer: self,
            digest,
        })
    }
}

/// A blob that is written to its end and checked, and not yet visible. Dropped before it is placed, it
/// is gone.
pub struct Whole {
    writer: Writer,
    digest: Digest,
}

impl Whole {
    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Makes the blob visible. Takes no time that grows with its size; if the blob is there already,
    /// what was written goes when this is dropped.
    ///
    /// # Errors
    /// [`CommitError::Rename`] when the disk fails.
    pub fn place(&mut self) -> Result<(), CommitError> {
        // A blob that is there may be on the disk and recorded already: it is never replaced by one
        // that is not.
        let place = self.writer.dirs.blob(&self.digest);
        let path = &self.writer.path;
        match rustix::fs::renameat_with(CWD, path, CWD, place, RenameFlags::NOREPLACE) {
            Ok(()) => self.writer.path = PathBuf::new(),
            Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(CommitError::Rename {
                    digest: self.digest,
                    source: error.into(),
                });
            }
        }
        Ok(())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Left over at worst, and then swept when the store is opened.
            let _ = fs::remove_file(&self.path);
        }
    }
}
