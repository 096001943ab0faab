//! Single blobs, each as a file of its own.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use oci::{Digest, Hasher, Reference};
use registry::{BlobStream, Progress, RegistryError};
use snapshot::{Active, Snapshots};
use tokio::io::AsyncWriteExt as _;

use crate::http::File;
use crate::pipe;
use crate::provider::Sources;

/// The permissions of a file for which none are asked.
const DEFAULT_PERM: u32 = 0o600;

/// A blob that is wanted as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRequest {
    /// The repository that has it.
    pub repository: Reference,
    /// Session and name of the OCI layout that has it, instead of a registry.
    pub layout: Option<(String, String)>,
    /// Which.
    pub digest: Digest,
    /// What the file is called; the digest when nothing is asked for.
    pub filename: Option<String>,
    /// Its permissions.
    pub perm: Option<u32>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Why a blob could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The transfer failed.
    #[error("failed to fetch blob {digest}")]
    Fetch {
        /// Which.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// It is not what was asked for.
    #[error("blob {want} is not what was sent: {got}")]
    Digest {
        /// What was asked for.
        want: Digest,
        /// What came.
        got: Digest,
    },
    /// It cannot be kept.
    #[error("failed to store blob {digest}")]
    Store {
        /// Which.
        digest: Digest,
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl BlobRequest {
    /// A name for the file: equal requests give equal layers.
    pub fn id(&self) -> Digest {
        let name = self.filename.as_deref().unwrap_or_default();
        let (perm, uid, gid) = (self.perm.unwrap_or(DEFAULT_PERM), self.uid, self.gid);
        Digest::of(format!(
            "drydock blob\0{}\0{perm:o} {uid} {gid}\0{name}",
            self.digest
        ))
    }

    /// A layer with the file.
    ///
    /// # Errors
    /// When nobody has the blob, or it cannot be kept.
    pub async fn fetch(
        &self,
        sources: &Sources,
        snapshots: &Snapshots,
        progress: &Progress,
    ) -> Result<Active, BlobError> {
        let digest = self.digest;
        let broken = |source| BlobError::Fetch { digest, source };
        let stored = |source: Box<dyn Error + Send + Sync>| BlobError::Store {
            digest,
            source: source.into(),
        };
        let (mut body, size) = self.open(sources).await?;
        let item = progress.begin(format!("fetching {digest}"), size);
        let (feed, reader) = pipe::feed();
        let name = self.filename.clone();
        let file = File {
            name: name.unwrap_or_else(|| digest.hex().to_owned()),
            perm: self.perm.unwrap_or(DEFAULT_PERM),
            owner: (self.uid, self.gid),
            last_modified: None,
        };
        let snapshots = snapshots.clone();
        let writer = tokio::task::spawn_blocking(move || file.write(&snapshots, reader));
        while let Some(chunk) = body.next().await.transpose().map_err(broken)? {
            item.add(chunk.len() as u64);
            if !chunk.is_empty() && !feed.send(Ok(chunk)).await {
                break;
            }
        }
        feed.finish().await;
        let written = writer.await.map_err(|error| stored(error.into()))?;
        let (active, got) = written.map_err(stored)?;
        if got != digest {
            return Err(BlobError::Digest { want: digest, got });
        }
        Ok(active)
    }

    /// Writes the blob, checked, to the new file `path`.
    ///
    /// # Errors
    /// When nobody has the blob, or it cannot be kept.
    pub(crate) async fn save(&self, sources: &Sources, path: &Path) -> Result<(), BlobError> {
        let digest = self.digest;
        let stored = |source: io::Error| BlobError::Store {
            digest,
            source: Arc::new(source),
        };
        let (mut body, _) = self.open(sources).await?;
        let mut file = tokio::fs::File::create_new(path).await.map_err(stored)?;
        let mut hasher = Hasher::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| BlobError::Fetch { digest, source })?;
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(stored)?;
        }
        file.flush().await.map_err(stored)?;
        match hasher.finish() {
            got if got == digest => Ok(()),
            got => Err(BlobError::Digest { want: digest, got }),
        }
    }

    /// Its bytes, and how many there are, 0 if that is not known.
    async fn open(&self, sources: &Sources) -> Result<(BlobStream, u64), BlobError> {
        if let Some((session, store)) = &self.layout {
            let blob = sources.layouts.open(session, store, &self.digest).await;
            let digest = self.digest;
            let blob = blob.map_err(|source| BlobError::Fetch { digest, source })?;
            return Ok((blob, 0));
        }
        let repository = sources.repository(&self.repository)?;
        let descriptor = repository.find_blob(self.digest).await?;
        let blob = repository.blob(&descriptor).await?;
        Ok((blob.into_stream(), descriptor.size))
    }
}
