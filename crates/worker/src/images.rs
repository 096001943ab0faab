//! Images from registries: resolving, and layers that come in when they are needed.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use llb::{SourceOp, Vertex};
use oci::{Digest, Platform, Reference};
use proto::worker as wire;
use refs::{KeptBlob, LayerSpec, Meta, RecordType, Ref};
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

/// The stores of clients, by their sessions.
struct ClientStores(Sessions);

#[async_trait]
impl LayoutStore for ClientStores {
    async fn open(&self, session: &str, store: &str, digest: &Digest) -> io::Result<BlobStream> {
        // A store that holds a build cache has its full name; others are OCI layouts.
        let store = if store.starts_with(crate::cache::STORE_PREFIX) {
            store.to_owned()
        } else {
            format!("oci:{store}")
        };
        // Who named a blob may be gone; another client of the job may have the same store then.
        let mut ids = self.0.ids();
        match ids.iter().position(|id| id == session) {
            Some(index) => ids.swap(0, index),
            None => ids.push(session.to_owned()),
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no active sessions");
        for id in ids.iter().filter(|id| !id.is_empty()) {
            match open_blob(&self.0, id, &store, digest).await {
                Ok(blob) => return Ok(blob),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A blob whose first bytes have come: a client tells only then that it has none.
async fn open_blob(
    sessions: &Sessions,
    id: &str,
    store: &str,
    digest: &Digest,
) -> io::Result<BlobStream> {
    let calls = sessions.calls(id).map_err(io::Error::other)?;
    let blob = calls.read_blob(store, digest).await;
    let mut blob = blob.map_err(|error| {
        let kind = if error.is_not_found() {
            io::ErrorKind::NotFound
        } else {
            io::ErrorKind::Other
        };
        io::Error::new(kind, error)
    })?;
    let first = blob.next().await.transpose()?;
    let first = futures::stream::iter(first.map(Ok));
    Ok(first.chain(blob).boxed())
}

/// All that images can be read from, with these credentials, and no client's layouts.
pub(crate) fn sources(shared: &Shared, credentials: Arc<dyn Credentials>) -> Sources {
    let sessions = Sessions::none(&shared.tunnel);
    Sources {
        registry: shared.registry.clone(),
        credentials,
        layouts: Arc::new(ClientStores(sessions)),
    }
}

/// All that images can be read from for these clients.
pub(crate) fn session_sources(shared: &Shared, sessions: &Sessions) -> Sources {
    Sources {
        registry: shared.registry.clone(),
        credentials: Arc::new(SessionCredentials::new(sessions.clone())),
        layouts: Arc::new(ClientStores(sessions.clone())),
    }
}

fn parse(reference: &str) -> Result<Reference, Failure> {
    reference
        .parse::<Reference>()
        .map(Reference::with_default_tag)
        .map_err(|error| Failure::user(format!("failed to parse {reference}: {}", chain(&error))))
}

/// Where a reference is looked up, in the words of LLB's `image.resolvemode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In the registry; in the worker's store where that fails.
    Default,
    /// In the registry only.
    Pull,
    /// In the worker's store; in the registry where it is not there.
    Local,
}

impl Mode {
    pub(crate) fn parse(text: &str) -> Result<Mode, Failure> {
        match text {
            "" | "default" => Ok(Mode::Default),
            "pull" => Ok(Mode::Pull),
            "local" => Ok(Mode::Local),
            other => Err(Failure::user(format!(
                "invalid image resolve mode `{other}`; it is default, pull or local"
            ))),
        }
    }
}

/// An image that a reference names.
pub(crate) enum Found {
    /// It is in a registry; its layers may not be here.
    Remote(Box<ResolvedImage>),
    /// It is in the worker's store.
    Stored {
        /// Of the manifest or index.
        digest: Digest,
        image: Box<refs::Image>,
        kept: Ref,
    },
}

impl Found {
    /// The digest of the manifest or index.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Found::Remote(image) => image.root.digest,
            Found::Stored { digest, .. } => *digest,
        }
    }

    /// The image's config as JSON.
    pub(crate) fn config(&self) -> Bytes {
        match self {
            Found::Remote(image) => image.config_bytes.clone(),
            Found::Stored { image, .. } => image.config.clone().into(),
        }
    }

    /// Its files as a ref, named by what it is.
    pub(crate) fn keep(
        self,
        shared: &Shared,
        reference: &str,
        record_type: RecordType,
    ) -> Result<Ref, Failure> {
        match self {
            Found::Remote(image) => keep_lazy(shared, &image, reference, record_type),
            Found::Stored { kept, .. } => Ok(kept),
        }
    }
}

/// The image of the store that has the request's name and, where it has one, its digest.
fn stored(shared: &Shared, request: &ImageRequest) -> Option<Found> {
    if request.layer_limit.is_some() {
        return None;
    }
    let mut named = request.reference.clone();
    let wanted = [named.digest.take(), request.checksum];
    let images = shared.refs.image(&named.with_default_tag().to_string());
    let fitting = images.into_iter().filter_map(|(image, kept)| {
        let digest = image.manifest.as_ref()?.digest;
        let rank = image.platform.serves(&request.platform)?;
        let is_wanted = wanted.iter().flatten().all(|want| *want == digest);
        let image = Box::new(image);
        is_wanted.then_some((
            rank,
            Found::Stored {
                digest,
                image,
                kept,
            },
        ))
    });
    fitting
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, found)| found)
}

