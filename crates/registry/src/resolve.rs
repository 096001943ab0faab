//! From a reference to a descriptor, and from a descriptor to a manifest.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use oci::{Descriptor, Digest, media_type};
use reqwest::Response;
use serde::Deserialize;

use crate::endpoint::Endpoint;
use crate::error::{RegistryError, Telling};
use crate::request::{Request, failed, read_bounded, shown, succeeded};
use crate::{MANIFEST_LIMIT, Repository};

const ACCEPTED: HeaderValue = HeaderValue::from_static(concat!(
    "application/vnd.docker.distribution.manifest.v2+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json, ",
    "application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.oci.image.index.v1+json, */*"
));

impl Repository {
    /// What the reference names now: its tag's manifest or index, or that of its digest.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when no host that was reached has it; else the failure of the
    /// host that got furthest.
    pub async fn resolve(&self) -> Result<Descriptor, RegistryError> {
        let version = self.reference.version();
        let mut telling = Telling::default();
        for host in self.hosts.iter() {
            match self.resolve_at(host, &version).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => telling.add(error),
            }
        }
        let subject = self.reference.clone().with_default_tag().to_string();
        Err(telling.of(subject))
    }

    async fn resolve_at(
        &self,
        host: &Endpoint,
        version: &str,
    ) -> Result<Descriptor, RegistryError> {
        let url = host.url(&self.reference.path, &format!("manifests/{version}"))?;
        let mut request = Request::new(Method::HEAD, url);
        request.headers.insert(ACCEPT, ACCEPTED);
        let _slot = slot(&host.connections.request_slots).await;
        let answer = self.send(host, &request).await?;
        let answer = succeeded(&Method::HEAD, answer, || self.reference.to_string()).await?;
        if let Some(descriptor) = told_by(answer.headers())
            && self
                .reference
                .digest
                .is_none_or(|want| want == descriptor.digest)
        {
            return Ok(descriptor);
        }
        // The headers do not say enough: the manifest itself does.
        request.method = Method::GET;
        let answer = self.send(host, &request).await?;
        let answer = succeeded(&Method::GET, answer, || self.reference.to_string()).await?;
        let stated = content_type(answer.headers());
        let body = self.read_manifest(answer).await?;
        let digest = Digest::of(&body);
        self.check(digest, self.reference.digest)?;
        let kind = kind_of(&body, stated.as_deref()).ok_or_else(|| RegistryError::Invalid {
            subject: shown(&request.url),
            detail: "neither a manifest nor an index".to_owned(),
        })?;
        Ok(Descriptor::new(kind, digest, body.len() as u64))
    }

    /// The manifest or index that `descriptor` names, its digest checked.
    ///
    /// # Errors
    /// As [`Repository::resolve`]; also when the bytes have another digest.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        let mut telling = Telling::default();
        for host in self.hosts.iter() {
            match self.manifest_at(host, descriptor).await {
                Ok(body) => return Ok(body),
                Err(error) => telling.add(error),
            }
        }
        Err(telling.of(format!("{}@{}", self.reference.name(), descriptor.digest)))
    }

    async fn manifest_at(
        &self,
        host: &Endpoint,
        descriptor: &Descriptor,
    ) -> Result<Bytes, RegistryError> {
        let rest = format!("manifests/{}", descriptor.digest);
        let mut request = Request::new(Method::GET, host.url(&self.reference.path, &rest)?);
        request.headers.insert(ACCEPT, ACCEPTED);
        let _slot = slot(&host.connections.request_slots).await;
        let answer = self.send(host, &request).await?;
        let answer = succeeded(&Method::GET, answer, || self.reference.to_string()).await?;
        let body = self.read_manifest(answer).await?;
        self.check(Digest::of(&body), Some(descriptor.digest))?;
        Ok(body)
    }

    async fn read_manifest(&self, answer: Response) -> Result<Bytes, RegistryError> {
        let url = answer.url().clone();
        if answer
            .content_length()
            .is_some_and(|length| length > MANIFEST_LIMIT)
        {
            let subject = format!("manifest of {}", self.reference);
            return Err(RegistryError::TooLarge {
                subject,
                limit: MANIFEST_LIMIT,
            });
        }
        read_bounded(answer, MANIFEST_LIMIT)
            .await
            .map_err(|source| failed(&Method::GET, &url, source))
    }

    fn check(&self, got: Digest, want: Option<Digest>) -> Result<(), RegistryError> {
        match want {
            Some(want) if want != got => {
                let subject = format!("manifest of {}", self.reference);
                Err(RegistryError::Digest { subject, want, got })
            }
            _ => Ok(()),
        }
    }
}

pub(crate) async fn slot(
    slots: &std::sync::Arc<tokio::sync::Semaphore>,
) -> tokio::sync::OwnedSemaphorePermit {
    slots
        .clone()
        .acquire_owned()
        .await
        .expect("the semaphores of this crate are never closed")
}

/// The descriptor that a `HEAD` answer's headers make, if they say all of it.
fn told_by(headers: &HeaderMap) -> Option<Descriptor> {
    let digest = headers
        .get("docker-content-digest")?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    let size = headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    let kind = content_type(headers).filter(|kind| is_manifest_type(kind))?;
    Some(Descriptor::new(kind, digest, size))
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_owned())
}

fn is_manifest_type(kind: &str) -> bool {
    [
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_INDEX,
        media_type::DOCKER_MANIFEST,
    ]
    .contains(&kind)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// The media type of a manifest or index: what it says, what the server says, or what it looks
/// like.
fn kind_of(body: &[u8], stated: Option<&str>) -> Option<String> {
    let shape: Shape = serde_json::from_slice(body).ok()?;
    let own = shape
        .media_type
        .as_deref()
        .into_iter()
        .chain(stated)
        .find(|k| is_manifest_type(k));
    match (own, shape.manifests, shape.config) {
        (Some(kind), ..) => Some(kind.to_owned()),
        (None, Some(_), _) => Some(media_type::OCI_INDEX.to_owned()),
        (None, None, Some(_)) => Some(media_type::OCI_MANIFEST.to_owned()),
        (None, None, None) => None,
    }
}
