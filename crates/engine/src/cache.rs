//! Build caches of one build: those that are read before it, and those that are written after.
//!
//! A build cache that cannot be read is shown and passed over: the build then runs what it would
//! have found. One that cannot be written fails the build, unless it says otherwise.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use frontend::BuildResult;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all, try_join_all};
use oci::Digest;
use worker_client::{CacheEntry, ExportCache, ImportCache, Worker};

use crate::bridge::{self, Shared};
use crate::progress::{Log, Step};
use crate::request::BuildRequest;
use crate::{BuildError, build};

/// A build cache, to be read or written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheSpec {
    /// `registry`, `local` or `inline`.
    pub kind: String,
    /// Where it is, and what of it.
    pub attrs: BTreeMap<String, String>,
}

/// What can be written.
const EXPORTS: [&str; 3] = ["inline", "local", "registry"];
/// What can be read.
const IMPORTS: [&str; 2] = ["local", "registry"];

impl CacheSpec {
    /// Checks the exports of a build.
    ///
    /// # Errors
    /// When one is of no known kind, or the same twice.
    pub fn exports(all: Vec<CacheSpec>) -> Result<Vec<CacheSpec>, BuildError> {
        let mut kept: Vec<CacheSpec> = Vec::new();
        for spec in all {
            if !EXPORTS.contains(&spec.kind.as_str()) {
                let kind = &spec.kind;
                return Err(BuildError::user(format!(
                    "unknown cache exporter: \"{kind}\""
                )));
            }
            if spec.kind == "inline" && kept.iter().any(|one| one.kind == spec.kind) {
                continue;
            }
            if kept.contains(&spec) {
                let kind = &spec.kind;
                return Err(BuildError::user(format!(
                    "duplicate cache exporter: \"{kind}\""
                )));
            }
            kept.push(spec);
        }
        Ok(kept)
    }

    fn is_all(&self) -> bool {
        self.attrs.get("mode").is_some_and(|mode| mode == "max")
    }

    fn ignores_errors(&self) -> bool {
        let value = self.attrs.get("ignore-error").map(String::as_str);
        matches!(value, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// What a person knows it by.
    fn shown(&self) -> String {
        match self.attrs.get("ref") {
            Some(reference) if self.kind == "registry" => reference.clone(),
            Some(_) | None => {
                // As many digits as BuildKit shows, of a digest of its own.
                let digest = Digest::of(format!("{self:?}"));
                let number = digest.as_raw().iter().take(8);
                let number = number.fold(0, |number, byte| number << 8 | u64::from(*byte));
                format!("{}:{number}", self.kind)
            }
        }
    }
}

/// What a build's imports know of keys. Grows while the build runs.
#[derive(Default)]
pub(crate) struct Keys(RwLock<HashMap<Digest, Digest>>);

impl solver::ForeignKeys for Keys {
    fn link(&self, key: &Digest) -> Option<Digest> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(key).copied()
    }
}

impl Keys {
    fn add(&self, links: Vec<(Digest, Digest)>) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, id) in links {
            keys.entry(key).or_insert(id);
        }
    }
}

/// The imports of one build: each is read once, and whoever needs keys waits for all of them.
pub(crate) struct Imports {
    job: String,
    session: String,
    worker: Worker,
    log: Arc<Log>,
    keys: Arc<Keys>,
    begun: Mutex<HashMap<CacheSpec, futures::future::Shared<BoxFuture<'static, ()>>>>,
}

impl Imports {
    /// None yet; what they will tell goes into `keys`.
    pub(crate) fn new(
        job: String,
        session: String,
        worker: Worker,
        log: Arc<Log>,
        keys: Arc<Keys>,
    ) -> Imports {
        Imports {
            job,
            session,
            worker,
            log,
            keys,
            begun: Mutex::default(),
        }
    }

