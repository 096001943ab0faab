//! Blobs on their way from a registry.

use std::io;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::header::{CONTENT_LENGTH, RANGE};
use http::{HeaderValue, Method, StatusCode};
use oci::{Descriptor, Digest, Hasher};
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;

use crate::Repository;
use crate::body::BlobStream;
use crate::error::{RegistryError, Telling, TransportError};
use crate::request::{Payload, Request, address, failed, succeeded};
use crate::resolve::slot;

/// A blob that is being pulled.
///
/// A transfer that breaks is resumed where it broke. The last chunk is given out only when size
/// and digest are right, so what was read whole is right.
pub struct BlobReader {
    repository: Repository,
    descriptor: Descriptor,
    /// The host that serves the blob.
    host: usize,
    answer: Option<Response>,
    /// Bytes of the blob that were taken in.
    offset: u64,
    /// Bytes at the start of `answer` that were already taken in before it.
    skip: u64,
    hasher: Hasher,
    /// Tries in a row that brought no byte.
    attempts: u32,
    done: bool,
    _slot: OwnedSemaphorePermit,
}

impl Repository {
    /// Whether the registry has the blob `descriptor` in this repository.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, RegistryError> {
        let host = self.origin();
        let url = host.url(
            &self.reference.path,
            &format!("blobs/{}", descriptor.digest),
        )?;
        let _slot = slot(&host.connections.request_slots).await;
        let answer = self.send(host, &Request::new(Method::HEAD, url)).await?;
        match succeeded(&Method::HEAD, answer, String::new).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Finds out how large the blob `digest` is.
    ///
    /// # Errors
    /// When no host has it, or one does not say.
    pub async fn find_blob(&self, digest: Digest) -> Result<Descriptor, RegistryError> {
        let subject = || format!("{}@{digest}", self.reference.name());
        let mut telling = Telling::default();
        for host in self.hosts.iter() {
            let url = host.url(&self.reference.path, &format!("blobs/{digest}"))?;
            let _slot = slot(&host.connections.request_slots).await;
            let answer = self.send(host, &Request::new(Method::HEAD, url)).await;
            let answer = match answer {
                Ok(answer) => succeeded(&Method::HEAD, answer, subject).await,
                Err(error) => Err(error),
            };
            let size = |answer: &Response| {
                let value = answer.headers().get(CONTENT_LENGTH)?;
                value.to_str().ok()?.parse().ok()
            };
            match answer.map(|answer| size(&answer)) {
                Ok(Some(size)) => {
                    let kind = "application/octet-stream";
                    return Ok(Descriptor::new(kind, digest, size));
                }
                Ok(None) => {}
                Err(error) => telling.add(error),
            }
        }
        Err(telling.of(subject()))
    }

    /// Begins to pull the blob `descriptor`. Waits while as many transfers as allowed are under
    /// way with the host.
    ///
    /// # Errors
    /// As [`Repository::resolve`].
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<BlobReader, RegistryError> {
        let mut telling = Telling::default();
        for (index, host) in self.hosts.iter().enumerate() {
            let slot = slot(&host.connections.transfer_slots).await;
            match self.open_blob(index, descriptor, 0).await {
                Ok((answer, _)) => {
                    return Ok(BlobReader {
                        repository: self.clone(),
                        descriptor: descriptor.clone(),
                        host: index,
                        answer: Some(answer),
                        offset: 0,
                        skip: 0,
                        hasher: Hasher::new(),
                        attempts: 0,
                        done: false,
                        _slot: slot,
                    });
                }
                Err(error) => telling.add(error),
            }
        }
        let subject = format!("{}@{}", self.reference.name(), descriptor.digest);
        Err(telling.of(subject))
    }

