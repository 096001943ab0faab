//! Images from a tar, as `docker save` and the `oci` and `docker` exporters write it.

use std::io::{self, Read, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use content::Content;
use futures::StreamExt as _;
use oci::{Descriptor, Digest, Index, Reference};
use proto::worker as wire;
use refs::{Image, Lease, RecordType, Refs};
use registry::{Anonymous, BlobStream, Progress};
use source::{ImageRequest, LayoutStore, Sources};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};
use tonic::Streaming;

use crate::failure::{Failure, blocking, chain};
use crate::images;
use crate::state::Shared;

/// The largest index of an archive that is read, in bytes.
const MAX_INDEX: u64 = 4 << 20;

/// The annotations that give an image's full name, the better one first.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// Takes in all images of a tar and answers their names, or ids where they have none.
pub(crate) async fn load(
    shared: &Arc<Shared>,
    stream: Streaming<wire::Bytes>,
) -> Result<Vec<String>, Failure> {
    let lease = shared.refs.lease(&format!("load {:?}", SystemTime::now()));
    let bytes = stream.map(|message| message.map(|m| m.data).map_err(io::Error::other));
    let reader = SyncIoBridge::new(StreamReader::new(bytes));
    let (refs, held) = (shared.refs.clone(), lease.clone());
    let index = blocking(move || take(reader, &refs, &held)).await?;
    let mut names = Vec::new();
    for descriptor in index.manifests {
        names.push(image(shared, descriptor).await?);
    }
    lease.release();
    Ok(names)
}

/// Puts all blobs of a tar into the content store and answers its index.
fn take(reader: impl Read, refs: &Refs, lease: &Lease) -> Result<Index, Failure> {
    let broken = |error: io::Error| Failure::host(error).context("failed to read the archive");
    let mut archive = tar::Archive::new(reader);
    let mut index = None;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./");
        if path == "index.json" {
            let mut text = Vec::new();
            entry
                .by_ref()
                .take(MAX_INDEX)
                .read_to_end(&mut text)
                .map_err(broken)?;
            index = Some(serde_json::from_slice::<Index>(&text).map_err(|error| {
                Failure::user(chain(&error)).context("failed to read index.json of the archive")
            })?);
        } else if let Some(hex) = path.strip_prefix("blobs/sha256/")
            && entry.header().entry_type().is_file()
        {
            let digest: Digest = format!("sha256:{hex}")
                .parse()
                .map_err(|e| Failure::user(chain(&e)))?;
            let mut writer = refs.content().begin().map_err(Failure::host)?;
            io::copy(&mut entry, &mut writer).map_err(broken)?;
            writer.flush().map_err(broken)?;
            let whole = writer.finish(Some(digest));
            let whole = whole.map_err(|e| Failure::user(chain(&e)))?;
            lease.add_blob(refs.place_blob(whole).map_err(Failure::host)?);
        }
    }
    index.ok_or_else(|| {
        Failure::user("the archive has no index.json: it is not an OCI layout; save it with Docker 25 or later")
    })
}

/// Reads an archive's blobs back out of the content store.
struct Stored(Content);

#[async_trait]
impl LayoutStore for Stored {
    async fn open(&self, _: &str, _: &str, digest: &Digest) -> io::Result<BlobStream> {
        let file = self.0.open_blob(digest).map_err(|error| {
            let kind = io::ErrorKind::NotFound;
            io::Error::new(kind, chain(&error))
        })?;
        Ok(ReaderStream::new(tokio::fs::File::from_std(file)).boxed())
    }
}

async fn image(shared: &Arc<Shared>, descriptor: Descriptor) -> Result<String, Failure> {
    let annotation = NAMES
        .iter()
        .find_map(|key| descriptor.annotations.get(*key))
        .cloned();
    let name = annotation
        .as_deref()
        .and_then(|text| Reference::parse(text).ok());
    let sources = Sources {
        registry: shared.registry.clone(),
        credentials: Arc::new(Anonymous),
        layouts: Arc::new(Stored(shared.refs.content().clone())),
    };
    let reference = Reference {
        domain: "archive".to_owned(),
        path: "image".to_owned(),
        tag: None,
        digest: Some(descriptor.digest),
    };
    let request = ImageRequest {
        reference,
        layout: Some((String::new(), "archive".to_owned())),
        platform: shared.options.platforms[0].clone(),
        checksum: None,
        layer_limit: None,
    };
    let found = shared.resolver.resolve(&sources, &request).await;
    let found = found.map_err(|error| Failure::user(chain(&error)))?;
    let label = name
        .as_ref()
        .map_or_else(|| found.config.digest.to_string(), Reference::to_string);
    let kept = images::keep_lazy(shared, &found, &label, RecordType::Regular)?;
    let providers: Arc<dyn registry::Providers> = Arc::new(sources);
    let progress = Progress::none();
    shared
        .fetcher
        .materialize(&kept, &providers, &progress)
        .await
        .map_err(|error| Failure::user(chain(&error)))?;
    let config: oci::ImageConfig = serde_json::from_slice(&found.config_bytes)
        .map_err(|e| Failure::user(chain(&e)).context("failed to read the image's config"))?;
    let stored = match name {
        Some(reference) => reference.with_default_tag().to_string(),
        None => label,
    };
    let manifest = images::keep_manifest(shared, &found)?;
    let record = Image {
        name: stored.clone(),
        platform: config.platform().normalized(),
        id: found.config.digest,
        config: String::from_utf8_lossy(&found.config_bytes).into_owned(),
        manifest: Some(found.root.clone()),
        ref_id: kept.id(),
        created: SystemTime::now(),
        blobs: vec![manifest.digest()],
    };
    shared
        .refs
        .set_image(record, &kept)
        .map_err(Failure::host)?;
    Ok(stored)
}
