//! Reading a build cache.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildcache::remote::{self, CONFIG_TYPE, Imported};
use oci::{Descriptor, Digest, ImageConfig, Manifest};
use proto::worker as wire;
use serde::Deserialize;

use super::place::{Place, Use};
use super::{Found, Source};
use crate::events::Events;
use crate::failure::{Failure, blocking, chain};
use crate::images;
use crate::state::Shared;

/// What a layer unpacks to.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// The most manifests of an index that are looked at for what their images carry.
const MAX_MANIFESTS: usize = 64;

/// Manifest or index, whichever it is.
#[derive(Deserialize)]
struct Root {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// The part of an image's config that carries a build cache.
#[derive(Deserialize)]
struct Carrier {
    #[serde(rename = "moby.buildkit.cache.v0", default)]
    records: Option<String>,
}

/// Takes what a build cache has for the job, and answers its keys.
pub(crate) async fn import(
    shared: &Arc<Shared>,
    request: wire::ImportCacheRequest,
    events: Events,
) -> Result<wire::Done, Failure> {
    let sessions = Some(request.session.clone()).filter(|s| !s.is_empty());
    let sessions = shared.enter(&request.job, &sessions.into_iter().collect::<Vec<_>>())?;
    let progress = images::progress(&events);
    let place = Place::open(shared, &request.kind, &request.attrs, &sessions, Use::Read)?;
    let bytes = place.root(&request.attrs).await?;
    let root: Root = parse(&bytes, "manifest")?;
    let inferred = if root.manifests.is_empty() {
        oci::media_type::OCI_MANIFEST
    } else {
        oci::media_type::OCI_INDEX
    };
    drop(progress.begin(format!("inferred cache manifest type: {inferred}"), 0));

    let is_config = |descriptor: &&Descriptor| descriptor.media_type == CONFIG_TYPE;
    let named = root.config.iter().chain(&root.manifests).find(is_config);
    let mut links = Vec::new();
    match named {
        Some(config) => {
            let bytes = place.small(config).await?;
            let decode = move || remote::decode(&bytes).map_err(|e| Failure::user(chain(&e)));
            let imported = blocking(decode).await?;
            let blobs = root.layers.iter().chain(&root.manifests).cloned();
            links = take(shared, &request.job, &place, imported, blobs)?;
        }
        None => {
            for image in carriers(&place, &bytes, &root).await? {
                let (imported, layers) = image?;
                links.extend(take(shared, &request.job, &place, imported, layers)?);
            }
        }
    }
    let links = links.into_iter().map(|(key, id)| wire::KeyLink {
        key: key.to_string(),
        id: id.to_string(),
    });
    Ok(wire::Done {
        links: links.collect(),
        ..wire::Done::default()
    })
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::user(chain(&error)).context(format!("failed to read the {what} of a build cache"))
    })
}

/// Adds the results whose layers are all there, and answers the keys.
fn take(
    shared: &Shared,
    job: &str,
    place: &Place,
    imported: Imported,
    blobs: impl Iterator<Item = Descriptor>,
) -> Result<Vec<(Digest, Digest)>, Failure> {
    let known = blobs.filter_map(|descriptor| {
        let diff_id = descriptor.annotations.get(UNCOMPRESSED)?.parse().ok()?;
        Some((descriptor.digest, (descriptor, diff_id)))
    });
    let source = Arc::new(Source {
        layers: imported.layers,
        blobs: known.collect(),
        provider: place.provider(),
    });
    let complete = source.complete();
    let results = imported.results.into_iter();
    let results = results.filter(|(_, top)| complete[top.layer]);
    let found = results.map(|(id, top)| {
        let source = source.clone();
        (id, Found { source, top })
    });
    shared.imports.add(job, found.collect());
    // Of a job that was released meanwhile nobody would let go of it.
    if let Err(over) = shared.job(job) {
        super::release(shared, job);
        return Err(over);
    }
    Ok(imported.links)
}

type Carried = Result<(Imported, std::vec::IntoIter<Descriptor>), Failure>;

/// What images carry in their configs: of one image, or of all in an index.
async fn carriers(place: &Place, bytes: &[u8], root: &Root) -> Result<Vec<Carried>, Failure> {
    let mut all = Vec::new();
    if root.manifests.is_empty() {
        all.extend(carrier(place, bytes).await.transpose());
    }
    let images = root.manifests.iter().filter(|one| one.is_manifest());
    for descriptor in images.take(MAX_MANIFESTS) {
        let bytes = place.manifest(descriptor).await?;
        all.extend(carrier(place, &bytes).await.transpose());
    }
    Ok(all)
}

async fn carrier(
    place: &Place,
    manifest: &[u8],
) -> Result<Option<(Imported, std::vec::IntoIter<Descriptor>)>, Failure> {
    let mut manifest: Manifest = parse(manifest, "manifest")?;
    if manifest.layers.is_empty() {
        return Ok(None);
    }
    let config = place.small(&manifest.config).await?;
    let Some(records) = parse::<Carrier>(&config, "image config")?.records else {
        return Ok(None);
    };
    let records = STANDARD
        .decode(records)
        .map_err(|error| Failure::user(chain(&error)))?;
    let image: ImageConfig = parse(&config, "image config")?;
    if image.rootfs.diff_ids.len() != manifest.layers.len() {
        tracing::warn!("an image's config does not fit its manifest");
        return Ok(None);
    }
    let mut descriptions = image.history.iter().filter(|entry| !entry.empty_layer);
    for (layer, diff_id) in manifest.layers.iter_mut().zip(&image.rootfs.diff_ids) {
        let annotations = &mut layer.annotations;
        annotations.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
        if let Some(entry) = descriptions.next() {
            let text = entry.created_by.clone();
            annotations.insert("buildkit/description".to_owned(), text);
        }
    }
    let blobs: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
    let decode = move || {
        remote::decode_inline(&records, &blobs).map_err(|error| Failure::user(chain(&error)))
    };
    let imported = blocking(decode).await?;
    Ok(Some((imported, manifest.layers.into_iter())))
}
