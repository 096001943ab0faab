//! Carrying refs out: to the client, to a registry, into the image store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use exporter::{
    Attestation, Caller, ExportTree, ImageOptions, Kind, Source, SourceRef, TreeKind, TreeMode,
    TreeOptions,
};
use filesync::SendOptions;
use futures::stream::{self, TryStreamExt as _};
use proto::worker as wire;
use session::{DirTarget, SessionCalls};
use tokio::io::AsyncReadExt as _;

use crate::cache;
use crate::credentials::SessionCredentials;
use crate::events::Events;
use crate::failure::{Failure, blocking, chain};
use crate::images;
use crate::sessions::Sessions;
use crate::state::{Shared, id};

/// Bytes of an archive that are on the way to the client.
const PIPE: usize = 1 << 20;

/// Bytes of the documents of an image that are answered: they fit into one message.
const DOCUMENTS: usize = 8 << 20;

/// The client's store that takes an image's blobs (BuildKit: `exporter/oci/export.go`).
const EXPORT_STORE: &str = "export";

/// Exports what the request says and answers what the client is told.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    request: wire::ExportRequest,
    events: Events,
) -> Result<wire::Done, Failure> {
    let sessions = Some(request.session.clone()).filter(|s| !s.is_empty());
    let sessions = shared.tunnel.sessions(sessions.into_iter().collect());
    let source = source(shared, &request)?;
    let (response, documents) = match request.kind.as_str() {
        "image" => image(shared, &request, &source, &sessions, &events).await?,
        "oci" => archive(shared, Kind::Oci, &request, &source, &sessions, &events).await?,
        "docker" => archive(shared, Kind::Docker, &request, &source, &sessions, &events).await?,
        "tar" | "local" => {
            let kind = match request.kind.as_str() {
                "tar" => TreeKind::Tar,
                _ => TreeKind::Local,
            };
            tree(shared, kind, &request, &source, &sessions, &events).await?;
            Default::default()
        }
        other => {
            return Err(Failure::user(format!(
                "exporter \"{other}\" could not be found"
            )));
        }
    };
    Ok(wire::Done {
        response,
        documents,
        ..wire::Done::default()
    })
}

fn source(shared: &Shared, request: &wire::ExportRequest) -> Result<Source, Failure> {
    let refs = request.refs.iter().map(|part| {
        let filesystem = match part.id.as_str() {
            "" => None,
            text => Some(shared.find(&request.job, id(text)?)?),
        };
        let inline_cache = match &filesystem {
            Some(found) => cache::inline(shared, &request.job, &request.inline_cache, found)?,
            None => None,
        };
        Ok(SourceRef {
            key: part.key.clone(),
            filesystem,
            platform: part
                .platform
                .clone()
                .map(crate::convert::platform)
                .unwrap_or_default(),
            config: part.config.to_vec(),
            attestations: part
                .attestations
                .iter()
                .map(attestation)
                .collect::<Result<_, Failure>>()?,
            inline_cache,
        })
    });
    Ok(Source {
        refs: refs.collect::<Result<_, Failure>>()?,
        multi_platform: request.multi_platform,
        metadata: request
            .metadata
            .iter()
            .map(|(k, v)| (k.clone(), v.to_vec()))
            .collect(),
    })
}

fn attestation(attestation: &wire::ExportAttestation) -> Result<Attestation, Failure> {
    let predicate = serde_json::from_slice(&attestation.predicate).map_err(|error| {
        Failure::user(format!(
            "attestation {} is no JSON: {error}",
            attestation.file_name
        ))
    })?;
    Ok(Attestation {
        predicate_type: attestation.predicate_type.clone(),
        predicate,
        subjects: Vec::new(),
        inline_only: attestation.inline_only,
        file_name: attestation.file_name.clone(),
    })
}