/// What `request` names, looked up where `mode` says.
async fn find(
    shared: &Shared,
    sources: &Sources,
    request: &ImageRequest,
    mode: Mode,
) -> Result<Found, Failure> {
    // Only the client knows what is in its layout.
    let mode = request.layout.as_ref().map_or(mode, |_| Mode::Pull);
    if mode == Mode::Local
        && let Some(found) = stored(shared, request)
    {
        return Ok(found);
    }
    let error = match shared.resolver.resolve(sources, request).await {
        Ok(image) => return Ok(Found::Remote(Box::new(image))),
        Err(error) => error,
    };
    match mode {
        Mode::Default => stored(shared, request).ok_or_else(|| image_failure(error)),
        Mode::Pull | Mode::Local => Err(image_failure(error)),
    }
}

/// Resolves an image for `ResolveImage`, in the layout (session, name) if one is given.
pub(crate) async fn resolve(
    shared: &Shared,
    reference: &str,
    platform: Option<Platform>,
    (mode, layout): (Mode, Option<(String, String)>),
    sessions: &Sessions,
) -> Result<(Reference, Found), Failure> {
    let mut request = image_request(shared, reference, platform)?;
    request.layout = layout;
    let found = find(shared, &session_sources(shared, sessions), &request, mode).await?;
    Ok((request.reference, found))
}

fn image_request(
    shared: &Shared,
    reference: &str,
    platform: Option<Platform>,
) -> Result<ImageRequest, Failure> {
    Ok(ImageRequest {
        reference: parse(reference)?,
        layout: None,
        platform: platform.unwrap_or_else(|| shared.options.platforms[0].clone()),
        checksum: None,
        layer_limit: None,
    })
}

/// Resolves an image at its registry, with the given access.
pub(crate) async fn resolve_with(
    shared: &Shared,
    reference: &str,
    platform: Option<Platform>,
    sources: &Sources,
) -> Result<(Reference, ResolvedImage), Failure> {
    let request = image_request(shared, reference, platform)?;
    let image = shared
        .resolver
        .resolve(sources, &request)
        .await
        .map_err(image_failure)?;
    Ok((request.reference, image))
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
) -> Result<Found, Failure> {
    let mode = op.attrs.get("image.resolvemode");
    let mode = Mode::parse(mode.map_or("", String::as_str))?;
    let checksum = op
        .attrs
        .get("image.checksum")
        .map(|text| text.parse::<Digest>());
    let layout = layout(op, reference, sessions);
    let limit = op
        .attrs
        .get(match layout {
            Some(_) => "oci.layerlimit",
            None => "image.layerlimit",
        })
        .map(|text| text.parse::<usize>());
    let request = ImageRequest {
        reference: parse(reference)?,
        layout,
        platform: vertex.platform().clone(),
        checksum: checksum.transpose().map_err(|e| Failure::user(chain(&e)))?,
        layer_limit: limit
            .transpose()
            .map_err(|_| Failure::user("the limit of layers is no number"))?,
    };
    find(shared, &session_sources(shared, sessions), &request, mode).await
}

/// Session and name of the layout that an `oci-layout` source is in.
fn layout(op: &SourceOp, reference: &str, sessions: &Sessions) -> Option<(String, String)> {
    if !op.identifier.starts_with("oci-layout://") {
        return None;
    }
    let attr = |key: &str| op.attrs.get(key).filter(|text| !text.is_empty()).cloned();
    let session = attr("oci.session").or_else(|| sessions.ids().first().cloned());
    let store = attr("oci.store").unwrap_or_else(|| {
        let name = reference.split('@').next();
        name.unwrap_or_default().to_owned()
    });
    Some((session.unwrap_or_default(), store))
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

/// Puts the manifest of an image into the store, so that it can go out again as it came in.
pub(crate) fn keep_manifest(shared: &Shared, image: &ResolvedImage) -> Result<KeptBlob, Failure> {
    let kept = shared.refs.insert_blob(&image.manifest_bytes);
    kept.map_err(Failure::host)
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
