//! Files behind URLs.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use oci::{Digest, Hasher, redact_url};
use registry::{BlobStream, Progress, Secret, TransportError};
use reqwest::header::{
    AUTHORIZATION, CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use snapshot::{Active, Snapshots};
use sys::root::Follow;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use url::Url;

use crate::disposition::file_name;
use crate::error::HttpError;
use crate::pipe;

/// The largest file that is taken. It is only to keep an endless answer from filling the disk.
const MAX_FILE: u64 = 64 << 30;
/// URLs whose validators are remembered.
const MAX_KNOWN: usize = 1024;
/// Downloads that wait to be used.
const MAX_PENDING: usize = 64;
/// The permissions of a file for which none are asked.
const DEFAULT_PERM: u32 = 0o600;

/// A file to fetch.
#[derive(Clone, Default)]
pub struct HttpRequest {
    /// Where it is.
    pub url: String,
    /// What it must be.
    pub checksum: Option<Digest>,
    /// What it is to be called.
    pub filename: Option<String>,
    /// Its permissions.
    pub perm: Option<u32>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// `accept` and `user-agent`, sorted by name; others are not sent.
    pub headers: Vec<(String, String)>,
    /// The name of the secret that authorizes the request: part of the identity.
    pub auth_secret: Option<String>,
    /// The value of the header `Authorization`.
    pub authorization: Option<Secret>,
}

/// What a URL stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPin {
    /// The identity of the result.
    pub id: Digest,
    /// The digest of the file's content.
    pub digest: Digest,
    /// What it is called.
    pub filename: String,
    /// When it was last changed, if the server says.
    pub last_modified: Option<OffsetDateTime>,
}

/// Fetches files; remembers validators, so that what did not change is not fetched again. Clones
/// share what they remember.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    snapshots: Snapshots,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    known: HashMap<Digest, Known>,
    /// Layers by id, fetched to find out the id; the oldest goes first.
    pending: VecDeque<(Digest, Active)>,
}

#[derive(Clone)]
struct Known {
    etag: String,
    pin: HttpPin,
}

/// What tells two downloads apart (BuildKit: `source/http/source.go`).
#[derive(Serialize)]
struct Identity<'a> {
    filename: &'a str,
    perm: Option<u32>,
    uid: u32,
    gid: u32,
    checksum: Option<Digest>,
    last_modified: Option<i64>,
    auth_secret: Option<&'a str>,
    headers: &'a [(String, String)],
}

impl Http {
    /// Fetches with `client` and unpacks to layers of `snapshots`.
    pub fn new(client: reqwest::Client, snapshots: Snapshots) -> Http {
        Http {
            client,
            snapshots,
            state: Arc::default(),
        }
    }

    /// Finds out what `request` stands for. With a checksum nothing is asked; else the file is
    /// fetched unless the server says that it is the one of last time.
    ///
    /// # Errors
    /// When the server cannot be reached or does not have the file.
    pub async fn pin(
        &self,
        request: &HttpRequest,
        progress: &Progress,
    ) -> Result<HttpPin, HttpError> {
        let url = parse(&request.url)?;
        if let Some(digest) = request.checksum {
            return Ok(request.pin(file_name(&url, request.name(), None), digest, None));
        }
        let key = request.key();
        let known = self.lock().known.get(&key).cloned();
        if let Some(known) = &known
            && self.is_current(&url, request, known).await
        {
            return Ok(known.pin.clone());
        }
        let mut headers = request.header_map();
        if let Some(known) = &known
            && let Ok(value) = HeaderValue::from_str(&known.etag)
        {
            headers.insert(IF_NONE_MATCH, value);
        }
        let answer = self.send(Method::GET, &url, headers).await?;
        if answer.status() == StatusCode::NOT_MODIFIED
            && let Some(known) = known
        {
            return Ok(known.pin);
        }
        let etag = header(&answer, ETAG);
        let (pin, active) = self.download(&url, request, answer, progress).await?;
        self.remember(key, etag, &pin);
        self.keep(pin.id, active);
        Ok(pin)
    }

    /// A layer with the file that `id` was given to by [`Http::pin`].
    ///
    /// # Errors
    /// As [`Http::pin`]; also when the file is no longer the same.
    pub async fn fetch(
        &self,
        request: &HttpRequest,
        id: Digest,
        progress: &Progress,
    ) -> Result<Active, HttpError> {
        if let Some(active) = self.take(id) {
            return Ok(active);
        }
        let url = parse(&request.url)?;
        let answer = self.send(Method::GET, &url, request.header_map()).await?;
        let etag = header(&answer, ETAG);
        let (pin, active) = self.download(&url, request, answer, progress).await?;
        self.remember(request.key(), etag, &pin);
        if pin.id != id {
            return Err(HttpError::Changed(shown(&url)));
        }
        Ok(active)
    }

