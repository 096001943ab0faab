//! The content stores of a client: blobs of its OCI layouts, and of the directories in which it
//! keeps build caches. (BuildKit: `session/content`.)

use std::io;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use oci::Digest;
use proto::content as wire;
use proto::content::content_client::ContentClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::calls::append;
use crate::{SessionCalls, SessionError};

/// Names the store that a call is for.
const STORE: &str = "buildkit-attachable-store-id";
/// The most bytes in one message.
const CHUNK: usize = 1 << 20;

/// The bytes of a blob, in order.
pub type BlobStream = BoxStream<'static, io::Result<Bytes>>;

impl SessionCalls {
    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE)
    }

    fn to_store<T>(&self, store: &str, message: T) -> Result<Request<T>, SessionError> {
        let mut request = self.request(message)?;
        append(request.metadata_mut(), STORE, &[store.to_owned()])?;
        Ok(request)
    }

    /// The size of the blob `digest` in the client's store `store`, in bytes.
    ///
    /// # Errors
    /// [`SessionError::is_not_found`] when the store does not have it, or the client no such store.
    pub async fn blob_size(&self, store: &str, digest: &Digest) -> Result<u64, SessionError> {
        let request = wire::InfoRequest {
            digest: digest.to_string(),
        };
        let request = self.to_store(store, request)?;
        let info = self.content().info(request).await?.into_inner().info;
        Ok(info.map_or(0, |info| u64::try_from(info.size).unwrap_or(0)))
    }

    /// The blob `digest` of the client's store `store`. Its bytes are not checked.
    ///
    /// # Errors
    /// [`SessionError::is_not_found`] when the store does not have it, or the client no such store.
    pub async fn read_blob(
        &self,
        store: &str,
        digest: &Digest,
    ) -> Result<BlobStream, SessionError> {
        let request = wire::ReadContentRequest {
            digest: digest.to_string(),
            offset: 0,
            size: 0,
        };
        let request = self.to_store(store, request)?;
        let stream = self.content().read(request).await?.into_inner();
        let chunks = stream.map(|message| Ok(message.map_err(io::Error::other)?.data));
        Ok(chunks.boxed())
    }

    /// Writes a blob of `size` bytes into the client's store `store`; one that is there already is
    /// not sent again.
    ///
    /// # Errors
    /// When `blob` breaks, or the client refuses it.
    pub async fn write_blob(
        &self,
        store: &str,
        digest: &Digest,
        size: u64,
        blob: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), SessionError> {
        match self.blob_size(store, digest).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let (broken, failed) = tokio::sync::oneshot::channel();
        let messages = messages(digest, size, blob, broken);
        let request = self.to_store(store, messages)?;
        let write = async {
            let mut answers = self.content().write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<(), Status>(())
        };
        let written = write.await;
        if let Ok(source) = failed.await {
            return Err(SessionError::Io {
                what: "failed to read a blob for the client's store",
                source,
            });
        }
        match written {
            // Somebody else has written it meanwhile.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            written => Ok(written?),
        }
    }
}

/// What is said to write a blob. It ends without a commit when the blob breaks, and `broken` is
/// told why.
fn messages(
    digest: &Digest,
    size: u64,
    blob: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    broken: tokio::sync::oneshot::Sender<io::Error>,
) -> impl Stream<Item = wire::WriteContentRequest> + Send + 'static {
    let total = i64::try_from(size).unwrap_or(i64::MAX);
    let first = wire::WriteContentRequest {
        action: wire::WriteAction::Stat.into(),
        r#ref: format!("drydock-{digest}"),
        total,
        expected: digest.to_string(),
        ..wire::WriteContentRequest::default()
    };
    let last = wire::WriteContentRequest {
        action: wire::WriteAction::Commit.into(),
        total,
        offset: total,
        expected: digest.to_string(),
        ..wire::WriteContentRequest::default()
    };
    struct State<S> {
        blob: S,
        rest: Bytes,
        offset: i64,
        broken: Option<tokio::sync::oneshot::Sender<io::Error>>,
        last: Option<wire::WriteContentRequest>,
    }
    let state = State {
        blob: Box::pin(blob),
        rest: Bytes::new(),
        offset: 0,
        broken: Some(broken),
        last: Some(last),
    };
    let data = stream::unfold(state, |mut state| async move {
        while state.rest.is_empty() {
            match state.blob.next().await {
                Some(Ok(chunk)) => state.rest = chunk,
                Some(Err(error)) => {
                    state.last = None;
                    if let Some(broken) = state.broken.take() {
                        // Whoever writes may have given up.
                        let _ = broken.send(error);
                    }
                    return None;
                }
                None => return state.last.take().map(|last| (last, state)),
            }
        }
        let data = state.rest.split_to(state.rest.len().min(CHUNK));
        let offset = state.offset;
        state.offset += i64::try_from(data.len()).unwrap_or(0);
        let message = wire::WriteContentRequest {
            action: wire::WriteAction::Write.into(),
            offset,
            data,
            ..wire::WriteContentRequest::default()
        };
        Some((message, state))
    });
    stream::once(async move { first }).chain(data)
}
