//! A span for each call that a client makes within a trace.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::{Kind, Recorder, Span, SpanContext};

/// The call that a build is: it gets a trace of its own if its client has none.
const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";

/// By which spans are sent: no spans of those.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Records the calls of a server. What is served finds its [`SpanContext`] among the extensions of the
/// request.
#[derive(Clone)]
pub struct Serving(Recorder);

impl Recorder {
    /// Records the calls that come in.
    pub fn layer(&self) -> Serving {
        Serving(self.clone())
    }

    /// The span of a call that comes in; none if nobody would read it.
    fn begin(&self, path: &str, headers: &HeaderMap) -> Option<Call> {
        if path == EXPORT {
            return None;
        }
        let parent = SpanContext::from_headers(headers);
        let context = match &parent {
            Some(parent) if !parent.is_sampled() => return None,
            Some(parent) => parent.child(),
            None if path == SOLVE || self.exports() => SpanContext::root(),
            None => return None,
        };
        Some(Call {
            recorder: self.clone(),
            parent,
            context,
            kind: Kind::Server,
            method: path.trim_start_matches('/').to_owned(),
            start: SystemTime::now(),
            code: Code::Cancelled,
        })
    }

    /// The span of a call to somebody else, made for `parent`.
    ///
    /// The answer is the span and what is to be called instead of a `channel`.
    pub fn calling<S>(&self, parent: &SpanContext, method: &str, inner: S) -> Calling<S> {
        let context = parent.child();
        Calling {
            inner,
            call: Some(Call {
                recorder: self.clone(),
                parent: Some(*parent),
                context,
                kind: Kind::Client,
                method: method.trim_start_matches('/').to_owned(),
                start: SystemTime::now(),
                code: Code::Cancelled,
            }),
        }
    }
}

impl<S> Layer<S> for Serving {
    type Service = Served<S>;

    fn layer(&self, inner: S) -> Served<S> {
        Served {
            inner,
            recorder: self.0.clone(),
        }
    }
}

/// A service whose calls are recorded.
#[derive(Clone)]
pub struct Served<S> {
    inner: S,
    recorder: Recorder,
}

impl<S, B> Service<Request<B>> for Served<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let call = self.recorder.begin(request.uri().path(), request.headers());
        if let Some(call) = &call {
            request.extensions_mut().insert(call.context);
        }
        let answer = self.inner.call(request);
        match call {
            None => Box::pin(answer),
            Some(call) => Box::pin(async move { Ok(call.follow(answer.await?)) }),
        }
    }
}

/// A call that is under way; its span is recorded when it is dropped.
struct Call {
    recorder: Recorder,
    parent: Option<SpanContext>,
    context: SpanContext,
    kind: Kind,
    /// `package.Service/Method`.
    method: String,
    start: SystemTime,
    /// How it ended; cancelled until it is known.
    code: Code,
}

impl Call {
    /// Follows an answer to its end.
    fn follow(mut self, answer: Response<Body>) -> Response<Body> {
        // An answer without a body says in its headers how the call ended.
        self.note(answer.headers());
        answer.map(|body| Body::new(Answer { body, call: self }))
    }

    fn note(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.code = status.code();
        }
    }

    /// Whether it is the called side's fault that the call ended so; for a client any failure counts.
    fn failed(&self) -> bool {
        match self.kind {
            Kind::Server => matches!(
                self.code,
                Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Unimplemented
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            ),
            Kind::Client | Kind::Internal => self.code != Code::Ok,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = name(self.code);
        self.recorder.record(vec![Span {
            context: self.context,
            parent: self.parent,
            kind: self.kind,
            name: self.method.clone(),
            start: self.start,
            end: SystemTime::now(),
            attributes: vec![
                ("rpc.method", std::mem::take(&mut self.method)),
                ("rpc.system.name", "grpc".to_owned()),
                ("rpc.response.status_code", code.to_owned()),
            ],
            error: self.failed().then(|| code.to_owned()),
        }]);
    }
}

/// The body of an answer, with how the call ended behind it.
struct Answer {
    body: Body,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.note(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.code = status.code(),
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A service that is called once, within a span.
pub struct Calling<S> {
    inner: S,
    call: Option<Call>,
}

impl<S, B> Service<Request<B>> for Calling<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let call = self.call.take();
        let value = call.as_ref().map(|call| call.context.traceparent());
        if let Some(Ok(value)) = value.map(|text| text.parse()) {
            request.headers_mut().insert(crate::context::HEADER, value);
        }
        let answer = self.inner.call(request);
        match call {
            None => Box::pin(answer),
            Some(call) => Box::pin(async move { Ok(call.follow(answer.await?)) }),
        }
    }
}

/// How a code is called in traces.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
