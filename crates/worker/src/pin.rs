//! Sources: what an identifier stands for now, and bringing it in.

mod blob;
mod noted;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use filesync::{Differ, ReceiveOptions};
use fstree::pattern::Matcher;
use llb::{OpKind, SourceOp, Vertex};
use oci::{Digest, redact_url};
use proto::worker as wire;
use refs::{LayerSpec, Meta, MutableOptions, RecordType, Ref, Sharing};
use registry::Progress;
use session::Patterns;
use snapshot::{Active, LayerId};

use crate::events::{Events, Limiter};
use crate::failure::{Class, Failure, blocking, chain};
use crate::images;
use crate::sessions::Sessions;
use crate::state::Shared;

/// How often a client is told how much of its files has arrived, as BuildKit does.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Smaller trees are listed before another call has begun.
const FEWEST_IN_PARTS: usize = 4096;

/// The host of URLs under which a client serves uploads (BuildKit: `session/upload`).
const UPLOAD_HOST: &str = "buildkit-session";

/// Gives a source op its identity.
pub(crate) async fn pin(
    shared: &Arc<Shared>,
    request: wire::PinRequest,
    events: Events,
) -> Result<wire::Done, Failure> {
    let vertex = Vertex::decode(request.op.clone(), llb::OpMetadata::default())
        .map_err(|error| Failure::user(chain(&error)))?;
    let OpKind::Source(op) = &vertex.op().kind else {
        return Err(Failure::bug("the engine pins an op that is no source"));
    };
    let sessions = shared.enter(&request.job, &request.sessions)?;
    let id = match scheme(op)? {
        ("docker-image" | "oci-layout", reference) => {
            let image = images::resolve_source(shared, op, reference, &vertex, &sessions).await?;
            let pinned = image.keep(shared, reference, record_type(op))?;
            shared.job(&request.job)?.lease.add(&pinned);
            pinned.id()
        }
        ("local", name) => local(shared, &request, op, name, &sessions, &events).await?,
        ("http" | "https", _) => {
            let progress = images::progress(&events);
            pin_http(shared, op, &sessions, &progress).await?.id
        }
        ("docker-image+blob" | "oci-layout+blob", _) => blob::request(op, &sessions)?.id(),
        ("git", _) => {
            crate::git::pin(shared, &request.job, op, &sessions)
                .await?
                .id
        }
        (other, _) => return Err(unknown(other)),
    };
    Ok(wire::Done {
        ids: vec![id.to_string()],
        ..wire::Done::default()
    })
}

/// No source is named so, in BuildKit's words.
pub(crate) fn unknown(scheme: &str) -> Failure {
    Failure::user(format!("unknown scheme {scheme}: not found"))
}

pub(crate) fn scheme(op: &SourceOp) -> Result<(&str, &str), Failure> {
    op.identifier
        .split_once("://")
        .ok_or_else(|| Failure::user(format!("invalid source identifier {}", op.identifier)))
}

fn record_type(op: &SourceOp) -> RecordType {
    match op.attrs.get("image.recordtype").map(String::as_str) {
        Some("frontend") => RecordType::Frontend,
        Some("internal") => RecordType::Internal,
        Some(_) | None => RecordType::Regular,
    }
}

/// Brings in a pinned source that is not stored, or not stored any more.
pub(crate) async fn realize(
    shared: &Arc<Shared>,
    job: &str,
    op: &SourceOp,
    vertex: &Vertex,
    id: Digest,
    sessions: &Sessions,
    events: &Events,
) -> Result<Ref, Failure> {
    if let Some(found) = shared.refs.get(&id) {
        return Ok(found);
    }
    match scheme(op)? {
        ("docker-image" | "oci-layout", reference) => {
            let image = images::resolve_source(shared, op, reference, vertex, sessions).await?;
            let pinned = image.keep(shared, reference, record_type(op))?;
            if pinned.id() == id {
                return Ok(pinned);
            }
            Err(super::op::vanished(&format!("image {reference}")))
        }
        ("http" | "https", _) => {
            let progress = images::progress(events);
            realize_http(shared, op, id, sessions, &progress).await
        }
        ("docker-image+blob" | "oci-layout+blob", _) => {
            let blob = blob::request(op, sessions)?;
            let sources = images::session_sources(shared, sessions);
            let progress = images::progress(events);
            let snapshots = shared.refs.snapshots();
            let active = blob.fetch(&sources, snapshots, &progress).await;
            let active = active.map_err(|error| Failure::user(chain(&error)))?;
            store(shared, id, active, format!("blob {}", blob.repository)).await
        }
        ("git", _) => crate::git::realize(shared, job, op, id, sessions).await,
        ("local", name) => {
            // The job that pinned it has let go of it: its client must send it again.
            Err(super::op::vanished(&format!("local source {name}")))
        }
        (other, _) => Err(unknown(other)),
    }
}

