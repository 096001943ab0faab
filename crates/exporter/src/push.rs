//! An image on its way to a registry: children before parents, the named one last.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use oci::Reference;
use registry::{
    Access, Credentials, Origin, Progress, Registry, RegistryError, Repository, Tracked,
};

use crate::blobs::{Blob, Reader};
use crate::error::ExportError;
use crate::image::Built;
use crate::media;

/// How often the bytes on their way are counted.
const TICK: Duration = Duration::from_millis(100);
/// Blobs that are dealt with at one time; how many are sent at one time is up to the registry
/// client's own bound.
const PARALLEL: usize = 8;

/// How names are pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) by_digest: bool,
    pub(crate) insecure: bool,
}

/// Pushes `image` as `name`.
pub(crate) async fn push(
    registry: &Registry,
    credentials: Arc<dyn Credentials>,
    image: &Built,
    name: &str,
    how: How,
    reader: &Reader,
    progress: &Progress,
) -> Result<(), ExportError> {
    let reference = Reference::parse(name).map_err(|source| ExportError::Name {
        name: name.to_owned(),
        source,
    })?;
    if how.by_digest && (reference.tag.is_some() || reference.digest.is_some()) {
        return Err(ExportError::Tagged(reference.to_string()));
    }
    let access = if how.insecure {
        Access::PushInsecure
    } else {
        Access::Push
    };
    let pushed = async {
        let repository = registry.repository(&reference, access, credentials)?;
        push_blobs(&repository, image, reader, progress).await?;
        push_manifests(&repository, image, how.by_digest, progress).await
    };
    pushed.await.map_err(|source| ExportError::Push {
        name: name.to_owned(),
        source,
    })
}

async fn push_blobs(
    repository: &Repository,
    image: &Built,
    reader: &Reader,
    progress: &Progress,
) -> Result<(), RegistryError> {
    let blobs: Vec<&Blob> = image
        .blobs
        .values()
        .filter(|blob| !media::is_nondistributable(&blob.descriptor.media_type))
        .collect();
    let total = blobs.iter().map(|blob| blob.descriptor.size).sum();
    let layers = progress.begin("pushing layers", total);
    let counts: Vec<Arc<AtomicU64>> = blobs.iter().map(|_| Arc::default()).collect();
    let mut pushes: Vec<BoxFuture<'_, Result<(), RegistryError>>> = Vec::new();
    for (blob, sent) in blobs.into_iter().zip(&counts) {
        pushes.push(push_blob(repository, blob, sent, reader).boxed());
    }
    let all = stream::iter(pushes)
        .buffer_unordered(PARALLEL)
        .try_collect::<()>();
    tokio::select! {
        done = all => done,
        never = tell(&layers, &counts) => match never {},
    }
}

/// Tells what was sent so far, again and again.
async fn tell(layers: &Tracked, counts: &[Arc<AtomicU64>]) -> Infallible {
    loop {
        tokio::time::sleep(TICK).await;
        layers.set(
            counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .sum(),
        );
    }
}

async fn push_blob(
    repository: &Repository,
    blob: &Blob,
    sent: &Arc<AtomicU64>,
    reader: &Reader,
) -> Result<(), RegistryError> {
    let here = repository.reference();
    let mount_from: Vec<String> = blob
        .origins
        .iter()
        .filter_map(|origin| match origin {
            Origin::Repository { domain, path } if *domain == here.domain => Some(path.clone()),
            Origin::Repository { .. } | Origin::Layout { .. } => None,
        })
        .collect();
    let source = reader.source(blob);
    repository
        .push_blob(&blob.descriptor, &*source, &mount_from, sent)
        .await?;
    sent.store(blob.descriptor.size, Ordering::Relaxed);
    Ok(())
}

async fn push_manifests(
    repository: &Repository,
    image: &Built,
    by_digest: bool,
    progress: &Progress,
) -> Result<(), RegistryError> {
    let reference = repository.reference();
    let shown = if by_digest {
        reference.name()
    } else {
        let mut full = reference.clone().with_default_tag();
        full.digest = Some(image.root.digest);
        full.to_string()
    };
    let _item = progress.begin(format!("pushing manifest for {shown}"), 0);
    let tag = reference.tag.as_deref().unwrap_or("latest");
    for (descriptor, bytes) in &image.manifests {
        let is_root = descriptor.digest == image.root.digest;
        let tag = (is_root && !by_digest).then_some(tag);
        repository
            .push_manifest(descriptor, bytes.clone(), tag)
            .await?;
    }
    Ok(())
}
