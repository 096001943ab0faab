//! The store of blobs, for clients that look into the history of builds: reading only.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::pin::Pin;
use std::time::SystemTime;

use bytes::Bytes;
use futures::Stream;
use oci::Digest;
use proto::content as wire;
use proto::content::content_server::{Content as ContentApi, ContentServer};
use refs::Filter;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::history::History;
use crate::paced;

/// Bytes of a blob in one message.
const CHUNK: usize = 1 << 20;

/// Messages that wait for a slow reader.
const QUEUE: usize = 4;

/// Infos of blobs in one message.
const LISTED: usize = 100;

/// `containerd.services.content.v1.Content`. Blobs of all namespaces are one store.
pub(crate) struct Store {
    history: History,
}

impl Store {
    pub(crate) fn server(history: History) -> ContentServer<Store> {
        ContentServer::new(Store { history })
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE)
    }

    async fn find(&self, text: &str) -> Result<(Digest, Found), Status> {
        let digest = text
            .parse()
            .map_err(|_| Status::invalid_argument(format!("{text:?} is no digest of a blob")))?;
        if let Some(bytes) = self.history.blob(digest).await? {
            return Ok((digest, Found::Memory(bytes)));
        }
        match self.history.content().stat(&digest) {
            Some(blob) => Ok((digest, Found::Stored(blob))),
            None => Err(Status::not_found(format!(
                "content digest {digest}: not found"
            ))),
        }
    }
}

enum Found {
    Memory(Bytes),
    Stored(content::Blob),
}

fn info(digest: Digest, found: &Found) -> wire::Info {
    match found {
        Found::Memory(bytes) => described(digest, bytes.len() as u64, None),
        Found::Stored(blob) => described(digest, blob.size, Some(blob.written)),
    }
}

fn described(digest: Digest, size: u64, written: Option<SystemTime>) -> wire::Info {
    wire::Info {
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        created_at: written.map(Into::into),
        updated_at: written.map(Into::into),
        ..wire::Info::default()
    }
}

/// A range of a blob: `size` 0 is to the end.
fn range(length: u64, offset: i64, size: i64) -> Result<(u64, u64), Status> {
    let invalid = || {
        Status::out_of_range(format!(
            "read of {size} bytes at {offset} is beyond the {length} bytes of the blob"
        ))
    };
    let offset = u64::try_from(offset).map_err(|_| invalid())?;
    let size = u64::try_from(size).map_err(|_| invalid())?;
    let rest = length.checked_sub(offset).ok_or_else(invalid)?;
    match size {
        0 => Ok((offset, rest)),
        size if size <= rest => Ok((offset, size)),
        _ => Err(invalid()),
    }
}

/// What is still to be read of a file.
struct Rest {
    file: std::io::Take<std::fs::File>,
    at: u64,
}

impl Rest {
    fn new(mut file: std::fs::File, offset: u64, size: u64) -> std::io::Result<Rest> {
        file.seek(SeekFrom::Start(offset))?;
        Ok(Rest {
            file: file.take(size),
            at: offset,
        })
    }

    fn next(&mut self) -> Result<Option<wire::ReadContentResponse>, Status> {
        let mut data = Vec::new();
        let mut part = self.file.by_ref().take(CHUNK as u64);
        part.read_to_end(&mut data)?;
        if data.is_empty() {
            return Ok(None);
        }
        let (at, length) = (self.at, data.len() as u64);
        self.at += length;
        Ok(Some(chunk(at, data.into())))
    }
}

fn chunk(offset: u64, data: Bytes) -> wire::ReadContentResponse {
    wire::ReadContentResponse {
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data,
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn refused<T>() -> Result<Response<T>, Status> {
    Err(Status::unknown("read-only content store"))
}

#[tonic::async_trait]
impl ContentApi for Store {
    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let (digest, found) = self.find(&request.into_inner().digest).await?;
        let info = Some(info(digest, &found));
        Ok(Response::new(wire::InfoResponse { info }))
    }

    type ListStream = Responses<wire::ListContentResponse>;

    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filter = Filter::parse(&request.into_inner().filters)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let kept = self.history.blobs().await?;
        let content = self.history.content().clone();
        let stored = tokio::task::spawn_blocking(move || content.list())
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        let kept = kept
            .into_iter()
            .map(|(digest, size)| described(digest, size, None));
        let stored = stored
            .into_iter()
            .map(|blob| described(blob.digest, blob.size, Some(blob.written)));
        let all: Vec<wire::Info> = kept
            .chain(stored)
            .filter(|info| {
                filter.matches(|field| match field {
                    [name] if name == "digest" => Some(info.digest.clone()),
                    [name] if name == "size" => Some(info.size.to_string()),
                    _ => None,
                })
            })
            .collect();
        let messages: Vec<_> = all
            .chunks(LISTED)
            .map(|info| {
                Ok(wire::ListContentResponse {
                    info: info.to_vec(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }

    type ReadStream = Responses<wire::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let (digest, found) = self.find(&request.digest).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        match found {
            Found::Memory(bytes) => {
                let (offset, size) = range(bytes.len() as u64, request.offset, request.size)?;
                // Within the blob's length, which is in memory.
                let begin = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = begin.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
                let data = bytes.slice(begin..end);
                tokio::spawn(async move {
                    let mut at = offset;
                    for part in data.chunks(CHUNK) {
                        let part = data.slice_ref(part);
                        let length = part.len() as u64;
                        if sender.send(Ok(chunk(at, part))).await.is_err() {
                            return;
                        }
                        at += length;
                    }
                });
            }
            Found::Stored(blob) => {
                let (offset, size) = range(blob.size, request.offset, request.size)?;
                let file = self
                    .history
                    .content()
                    .open_blob(&digest)
                    .map_err(|error| Status::not_found(rpc::status::chain(&error)))?;
                let rest = Rest::new(file, offset, size)?;
                tokio::spawn(paced::send(rest, Rest::next, sender));
            }
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn update(
        &self,
        _: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        refused()
    }

    async fn delete(&self, _: Request<wire::DeleteContentRequest>) -> Result<Response<()>, Status> {
        refused()
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let name = request.into_inner().r#ref;
        Err(Status::not_found(format!("no write {name:?}: not found")))
    }

    async fn list_statuses(
        &self,
        _: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        Ok(Response::new(wire::ListStatusesResponse::default()))
    }

    type WriteStream = Responses<wire::WriteContentResponse>;

    async fn write(
        &self,
        _: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        refused()
    }

    async fn abort(&self, _: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_blob() {
        assert_eq!(range(10, 0, 0).unwrap(), (0, 10));
        assert_eq!(range(10, 4, 3).unwrap(), (4, 3));
        assert_eq!(range(10, 10, 0).unwrap(), (10, 0));
        assert!(range(10, 11, 0).is_err());
        assert!(range(10, 4, 7).is_err());
        assert!(range(10, -1, 0).is_err());
    }
}
