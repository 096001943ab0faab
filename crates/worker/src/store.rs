//! The worker's image store: images by name, as users list, tag, pull, push, save and load them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use exporter::{Caller, ImageOptions, Kind, Source, SourceRef};
use oci::{Digest, Reference};
use proto::worker as wire;
use refs::{Image, RecordType, Ref};
use registry::{Credentials, Progress};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::convert::platform_to_wire;
use crate::credentials::GivenCredentials;
use crate::events::Events;
use crate::failure::{Failure, blocking, chain};
use crate::images;
use crate::state::Shared;

/// The fewest digits of an id that name an image.
const MIN_ID: usize = 3;

/// The image of that name, id, or unambiguous beginning of an id, for the worker's platform where
/// there are several.
pub(crate) fn find(shared: &Shared, name: &str) -> Result<(Image, Ref), Failure> {
    let own = &shared.options.platforms[0];
    let best = |found: Vec<(Image, Ref)>| {
        found
            .into_iter()
            .min_by_key(|(image, _)| image.platform.serves(own).unwrap_or(u8::MAX))
    };
    if let Ok(reference) = Reference::parse(name)
        && let Some(found) = best(shared.refs.image(&reference.with_default_tag().to_string()))
    {
        return Ok(found);
    }
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_id = hex.len() >= MIN_ID && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let mut names: BTreeMap<Digest, String> = BTreeMap::new();
    if is_id {
        for image in shared.refs.images() {
            if image.id.hex().starts_with(hex) {
                names.entry(image.id).or_insert(image.name);
            }
        }
    }
    match names.len() {
        0 => Err(Failure::not_found(format!(
            "no such image: `{name}`; pull or build it first"
        ))),
        1 => {
            let (id, full) = names
                .pop_first()
                .ok_or_else(|| Failure::bug("an image was lost"))?;
            shared
                .refs
                .image(&full)
                .into_iter()
                .find(|(image, _)| image.id == id)
                .ok_or_else(|| Failure::not_found(format!("no such image: `{name}`")))
        }
        _ => Err(Failure::user(format!(
            "`{name}` is the beginning of several images' ids"
        ))),
    }
}

fn to_wire(image: &Image, names: Vec<String>, size: u64) -> wire::Image {
    wire::Image {
        names,
        id: image.id.to_string(),
        digest: image
            .manifest
            .as_ref()
            .map(|m| m.digest.to_string())
            .unwrap_or_default(),
        config: image.config.clone().into_bytes().into(),
        platform: Some(platform_to_wire(&image.platform)),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        created: Some(image.created.into()),
        r#ref: image.ref_id.to_string(),
    }
}

/// The bytes that an image's layers take on the disk; what is not here counts as it is sent.
async fn size(shared: &Shared, reference: Ref) -> u64 {
    let snapshots = shared.refs.snapshots().clone();
    let count = move || {
        let layers = reference.layers();
        let here: Vec<_> = layers.iter().filter_map(|layer| layer.snapshot).collect();
        let away: u64 = layers
            .iter()
            .filter(|layer| layer.snapshot.is_none())
            .filter_map(|layer| layer.sources.first())
            .map(|source| source.descriptor.size)
            .sum();
        let used = snapshots.usage(&here).map_err(Failure::host)?;
        Ok(away + used.iter().map(|usage| usage.bytes).sum::<u64>())
    };
    blocking(count).await.unwrap_or(0)
}

/// All images, one entry for each id with all its names.
pub(crate) async fn list(shared: &Shared) -> Vec<wire::Image> {
    let mut by_id: BTreeMap<(Digest, String), (Image, Vec<String>)> = BTreeMap::new();
    for image in shared.refs.images() {
        let key = (image.id, image.platform.to_string());
        by_id
            .entry(key)
            .or_insert_with(|| (image.clone(), Vec::new()))
            .1
            .push(image.name);
    }
    let mut all = Vec::with_capacity(by_id.len());
    for (image, names) in by_id.into_values() {
        let bytes = match shared.refs.get(&image.ref_id) {
            Some(reference) => size(shared, reference).await,
            None => 0,
        };
        all.push(to_wire(&image, names, bytes));
    }
    all.sort_by_key(|image| {
        std::cmp::Reverse(image.created.as_ref().map(|t| (t.seconds, t.nanos)))
    });
    all
}

