//! `FileSend`: where results arrive.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use filesync::ReceiveOptions;
use filesync::wire::Packet;
use proto::filesync::BytesMessage;
use sys::root::RootDir;
use tokio::io::AsyncWriteExt as _;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

use super::packets::{Answer, Answers, OneMethod, Serve, answer, transfer};
use super::{Shared, Sink, Target};

/// The codec of a target that takes bytes.
type BytesCodec = tonic_prost::ProstCodec<BytesMessage, BytesMessage>;

/// Each target, until it was used.
#[derive(Clone)]
pub(super) struct Targets(Shared<Mutex<Vec<Target>>>);

pub(super) fn server(targets: Vec<Target>) -> OneMethod<Targets> {
    OneMethod {
        state: Targets(Arc::new(Mutex::new(targets))),
    }
}

impl Serve for Targets {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
    const PATH: &'static str = "/moby.filesync.v1.FileSend/DiffCopy";

    fn serve(self, request: http::Request<Body>) -> Answer<http::Response<Body>> {
        let target = self.take(&MetadataMap::from_headers(request.headers().clone()));
        Box::pin(async move {
            match target {
                Ok(Target::Directory(path)) => {
                    let codec = filesync::Codec::default();
                    answer(codec, request, move |call| receive_directory(path, call)).await
                }
                Ok(Target::File(path)) => {
                    let codec = BytesCodec::default();
                    answer(codec, request, move |call| receive_file(path, call)).await
                }
                Ok(Target::Stream(sink)) => {
                    let codec = BytesCodec::default();
                    // Taken once; the bound that a method can be called again is tonic's.
                    let sink = Arc::new(Mutex::new(Some(sink)));
                    answer(codec, request, move |call| receive_stream(sink, call)).await
                }
                Ok(Target::None) => Status::not_found("nothing is expected here").into_http(),
                Err(status) => status.into_http(),
            }
        })
    }
}

impl Targets {
    /// The target that a call is for. A stream is taken by its first call; files and directories
    /// may be written again.
    fn take(&self, metadata: &MetadataMap) -> Result<Target, Status> {
        let index = match metadata.get("buildkit-attachable-exporter-id") {
            Some(id) => id.to_str().ok().and_then(|id| id.parse().ok()),
            None => Some(0),
        };
        let mut targets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let target = index.and_then(|index: usize| targets.get_mut(index));
        let target = target.ok_or_else(|| Status::not_found("no exporter has this id"))?;
        Ok(match target {
            Target::None => Target::None,
            Target::Directory(path) => Target::Directory(path.clone()),
            Target::File(path) => Target::File(path.clone()),
            Target::Stream(_) => std::mem::take(target),
        })
    }
}

async fn receive_directory(
    path: PathBuf,
    call: Request<Streaming<Packet>>,
) -> Result<Answers<Packet>, Status> {
    let failed = |error: io::Error| {
        Status::unknown(format!(
            "failed to open output directory `{}`: {error}",
            path.display()
        ))
    };
    std::fs::create_dir_all(&path).map_err(failed)?;
    let root = RootDir::open(&path).map_err(failed)?;
    let owner = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let options = ReceiveOptions {
        keep: true,
        owner: Some(owner),
        ..ReceiveOptions::default()
    };
    let (packets, work) = filesync::receive(root, options, call.into_inner());
    Ok(transfer(packets, work))
}

async fn receive_file(
    path: PathBuf,
    call: Request<Streaming<BytesMessage>>,
) -> Result<Answers<BytesMessage>, Status> {
    let failed = |error: io::Error| {
        Status::unknown(format!(
            "failed to write output `{}`: {error}",
            path.display()
        ))
    };
    let is_special = std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file());
    if is_special {
        // A pipe or a device takes the bytes as they come.
        let file = tokio::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .await
            .map_err(failed)?;
        copy(call.into_inner(), Box::pin(file)).await?;
        return Ok(no_answers());
    }
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let aside = tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new(".")));
    let aside = aside.map_err(failed)?;
    let file = tokio::fs::File::from_std(aside.reopen().map_err(failed)?);
    copy(call.into_inner(), Box::pin(file)).await?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    aside.as_file().set_permissions(mode).map_err(failed)?;
    aside.persist(&path).map_err(|error| failed(error.error))?;
    Ok(no_answers())
}

async fn receive_stream(
    sink: Arc<Mutex<Option<Sink>>>,
    call: Request<Streaming<BytesMessage>>,
) -> Result<Answers<BytesMessage>, Status> {
    let sink = sink.lock().unwrap_or_else(PoisonError::into_inner).take();
    let sink = sink.ok_or_else(|| Status::failed_precondition("the output was written already"))?;
    copy(call.into_inner(), sink).await?;
    Ok(no_answers())
}

async fn copy(mut chunks: Streaming<BytesMessage>, mut sink: Sink) -> Result<(), Status> {
    let failed = |error: io::Error| Status::unknown(format!("failed to write output: {error}"));
    while let Some(chunk) = chunks.message().await? {
        sink.write_all(&chunk.data).await.map_err(failed)?;
    }
    sink.shutdown().await.map_err(failed)
}

fn no_answers() -> Answers<BytesMessage> {
    Box::pin(futures::stream::empty())
}