    /// A layer with the bytes of `body` as the file that `request` describes: what a client
    /// uploads has a URL, but is not behind it.
    ///
    /// # Errors
    /// When the upload breaks off or cannot be kept.
    pub async fn take_upload(
        &self,
        request: &HttpRequest,
        body: BlobStream,
        progress: &Progress,
    ) -> Result<HttpPin, HttpError> {
        let url = parse(&request.url)?;
        let name = file_name(&url, request.name(), None);
        let (pin, active) = self
            .store(&url, request, (name, None), body, 0, progress)
            .await?;
        self.keep(pin.id, active);
        Ok(pin)
    }

    /// Some servers do not understand `If-None-Match`; but most tell the validator for a `HEAD`.
    async fn is_current(&self, url: &Url, request: &HttpRequest, known: &Known) -> bool {
        let mut headers = request.header_map();
        if let Ok(value) = HeaderValue::from_str(&known.etag) {
            headers.insert(IF_NONE_MATCH, value);
        }
        let Ok(answer) = self.send(Method::HEAD, url, headers).await else {
            return false;
        };
        match (answer.status(), header(&answer, ETAG)) {
            (StatusCode::NOT_MODIFIED, None) => true,
            (StatusCode::NOT_MODIFIED | StatusCode::OK, Some(etag)) => {
                strong(&etag) == strong(&known.etag)
            }
            _ => false,
        }
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response, HttpError> {
        let answer = self
            .client
            .request(method, url.clone())
            .headers(headers)
            .send()
            .await;
        let answer = answer.map_err(|error| failed(url, &error))?;
        let status = answer.status();
        if status.is_client_error() || status.is_server_error() {
            return Err(HttpError::Status {
                url: shown(url),
                status: status.as_u16(),
            });
        }
        Ok(answer)
    }

    async fn download(
        &self,
        url: &Url,
        request: &HttpRequest,
        answer: Response,
        progress: &Progress,
    ) -> Result<(HttpPin, Active), HttpError> {
        let disposition = header(&answer, CONTENT_DISPOSITION);
        let name = file_name(url, request.name(), disposition.as_deref());
        let last_modified = header(&answer, LAST_MODIFIED).and_then(|text| http_date(&text));
        let total = answer.content_length().unwrap_or(0);
        let body = answer
            .bytes_stream()
            .map(|chunk| chunk.map_err(std::io::Error::other))
            .boxed();
        self.store(url, request, (name, last_modified), body, total, progress)
            .await
    }

    /// Writes the file to a new layer while it comes in.
    async fn store(
        &self,
        url: &Url,
        request: &HttpRequest,
        (name, last_modified): (String, Option<OffsetDateTime>),
        mut body: BlobStream,
        total: u64,
        progress: &Progress,
    ) -> Result<(HttpPin, Active), HttpError> {
        let item = progress.begin(format!("fetching {}", shown(url)), total);
        let (feed, reader) = pipe::feed();
        let file = File {
            name: name.clone(),
            perm: request.perm.unwrap_or(DEFAULT_PERM),
            owner: (request.uid, request.gid),
            last_modified,
        };
        let snapshots = self.snapshots.clone();
        let writer = tokio::task::spawn_blocking(move || file.write(&snapshots, reader));
        let mut size = 0;
        let mut broken = None;
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) if chunk.is_empty() => continue,
                Ok(chunk) => {
                    size += chunk.len() as u64;
                    if size > MAX_FILE {
                        let url = shown(url);
                        return Err(HttpError::TooLarge {
                            url,
                            limit: MAX_FILE,
                        });
                    }
                    item.add(chunk.len() as u64);
                    if !feed.send(Ok::<Bytes, _>(chunk)).await {
                        break;
                    }
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = broken {
            return Err(HttpError::Request {
                url: shown(url),
                source: transport(url, &error),
            });
        }
        feed.finish().await;
        let written = writer.await.map_err(|source| stored(url, source))?;
        let (active, digest) = written.map_err(|source| stored(url, source))?;
        if let Some(want) = request.checksum
            && want != digest
        {
            return Err(HttpError::Digest {
                url: shown(url),
                got: digest,
                want,
            });
        }
        // A checksum is an identity of its own, whatever the server says of times.
        let last_modified = last_modified.filter(|_| request.checksum.is_none());
        Ok((request.pin(name, digest, last_modified), active))
    }

    fn remember(&self, key: Digest, etag: Option<String>, pin: &HttpPin) {
        let mut state = self.lock();
        if state.known.len() >= MAX_KNOWN {
            state.known.clear();
        }
        match etag {
            Some(etag) => state.known.insert(
                key,
                Known {
                    etag,
                    pin: pin.clone(),
                },
            ),
            None => state.known.remove(&key),
        };
    }

    fn keep(&self, id: Digest, active: Active) {
        let oldest = {
            let mut state = self.lock();
            state.pending.push_back((id, active));
            if state.pending.len() > MAX_PENDING {
                state.pending.pop_front()
            } else {
                None
            }
        };
        // Its files are removed without the lock.
        drop(oldest);
    }

    fn take(&self, id: Digest) -> Option<Active> {
        let mut state = self.lock();
        let at = state
            .pending
            .iter()
            .position(|(pending, _)| *pending == id)?;
        state.pending.remove(at).map(|(_, active)| active)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while the lock is held; were it so, the maps would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpRequest {
    fn name(&self) -> Option<&str> {
        self.filename.as_deref()
    }

    fn header_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value))
                && matches!(name.as_str(), "accept" | "user-agent")
            {
                map.insert(name, value);
            }
        }
        if let Some(secret) = &self.authorization
            && let Ok(mut value) = HeaderValue::from_str(secret.expose())
        {
            value.set_sensitive(true);
            map.insert(AUTHORIZATION, value);
        }
        map
    }

    /// What tells this request from others of the same URL.
    fn key(&self) -> Digest {
        let name = format!("{}\0{}", self.url, self.name().unwrap_or_default());
        self.identity(&name, None, None)
    }

    fn pin(
        &self,
        filename: String,
        digest: Digest,
        last_modified: Option<OffsetDateTime>,
    ) -> HttpPin {
        let id = self.identity(&filename, Some(digest), last_modified);
        HttpPin {
            id,
            digest,
            filename,
            last_modified,
        }
    }

    fn identity(
        &self,
        filename: &str,
        checksum: Option<Digest>,
        last_modified: Option<OffsetDateTime>,
    ) -> Digest {
        let identity = Identity {
            filename,
            perm: self.perm,
            uid: self.uid,
            gid: self.gid,
            checksum,
            last_modified: last_modified.map(OffsetDateTime::unix_timestamp),
            auth_secret: self.auth_secret.as_deref(),
            headers: &self.headers,
        };
        let mut text = b"drydock.http.v0:".to_vec();
        let json = serde_json::to_vec(&identity).expect("strings and numbers are valid JSON");
        text.extend_from_slice(&json);
        Digest::of(text)
    }
}