/// Finds out what is behind a URL.
pub(crate) async fn pin_http(
    shared: &Shared,
    op: &SourceOp,
    sessions: &Sessions,
    progress: &Progress,
) -> Result<source::HttpPin, Failure> {
    let http = http_request(op, sessions).await?;
    let pin = match upload(&http.url) {
        Some((host, path)) => {
            let body = open_upload(sessions, &host, &path).await?;
            shared.http.take_upload(&http, body, progress).await
        }
        None => shared.http.pin(&http, progress).await,
    };
    pin.map_err(|error| Failure::user(chain(&error)))
}

/// Brings in the file that was pinned to `id`.
pub(crate) async fn realize_http(
    shared: &Shared,
    op: &SourceOp,
    id: Digest,
    sessions: &Sessions,
    progress: &Progress,
) -> Result<Ref, Failure> {
    if let Some(found) = shared.refs.get(&id) {
        return Ok(found);
    }
    let http = http_request(op, sessions).await?;
    let active = shared.http.fetch(&http, id, progress).await;
    let active = active.map_err(|error| Failure::user(chain(&error)))?;
    let url = redact_url(&op.identifier);
    store(shared, id, active, format!("http url {url}")).await
}

async fn store(
    shared: &Shared,
    id: Digest,
    active: Active,
    description: String,
) -> Result<Ref, Failure> {
    let refs = shared.refs.clone();
    let meta = Meta {
        description,
        record_type: RecordType::Regular,
        created: SystemTime::now(),
    };
    blocking(move || {
        refs.put_layers(id, vec![LayerSpec::New(active)], meta)
            .map_err(Failure::host)
    })
    .await
}

