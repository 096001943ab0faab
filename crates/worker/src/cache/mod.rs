//! Build caches: reading those that others wrote, and writing our own.
//!
//! What a job has imported is a table of results by id. A result becomes a ref when it is asked for,
//! and its layers come in when their files are needed.

mod export;
mod import;
mod inline;
mod place;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use buildcache::remote::{Stacks, Top};
use dashmap::{DashMap, DashSet};
use oci::{Descriptor, Digest};
use refs::{LayerSpec, Meta, RecordType, Ref};

use crate::failure::{Class, Failure};
use crate::state::Shared;

pub(crate) use export::export;
pub(crate) use import::import;
pub(crate) use inline::inline;

/// In front of the names of clients' stores that hold build caches (BuildKit:
/// `cache/remotecache/local`).
pub(crate) const STORE_PREFIX: &str = "local:";

/// What jobs have imported.
#[derive(Default)]
pub(crate) struct Imports {
    jobs: DashMap<String, Mutex<Table>>,
    /// The ids of refs that were made of imported results and may lack their files.
    lazy: DashSet<Digest>,
}

#[derive(Default)]
struct Table {
    results: HashMap<Digest, Found>,
    /// The results that have become refs.
    restored: Vec<Digest>,
}

/// A result that is known by its top layer.
#[derive(Clone)]
struct Found {
    source: Arc<Source>,
    top: Top,
}

/// A build cache that was read. Its results share their layers.
struct Source {
    layers: Stacks,
    /// What is known of the layers' blobs: each with what it unpacks to.
    blobs: HashMap<Digest, (Descriptor, Digest)>,
    provider: String,
}

impl Source {
    /// The layers up to `top`, lowest first; `None` if one is not known.
    fn stack(&self, top: usize) -> Option<Vec<LayerSpec>> {
        let spec = |layer| {
            let (descriptor, diff_id) = self.blobs.get(&self.layers.blob(layer))?.clone();
            Some(LayerSpec::Lazy {
                descriptor,
                diff_id,
                provider: self.provider.clone(),
            })
        };
        self.layers.stack(top).map(spec).collect()
    }

    /// Per layer whether it and all below it are known.
    fn complete(&self) -> Vec<bool> {
        let mut complete: Vec<bool> = Vec::with_capacity(self.layers.len());
        for layer in 0..self.layers.len() {
            // Those below have lower numbers.
            let below = self.layers.below(layer).is_none_or(|below| complete[below]);
            complete.push(below && self.blobs.contains_key(&self.layers.blob(layer)));
        }
        complete
    }
}

impl Imports {
    /// Adds what a build cache has; what another has under the same id stays.
    fn add(&self, job: &str, results: Vec<(Digest, Found)>) {
        let table = self.jobs.entry(job.to_owned()).or_default();
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, result) in results {
            table.results.entry(id).or_insert(result);
        }
    }

    fn take(&self, job: &str, id: &Digest) -> Option<Found> {
        let table = self.jobs.get(job)?;
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let found = table.results.remove(id)?;
        table.restored.push(*id);
        Some(found)
    }
}

/// The ref `id`, made of what `job` has imported; kept for the job.
pub(crate) fn restore(shared: &Shared, job: &str, id: &Digest) -> Option<Ref> {
    let result = shared.imports.take(job, id)?;
    let Found { source, top } = result;
    let description = source
        .blobs
        .get(&source.layers.blob(top.layer))
        .and_then(|(descriptor, _)| descriptor.annotations.get("buildkit/description"))
        .cloned();
    let meta = Meta {
        description: description.unwrap_or_else(|| "imported".to_owned()),
        record_type: RecordType::Regular,
        created: top.created.into(),
    };
    let specs = source.stack(top.layer)?;
    match shared.refs.put_layers(*id, specs, meta) {
        Ok(made) => {
            shared.refs.lease(job).add(&made);
            shared.imports.lazy.insert(*id);
            Some(made)
        }
        Err(error) => {
            tracing::warn!(%id, error = %rpc::status::chain(&error), "failed to take an imported result");
            None
        }
    }
}

/// The files of `reference` could not be brought in because of `failure`. If it was imported, or is
/// made of layers of a client that has left, it is forgotten: the solver makes it anew.
pub(crate) fn give_up(shared: &Shared, reference: &Ref, failure: Failure) -> Failure {
    let id = reference.id();
    let from_client = |layer: &Arc<refs::Layer>| {
        layer.snapshot.is_none() && layer.sources.iter().any(|s| is_client(&s.provider))
    };
    let imported = shared.imports.lazy.remove(&id).is_some();
    if !imported && !reference.layers().iter().any(from_client) {
        return failure;
    }
    tracing::warn!(%id, error = %failure, "an imported result cannot be used");
    shared.refs.forget(&id);
    Failure::new(Class::Transient, failure.message)
}

/// Whether a layer can be had only while a client's session lives.
fn is_client(provider: &str) -> bool {
    let store = provider
        .strip_prefix("oci-layout://")
        .and_then(|rest| rest.split_once('/'));
    store.is_some_and(|(_, store)| store.starts_with(STORE_PREFIX))
}

/// The job has ended: its imported results that only its client can serve go, unless their files
/// have come in.
pub(crate) fn release(shared: &Shared, job: &str) {
    let Some((_, table)) = shared.imports.jobs.remove(job) else {
        return;
    };
    let table = table.into_inner().unwrap_or_else(PoisonError::into_inner);
    for id in table.restored {
        let Some(found) = shared.refs.get(&id) else {
            shared.imports.lazy.remove(&id);
            continue;
        };
        if found.snapshots().is_some() {
            shared.imports.lazy.remove(&id);
            continue;
        }
        let sources = found.layers();
        let mut missing = sources.iter().filter(|layer| layer.snapshot.is_none());
        let lost = missing.any(|layer| layer.sources.iter().all(|s| is_client(&s.provider)));
        if lost {
            shared.imports.lazy.remove(&id);
            shared.refs.forget(&id);
        }
    }
}
