//! Where images are read from: registries, and OCI layouts of clients.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use oci::{Descriptor, Digest, Hasher, Reference};
use registry::{
    Access, BlobSource, BlobStream, Credentials, MANIFEST_LIMIT, Origin, Providers, Registry,
    RegistryError, Repository,
};

use crate::error::ImageError;

/// The OCI layouts of clients.
#[async_trait]
pub trait LayoutStore: Send + Sync {
    /// The blob `digest` of the layout that the client of `session` calls `store`. It need not be
    /// checked here.
    ///
    /// # Errors
    /// With the kind `NotFound` when the layout has no such blob.
    async fn open(&self, session: &str, store: &str, digest: &Digest) -> io::Result<BlobStream>;
}

/// Everything that images can be read from, with one client's credentials.
#[derive(Clone)]
pub struct Sources {
    /// The registries.
    pub registry: Registry,
    /// Whose access to them is used.
    pub credentials: Arc<dyn Credentials>,
    /// The layouts of clients.
    pub layouts: Arc<dyn LayoutStore>,
}

impl Sources {
    /// The repository of `reference`.
    pub(crate) fn repository(&self, reference: &Reference) -> Result<Repository, RegistryError> {
        self.registry
            .repository(reference, Access::Pull, self.credentials.clone())
    }

    /// A manifest, checked.
    pub(crate) async fn manifest(
        &self,
        from: &From<'_>,
        descriptor: &Descriptor,
    ) -> Result<Bytes, ImageError> {
        match from {
            From::Repository(repository) => Ok(repository.manifest(descriptor).await?),
            From::Layout { session, store } => {
                self.layout_blob(session, store, descriptor.digest).await
            }
        }
    }

    /// A config, checked.
    pub(crate) async fn config(
        &self,
        from: &From<'_>,
        descriptor: &Descriptor,
    ) -> Result<Bytes, ImageError> {
        match from {
            From::Repository(repository) => {
                if descriptor.size > MANIFEST_LIMIT {
                    let subject = format!("config {}", descriptor.digest);
                    return Err(RegistryError::TooLarge {
                        subject,
                        limit: MANIFEST_LIMIT,
                    }
                    .into());
                }
                let mut blob = repository.blob(descriptor).await?;
                let mut bytes = BytesMut::new();
                while let Some(chunk) = blob.chunk().await? {
                    bytes.extend_from_slice(&chunk);
                }
                Ok(bytes.freeze())
            }
            From::Layout { session, store } => {
                self.layout_blob(session, store, descriptor.digest).await
            }
        }
    }

    async fn layout_blob(
        &self,
        session: &str,
        store: &str,
        digest: Digest,
    ) -> Result<Bytes, ImageError> {
        let failed = |source| ImageError::Layout {
            store: store.to_owned(),
            digest,
            source,
        };
        let mut stream = self
            .layouts
            .open(session, store, &digest)
            .await
            .map_err(failed)?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(failed)?);
            if bytes.len() as u64 > MANIFEST_LIMIT {
                return Err(failed(io::Error::other("the blob is too large")));
            }
        }
        if Digest::of(&bytes) != digest {
            return Err(failed(io::Error::other("the blob has another digest")));
        }
        Ok(bytes.freeze())
    }
}

/// Where one image is read from.
pub(crate) enum From<'a> {
    Repository(&'a Repository),
    Layout { session: &'a str, store: &'a str },
}

impl Providers for Sources {
    fn blob(&self, origin: &Origin, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        Arc::new(RemoteBlob {
            sources: self.clone(),
            origin: origin.clone(),
            descriptor: descriptor.clone(),
        })
    }
}

/// A blob that is not here.
struct RemoteBlob {
    sources: Sources,
    origin: Origin,
    descriptor: Descriptor,
}

#[async_trait]
impl BlobSource for RemoteBlob {
    async fn open(&self) -> io::Result<BlobStream> {
        match &self.origin {
            Origin::Repository { domain, path } => {
                let reference = Reference {
                    domain: domain.clone(),
                    path: path.clone(),
                    tag: None,
                    digest: None,
                };
                let repository = self
                    .sources
                    .repository(&reference)
                    .map_err(io::Error::other)?;
                let blob = repository
                    .blob(&self.descriptor)
                    .await
                    .map_err(io::Error::other)?;
                Ok(blob.into_stream())
            }
            Origin::Layout { session, store } => {
                let digest = &self.descriptor.digest;
                let stream = self.sources.layouts.open(session, store, digest).await?;
                Ok(checked(stream, &self.descriptor))
            }
        }
    }
}

/// `stream`, which ends with an error when its bytes are not those of `descriptor`.
fn checked(stream: BlobStream, descriptor: &Descriptor) -> BlobStream {
    struct State {
        stream: BlobStream,
        hasher: Option<Hasher>,
        size: u64,
    }
    let state = State {
        stream,
        hasher: Some(Hasher::new()),
        size: 0,
    };
    let (want, digest) = (descriptor.size, descriptor.digest);
    stream::try_unfold(state, move |mut state| async move {
        let Some(mut hasher) = state.hasher.take() else {
            return Ok(None);
        };
        match state.stream.next().await.transpose()? {
            Some(chunk) => {
                state.size += chunk.len() as u64;
                if state.size > want {
                    return Err(io::Error::other(format!("blob {digest} is too long")));
                }
                hasher.update(&chunk);
                state.hasher = Some(hasher);
                Ok(Some((chunk, state)))
            }
            None if state.size == want && hasher.finish() == digest => Ok(None),
            None => Err(io::Error::other(format!(
                "blob {digest} is not what was sent"
            ))),
        }
    })
    .boxed()
}
