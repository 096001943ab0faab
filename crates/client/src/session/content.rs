//! `Content`: blobs of this client's OCI layouts, to read.

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

/// Layouts by name; a store is named `oci:<name>`.
pub(super) struct Layouts(Shared<BTreeMap<String, PathBuf>>);

pub(super) fn server(layouts: BTreeMap<String, PathBuf>) -> ContentServer<Layouts> {
    ContentServer::new(Layouts(Arc::new(layouts)))
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

impl Layouts {
    /// The file of a blob in the store that the call names.
    async fn open(
        &self,
        metadata: &MetadataMap,
        digest: &str,
    ) -> Result<(tokio::fs::File, u64), Status> {
        let store = metadata
            .get("buildkit-attachable-store-id")
            .and_then(|id| id.to_str().ok());
        let name = store.unwrap_or_default().trim_start_matches("oci:");
        let layout = self.0.get(name);
        let layout = layout.ok_or_else(|| Status::not_found(format!("no store `{name}`")))?;
        // Checked: as a digest it has no path in it.
        let digest: oci::Digest = digest
            .parse()
            .map_err(|_| Status::invalid_argument("invalid digest"))?;
        let text = digest.to_string();
        let hex = text.rsplit(':').next().unwrap_or_default();
        let path = layout.join("blobs/sha256").join(hex);
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
impl Content for Layouts {
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
        _: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        read_only()
    }

    async fn delete(&self, _: Request<wire::DeleteContentRequest>) -> Result<Response<()>, Status> {
        read_only()
    }

    async fn abort(&self, _: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        read_only()
    }
}