/// One image.
pub(crate) async fn inspect(shared: &Shared, name: &str) -> Result<wire::Image, Failure> {
    let (image, reference) = find(shared, name)?;
    let same = shared
        .refs
        .images()
        .into_iter()
        .filter(|other| other.id == image.id);
    let names = same.map(|other| other.name).collect();
    let bytes = size(shared, reference).await;
    Ok(to_wire(&image, names, bytes))
}

fn full_name(name: &str) -> Result<String, Failure> {
    Reference::parse(name)
        .map(|reference| reference.with_default_tag().to_string())
        .map_err(|error| Failure::user(format!("invalid image name `{name}`: {}", chain(&error))))
}

/// Gives an image a further name.
pub(crate) fn tag(shared: &Shared, source: &str, target: &str) -> Result<(), Failure> {
    let (image, reference) = find(shared, source)?;
    let name = full_name(target)?;
    shared
        .refs
        .set_image(Image { name, ..image }, &reference)
        .map_err(Failure::host)
}

/// Removes a name of an image, or all names when it is given by its id.
pub(crate) fn remove(
    shared: &Shared,
    name: &str,
    force: bool,
) -> Result<wire::RemoveImageResponse, Failure> {
    let (image, _) = find(shared, name)?;
    let named: Vec<String> = shared
        .refs
        .images()
        .into_iter()
        .filter(|other| other.id == image.id)
        .map(|other| other.name)
        .collect();
    let by_name = full_name(name).ok().filter(|full| named.contains(full));
    let untagged = match by_name {
        Some(full) => vec![full],
        None if named.len() > 1 && !force => {
            return Err(Failure::user(format!(
                "image `{name}` has several names ({}); remove them one by one, or all with force",
                named.join(", ")
            )));
        }
        None => named.clone(),
    };
    let last = untagged.len() == named.len();
    if last
        && !force
        && let Some(container) = shared.containers.uses_image(&image.id.to_string())
    {
        return Err(Failure::user(format!(
            "image `{name}` is used by container `{container}`; remove that first, or use force"
        )));
    }
    for name in &untagged {
        shared.refs.remove_image(name);
    }
    let deleted = if last {
        vec![image.id.to_string()]
    } else {
        Vec::new()
    };
    shared.gc.notify_one();
    Ok(wire::RemoveImageResponse { untagged, deleted })
}

/// Pulls an image with all its layers and keeps it under its name.
pub(crate) async fn pull(
    shared: &Arc<Shared>,
    request: wire::PullImageRequest,
    events: Events,
) -> Result<wire::Done, Failure> {
    let credentials: Arc<dyn Credentials> = Arc::new(GivenCredentials::new(request.auth));
    let sources = images::sources(shared, credentials);
    let platform = request.platform.map(crate::convert::platform);
    let (reference, image) =
        images::resolve_with(shared, &request.reference, platform, &sources).await?;
    let kept = images::keep_lazy(shared, &image, &reference.to_string(), RecordType::Regular)?;
    images::materialize_with(shared, &kept, sources, Some(&events)).await?;
    let config: oci::ImageConfig = serde_json::from_slice(&image.config_bytes)
        .map_err(|e| Failure::user(chain(&e)).context("failed to read the image's config"))?;
    let manifest = images::keep_manifest(shared, &image)?;
    let record = Image {
        name: reference.to_string(),
        platform: config.platform().normalized(),
        id: image.config.digest,
        config: String::from_utf8_lossy(&image.config_bytes).into_owned(),
        manifest: Some(image.root.clone()),
        ref_id: kept.id(),
        created: SystemTime::now(),
        blobs: vec![manifest.digest()],
    };
    shared
        .refs
        .set_image(record, &kept)
        .map_err(Failure::host)?;
    shared.refs.flush().await.map_err(Failure::host)?;
    let ids = vec![image.root.digest.to_string()];
    Ok(wire::Done {
        ids,
        ..wire::Done::default()
    })
}