fn caller(
    shared: &Shared,
    request: &wire::ExportRequest,
    sessions: &Sessions,
    events: &Events,
) -> Result<Caller, Failure> {
    let credentials = Arc::new(SessionCredentials::new(sessions.clone()));
    Ok(Caller {
        providers: Arc::new(images::sources(shared, credentials.clone())),
        credentials,
        progress: images::progress(events),
        lease: shared.job(&request.job)?.lease,
    })
}

fn failure(error: exporter::ExportError) -> Failure {
    Failure::user(chain(&error))
}

async fn image(
    shared: &Arc<Shared>,
    request: &wire::ExportRequest,
    source: &Source,
    sessions: &Sessions,
    events: &Events,
) -> Result<(BTreeMap<String, String>, Vec<Bytes>), Failure> {
    let options = ImageOptions::parse(Kind::Image, &request.attrs)
        .map_err(|error| Failure::user(chain(&error)))?;
    let caller = caller(shared, request, sessions, events)?;
    if options.unpack || (options.store && !options.allow_incomplete && !options.push) {
        here(shared, source, sessions, events).await?;
    }
    let mut built = shared
        .exporter
        .build(source, &options, &caller)
        .await
        .map_err(failure)?;
    shared
        .exporter
        .store(&mut built, source, &options, &caller)
        .map_err(failure)?;
    if options.store {
        // Unlike a step's result, a named image is not made again when it is lost.
        shared.refs.flush().await.map_err(Failure::host)?;
    }
    if options.push {
        shared
            .exporter
            .push(&built, &options, &caller)
            .await
            .map_err(failure)?;
    }
    let response = built.response(Kind::Image).map_err(failure)?;
    Ok((response, built.documents(DOCUMENTS)))
}

/// Has all layers of the source here.
async fn here(
    shared: &Shared,
    source: &Source,
    sessions: &Sessions,
    events: &Events,
) -> Result<(), Failure> {
    for filesystem in source
        .refs
        .iter()
        .filter_map(|part| part.filesystem.as_ref())
    {
        shared.stack(filesystem, sessions, Some(events)).await?;
    }
    Ok(())
}

async fn archive(
    shared: &Arc<Shared>,
    kind: Kind,
    request: &wire::ExportRequest,
    source: &Source,
    sessions: &Sessions,
    events: &Events,
) -> Result<(BTreeMap<String, String>, Vec<Bytes>), Failure> {
    let options =
        ImageOptions::parse(kind, &request.attrs).map_err(|error| Failure::user(chain(&error)))?;
    let caller = caller(shared, request, sessions, events)?;
    let built = shared
        .exporter
        .build(source, &options, &caller)
        .await
        .map_err(failure)?;
    let response = built.response(kind).map_err(failure)?;
    let target = DirTarget {
        exporter: request.target.clone(),
        metadata: response.clone(),
        multi_platform: false,
    };
    let calls = calls(sessions)?;
    if !options.tar {
        for (descriptor, blob) in shared.exporter.blobs(&built, &caller) {
            let bytes = stream::once(async move { blob.open().await }).try_flatten();
            calls
                .write_blob(EXPORT_STORE, &descriptor.digest, descriptor.size, bytes)
                .await?;
        }
        return Ok((response, built.documents(DOCUMENTS)));
    }
    let sending = item(events, "sending tarball").await;
    send(&calls, &target, async |out| {
        shared
            .exporter
            .write_archive(std::slice::from_ref(&built), kind, &caller, out)
            .await
            .map_err(failure)
    })
    .await?;
    sending.done(events).await;
    Ok((response, built.documents(DOCUMENTS)))
}

fn calls(sessions: &Sessions) -> Result<SessionCalls, Failure> {
    let id = sessions.ids().into_iter().next();
    let id = id.ok_or_else(|| Failure::user("an export to the client needs its session"))?;
    sessions.calls(&id)
}

