//! The directory of blobs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use oci::Digest;

use crate::{CommitError, Writer};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to prepare `{}`", path.display())]
pub struct OpenError {
    /// The directory or file in the way.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Why a blob cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not in the store.
    #[error("blob `{0}` is not in the store")]
    Missing(Digest),
    /// It is larger than the caller wants to hold in memory.
    #[error("blob `{digest}` has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The most that the caller takes.
        limit: u64,
    },
    /// The disk failed.
    #[error("failed to read blob `{digest}`")]
    Read {
        /// The blob.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a blob cannot be removed.
#[derive(Debug, thiserror::Error)]
#[error("failed to remove blob `{digest}`")]
pub struct RemoveError {
    /// The blob.
    pub digest: Digest,
    /// What the system said.
    pub source: io::Error,
}

/// A blob that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What it takes on the disk, in bytes.
    pub allocated: u64,
    /// When it was written.
    pub written: SystemTime,
}

/// A blob that is no longer in the store. Dropped, its room is freed.
#[derive(Debug)]
pub struct Detached {
    path: PathBuf,
}

impl Drop for Detached {
    fn drop(&mut self) {
        // Left over at worst, and then swept when the store is opened.
        let _ = fs::remove_file(&self.path);
    }
}

/// A store of blobs. Clones are handles of the same store.
#[derive(Clone, Debug)]
pub struct Content {
    dirs: Arc<Dirs>,
}

#[derive(Debug)]
pub(crate) struct Dirs {
    blobs: PathBuf,
    ingest: PathBuf,
    next: AtomicU64,
}

impl Content {
    /// Opens the store in the directory `root`, which is made if it is not there, and throws away
    /// what unfinished writers of an earlier process left. One process may have it open at a time.
    ///
    /// # Errors
    /// When the directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Content, OpenError> {
        let dirs = Dirs {
            blobs: root.join("sha256"),
            ingest: root.join("ingest"),
            next: AtomicU64::new(0),
        };
        for path in [&dirs.blobs, &dirs.ingest] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| OpenError {
                    path: path.clone(),
                    source,
                })?;
        }
        sweep(&dirs.ingest).map_err(|source| OpenError {
            path: dirs.ingest.clone(),
            source,
        })?;
        Ok(Content {
            dirs: Arc::new(dirs),
        })
    }

    /// Starts a blob. Several writers may write the same one.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn begin(&self) -> io::Result<Writer> {
        Writer::create(Arc::clone(&self.dirs))
    }

    /// Stores `bytes` and says their digest.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn insert(&self, bytes: &[u8]) -> Result<Digest, CommitError> {
        let digest = Digest::of(bytes);
        if self.contains(&digest) {
            return Ok(digest);
        }
        let mut writer = self.begin().map_err(CommitError::Write)?;
        io::Write::write_all(&mut writer, bytes).map_err(CommitError::Write)?;
        writer.commit(Some(digest))
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`ReadError::Missing`] when it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ReadError> {
        File::open(self.dirs.blob(digest)).map_err(|source| read_error(digest, source))
    }

    /// Reads a blob of at most `limit` bytes into memory.
    ///
    /// # Errors
    /// [`ReadError::Missing`] when it is not there, [`ReadError::TooLarge`] when it is larger.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ReadError> {
        let failed = |source| ReadError::Read {
            digest: *digest,
            source,
        };
        let file = self.open_blob(digest)?;
        let size = file.metadata().map_err(failed)?.len();
        if size > limit {
            return Err(ReadError::TooLarge {
                digest: *digest,
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// What the store knows of a blob; `None` when it is not there.
    pub fn stat(&self, digest: &Digest) -> Option<Blob> {
        let metadata = fs::symlink_metadata(self.dirs.blob(digest)).ok()?;
        Some(blob(*digest, &metadata))
    }

    /// The size of a blob in bytes; `None` when it is not there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.stat(digest).map(|blob| blob.size)
    }

    /// Whether a blob is there.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.stat(digest).is_some()
    }

    /// Removes a blob and says whether it was there. Whoever has it open can read on.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove(&self, digest: &Digest) -> Result<bool, RemoveError> {
        Ok(self.detach(digest)?.is_some())
    }

    /// Makes a blob invisible at once; its room is freed when the answer is dropped, which may take
    /// long for a large one. `None` when it was not there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn detach(&self, digest: &Digest) -> Result<Option<Detached>, RemoveError> {
        let path = self.dirs.unused();
        match fs::rename(self.dirs.blob(digest), &path) {
            Ok(()) => Ok(Some(Detached { path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RemoveError {
                digest: *digest,
                source,
            }),
        }
    }

    /// All blobs, in no order. Files with other names are passed over.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Blob>> {
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&self.dirs.blobs)? {
            let entry = entry?;
            let Some(digest) = entry.file_name().to_str().and_then(parse_hex) else {
                continue;
            };
            match entry.metadata() {
                Ok(metadata) => blobs.push(blob(digest, &metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(blobs)
    }

    /// Waits until all that was written to the filesystem of the store is on the disk.
    ///
    /// # Errors
    /// When the disk fails; what was written since the last success may then be lost.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.dirs.blobs)?)?)
    }
}

impl Dirs {
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(crate) fn unused(&self) -> PathBuf {
        self.ingest
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

fn blob(digest: Digest, metadata: &fs::Metadata) -> Blob {
    Blob {
        digest,
        size: metadata.len(),
        allocated: metadata.blocks() * 512,
        written: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

fn parse_hex(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

fn read_error(digest: &Digest, source: io::Error) -> ReadError {
    if source.kind() == io::ErrorKind::NotFound {
        return ReadError::Missing(*digest);
    }
    ReadError::Read {
        digest: *digest,
        source,
    }
}

fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}
