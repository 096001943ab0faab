//! Where a build cache is: a repository of a registry, or a directory of the client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::{Bytes, BytesMut};
use exporter::Carried;
use futures::{StreamExt as _, TryStreamExt as _};
use oci::{Descriptor, Digest, Reference};
use registry::{Access, MANIFEST_LIMIT, Origin, Repository};
use session::SessionCalls;

use super::STORE_PREFIX;
use crate::credentials::SessionCredentials;
use crate::failure::{Failure, chain};
use crate::sessions::Sessions;
use crate::state::Shared;

/// A place for build caches.
pub(super) enum Place {
    Registry(Repository),
    Client { calls: SessionCalls, store: String },
}

/// What somebody wants to do there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

impl Place {
    /// The place that the attributes of a build cache of this kind name.
    pub(super) fn open(
        shared: &Shared,
        kind: &str,
        attrs: &BTreeMap<String, String>,
        sessions: &Sessions,
        what: Use,
    ) -> Result<Place, Failure> {
        match kind {
            "registry" => registry(shared, attrs, sessions, what),
            "local" => {
                let (key, word) = match what {
                    Use::Read => ("src", "importer"),
                    Use::Write => ("dest", "exporter"),
                };
                let store = attrs.get(key).filter(|store| !store.is_empty());
                let store = store
                    .ok_or_else(|| Failure::user(format!("local cache {word} requires {key}")))?;
                let id = sessions.ids().first().cloned().ok_or_else(|| {
                    Failure::user("local cache exporter/importer requires session")
                })?;
                Ok(Place::Client {
                    calls: sessions.calls(&id)?,
                    store: format!("{STORE_PREFIX}{store}"),
                })
            }
            other => Err(Failure::user(format!(
                "unknown cache importer: \"{other}\""
            ))),
        }
    }

    /// Who serves the layers that are here, as it is recorded for them.
    pub(super) fn provider(&self) -> String {
        let origin = match self {
            Place::Registry(repository) => Origin::of(repository.reference()),
            Place::Client { calls, store } => Origin::Layout {
                session: calls.id().to_owned(),
                store: store.clone(),
            },
        };
        origin.to_string()
    }

    /// The manifest with which a build cache begins.
    pub(super) async fn root(&self, attrs: &BTreeMap<String, String>) -> Result<Bytes, Failure> {
        match self {
            Place::Registry(repository) => {
                let found = repository.resolve().await.map_err(failure);
                let unset = |failure: Failure| {
                    failure.context("failed to configure registry cache importer")
                };
                let found = found.map_err(unset)?;
                repository.manifest(&found).await.map_err(failure)
            }
            Place::Client { calls, store } => {
                let digest = attrs.get("digest").filter(|digest| !digest.is_empty());
                let digest = digest.ok_or_else(|| {
                    Failure::user("local cache importer requires explicit digest")
                })?;
                let digest: Digest = digest.parse().map_err(|e| Failure::user(chain(&e)))?;
                let size = calls.blob_size(store, &digest).await?;
                self.small(&Descriptor::new("", digest, size)).await
            }
        }
    }

    /// A manifest that another names.
    pub(super) async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Failure> {
        match self {
            Place::Registry(repository) => repository.manifest(descriptor).await.map_err(failure),
            Place::Client { .. } => self.small(descriptor).await,
        }
    }

    /// A blob that is small enough to be looked at here: a config or manifest.
    pub(super) async fn small(&self, descriptor: &Descriptor) -> Result<Bytes, Failure> {
        let digest = descriptor.digest;
        let too_large = || Failure::user(format!("blob {digest} of a build cache is too large"));
        if descriptor.size > MANIFEST_LIMIT {
            return Err(too_large());
        }
        let mut stream = match self {
            Place::Registry(repository) => {
                let blob = repository.blob(descriptor).await.map_err(failure)?;
                blob.into_stream()
            }
            Place::Client { calls, store } => calls.read_blob(store, &digest).await?,
        };
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|error| Failure::user(chain(&error)))?);
            if bytes.len() as u64 > MANIFEST_LIMIT {
                return Err(too_large());
            }
        }
        if Digest::of(&bytes) != digest {
            return Err(Failure::user(format!(
                "blob {digest} of a build cache is not what was sent"
            )));
        }
        Ok(bytes.freeze())
    }

    /// Writes a layer.
    pub(super) async fn put_layer(&self, layer: &Carried) -> Result<(), Failure> {
        match self {
            Place::Registry(repository) => {
                let here = &repository.reference().domain;
                let same = layer.origins.iter().filter_map(|origin| match origin {
                    Origin::Repository { domain, path } if domain == here => Some(path.clone()),
                    Origin::Repository { .. } | Origin::Layout { .. } => None,
                });
                let mount_from: Vec<String> = same.collect();
                let sent = Arc::new(AtomicU64::new(0));
                repository
                    .push_blob(&layer.descriptor, &*layer.blob, &mount_from, &sent)
                    .await
                    .map_err(failure)?;
            }
            Place::Client { calls, store } => {
                let blob = layer.blob.clone();
                // Opened when the first bytes are asked for: it may be there already.
                let bytes = async move { blob.open().await };
                let bytes = futures::stream::once(bytes).try_flatten();
                let descriptor = &layer.descriptor;
                calls
                    .write_blob(store, &descriptor.digest, descriptor.size, bytes)
                    .await?;
            }
        }
        Ok(())
    }

    /// Writes a blob that is at hand.
    pub(super) async fn put(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<(), Failure> {
        let layer = Carried {
            descriptor: descriptor.clone(),
            blob: Arc::new(bytes),
            origins: Vec::new(),
        };
        self.put_layer(&layer).await
    }

    /// Writes the manifest with which the build cache begins, under its name where it has one.
    pub(super) async fn put_root(
        &self,
        descriptor: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Failure> {
        match self {
            Place::Registry(repository) => {
                let tag = repository.reference().tag.as_deref();
                let pushed = repository.push_manifest(descriptor, bytes, tag).await;
                pushed.map(drop).map_err(failure)
            }
            Place::Client { .. } => self.put(descriptor, bytes).await,
        }
    }
}

fn registry(
    shared: &Shared,
    attrs: &BTreeMap<String, String>,
    sessions: &Sessions,
    what: Use,
) -> Result<Place, Failure> {
    let reference = attrs.get("ref").filter(|reference| !reference.is_empty());
    let reference = reference.ok_or_else(|| Failure::user("missing ref"))?;
    let reference = Reference::parse(reference)
        .map_err(|error| Failure::user(format!("failed to parse {reference}: {}", chain(&error))))?
        .with_default_tag();
    let access = match (flag(attrs, "registry.insecure")?, what) {
        (Some(true), _) => Access::PushInsecure,
        (Some(false) | None, Use::Write) => Access::Push,
        (Some(false) | None, Use::Read) => Access::Pull,
    };
    let credentials = Arc::new(SessionCredentials::new(sessions.clone()));
    let repository = shared.registry.repository(&reference, access, credentials);
    Ok(Place::Registry(repository.map_err(failure)?))
}

fn failure(error: registry::RegistryError) -> Failure {
    Failure::user(chain(&error))
}

/// An attribute that is on or off, in Go's spellings.
pub(super) fn flag(attrs: &BTreeMap<String, String>, key: &str) -> Result<Option<bool>, Failure> {
    match attrs.get(key).map(String::as_str) {
        None => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(value) => Err(Failure::user(format!(
            "failed to parse {key}: invalid value `{value}`"
        ))),
    }
}
