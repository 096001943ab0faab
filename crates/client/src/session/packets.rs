//! Serves a streaming method whose messages are fsutil packets, which generated code does not know.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use filesync::wire::Packet;
use futures::stream::{BoxStream, StreamExt as _};
use rpc::MAX_MESSAGE_SIZE;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

/// Answers of a call, as they are made.
pub(super) type Answers<M> = BoxStream<'static, Result<M, Status>>;

/// A boxed future, as tower's services want it.
pub(super) type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers one call with the codec `C`.
pub(super) async fn answer<C, F, R>(
    codec: C,
    request: http::Request<Body>,
    method: F,
) -> http::Response<Body>
where
    C: Codec<Encode = <C as Codec>::Decode> + Default,
    C::Decode: Send + Sync + 'static,
    F: FnOnce(Request<Streaming<C::Decode>>) -> R + Send + Clone + 'static,
    R: Future<Output = Result<Answers<C::Decode>, Status>> + Send + 'static,
{
    let mut grpc = Grpc::new(codec)
        .apply_max_message_size_config(Some(MAX_MESSAGE_SIZE), Some(MAX_MESSAGE_SIZE));
    grpc.streaming(Method(method), request).await
}

struct Method<F>(F);

impl<M, F, R> StreamingService<M> for Method<F>
where
    F: FnOnce(Request<Streaming<M>>) -> R + Clone,
    R: Future<Output = Result<Answers<M>, Status>> + Send + 'static,
    M: Send + 'static,
{
    type Response = M;
    type ResponseStream = Answers<M>;
    type Future = Answer<Result<Response<Answers<M>>, Status>>;

    fn call(&mut self, request: Request<Streaming<M>>) -> Self::Future {
        let answers = (self.0.clone())(request);
        Box::pin(async move { Ok(Response::new(answers.await?)) })
    }
}

/// The packets of a transfer, ending in its error if it has one. Dropped, it stops the transfer.
pub(super) fn transfer<T, E>(
    packets: filesync::Packets,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Answers<Packet>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    let work = AbortOnDropHandle::new(tokio::spawn(work));
    let end = futures::stream::once(async move {
        match work.await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(Err(Status::unknown(rpc::status::chain(&error)))),
            Err(_) => Some(Err(Status::internal("a transfer was given up"))),
        }
    });
    packets
        .map(Ok)
        .chain(end.filter_map(|end| async { end }))
        .boxed()
}

/// A service of one method.
#[derive(Clone)]
pub(super) struct OneMethod<S> {
    pub(super) state: S,
}

/// What a [`OneMethod`] does.
pub(super) trait Serve: Clone + Send + Sync + 'static {
    /// The service's full name.
    const NAME: &'static str;
    /// The method's path.
    const PATH: &'static str;

    /// Answers one call.
    fn serve(self, request: http::Request<Body>) -> Answer<http::Response<Body>>;
}

impl<S: Serve> NamedService for OneMethod<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Serve> Service<http::Request<Body>> for OneMethod<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != S::PATH {
            let unknown = Status::unimplemented(format!("no method `{}`", request.uri().path()));
            return Box::pin(async move { Ok(unknown.into_http()) });
        }
        let answer = self.state.clone().serve(request);
        Box::pin(async move { Ok(answer.await) })
    }
}