/// Writes a file of the client while `write` makes it.
async fn send(
    calls: &SessionCalls,
    target: &DirTarget,
    write: impl AsyncFnOnce(&mut tokio::io::DuplexStream) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut client = calls.send_tar(target).map_err(Failure::from)?;
    let (mut near, mut far) = tokio::io::duplex(PIPE);
    let making = async {
        let made = write(&mut near).await;
        drop(near);
        made
    };
    let made = {
        let sending = async {
            let mut chunk = bytes::BytesMut::new();
            loop {
                chunk.reserve(PIPE);
                match far.read_buf(&mut chunk).await {
                    Ok(0) | Err(_) => return true,
                    Ok(_) => {
                        if !client.write(chunk.split().freeze()).await {
                            return false;
                        }
                    }
                }
            }
        };
        tokio::pin!(making, sending);
        tokio::select! {
            made = &mut making => {
                sending.await;
                made
            }
            // The client takes no more: what it says about that counts, not that the pipe is broken.
            wanted = &mut sending => if wanted { making.await } else { Ok(()) },
        }
    };
    match made {
        Ok(()) => client.finish().await.map_err(Failure::from),
        Err(failure) => Err(failure),
    }
}

async fn tree(
    shared: &Arc<Shared>,
    kind: TreeKind,
    request: &wire::ExportRequest,
    source: &Source,
    sessions: &Sessions,
    events: &Events,
) -> Result<(), Failure> {
    let options =
        TreeOptions::parse(kind, &request.attrs).map_err(|error| Failure::user(chain(&error)))?;
    here(shared, source, sessions, events).await?;
    let (exporter, of, mode) = (shared.exporter.clone(), source.clone(), options.mode);
    let opened = blocking(move || exporter.tree(&of, &options).map_err(failure)).await?;
    let calls = calls(sessions)?;
    let target = DirTarget {
        exporter: request.target.clone(),
        metadata: BTreeMap::new(),
        multi_platform: kind == TreeKind::Local && mode == TreeMode::Delete,
    };
    if kind == TreeKind::Tar {
        return tar(opened, &calls, &target, events).await;
    }
    let transfers = blocking(move || opened.transfers(mode).map_err(failure)).await?;
    for transfer in transfers {
        let mut sending = item(events, &transfer.name).await;
        let options = SendOptions::default();
        let sent = options.sent.clone();
        calls
            .send_dir(&target, transfer.trees, options)
            .await
            .map_err(Failure::from)?;
        sending.current = i64::try_from(sent.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        sending.done(events).await;
    }
    Ok(())
}

async fn tar(
    opened: ExportTree,
    calls: &SessionCalls,
    target: &DirTarget,
    events: &Events,
) -> Result<(), Failure> {
    let sending = item(events, "sending tarball").await;
    let (near, mut far) = tokio::io::duplex(PIPE);
    let writing = tokio::spawn(opened.write_tar(near));
    send(calls, target, async |out| {
        // The writer needs an end of its own, as it runs on a thread.
        tokio::io::copy(&mut far, out)
            .await
            .map_err(Failure::host)?;
        match writing.await {
            Ok(written) => written.map_err(failure),
            Err(error) => Err(Failure::bug(format!("writing a tar was lost: {error}"))),
        }
    })
    .await?;
    sending.done(events).await;
    Ok(())
}

/// An item of progress that is under way.
struct Running {
    name: String,
    started: SystemTime,
    /// Bytes done.
    current: i64,
}

async fn item(events: &Events, name: &str) -> Running {
    let running = Running {
        name: name.to_owned(),
        started: SystemTime::now(),
        current: 0,
    };
    events.item_edge(running.progress(None)).await;
    running
}

impl Running {
    fn progress(&self, completed: Option<SystemTime>) -> wire::Progress {
        wire::Progress {
            id: self.name.clone(),
            name: self.name.clone(),
            current: self.current,
            total: 0,
            started: Some(self.started.into()),
            completed: completed.map(Into::into),
        }
    }

    async fn done(self, events: &Events) {
        events
            .item_edge(self.progress(Some(SystemTime::now())))
            .await;
    }
}
