//! HTTP/2 inside a bidirectional stream of byte messages.
//!
//! A build client calls the daemon once and gets called back inside that call: in
//! `Control.Session` the daemon is the inner HTTP/2 client, in a frontend's standard streams and in
//! a worker's `Sessions` it is the inner server. [`Tunnel`] turns messages into a byte connection;
//! [`client_over`] and [`serve_over`] speak HTTP/2 on it, or on any other connection.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};
use tonic::body::Body;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::Service;
use tower::util::ServiceExt;

use crate::BoxError;

/// Most bytes in one message: a few HTTP/2 frames, which saves a wrapper around each.
const MAX_CHUNK: usize = 64 << 10;

/// Messages on the way out that the outer stream has not taken yet.
const QUEUE: usize = 8;

/// Flow control windows of the inner connection, in bytes: file contents flow through it, and a
/// window must not end before the answer to it has come back through two layers of HTTP/2.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Calls of one connection at a time. A build keeps a handful open; Go allows any number.
const MAX_STREAMS: u32 = 4096;

/// A message that carries bytes and nothing else.
pub trait Chunk: Send + 'static {
    /// Wraps `data`.
    fn new(data: Bytes) -> Self;
    /// The bytes in it.
    fn into_data(self) -> Bytes;
}

macro_rules! chunk {
    ($($message:path),* $(,)?) => {$(
        impl Chunk for $message {
            fn new(data: Bytes) -> Self {
                Self { data }
            }

            fn into_data(self) -> Bytes {
                self.data
            }
        }
    )*};
}

chunk!(
    proto::control::BytesMessage,
    proto::filesync::BytesMessage,
    proto::sshforward::BytesMessage,
    proto::upload::BytesMessage,
    proto::worker::Bytes,
);

impl Chunk for Bytes {
    fn new(data: Bytes) -> Bytes {
        data
    }

    fn into_data(self) -> Bytes {
        self
    }
}

/// What can be served inside a tunnel: the services of tonic, and whatever passes requests on.
pub trait Inner:
    Service<
        http::Request<Body>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Inner for S
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
}

/// The sending half of a tunnel that is yet to be made: see [`outgoing`].
#[derive(Debug)]
pub struct Outgoing<M> {
    sender: mpsc::Sender<M>,
}

impl<M: Chunk> Outgoing<M> {
    /// Sends one message as it is; `false` when the other side takes no more.
    pub async fn send(&self, message: M) -> bool {
        self.sender.send(message).await.is_ok()
    }
}

/// Makes the outgoing messages of a tunnel, which must exist before the call that answers with the
/// incoming ones.
#[must_use]
pub fn outgoing<M: Chunk>() -> (Outgoing<M>, ReceiverStream<M>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Outgoing { sender }, ReceiverStream::new(receiver))
}

/// A byte connection inside two streams of messages.
pub struct Tunnel<M, S> {
    incoming: S,
    /// What has arrived and is not read yet.
    unread: Bytes,
    outgoing: PollSender<M>,
    /// Cancelled when the other side is gone or this end is dropped.
    closed: CancellationToken,
    _close_on_drop: DropGuard,
}

impl<M, S> Tunnel<M, S>
where
    M: Chunk,
    S: Stream<Item = Result<M, Status>> + Unpin,
{
    /// Joins the two directions.
    #[must_use]
    pub fn new(incoming: S, outgoing: Outgoing<M>) -> Tunnel<M, S> {
        let closed = CancellationToken::new();
        Tunnel {
            incoming,
            unread: Bytes::new(),
            outgoing: PollSender::new(outgoing.sender),
            _close_on_drop: closed.clone().drop_guard(),
            closed,
        }
    }

    /// Cancelled as soon as nothing can arrive any more.
    #[must_use]
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }
}

impl<M, S> AsyncRead for Tunnel<M, S>
where
    M: Chunk,
    S: Stream<Item = Result<M, Status>> + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                Some(Ok(message)) => self.unread = message.into_data(),
                Some(Err(status)) => {
                    self.closed.cancel();
                    return Poll::Ready(Err(io_error(status)));
                }
                None => {
                    self.closed.cancel();
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<M, S> AsyncWrite for Tunnel<M, S>
where
    M: Chunk,
    S: Unpin,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(broken)?;
        let length = data
            .iter()
            .map(|slice| slice.len())
            .sum::<usize>()
            .min(MAX_CHUNK);
        let mut chunk = BytesMut::with_capacity(length);
        for slice in data {
            let room = length - chunk.len();
            chunk.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.outgoing
            .send_item(M::new(chunk.freeze()))
            .map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

impl<M, S> Connected for Tunnel<M, S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// A stream's end as an I/O error.
fn io_error(status: Status) -> io::Error {
    let kind = match status.code() {
        Code::Cancelled | Code::Unavailable | Code::Aborted => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, status)
}

/// Speaks HTTP/2 on `io` as the client.
///
/// The channel is bound to this one connection: once that is gone every call fails.
///
/// # Errors
/// The other side does not speak HTTP/2 or is gone.
pub async fn client_over<I>(io: I) -> Result<Channel, tonic::transport::Error>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let once = Arc::new(Mutex::new(Some(io)));
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            io.map(TokioIo::new)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
        }
    });
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector(connector)
        .await
}

