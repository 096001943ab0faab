//! Blobs and manifests on their way to a registry.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, StatusCode};
use oci::{Descriptor, Digest};
use reqwest::Response;
use url::Url;

use crate::Repository;
use crate::body::BlobSource;
use crate::error::{Class, RegistryError};
use crate::request::{Payload, Request, shown, succeeded};
use crate::resolve::slot;

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Exists,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Uploaded,
}

impl Repository {
    /// Makes the repository have the blob `descriptor`.
    ///
    /// `mount_from` are repositories of the same registry that may have it. `sent` counts the
    /// bytes on their way; it goes back to 0 when a transfer begins anew.
    ///
    /// # Errors
    /// When the registry refuses, or `source` cannot be read.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        mount_from: &[String],
        sent: &Arc<AtomicU64>,
    ) -> Result<Pushed, RegistryError> {
        if self.has_blob(descriptor).await? {
            return Ok(Pushed::Exists);
        }
        let _slot = slot(&self.origin().connections.transfer_slots).await;
        let others = mount_from
            .iter()
            .filter(|from| **from != self.reference.path);
        let mut upload = None;
        for from in others {
            let answer = match self.begin_upload(Some((descriptor.digest, from))).await {
                Ok(answer) => answer,
                // No right to read the other repository: the blob is sent instead.
                Err(error) if error.class() == Class::User => continue,
                Err(error) => return Err(error),
            };
            if answer.status() == StatusCode::CREATED {
                return Ok(Pushed::Mounted);
            }
            upload = Some(answer);
        }
        self.upload(descriptor, source, sent, upload).await?;
        Ok(Pushed::Uploaded)
    }

    async fn upload(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        sent: &Arc<AtomicU64>,
        begun: Option<Response>,
    ) -> Result<(), RegistryError> {
        let mut begun = begun;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let answer = match begun.take() {
                Some(answer) => answer,
                None => self.begin_upload(None).await?,
            };
            let url = upload_url(&answer, descriptor.digest)?;
            let mut request = Request::new(Method::PUT, url);
            request.headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            );
            request.payload = Payload::Blob {
                source,
                digest: descriptor.digest,
                size: descriptor.size,
                sent,
            };
            let answer = self.send(self.origin(), &request).await?;
            // An upload that was begun with a broken try is gone for some registries.
            let forgotten = answer.status() == StatusCode::NOT_FOUND
                || answer.status() == StatusCode::RANGE_NOT_SATISFIABLE;
            match self.shared.retry.wait(attempt, None) {
                Some(wait) if forgotten => tokio::time::sleep(wait).await,
                _ => {
                    succeeded(&Method::PUT, answer, || self.subject(descriptor)).await?;
                    return Ok(());
                }
            }
        }
    }

    /// Begins an upload, or has the blob mounted from another repository.
    async fn begin_upload(&self, mount: Option<(Digest, &str)>) -> Result<Response, RegistryError> {
        let mut url = self.origin().url(&self.reference.path, "blobs/uploads/")?;
        let mut more_scopes = Vec::new();
        if let Some((digest, from)) = mount {
            url.query_pairs_mut()
                .append_pair("mount", &digest.to_string())
                .append_pair("from", from);
            more_scopes.push(format!("repository:{from}:pull"));
        }
        let mut request = Request::new(Method::POST, url);
        request.more_scopes = more_scopes;
        let answer = self.send(self.origin(), &request).await?;
        succeeded(&Method::POST, answer, || self.reference.name()).await
    }

    /// Puts `manifest`, whose descriptor is `descriptor`, in the repository; under `tag`, or by
    /// its digest alone.
    ///
    /// # Errors
    /// When the registry refuses, e.g. because a blob is missing.
    pub async fn push_manifest(
        &self,
        descriptor: &Descriptor,
        manifest: Bytes,
        tag: Option<&str>,
    ) -> Result<Pushed, RegistryError> {
        let host = self.origin();
        let version = tag.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
        let url = host.url(&self.reference.path, &format!("manifests/{version}"))?;
        let kind =
            HeaderValue::from_str(&descriptor.media_type).map_err(|_| RegistryError::Invalid {
                subject: self.subject(descriptor),
                detail: format!("media type `{}` makes no header", descriptor.media_type),
            })?;
        let _slot = slot(&host.connections.request_slots).await;

        let mut request = Request::new(Method::HEAD, url.clone());
        request.headers.insert(ACCEPT, kind.clone());
        let answer = self.send(host, &request).await?;
        let there = answer.headers().get("docker-content-digest");
        if answer.status().is_success()
            && there.and_then(|d| d.to_str().ok()?.parse().ok()) == Some(descriptor.digest)
        {
            return Ok(Pushed::Exists);
        }

        let mut request = Request::new(Method::PUT, url);
        request.headers.insert(CONTENT_TYPE, kind);
        request.payload = Payload::Bytes(manifest);
        let answer = self.send(host, &request).await?;
        succeeded(&Method::PUT, answer, || self.subject(descriptor)).await?;
        Ok(Pushed::Uploaded)
    }

    fn subject(&self, descriptor: &Descriptor) -> String {
        format!("{}@{}", self.reference.name(), descriptor.digest)
    }
}

/// Where the blob goes: the `Location` of the answer that began the upload, with the digest.
fn upload_url(answer: &Response, digest: Digest) -> Result<Url, RegistryError> {
    let invalid = |detail: &str| RegistryError::Invalid {
        subject: shown(answer.url()),
        detail: detail.to_owned(),
    };
    let location = answer
        .headers()
        .get(LOCATION)
        .ok_or_else(|| invalid("no `Location`"))?;
    let location = location
        .to_str()
        .map_err(|_| invalid("`Location` is not text"))?;
    let mut url = answer
        .url()
        .join(location)
        .map_err(|_| invalid("`Location` is not a URL"))?;
    url.query_pairs_mut()
        .append_pair("digest", &digest.to_string());
    Ok(url)
}
