//! Images from registries: resolving, and layers that come in when they are needed.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use llb::{SourceOp, Vertex};
use oci::{Digest, Platform, Reference};
use proto::worker as wire;
use refs::{LayerSpec, Meta, RecordType, Ref};
use registry::{BlobStream, Credentials, Item, Progress};
use source::{ImageRequest, LayoutStore, ResolvedImage, Sources};

use crate::credentials::SessionCredentials;
use crate::events::Events;
use crate::failure::{Failure, chain};
use crate::sessions::Sessions;
use crate::state::Shared;

/// Progress of fetches and pushes as events of a call.
pub(crate) fn progress(events: &Events) -> Progress {
    let events = events.clone();
    Progress::new(move |item: Item| {
        events.item(wire::Progress {
            id: item.id,
            name: item.name,
            current: i64::try_from(item.current).unwrap_or(i64::MAX),
            total: i64::try_from(item.total).unwrap_or(i64::MAX),
            started: Some(item.started.into()),
            completed: item.completed.map(Into::into),
        });
    })
}

/// OCI layouts of clients are not read by this worker.
struct NoLayouts;

#[async_trait]
impl LayoutStore for NoLayouts {
    async fn open(&self, _: &str, store: &str, _: &Digest) -> io::Result<BlobStream> {
        let text = format!("OCI layout {store} cannot be read by this worker");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

/// All that images can be read from, with these credentials.
pub(crate) fn sources(shared: &Shared, credentials: Arc<dyn Credentials>) -> Sources {
    Sources {
        registry: shared.registry.clone(),
        credentials,
        layouts: Arc::new(NoLayouts),
    }
}

fn session_sources(shared: &Shared, sessions: &Sessions) -> Sources {
    sources(shared, Arc::new(SessionCredentials::new(sessions.clone())))
}

fn parse(reference: &str) -> Result<Reference, Failure> {
    reference
        .parse::<Reference>()
        .map(Reference::with_default_tag)
        .map_err(|error| Failure::user(format!("failed to parse {reference}: {}", chain(&error))))
}

/// Resolves an image for `ResolveImage`.
pub(crate) async fn resolve(
    shared: &Shared,
    reference: &str,
    platform: Option<Platform>,
    sessions: &Sessions,
) -> Result<(Reference, ResolvedImage), Failure> {
    resolve_with(
        shared,
        reference,
        platform,
        &session_sources(shared, sessions),
    )
    .await
}

/// As [`resolve`], with the given access.
pub(crate) async fn resolve_with(
    shared: &Shared,
    reference: &str,
    platform: Option<Platform>,
    sources: &Sources,
) -> Result<(Reference, ResolvedImage), Failure> {
    let parsed = parse(reference)?;
    let request = ImageRequest {
        reference: parsed.clone(),
        layout: None,
        platform: platform.unwrap_or_else(|| shared.options.platforms[0].clone()),
        checksum: None,
        layer_limit: None,
    };
    let image = shared
        .resolver
        .resolve(sources, &request)
        .await
        .map_err(image_failure)?;
    Ok((parsed, image))
}

fn image_failure(error: source::ImageError) -> Failure {
    if error.is_not_found() {
        return Failure::not_found(chain(&error));
    }
    Failure::user(chain(&error))
}

/// Resolves the image of a source op.
pub(crate) async fn resolve_source(
    shared: &Shared,
    op: &SourceOp,
    reference: &str,
    vertex: &Vertex,
    sessions: &Sessions,
) -> Result<ResolvedImage, Failure> {
    let checksum = op
        .attrs
        .get("image.checksum")
        .map(|text| text.parse::<Digest>());
    let limit = op
        .attrs
        .get("image.layerlimit")
        .map(|text| text.parse::<usize>());
    let request = ImageRequest {
        reference: parse(reference)?,
        layout: None,
        platform: vertex.platform().clone(),
        checksum: checksum.transpose().map_err(|e| Failure::user(chain(&e)))?,
        layer_limit: limit
            .transpose()
            .map_err(|_| Failure::user("image.layerlimit is no number"))?,
    };
    let sources = session_sources(shared, sessions);
    shared
        .resolver
        .resolve(&sources, &request)
        .await
        .map_err(image_failure)
}

/// Makes a ref of an image whose layers come in when they are needed, named by its manifest.
pub(crate) fn keep_lazy(
    shared: &Shared,
    image: &ResolvedImage,
    reference: &str,
    record_type: RecordType,
) -> Result<Ref, Failure> {
    let layers: Vec<String> = image.layers.iter().map(|l| l.diff_id.to_string()).collect();
    // The number of layers may be limited, so the manifest alone does not name the files.
    let id = Digest::of(format!(
        "drydock image\0{}\0{}",
        image.manifest.digest,
        layers.join("\0")
    ));
    if let Some(found) = shared.refs.get(&id) {
        return Ok(found);
    }
    let provider = image.origin.to_string();
    let specs = image.layers.iter().map(|layer| LayerSpec::Lazy {
        descriptor: layer.descriptor.clone(),
        diff_id: layer.diff_id,
        provider: provider.clone(),
    });
    let meta = Meta {
        description: format!("pulled from {reference}"),
        record_type,
        created: SystemTime::now(),
    };
    shared
        .refs
        .put_layers(id, specs.collect(), meta)
        .map_err(Failure::host)
}

/// Brings in the layers of a ref that are not here.
pub(crate) async fn materialize(
    shared: &Shared,
    reference: &Ref,
    sessions: &Sessions,
    events: Option<&Events>,
) -> Result<(), Failure> {
    let sources = session_sources(shared, sessions);
    materialize_with(shared, reference, sources, events).await
}

/// As [`materialize`], with the given access.
pub(crate) async fn materialize_with(
    shared: &Shared,
    reference: &Ref,
    sources: Sources,
    events: Option<&Events>,
) -> Result<(), Failure> {
    let progress = events.map_or_else(Progress::none, progress);
    let providers: Arc<dyn registry::Providers> = Arc::new(sources);
    shared
        .fetcher
        .materialize(reference, &providers, &progress)
        .await
        .map_err(|error| Failure::user(chain(&error)))
}