    /// The blob from `offset` on, and how many bytes before `offset` the answer repeats.
    async fn open_blob(
        &self,
        host: usize,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<(Response, u64), RegistryError> {
        let host = &self.hosts[host];
        let url = host.url(
            &self.reference.path,
            &format!("blobs/{}", descriptor.digest),
        )?;
        let mut request = Request::new(Method::GET, url);
        request.payload = Payload::Download;
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"))
                .expect("digits make a header value");
            request.headers.insert(RANGE, range);
        }
        let answer = self.send(host, &request).await?;
        let answer = succeeded(&Method::GET, answer, || {
            format!("{}@{}", self.reference.name(), descriptor.digest)
        })
        .await?;
        let repeats = if answer.status() == StatusCode::PARTIAL_CONTENT {
            0
        } else {
            offset
        };
        Ok((answer, repeats))
    }
}

impl BlobReader {
    /// The blob's next bytes, `None` at its end.
    ///
    /// # Errors
    /// When the transfer breaks and cannot be resumed, or the bytes are not those of the
    /// descriptor. What was read until then must be thrown away.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.offset == self.descriptor.size {
                return self.finish().map(|()| None);
            }
            if self.answer.is_none() {
                let host = self.host;
                let (answer, skip) = self
                    .repository
                    .open_blob(host, &self.descriptor, self.offset)
                    .await?;
                (self.answer, self.skip) = (Some(answer), skip);
            }
            let Some(answer) = self.answer.as_mut() else {
                continue;
            };
            match answer.chunk().await {
                Ok(Some(chunk)) => {
                    if let Some(chunk) = self.take(chunk)? {
                        return Ok(Some(chunk));
                    }
                }
                Ok(None) => self.broke(TransportError::new("unexpected EOF")).await?,
                Err(error) => {
                    let address = address(answer.url());
                    self.broke(TransportError::of(&error, &address)).await?;
                }
            }
        }
    }

    /// The blob as a stream, for handing it on to another registry.
    pub fn into_stream(self) -> BlobStream {
        stream::try_unfold(self, |mut reader| async move {
            let chunk = reader.chunk().await.map_err(io::Error::other)?;
            Ok(chunk.map(|chunk| (chunk, reader)))
        })
        .boxed()
    }

    fn take(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let repeated = self.skip.min(chunk.len() as u64);
        self.skip -= repeated;
        let chunk = chunk.split_off(usize::try_from(repeated).unwrap_or(chunk.len()));
        if chunk.is_empty() {
            return Ok(None);
        }
        self.attempts = 0;
        self.offset += chunk.len() as u64;
        if self.offset > self.descriptor.size {
            return Err(self.wrong_size());
        }
        self.hasher.update(&chunk);
        if self.offset == self.descriptor.size {
            self.finish()?;
        }
        Ok(Some(chunk))
    }

    fn finish(&mut self) -> Result<(), RegistryError> {
        if self.done {
            return Ok(());
        }
        let got = std::mem::take(&mut self.hasher).finish();
        let want = self.descriptor.digest;
        if got != want {
            return Err(RegistryError::Digest {
                subject: self.subject(),
                want,
                got,
            });
        }
        (self.done, self.answer) = (true, None);
        Ok(())
    }

    /// Takes in that the transfer broke, and waits before it is resumed.
    async fn broke(&mut self, source: TransportError) -> Result<(), RegistryError> {
        let url = self.answer.take().map(|answer| answer.url().clone());
        self.attempts += 1;
        match self.repository.shared.retry.wait(self.attempts, None) {
            Some(wait) => {
                let digest = self.descriptor.digest;
                tracing::debug!(%digest, offset = self.offset, error = %source, "pull is resumed");
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => Err(match url {
                Some(url) => failed(&Method::GET, &url, source),
                None => self.wrong_size(),
            }),
        }
    }

    fn wrong_size(&self) -> RegistryError {
        RegistryError::Size {
            subject: self.subject(),
            want: self.descriptor.size,
            got: self.offset,
        }
    }

    fn subject(&self) -> String {
        format!(
            "{}@{}",
            self.repository.reference.name(),
            self.descriptor.digest
        )
    }
}
