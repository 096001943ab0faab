//! Blobs of an image, wherever they are.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use content::Content;
use futures::StreamExt;
use oci::{Descriptor, Digest};
use registry::{BlobSource, BlobStream, Origin, Providers};
use tokio_util::io::ReaderStream;

/// Read at a time from a file: large enough that the jumps between threads do not count.
const CHUNK: usize = 256 << 10;

/// A layer or config of an image that is exported.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    pub(crate) place: Place,
    /// Who else is known to have it.
    pub(crate) origins: Vec<Origin>,
}

/// Where a blob is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Here.
    Memory(Bytes),
    /// In the store.
    Content,
    /// Not here; the first of its origins serves it.
    Remote,
}

/// What is needed to read blobs.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) content: Content,
    pub(crate) providers: Arc<dyn Providers>,
}

impl Reader {
    /// The blob, to be read when it is needed.
    pub(crate) fn source(&self, blob: &Blob) -> Arc<dyn BlobSource> {
        match (&blob.place, blob.origins.first()) {
            (Place::Memory(bytes), _) => Arc::new(bytes.clone()),
            (Place::Remote, Some(origin)) => self.providers.blob(origin, &blob.descriptor),
            (Place::Content, _) | (Place::Remote, None) => Arc::new(Stored {
                content: self.content.clone(),
                digest: blob.descriptor.digest,
            }),
        }
    }
}

/// A blob of the store.
struct Stored {
    content: Content,
    digest: Digest,
}

#[async_trait]
impl BlobSource for Stored {
    async fn open(&self) -> io::Result<BlobStream> {
        let (content, digest) = (self.content.clone(), self.digest);
        let opened = tokio::task::spawn_blocking(move || content.open_blob(&digest)).await?;
        let file = tokio::fs::File::from_std(opened.map_err(io::Error::other)?);
        Ok(ReaderStream::with_capacity(file, CHUNK).boxed())
    }
}