/// Brings a client's directory up to date and gives it the identity of its content.
async fn local(
    shared: &Arc<Shared>,
    request: &wire::PinRequest,
    op: &SourceOp,
    name: &str,
    sessions: &Sessions,
    events: &Events,
) -> Result<Digest, Failure> {
    let list = |key: &str| -> Result<Vec<String>, Failure> {
        match op.attrs.get(key) {
            None => Ok(Vec::new()),
            Some(json) => serde_json::from_str(json)
                .map_err(|_| Failure::user(format!("{key} of {} is no list", op.identifier))),
        }
    };
    let patterns = Patterns {
        include: list("local.includepattern")?,
        exclude: list("local.excludepatterns")?,
        follow: list("local.followpaths")?,
    };
    let hint = op
        .attrs
        .get("local.sharedkeyhint")
        .map_or("", String::as_str);
    let metadata_only = metadata_only(op)?;
    let is_whole = metadata_only.is_none();
    let kind = metadata_only.as_ref().map_or("", |_| ":metadata");
    let meta = |description| Meta {
        description,
        record_type: RecordType::LocalSource,
        created: SystemTime::now(),
    };
    let key = format!("local source {name}:{hint}:{}{kind}", request.shared_key);
    let in_parts = is_whole && patterns.can_be_split();
    let split = shared.listings.split(&key).filter(|_| in_parts);
    let mutable = shared
        .refs
        .mutable(MutableOptions {
            key: key.clone(),
            base: None,
            sharing: Sharing::Private,
            fresh: false,
            meta: meta(format!("local source for {name}")),
        })
        .await
        .map_err(Failure::host)?;
    let session = op
        .attrs
        .get("local.session")
        .filter(|s| !s.is_empty())
        .cloned()
        .or_else(|| sessions.ids().first().cloned())
        .ok_or_else(no_local_sources)?;

    let started = SystemTime::now();
    let label = format!("transferring {name}:");
    let item = |current: u64, completed: Option<SystemTime>| wire::Progress {
        id: label.clone(),
        name: String::new(),
        current: i64::try_from(current).unwrap_or(i64::MAX),
        total: 0,
        started: Some(started.into()),
        completed: completed.map(Into::into),
    };
    events.item_edge(item(0, None)).await;
    let told = events.clone();
    let (begun, named) = (started, label.clone());
    let often = Limiter::new(PROGRESS_EVERY);
    let options = ReceiveOptions {
        differ: match op.attrs.get("local.differ").map(String::as_str) {
            Some("none") => Differ::None,
            Some(_) | None => Differ::Metadata,
        },
        metadata_only,
        progress: Some(Arc::new(move |bytes| {
            if !often.allows() {
                return;
            }
            told.item(wire::Progress {
                id: named.clone(),
                name: String::new(),
                current: i64::try_from(bytes).unwrap_or(i64::MAX),
                total: 0,
                started: Some(begun.into()),
                completed: None,
            });
        })),
        survey: in_parts.then_some(FEWEST_IN_PARTS),
        ..ReceiveOptions::default()
    };
    let root = mutable.fs().map_err(Failure::host)?;
    let before = noted::take(&mutable).map_err(Failure::host)?;
    let calls = sessions.calls(&session)?;
    let received = match split {
        Some(split) => {
            calls
                .sync_parts(name, &patterns, split, root, options)
                .await
        }
        None => calls.sync_dir(name, &patterns, root, options).await,
    };
    let mut received = match received {
        Ok(received) => received,
        Err(error) => {
            // Nobody knows what is in it now.
            mutable.discard();
            return Err(match error.is_unimplemented() {
                true => no_local_sources(),
                false => Failure::from(error),
            });
        }
    };
    events
        .item_edge(item(received.bytes, Some(SystemTime::now())))
        .await;

    if in_parts {
        shared.listings.learn(key, &mut received);
    }
    let shared = shared.clone();
    let (name, job) = (name.to_owned(), shared.job(&request.job)?);
    blocking(move || {
        let root = mutable.fs().map_err(Failure::host)?;
        let tree = before.and_then(|id| shared.digests.known(id));
        let changed = received.changed.iter().chain(&received.removed);
        // Without knowledge of what was there before, all is looked at anyway.
        let (content, known) = tree
            .unwrap_or_default()
            .after(&root, changed.map(PathBuf::as_path))
            .map_err(Failure::host)?;
        let id = Digest::of(format!("drydock local source\0{content}"));
        noted::note(&mutable, id).map_err(Failure::host)?;
        let (from, to) = (mutable.came_from(), mutable.layer());
        let description = format!("local source for {name}");
        let stored = mutable
            .freeze(id, meta(description))
            .map_err(Failure::host)?;
        job.lease.add(&stored);
        // It may be that of another transfer, with equal content and other times.
        let is_stored = |to: &LayerId| stored.snapshots().is_some_and(|layers| layers == [*to]);
        let to = to.filter(|to| is_whole && is_stored(to));
        if let (Some(from), Some(to)) = (from, to) {
            shared.copies.transferred(from, to, &received);
        }
        // What reads the ref next need not read all of it again.
        shared.digests.learn(id, known);
        Ok(id)
    })
    .await
}

/// The client shares no directories, or there is no client.
fn no_local_sources() -> Failure {
    Failure::user("no local sources enabled")
}

/// What is transferred all the same when only the list of files is wanted.
fn metadata_only(op: &SourceOp) -> Result<Option<Arc<Matcher>>, Failure> {
    if op.attrs.get("local.metadatatransfer").map(String::as_str) != Some("true") {
        return Ok(None);
    }
    let patterns: Vec<String> = match op.attrs.get("local.metadatatransferexclude") {
        None => Vec::new(),
        Some(json) => serde_json::from_str(json)
            .map_err(|_| Failure::user(format!("a pattern of {} is no list", op.identifier)))?,
    };
    let matcher = Matcher::new(&patterns).map_err(|error| Failure::user(chain(&error)))?;
    Ok(Some(Arc::new(matcher)))
}

