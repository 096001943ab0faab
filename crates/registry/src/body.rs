//! Blobs on their way to a registry.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use oci::Descriptor;

use crate::Origin;

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

/// Opens the blobs of layers that are not here, with the credentials of whoever asks.
pub trait Providers: Send + Sync {
    /// The blob `descriptor` as `origin` serves it. Nothing is asked before it is opened; what is
    /// read to its end is known to be right.
    fn blob(&self, origin: &Origin, descriptor: &Descriptor) -> Arc<dyn BlobSource>;
}
