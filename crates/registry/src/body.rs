//! Blobs on their way to a registry.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

/// The bytes of a blob, in order.
pub type BlobStream = BoxStream<'static, io::Result<Bytes>>;

/// A blob that can be read, more than once: a transfer that broke begins anew.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// The whole blob from its start.
    async fn open(&self) -> io::Result<BlobStream>;
}

#[async_trait]
impl BlobSource for Bytes {
    async fn open(&self) -> io::Result<BlobStream> {
        let bytes = self.clone();
        Ok(stream::once(async move { Ok(bytes) }).boxed())
    }
}