    /// Adds what is not among them.
    pub(crate) fn add(&self, specs: &[CacheSpec]) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for spec in specs {
            begun
                .entry(spec.clone())
                .or_insert_with(|| self.read(spec.clone()).boxed().shared());
        }
    }

    /// Adds those that a frontend names.
    pub(crate) fn add_all(&self, imports: Vec<frontend::CacheImport>) {
        let spec = |import: frontend::CacheImport| CacheSpec {
            kind: import.kind,
            attrs: import.attrs,
        };
        let specs: Vec<CacheSpec> = imports.into_iter().map(spec).collect();
        self.add(&specs);
    }

    /// Waits until all have been read. They are read only while somebody waits.
    pub(crate) async fn ready(&self) {
        let all: Vec<_> = {
            let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.values().cloned().collect()
        };
        join_all(all).await;
    }

    fn read(&self, spec: CacheSpec) -> impl Future<Output = ()> + Send + use<> {
        let (worker, log, keys) = (self.worker.clone(), self.log.clone(), self.keys.clone());
        let name = format!("importing cache manifest from {}", spec.shown());
        let import = ImportCache {
            job: self.job.clone(),
            kind: spec.kind.clone(),
            attrs: spec.attrs,
            session: self.session.clone(),
        };
        async move {
            let vertex = Digest::of(&name);
            let step = Step::begin(&log, vertex, name);
            if !IMPORTS.contains(&import.kind.as_str()) {
                step.failed(&format!("unknown cache importer: {}", import.kind));
                return;
            }
            let shown = log.clone();
            let told = worker.import_cache(import, move |news| build::show(&shown, vertex, news));
            match told.await {
                Ok(links) => {
                    keys.add(links);
                    step.done();
                }
                Err(error) => step.failed(&error.message),
            }
        }
    }
}

/// What is known of the vertices of a build's results.
pub(crate) async fn entries(
    shared: &Shared,
    index: &dyn solver::KeyIndex,
    result: &BuildResult,
) -> Vec<CacheEntry> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for graph in result.all_refs().filter_map(|(_, one)| one.graph.as_ref()) {
        let overrides: HashMap<Digest, bool> = graph
            .vertices()
            .filter_map(|v| Some((v.digest(), v.metadata().export_cache?)))
            .collect();
        for record in shared.job.records(graph).await {
            // A source is found out anew by whoever asks.
            let Some(fast) = record.fast else { continue };
            if !seen.insert(record.id) {
                continue;
            }
            // The id is a key of its own, so that a build that found everything by links tells
            // the same as one that ran everything.
            let mut keys = index.keys(&record.id);
            keys.extend([fast, record.id].into_iter().chain(record.exact));
            all.push(CacheEntry {
                id: record.id,
                keys,
                output_ids: record.output_ids,
                results: overrides.get(&record.vertex).copied(),
            });
        }
    }
    all
}

/// Writes the build caches that a build asks for, and answers what the client is told.
pub(crate) async fn export(
    shared: &Shared,
    request: &BuildRequest,
    entries: &[CacheEntry],
    finals: &[Digest],
) -> Result<BTreeMap<String, String>, BuildError> {
    let specs = request.cache_exports.iter().enumerate();
    let own = specs.filter(|(_, spec)| spec.kind != "inline");
    let answers = try_join_all(own.map(|(index, spec)| async move {
        let name = match spec.kind.as_str() {
            "local" => "exporting cache to client directory",
            _ => "exporting cache to registry",
        };
        let vertex = Digest::of(format!("{}-cache-export-{index}", request.session));
        let step = Step::begin(&shared.log, vertex, name);
        let export = ExportCache {
            job: shared.worker_job.clone(),
            kind: spec.kind.clone(),
            attrs: spec.attrs.clone(),
            session: request.session.clone(),
            entries: entries.to_vec(),
            final_ids: finals.to_vec(),
            all: spec.is_all(),
        };
        let log = shared.log.clone();
        let written = shared
            .worker
            .export_cache(export, move |news| build::show(&log, vertex, news))
            .await;
        match written {
            Ok(response) => {
                step.done();
                Ok(response)
            }
            Err(error) => {
                step.failed(&error.message);
                if spec.ignores_errors() {
                    return Ok(BTreeMap::new());
                }
                let mut error = BuildError::from(bridge::step_error(error));
                error.vertex = Some(vertex);
                Err(error)
            }
        }
    }));
    let mut response = BTreeMap::new();
    for answer in answers.await? {
        response.extend(
            answer
                .into_iter()
                .filter(|(key, _)| key.starts_with("cache.")),
        );
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: &str, key: &str, value: &str) -> CacheSpec {
        CacheSpec {
            kind: kind.to_owned(),
            attrs: [(key.to_owned(), value.to_owned())].into(),
        }
    }

    #[test]
    fn exports_are_known_and_each_is_asked_for_once() {
        let inline = spec("inline", "mode", "max");
        let local = spec("local", "dest", "a");
        let kept = CacheSpec::exports(vec![inline.clone(), local.clone(), spec("inline", "", "")]);
        assert_eq!(kept.unwrap(), [inline, local.clone()]);
        assert!(CacheSpec::exports(vec![local.clone(), spec("local", "dest", "b")]).is_ok());
        assert!(CacheSpec::exports(vec![local.clone(), local]).is_err());
        let error = CacheSpec::exports(vec![spec("x", "", "")]).unwrap_err();
        assert_eq!(error.message, "unknown cache exporter: \"x\"");
    }
}