/// Serves `service` (tonic's `Routes`, say) to the HTTP/2 client at the other end of `io`.
///
/// Returns when the connection ends; dropped, it ends it.
///
/// # Errors
/// What broke the connection. An orderly end is none.
pub async fn serve_over<I, S>(io: I, service: S) -> Result<(), BoxError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Inner,
{
    let service =
        service.map_request(|request: http::Request<hyper::body::Incoming>| request.map(Body::new));
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
        .await
        .map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use proto::control::BytesMessage;
    use proto::secrets::secrets_client::SecretsClient;
    use proto::secrets::secrets_server::{Secrets, SecretsServer};
    use proto::secrets::{GetSecretRequest, GetSecretResponse};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tonic::service::Routes;
    use tonic::{Request, Response};

    type Messages = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    /// Two ends of one tunnel.
    fn ends() -> (
        Tunnel<BytesMessage, Messages>,
        Tunnel<BytesMessage, Messages>,
    ) {
        let (to_right, from_left) = outgoing();
        let (to_left, from_right) = outgoing();
        let left: Messages = Box::pin(from_right.map(Ok));
        let right: Messages = Box::pin(from_left.map(Ok));
        (Tunnel::new(left, to_right), Tunnel::new(right, to_left))
    }

    /// Answers with the id, repeated to the length that it names.
    struct Echo;

    #[tonic::async_trait]
    impl Secrets for Echo {
        async fn get_secret(
            &self,
            request: Request<GetSecretRequest>,
        ) -> Result<Response<GetSecretResponse>, Status> {
            let length = request.into_inner().id.parse().unwrap();
            Ok(Response::new(GetSecretResponse {
                data: vec![7; length].into(),
            }))
        }
    }

    fn ask(length: usize) -> GetSecretRequest {
        GetSecretRequest {
            id: length.to_string(),
            ..GetSecretRequest::default()
        }
    }

    #[tokio::test]
    async fn bytes_arrive_whole_and_in_order() {
        let (mut left, mut right) = ends();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            left.write_all(&sent).await.unwrap();
            left.shutdown().await.unwrap();
            left
        });
        let mut received = Vec::new();
        right.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
        assert!(right.closed().is_cancelled());
        drop(writer.await.unwrap());
    }

    #[tokio::test]
    async fn calls_pass_through_the_tunnel_at_the_same_time() {
        let (left, right) = ends();
        let routes = Routes::new(SecretsServer::new(Echo));
        let server = tokio::spawn(serve_over(right, routes));
        let channel = client_over(left).await.unwrap();
        let calls = [0, 1, 100_000, 3_000_000].map(|length| {
            let mut client = SecretsClient::new(channel.clone());
            async move {
                client
                    .get_secret(ask(length))
                    .await
                    .unwrap()
                    .into_inner()
                    .data
                    .len()
            }
        });
        assert_eq!(
            futures::future::join_all(calls).await,
            [0, 1, 100_000, 3_000_000]
        );
        drop(channel);
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_call_fails_once_the_other_end_is_gone() {
        let (left, right) = ends();
        let server = tokio::spawn(serve_over(right, Routes::new(SecretsServer::new(Echo))));
        let closed = left.closed();
        let channel = client_over(left).await.unwrap();
        let mut client = SecretsClient::new(channel);
        client.get_secret(ask(1)).await.unwrap();
        server.abort();
        closed.cancelled().await;
        assert!(client.get_secret(ask(1)).await.is_err());
    }

    #[tokio::test]
    async fn a_pipe_carries_calls_of_several_clients() {
        let (connector, incoming) = crate::pipe::pipe();
        let server = tonic::transport::Server::builder()
            .serve_with_incoming(Routes::new(SecretsServer::new(Echo)), incoming);
        let server = tokio::spawn(server);
        for _ in 0..3 {
            let mut client = SecretsClient::new(connector.channel());
            assert_eq!(
                client
                    .get_secret(ask(9))
                    .await
                    .unwrap()
                    .into_inner()
                    .data
                    .len(),
                9
            );
        }
        drop(connector);
        server.await.unwrap().unwrap();
    }
}