fn source(image: &Image, reference: Ref) -> Source {
    Source {
        refs: vec![SourceRef {
            key: String::new(),
            filesystem: Some(reference),
            platform: image.platform.clone(),
            config: image.config.clone().into_bytes(),
            attestations: Vec::new(),
            inline_cache: None,
        }],
        multi_platform: false,
        metadata: BTreeMap::new(),
    }
}

fn caller(
    shared: &Shared,
    credentials: Arc<dyn Credentials>,
    progress: Progress,
    lease: &str,
) -> Caller {
    Caller {
        providers: Arc::new(images::sources(shared, credentials.clone())),
        credentials,
        progress,
        lease: shared.refs.lease(lease),
    }
}

/// Pushes an image under one of its names: as it came in, where that can be had.
pub(crate) async fn push(
    shared: &Arc<Shared>,
    request: wire::PushImageRequest,
    events: Events,
) -> Result<wire::Done, Failure> {
    let (image, reference) = find(shared, &request.reference)?;
    let name = full_name(&request.reference)?;
    let attrs = BTreeMap::from([
        ("name".to_owned(), name.clone()),
        ("push".to_owned(), "true".to_owned()),
        ("store".to_owned(), "false".to_owned()),
    ]);
    let options =
        ImageOptions::parse(Kind::Image, &attrs).map_err(|error| Failure::user(chain(&error)))?;
    let credentials = Arc::new(GivenCredentials::new(request.auth));
    let caller = caller(
        shared,
        credentials,
        images::progress(&events),
        &format!("push {name}"),
    );
    let failed = |error: exporter::ExportError| Failure::user(chain(&error));
    let stored = shared
        .exporter
        .stored(&image, &reference, vec![name], &caller)
        .await;
    let built = match stored.map_err(failed)? {
        Some(built) => built,
        None => {
            let source = source(&image, reference);
            let built = shared.exporter.build(&source, &options, &caller).await;
            built.map_err(failed)?
        }
    };
    shared
        .exporter
        .push(&built, &options, &caller)
        .await
        .map_err(failed)?;
    let response = built.response(Kind::Image).map_err(failed)?;
    Ok(wire::Done {
        response,
        ..wire::Done::default()
    })
}

/// Writes images as a tar that `docker load` takes.
pub(crate) async fn save(
    shared: &Arc<Shared>,
    names: Vec<String>,
) -> Result<ReceiverStream<Result<wire::Bytes, Status>>, Failure> {
    let mut images = Vec::new();
    for name in &names {
        let (image, reference) = find(shared, name)?;
        let mut attrs = BTreeMap::from([("compression".to_owned(), "uncompressed".to_owned())]);
        if let Ok(full) = full_name(name)
            && full == image.name
        {
            attrs.insert("name".to_owned(), full);
        }
        let options = ImageOptions::parse(Kind::Docker, &attrs)
            .map_err(|error| Failure::user(chain(&error)))?;
        images.push((source(&image, reference), options, image.id));
    }
    let ids: Vec<String> = images.iter().map(|(.., id)| id.to_string()).collect();
    let lease = format!("save {}", ids.join(" "));
    let (mut near, mut far) = tokio::io::duplex(1 << 20);
    let (sender, receiver) = mpsc::channel(8);
    let shared = shared.clone();
    tokio::spawn(async move {
        let credentials = Arc::new(registry::Anonymous);
        let caller = caller(&shared, credentials, Progress::none(), &lease);
        let write = async move {
            let mut built = Vec::new();
            for (source, options, _) in &images {
                built.push(shared.exporter.build(source, options, &caller).await?);
            }
            shared
                .exporter
                .write_archive(&built, Kind::Docker, &caller, &mut near)
                .await
        };
        let read = async {
            let mut chunk = bytes::BytesMut::new();
            loop {
                chunk.reserve(256 << 10);
                match far.read_buf(&mut chunk).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {
                        let data = chunk.split().freeze();
                        if sender.send(Ok(wire::Bytes { data })).await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let (written, ()) = tokio::join!(write, read);
        if let Err(error) = written {
            let _ = sender.send(Err(Failure::user(chain(&error)).into())).await;
        }
    });
    Ok(ReceiverStream::new(receiver))
}
