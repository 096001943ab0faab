//! `Content`: blobs of this client's OCI layouts, to read, and of its build caches, to write, too.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::content as wire;
use proto::content::content_server::{Content, ContentServer};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;

/// Bytes in one message.
const CHUNK: usize = 256 << 10;

/// Directories by the names of their stores: `oci:<name>` and `local:<name>`.
pub(super) struct Stores(Shared<BTreeMap<String, Store>>);

struct Store {
    path: PathBuf,
    writable: bool,
}

pub(super) fn server(
    layouts: BTreeMap<String, PathBuf>,
    caches: BTreeMap<String, PathBuf>,
) -> ContentServer<Stores> {
    let layout = |(name, path)| {
        let store = Store {
            path,
            writable: false,
        };
        (format!("oci:{name}"), store)
    };
    let cache = |(name, path)| {
        let store = Store {
            path,
            writable: true,
        };
        (format!("local:{name}"), store)
    };
    let all = layouts.into_iter().map(layout);
    let all = all.chain(caches.into_iter().map(cache)).collect();
    ContentServer::new(Stores(Arc::new(all)))
        .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
        .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE)
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

impl Stores {
    /// The store that a call names.
    fn store(&self, metadata: &MetadataMap) -> Result<&Store, Status> {
        let name = metadata
            .get("buildkit-attachable-store-id")
            .and_then(|id| id.to_str().ok())
            .unwrap_or_default();
        let store = self.0.get(name);
        store.ok_or_else(|| Status::not_found(format!("no store `{name}`")))
    }

    /// The file of a blob in the store that the call names.
    async fn open(
        &self,
        metadata: &MetadataMap,
        digest: &str,
    ) -> Result<(tokio::fs::File, u64), Status> {
        let store = self.store(metadata)?;
        // Checked: as a digest it has no path in it.
        let digest: oci::Digest = digest
            .parse()
            .map_err(|_| Status::invalid_argument("invalid digest"))?;
        let text = digest.to_string();
        let hex = text.rsplit(':').next().unwrap_or_default();
        let path = store.path.join("blobs/sha256").join(hex);
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Status::not_found(format!("content {text}: not found")),
            _ => Status::unknown(format!("failed to open `{}`: {error}", path.display())),
        };
        let file = tokio::fs::File::open(&path).await.map_err(missing)?;
        let size = file.metadata().await.map_err(missing)?.len();
        Ok((file, size))
    }
}

fn read_only<T>() -> Result<T, Status> {
    Err(Status::permission_denied("this store can only be read"))
}