/// A file to write to a layer of its own.
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) perm: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) last_modified: Option<OffsetDateTime>,
}

impl File {
    /// Writes all of `from` to it; gives the layer, and the digest of what was written.
    pub(crate) fn write(
        self,
        snapshots: &Snapshots,
        mut from: impl Read,
    ) -> Result<(Active, Digest), Box<dyn std::error::Error + Send + Sync>> {
        let active = snapshots.prepare(&[])?;
        let root = active.fs()?;
        let path = Path::new(&self.name);
        let mut hasher = Hasher::new();
        let mut file = root.create(path, self.perm, true)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count])?;
        }
        drop(file);
        root.chown(path, self.owner.0, self.owner.1, Follow::No)?;
        root.chmod(path, self.perm)?;
        // A server that does not say when the file was changed gives one of 1970: the same
        // content gives the same layer.
        let changed = self
            .last_modified
            .map_or(0, OffsetDateTime::unix_timestamp_nanos);
        let changed = i64::try_from(changed).unwrap_or(0);
        root.set_mtime(path, changed, Follow::No)?;
        root.set_mtime(Path::new("/"), changed, Follow::No)?;
        Ok((active, hasher.finish()))
    }
}

fn parse(url: &str) -> Result<Url, HttpError> {
    let refused = || HttpError::Url(redact_url(url));
    let parsed = Url::parse(url).map_err(|_| refused())?;
    match parsed.scheme() {
        "http" | "https" => Ok(parsed),
        _ => Err(refused()),
    }
}

/// `url` as people see it: credentials in it are hidden, and what follows `?` may be a signature.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    redact_url(url.as_str())
}

fn header(answer: &Response, name: HeaderName) -> Option<String> {
    answer.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// A validator, compared as if it were strong.
fn strong(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn http_date(text: &str) -> Option<OffsetDateTime> {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    PrimitiveDateTime::parse(text, format)
        .ok()
        .map(PrimitiveDateTime::assume_utc)
}

fn failed(url: &Url, error: &reqwest::Error) -> HttpError {
    let address = format!(
        "{}:{}",
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or_default()
    );
    HttpError::Request {
        url: shown(url),
        source: TransportError::of(error, &address),
    }
}

fn transport(url: &Url, error: &std::io::Error) -> TransportError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<reqwest::Error>())
    {
        Some(inner) => TransportError::of(inner, url.host_str().unwrap_or_default()),
        None => TransportError::new(error.to_string()),
    }
}

fn stored(url: &Url, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HttpError {
    HttpError::Store {
        url: shown(url),
        source: source.into(),
    }
}
