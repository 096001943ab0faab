//! Carries a worker's calls to the sessions of clients.
//!
//! A worker is not connected to the client. It calls through the tunnel that the engine opened to
//! it, and names the session in [`HEADER`]; here the call goes on, body and trailers unread.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use spans::Recorder;
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use crate::Sessions;
use crate::registry::gone;

/// The header that names the session a call is for.
pub const HEADER: &str = "drydock-session";

/// How long a call waits for a session that is only about to open (BuildKit's callers wait as long).
const WAIT: Duration = Duration::from_secs(5);

/// The service that an engine serves in a worker's tunnel.
#[derive(Clone)]
pub struct Proxy {
    sessions: Sessions,
    recorder: Option<Recorder>,
}

impl Proxy {
    /// Carries calls to `sessions`.
    pub fn new(sessions: Sessions) -> Proxy {
        Proxy {
            sessions,
            recorder: None,
        }
    }

    /// Records the calls to sessions that belong to a trace.
    #[must_use]
    pub fn recorded(self, recorder: Recorder) -> Proxy {
        Proxy {
            recorder: Some(recorder),
            ..self
        }
    }
}

impl Service<http::Request<Body>> for Proxy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let proxy = self.clone();
        async move {
            Ok(forward(&proxy, request)
                .await
                .unwrap_or_else(Status::into_http))
        }
        .boxed()
    }
}

async fn forward(
    proxy: &Proxy,
    mut request: http::Request<Body>,
) -> Result<http::Response<Body>, Status> {
    let id = request
        .headers_mut()
        .remove(HEADER)
        .and_then(|value| value.to_str().map(str::to_owned).ok())
        .ok_or_else(|| Status::invalid_argument("the call names no session"))?;
    let session = proxy.sessions.get(&id, WAIT).await.map_err(|_| gone(&id))?;
    let path = request.uri().path();
    if !session.supports(path) {
        return Err(Status::unimplemented(format!(
            "session {id} does not serve {path}"
        )));
    }
    let closed = session.closed();
    let channel = session.channel();
    let call = match (&proxy.recorder, &session.identity.trace) {
        (Some(recorder), Some(trace)) => {
            let path = path.to_owned();
            recorder
                .calling(trace, &path, channel)
                .oneshot(request)
                .boxed()
        }
        _ => channel.oneshot(request).boxed(),
    };
    tokio::select! {
        response = call => {
            response.map_err(|error| Status::unavailable(format!("session {id}: {error}")))
        }
        () = closed.cancelled() => Err(gone(&id)),
    }
}
