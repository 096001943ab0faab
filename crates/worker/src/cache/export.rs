//! Writing a build cache.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use buildcache::remote::{self, CONFIG_TYPE, Entry};
use bytes::Bytes;
use exporter::{Caller, Carried, Compression, ImageOptions, Kind};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::{Descriptor, Digest, Index, Manifest, media_type as media};
use proto::worker as wire;
use refs::{LayerKey, Ref};

use super::inline::{find, read_entry};
use super::place::{Place, Use, flag};
use crate::credentials::SessionCredentials;
use crate::events::Events;
use crate::failure::{Failure, chain};
use crate::images;
use crate::state::{Shared, id};

/// Layers that are written at one time; how many are sent at one time to a registry is up to its
/// client's own bound.
const PARALLEL: usize = 8;

/// The form in which a build cache is written.
struct Form {
    oci_types: bool,
    image_manifest: bool,
    compression: Compression,
}

impl Form {
    fn parse(attrs: &BTreeMap<String, String>) -> Result<Form, Failure> {
        let oci_types = flag(attrs, "oci-mediatypes")?.unwrap_or(true);
        let image_manifest = flag(attrs, "image-manifest")?.unwrap_or(oci_types);
        if image_manifest && !oci_types {
            return Err(Failure::user(
                "invalid configuration for remote cache, OCI mediatypes are required for \
                 image-manifest cache format",
            ));
        }
        let of_compression = attrs.iter().filter(|(key, _)| key.contains("compression"));
        let of_compression = of_compression
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let options = ImageOptions::parse(Kind::Oci, &of_compression)
            .map_err(|error| Failure::user(chain(&error)))?;
        Ok(Form {
            oci_types,
            image_manifest,
            compression: options.compression,
        })
    }
}

/// Writes what is known of a build, with its results as far as they are wanted.
pub(crate) async fn export(
    shared: &Arc<Shared>,
    request: wire::ExportCacheRequest,
    events: Events,
) -> Result<wire::Done, Failure> {
    let sessions = Some(request.session.clone()).filter(|s| !s.is_empty());
    let sessions = shared.enter(&request.job, &sessions.into_iter().collect::<Vec<_>>())?;
    let form = Form::parse(&request.attrs)?;
    let place = Place::open(shared, &request.kind, &request.attrs, &sessions, Use::Write)?;
    let credentials = Arc::new(SessionCredentials::new(sessions));
    let caller = Caller {
        providers: Arc::new(images::sources(shared, credentials.clone())),
        credentials,
        progress: images::progress(&events),
        lease: shared.refs.lease(&request.job),
    };

    let preparing = caller.progress.begin("preparing build cache for export", 0);
    let (entries, layers) = gather(shared, &request, &form, &caller).await?;
    if layers.is_empty() {
        tracing::warn!("failed to match any cache with layers");
        drop(
            caller
                .progress
                .begin("skipping cache export for empty result", 0),
        );
        return Ok(wire::Done::default());
    }
    drop(preparing);
    let sending = caller.progress.begin("sending cache export", 0);
    let mut writes: Vec<BoxFuture<'_, Result<(), Failure>>> = Vec::new();
    for layer in &layers {
        writes.push(write(&place, layer, &caller).boxed());
    }
    stream::iter(writes)
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;

    let config = remote::encode(&entries).map_err(|error| Failure::bug(chain(&error)))?;
    let (config, config_bytes) = named(CONFIG_TYPE, config);
    let item = caller
        .progress
        .begin(format!("writing config {}", config.digest), 0);
    place.put(&config, config_bytes).await?;
    drop(item);

    let (root, bytes) = manifest(&form, config, &layers)?;
    let what = if form.image_manifest {
        "cache image manifest"
    } else {
        "cache manifest"
    };
    let item = caller
        .progress
        .begin(format!("writing {what} {}", root.digest), 0);
    place.put_root(&root, bytes).await?;
    drop(item);
    drop(sending);
    let told = serde_json::to_string(&root).map_err(Failure::host)?;
    Ok(wire::Done {
        response: BTreeMap::from([("cache.manifest".to_owned(), told)]),
        ..wire::Done::default()
    })
}