#[tonic::async_trait]
impl Content for Stores {
    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (_, size) = self.open(&metadata, &request.digest).await?;
        let info = wire::Info {
            digest: request.digest,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            ..wire::Info::default()
        };
        Ok(Response::new(wire::InfoResponse { info: Some(info) }))
    }

    type ReadStream = Stream<wire::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (mut file, size) = self.open(&metadata, &request.digest).await?;
        let failed = |error: io::Error| Status::unknown(format!("failed to read content: {error}"));
        let offset = u64::try_from(request.offset)
            .ok()
            .filter(|offset| *offset <= size)
            .ok_or_else(|| Status::out_of_range("the offset is beyond the end"))?;
        file.seek(io::SeekFrom::Start(offset))
            .await
            .map_err(failed)?;
        let length = match u64::try_from(request.size) {
            Ok(length) if length > 0 => length,
            _ => size - offset,
        };
        let mut position = request.offset;
        let chunks = ReaderStream::with_capacity(file.take(length), CHUNK).map(move |chunk| {
            let data = chunk.map_err(failed)?;
            let at = position;
            position += i64::try_from(data.len()).unwrap_or(i64::MAX);
            Ok(wire::ReadContentResponse { offset: at, data })
        });
        Ok(Response::new(chunks.boxed()))
    }

    type ListStream = Stream<wire::ListContentResponse>;

    async fn list(
        &self,
        _: Request<wire::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Ok(Response::new(futures::stream::empty().boxed()))
    }

    async fn status(
        &self,
        _: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        Err(Status::not_found("nothing is being written"))
    }

    async fn list_statuses(
        &self,
        _: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        Ok(Response::new(wire::ListStatusesResponse::default()))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        // Labels are not kept; a caller that sets one sees it as set.
        Ok(Response::new(wire::UpdateResponse {
            info: request.into_inner().info,
        }))
    }

    type WriteStream = Stream<wire::WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (metadata, _, mut messages) = request.into_parts();
        let store = self.store(&metadata)?;
        if !store.writable {
            return read_only();
        }
        let blobs = store.path.join("blobs/sha256");
        let mut ingest = Ingest::begin(blobs).map_err(Ingest::failed)?;
        // Each message has an answer; the last is that to the commit.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let message = match messages.message().await {
                    Ok(Some(message)) => message,
                    Ok(None) | Err(_) => return,
                };
                let is_last = message.action == wire::WriteAction::Commit as i32;
                let answer = ingest.take(message);
                let is_last = is_last || answer.is_err();
                if sender.send(answer).await.is_err() || is_last {
                    return;
                }
            }
        });
        let answers = tokio_stream::wrappers::ReceiverStream::new(receiver);
        Ok(Response::new(answers.boxed()))
    }

    async fn delete(&self, _: Request<wire::DeleteContentRequest>) -> Result<Response<()>, Status> {
        read_only()
    }

    async fn abort(&self, _: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        read_only()
    }
}

/// A blob on its way in: a file beside its place until it is whole.
struct Ingest {
    blobs: PathBuf,
    file: tempfile::NamedTempFile,
    hasher: oci::Hasher,
    offset: i64,
    expected: String,
    total: i64,
}

impl Ingest {
    fn begin(blobs: PathBuf) -> io::Result<Ingest> {
        std::fs::create_dir_all(&blobs)?;
        Ok(Ingest {
            file: tempfile::Builder::new()
                .prefix(".ingest-")
                .tempfile_in(&blobs)?,
            blobs,
            hasher: oci::Hasher::new(),
            offset: 0,
            expected: String::new(),
            total: 0,
        })
    }

    fn failed(error: io::Error) -> Status {
        Status::unknown(format!("failed to write content: {error}"))
    }

    fn take(
        &mut self,
        message: wire::WriteContentRequest,
    ) -> Result<wire::WriteContentResponse, Status> {
        if !message.expected.is_empty() {
            self.expected = message.expected;
        }
        if message.total > 0 {
            self.total = message.total;
        }
        if message.offset > 0 && message.offset != self.offset {
            return Err(Status::out_of_range(
                "the offset is not where the blob ends",
            ));
        }
        io::Write::write_all(&mut self.file, &message.data).map_err(Ingest::failed)?;
        self.hasher.update(&message.data);
        self.offset += i64::try_from(message.data.len()).unwrap_or(0);
        let digest = if message.action == wire::WriteAction::Commit as i32 {
            self.commit()?
        } else {
            String::new()
        };
        Ok(wire::WriteContentResponse {
            action: message.action,
            offset: self.offset,
            total: self.total,
            digest,
            ..wire::WriteContentResponse::default()
        })
    }

    fn commit(&mut self) -> Result<String, Status> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let is_whole = self.total == 0 || self.total == self.offset;
        if !is_whole || (!self.expected.is_empty() && self.expected != digest.to_string()) {
            return Err(Status::failed_precondition(format!(
                "unexpected commit of {digest}, expected {}",
                self.expected
            )));
        }
        let place = self.blobs.join(digest.hex());
        // A hard link: the temporary file takes its own name with it.
        match std::fs::hard_link(self.file.path(), place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Ingest::failed(error)),
        }
        Ok(digest.to_string())
    }
}