async fn http_request(op: &SourceOp, sessions: &Sessions) -> Result<source::HttpRequest, Failure> {
    let attr = |key: &str| op.attrs.get(key).filter(|value| !value.is_empty()).cloned();
    let number = |key: &str| -> Result<u32, Failure> {
        attr(key).map_or(Ok(0), |text| {
            text.parse()
                .map_err(|_| Failure::user(format!("{key} is no number: {text}")))
        })
    };
    let perm = attr("http.perm")
        .map(|text| {
            u32::from_str_radix(&text, 8)
                .map_err(|_| Failure::user(format!("http.perm is not octal: {text}")))
        })
        .transpose()?;
    let checksum = attr("http.checksum")
        .map(|text| text.parse().map_err(|e| Failure::user(chain(&e))))
        .transpose()?;
    let mut headers: Vec<(String, String)> = op
        .attrs
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("http.header.")?.to_owned(), value)))
        .map(|(key, value)| (key, value.clone()))
        .collect();
    headers.sort();
    let (auth_secret, authorization) = authorization(op, sessions).await?;
    Ok(source::HttpRequest {
        url: op.identifier.clone(),
        checksum,
        filename: attr("http.filename"),
        perm,
        uid: number("http.uid")?,
        gid: number("http.gid")?,
        headers,
        auth_secret,
        authorization,
    })
}

/// The authorization that the client has for a URL: under the name the op gives, else under the
/// names for its host (BuildKit: `source/http/source.go`).
async fn authorization(
    op: &SourceOp,
    sessions: &Sessions,
) -> Result<(Option<String>, Option<registry::Secret>), Failure> {
    let host = op
        .identifier
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next())
        .map(|authority| authority.rsplit('@').next().unwrap_or(authority).to_owned())
        .unwrap_or_default();
    let named = op
        .attrs
        .get("http.authheadersecret")
        .filter(|name| !name.is_empty());
    let candidates = match named {
        Some(name) => vec![(name.clone(), "")],
        None => vec![
            (format!("HTTP_AUTH_HEADER_{host}"), ""),
            (format!("HTTP_AUTH_TOKEN_{host}"), "Bearer "),
        ],
    };
    for (name, prefix) in candidates {
        let answer = sessions.first(|calls| {
            let name = name.clone();
            async move { calls.secret(&name).await.map_err(Failure::from) }
        });
        match answer.await {
            Ok(value) => {
                let value = String::from_utf8_lossy(&value).trim().to_owned();
                let value = registry::Secret::new(format!("{prefix}{value}"));
                return Ok((Some(name), Some(value)));
            }
            Err(failure) if failure.class == Class::NotFound => {}
            Err(failure) if named.is_some() => return Err(failure),
            // A client without secrets, or none at all: a public URL needs none.
            Err(_) => {}
        }
    }
    Ok((None, None))
}

/// Host and path of a URL that a client serves itself.
fn upload(url: &str) -> Option<(String, String)> {
    let (_, rest) = url.split_once("://")?;
    let (host, path) = rest.split_once('/')?;
    (host == UPLOAD_HOST).then(|| (host.to_owned(), format!("/{path}")))
}

async fn open_upload(
    sessions: &Sessions,
    host: &str,
    path: &str,
) -> Result<registry::BlobStream, Failure> {
    use futures::StreamExt as _;
    let id = sessions.ids().first().cloned();
    let id = id.ok_or_else(|| Failure::user("an upload needs a session"))?;
    let stream = sessions
        .calls(&id)?
        .upload(host, path)
        .await
        .map_err(Failure::from)?;
    Ok(stream
        .map(|chunk| chunk.map_err(std::io::Error::other))
        .boxed())
}

impl From<session::SessionError> for Failure {
    fn from(error: session::SessionError) -> Failure {
        let class = if error.is_not_found() {
            Class::NotFound
        } else if error.is_gone() {
            Class::Canceled
        } else {
            Class::User
        };
        Failure::new(class, chain(&error))
    }
}