async fn write(place: &Place, layer: &Carried, caller: &Caller) -> Result<(), Failure> {
    let name = format!("writing layer {}", layer.descriptor.digest);
    let _item = caller.progress.begin(name, 0);
    let written = place.put_layer(layer).await;
    written.map_err(|failure| failure.context("error writing layer blob"))
}

fn named(kind: &str, bytes: Vec<u8>) -> (Descriptor, Bytes) {
    let descriptor = Descriptor::new(kind, Digest::of(&bytes), bytes.len() as u64);
    (descriptor, bytes.into())
}

/// The entries with the chains of the results that go along, and the layers of these, each once
/// and in an order that depends on nothing else.
async fn gather(
    shared: &Arc<Shared>,
    request: &wire::ExportCacheRequest,
    form: &Form,
    caller: &Caller,
) -> Result<(Vec<Entry>, Vec<Carried>), Failure> {
    let job = &request.job;
    let finals = request.final_ids.iter().map(|text| id(text));
    let finals: Vec<Digest> = finals.collect::<Result<_, _>>()?;
    let finals: Vec<Ref> = finals
        .iter()
        .filter_map(|id| find(shared, job, id))
        .collect();
    let of_finals: HashSet<LayerKey> = finals.iter().flat_map(Ref::keys).collect();
    let mut made: HashMap<LayerKey, Carried> = HashMap::new();
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        let mut wanted = Vec::new();
        // First whether a result goes along, then its blobs: those take time.
        read_entry(shared, job, entry, |found| {
            let is_final = found.keys().iter().all(|key| of_finals.contains(key));
            if entry.results.unwrap_or(request.all || is_final) {
                wanted.push(found.clone());
            }
            None
        })?;
        let mut chains = HashMap::new();
        for found in wanted {
            let keys = found.keys();
            if keys.iter().any(|key| !made.contains_key(key)) {
                let carried = shared
                    .exporter
                    .carry(&found, form.compression, form.oci_types, caller)
                    .await
                    .map_err(|error| Failure::user(chain(&error)))?;
                made.extend(keys.iter().copied().zip(carried));
            }
            let blobs: Vec<Digest> = keys
                .iter()
                .filter_map(|key| Some(made.get(key)?.descriptor.digest))
                .collect();
            if !blobs.is_empty() && blobs.len() == keys.len() {
                chains.insert(found.id(), blobs);
            }
        }
        let with_blobs = |found: &Ref| chains.get(&found.id()).cloned();
        entries.push(read_entry(shared, job, entry, with_blobs)?);
    }
    // Layers of several keys may have one blob; it is described as the first of them, always.
    let mut made: Vec<(LayerKey, Carried)> = made.into_iter().collect();
    made.sort_by_key(|(key, _)| std::cmp::Reverse(*key));
    let by_digest: BTreeMap<Digest, Carried> = made
        .into_iter()
        .map(|(_, layer)| (layer.descriptor.digest, layer))
        .collect();
    Ok((entries, by_digest.into_values().collect()))
}

/// The manifest or index of a build cache.
fn manifest(
    form: &Form,
    config: Descriptor,
    layers: &[Carried],
) -> Result<(Descriptor, Bytes), Failure> {
    let layers: Vec<Descriptor> = layers.iter().map(|l| l.descriptor.clone()).collect();
    if form.image_manifest {
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(Failure::host)?;
        return Ok(named(media::OCI_MANIFEST, bytes));
    }
    let kind = if form.oci_types {
        media::OCI_INDEX
    } else {
        media::DOCKER_INDEX
    };
    let index = Index {
        schema_version: 2,
        media_type: Some(kind.to_owned()),
        manifests: layers.into_iter().chain([config]).collect(),
        annotations: BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&index).map_err(Failure::host)?;
    Ok(named(kind, bytes))
}
