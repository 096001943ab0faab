//! One request: authorized, retried, and its failures told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::{HeaderMap, Method, StatusCode};
use oci::Digest;
use reqwest::Response;
use serde::Deserialize;
use url::Url;

use crate::Repository;
use crate::auth::{Purpose, denied};
use crate::body::BlobSource;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, TransportError, is_passing};

/// What is read of an error's body: enough for a sentence, whatever the registry sends.
const ERROR_LIMIT: u64 = 64 << 10;
/// Times that a request is sent again with new credentials: once for the challenge and once for
/// a token that ended or whose scope was too small.
const MAX_CHALLENGES: u32 = 2;

/// A request that can be sent more than once.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload<'a>,
    /// Scopes beside that of the repository.
    pub(crate) more_scopes: Vec<String>,
}

/// What is sent along.
pub(crate) enum Payload<'a> {
    /// Nothing; the answer is small.
    None,
    /// Nothing; the answer is a blob.
    Download,
    /// A small body.
    Bytes(Bytes),
    /// A blob.
    Blob {
        source: &'a dyn BlobSource,
        digest: Digest,
        size: u64,
        sent: &'a Arc<AtomicU64>,
    },
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, url: Url) -> Request<'a> {
        Request {
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::None,
            more_scopes: Vec::new(),
        }
    }

    fn is_transfer(&self) -> bool {
        matches!(self.payload, Payload::Download | Payload::Blob { .. })
    }
}

impl Repository {
    /// Sends `request` to `host`. An answer that may change is waited for, as often as the policy
    /// says; any other answer is given back whatever its status.
    pub(crate) async fn send(
        &self,
        host: &Endpoint,
        request: &Request<'_>,
    ) -> Result<Response, RegistryError> {
        let mut scopes = vec![host.scope(&self.scope)];
        scopes.extend(request.more_scopes.iter().cloned());
        let purpose = Purpose {
            credentials: &*self.credentials,
            host: &host.host,
            scopes,
            http: &host.connections.requests,
        };
        let mut attempt = 1;
        let mut challenges = 0;
        loop {
            let url = host.with_scheme(request.url.clone());
            let grant = if host.serves(&url) {
                self.shared.authorizer.header(&purpose).await?
            } else {
                None
            };
            let mut headers = request.headers.clone();
            if let Some(grant) = &grant {
                headers.insert(AUTHORIZATION, grant.clone());
            }
            let call = self.build(host, request, url.clone(), headers).await?;
            let wait = match call.send().await {
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => {
                    challenges += 1;
                    let headers = answer.headers().clone();
                    let detail = refusal(answer).await;
                    if challenges > MAX_CHALLENGES || !host.serves(&url) {
                        return Err(denied(&purpose, &detail));
                    }
                    self.shared
                        .authorizer
                        .refused(&purpose, &headers, grant.as_ref(), &detail)
                        .await?;
                    continue;
                }
                Ok(answer) if is_passing(answer.status()) => {
                    let wait = self.shared.retry.wait(attempt, Some(answer.headers()));
                    let Some(wait) = wait else { return Ok(answer) };
                    tracing::debug!(%url, status = %answer.status(), "request is sent again");
                    wait
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let source = TransportError::of(&error, &address(&url));
                    if source.not_tls && host.turns_out_plain() {
                        continue;
                    }
                    let wait = self.shared.retry.wait(attempt, None);
                    // Another host is there to be asked: that is quicker than waiting.
                    let last = std::ptr::eq(host, self.origin());
                    let (Some(wait), false) = (wait, error.is_connect() && !last) else {
                        return Err(failed(&request.method, &url, source));
                    };
                    tracing::debug!(%url, error = %source, "request is sent again");
                    wait
                }
            };
            attempt += 1;
            tokio::time::sleep(wait).await;
        }
    }

    async fn build(
        &self,
        host: &Endpoint,
        request: &Request<'_>,
        url: Url,
        headers: HeaderMap,
    ) -> Result<reqwest::RequestBuilder, RegistryError> {
        let connections = &host.connections;
        let client = if request.is_transfer() {
            &connections.transfers
        } else {
            &connections.requests
        };
        let call = client.request(request.method.clone(), url).headers(headers);
        Ok(match &request.payload {
            // Some servers want a length even for nothing.
            Payload::None if request.method == Method::POST => call.header(CONTENT_LENGTH, 0),
            Payload::None | Payload::Download => call,
            Payload::Bytes(bytes) => call.body(bytes.clone()),
            Payload::Blob {
                source,
                digest,
                size,
                sent,
            } => {
                let error = |source| RegistryError::Source {
                    digest: *digest,
                    source,
                };
                let stream = source.open().await.map_err(error)?;
                let sent = Arc::clone(sent);
                sent.store(0, Ordering::Relaxed);
                let counted = stream.inspect(move |chunk| {
                    if let Ok(bytes) = chunk {
                        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                });
                call.header(CONTENT_LENGTH, *size)
                    .body(reqwest::Body::wrap_stream(counted))
            }
        })
    }
}

/// `answer`, or its status as an error.
pub(crate) async fn succeeded(
    method: &Method,
    answer: Response,
    subject: impl FnOnce() -> String,
) -> Result<Response, RegistryError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    if status == StatusCode::NOT_FOUND {
        return Err(RegistryError::NotFound { subject: subject() });
    }
    let url = shown(answer.url());
    let body = read_bounded(answer, ERROR_LIMIT).await.unwrap_or_default();
    Err(RegistryError::Status {
        method: method.to_string(),
        url,
        status,
        detail: error_detail(&body),
    })
}

/// The error of a request that got no answer.
pub(crate) fn failed(method: &Method, url: &Url, source: TransportError) -> RegistryError {
    let method = match *method {
        Method::GET => "Get",
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PUT => "Put",
        _ => "Send",
    };
    RegistryError::Request {
        method,
        url: shown(url),
        source,
    }
}

/// `url` as people see it: what follows `?` may hold a signature.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

pub(crate) fn address(url: &Url) -> String {
    let port = url
        .port_or_known_default()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_bounded(
    mut answer: Response,
    limit: u64,
) -> Result<Bytes, TransportError> {
    let address = address(answer.url());
    let mut body = BytesMut::new();
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(|e| TransportError::of(&e, &address))?
    {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(TransportError::new(format!(
                "the answer is larger than {limit} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What the body of an error says, with `: ` in front, or nothing.
pub(crate) fn error_detail(body: &[u8]) -> String {
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else {
        return String::new();
    };
    errors
        .errors
        .iter()
        .map(
            |e| match (e.code.to_lowercase().replace('_', " "), e.message.trim()) {
                (code, "") => format!(": {code}"),
                (code, message) => format!(": {code}: {message}"),
            },
        )
        .collect()
}

async fn refusal(answer: Response) -> String {
    let error = match crate::challenge::Challenge::of(answer.headers()) {
        Some(crate::challenge::Challenge::Bearer { error, .. }) if !error.is_empty() => {
            format!("server message: {error}: ")
        }
        _ => String::new(),
    };
    let body = read_bounded(answer, ERROR_LIMIT).await.unwrap_or_default();
    format!("{error}authorization failed{}", error_detail(&body))
}
