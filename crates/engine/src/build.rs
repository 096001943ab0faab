//! From a request to its answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use frontend::{BuildResult, ResultRef};
use futures::future::try_join_all;
use oci::{Digest, Platform};
use worker_client::{CacheEntry, Export, ExportAttestation, ExportRef, Exported};

use crate::bridge::{self, BuildBridge, Shared};
use crate::progress::{Event, ItemState, Log, Step};
use crate::provenance::{Ask, Provenance};
use crate::request::{BuildRequest, ExporterSpec};
use crate::{BuildError, Engine, Traces, attest, cache, outputs, steps};

/// The config of a single result in the result's metadata, and the prefix of those of a map.
const CONFIG_KEY: &str = "containerimage.config";

/// A build that went well.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// What the exporters and the frontend said.
    pub response: BTreeMap<String, String>,
    /// What each exporter gave.
    pub exports: Vec<Exported>,
    /// Where the results come from.
    pub provenance: Option<Arc<Provenance>>,
}

pub(crate) async fn run(
    engine: &Engine,
    request: BuildRequest,
    begun: impl FnOnce(&Arc<Log>),
) -> Result<Finished, BuildError> {
    let entry = engine.inner.builds.begin(&request.build_ref)?;
    begun(&entry.log);
    let worker_job = worker_job(&request.build_ref);
    let keys = Arc::<cache::Keys>::default();
    let (job, events) = engine.inner.solver.job(solver::JobOptions {
        id: worker_job.clone(),
        sessions: Some(request.session.clone())
            .filter(|s| !s.is_empty())
            .into_iter()
            .collect(),
        foreign: Some(keys.clone()),
    });
    let imports = cache::Imports::new(
        worker_job.clone(),
        request.session.clone(),
        engine.inner.worker.clone(),
        entry.log.clone(),
        keys,
    );
    imports.add(&request.cache_imports);
    let verifier = verifier(engine, &request).await?;
    let shared = Arc::new(Shared::new(
        &request,
        (worker_job.clone(), engine.inner.options.frontends.clone()),
        verifier,
        job,
        engine.inner.worker.clone(),
        entry.log.clone(),
        imports,
    ));
    let follower = steps::Follower::spawn(events, entry.log.clone(), shared.sources.clone());
    let release = Release {
        engine: engine.clone(),
        job: worker_job.clone(),
    };
    if let Some(span) = request.trace_parent.clone() {
        let mut traces = lock(&engine.inner.traces);
        traces.insert(worker_job, span);
    }

    let outcome = match served(engine, &shared, &request) {
        Ok(served) => build(engine, &shared, &request, served.as_ref()).await,
        Err(error) => Err(error),
    };
    // The job ends before its progress does, so that what it told last is shown.
    drop(shared);
    follower.finish().await;
    drop(entry);
    drop(release);
    outcome
}

/// What the worker knows a build as. Clients may use the name of a build again, and a worker may see
/// several engines: what is said of one build must not meet another.
fn worker_job(build_ref: &str) -> String {
    static BUILDS: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<u128> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_nanos()
    });
    let number = BUILDS.fetch_add(1, Ordering::Relaxed);
    format!("{build_ref}-{:x}-{number}", *PROCESS)
}

fn lock(traces: &Traces) -> MutexGuard<'_, HashMap<String, String>> {
    // Nothing panics while the lock is held.
    traces.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets go of all that a job held when the build ends, however it ends.
struct Release {
    engine: Engine,
    job: String,
}

impl Drop for Release {
    fn drop(&mut self) {
        let worker = self.engine.inner.worker.clone();
        let job = std::mem::take(&mut self.job);
        lock(&self.engine.inner.traces).remove(&job);
        // The answer does not wait for the disk: what is not yet durable is only made again.
        tokio::spawn(async move {
            if let Err(error) = worker.release_job(&job, true).await {
                tracing::warn!(%job, %error, "failed to release a job");
            }
        });
    }
}

/// How long the session of a client is awaited that is to be asked something (for the one that
/// judges sources, BuildKit waits for ever).
pub(crate) const SESSION_WAIT: Duration = Duration::from_secs(5);

/// Who judges the sources of a build, beside the policies that came with it.
async fn verifier(
    engine: &Engine,
    request: &BuildRequest,
) -> Result<Option<gateway::Verifier>, BuildError> {
    if request.policy_session.is_empty() {
        return Ok(None);
    }
    let sessions = &engine.inner.sessions;
    let session = sessions.get(&request.policy_session, SESSION_WAIT).await;
    let session = session.map_err(|error| BuildError::user(error.to_string()))?;
    Ok(Some(gateway::Verifier::new(session.channel())))
}

/// Lends the bridge of a build that has neither frontend nor graph to its client, which drives it.
fn served(
    engine: &Engine,
    shared: &Arc<Shared>,
    request: &BuildRequest,
) -> Result<Option<gateway::Served>, BuildError> {
    if !request.frontend.is_empty() || request.definition.is_some() {
        return Ok(None);
    }
    let worker = shared.worker.description();
    let facts = gateway::Facts {
        worker: worker.id.clone(),
        labels: worker.labels.clone(),
        platforms: worker.platforms.clone(),
    };
    let bridge = Arc::new(bridge(shared, request));
    let served = engine
        .inner
        .driven
        .serve(&request.build_ref, bridge, facts)?;
    Ok(Some(served))
}

fn bridge(shared: &Arc<Shared>, request: &BuildRequest) -> BuildBridge {
    BuildBridge {
        shared: shared.clone(),
        options: request.attrs.clone(),
        inputs: request.inputs.clone(),
        depth: 0,
        policies: Arc::default(),
    }
}

/// Builds; `client` is there when it is its own frontend.
async fn build(
    engine: &Engine,
    shared: &Arc<Shared>,
    request: &BuildRequest,
    client: Option<&gateway::Served>,
) -> Result<Finished, BuildError> {
    let started = SystemTime::now();
    Ask::parse(&request.attrs)?;
    let result = {
        let evaluated = async {
            match client {
                Some(client) => Ok(client.result().await?),
                None => evaluate_frontend(shared, request).await,
            }
        };
        tokio::pin!(evaluated);
        // Build caches are read while the frontend looks at its files.
        tokio::select! {
            result = &mut evaluated => result?,
            () = shared.imports.ready() => evaluated.await?,
        }
    };
    let refs = try_join_all(result.all_refs().map(|(key, result_ref)| async move {
        let id = shared.realize(result_ref).await?;
        Ok::<_, BuildError>((key.to_owned(), id))
    }))
    .await?;

    let entries = if request.cache_exports.is_empty() {
        Vec::new()
    } else {
        cache::entries(shared, &*engine.inner.index, &result).await
    };
    let provenance = Arc::new(attest::provenance(shared, request, &result, started));
    let attested = attest::all(shared, request, &result, &provenance).await?;

    let outcome = Outcome {
        result: &result,
        refs: &refs,
        entries: &entries,
        attested: &attested,
    };
    let mut exporters = request.exporters.clone();
    if request.ask_for_exporters {
        exporters.extend(outputs::wanted(&engine.inner.sessions, request, &result).await?);
    }
    let mut response = BTreeMap::new();
    let exports = exporters.iter().enumerate();
    let answers =
        try_join_all(exports.map(|(index, spec)| export(shared, request, outcome, index, spec)));
    let exports = answers.await?;
    for exported in &exports {
        response.extend(exported.response.clone());
    }
    let finals: Vec<Digest> = refs.iter().filter_map(|(_, id)| *id).collect();
    response.extend(cache::export(shared, request, &entries, &finals).await?);
    for (key, value) in &result.metadata {
        if key.starts_with("frontend.") || is_subrequest_answer(request, key) {
            response.insert(key.clone(), String::from_utf8_lossy(value).into_owned());
        }
    }
    if request.ask_for_exporters {
        outputs::told(&engine.inner.sessions, request, &response).await?;
    }
    Ok(Finished {
        response,
        exports,
        provenance: Some(provenance),
    })
}

/// A subrequest's answer is all that its build gives.
fn is_subrequest_answer(request: &BuildRequest, key: &str) -> bool {
    request.attrs.contains_key("requestid") && (key.starts_with("result.") || key == "version")
}

async fn evaluate_frontend(
    shared: &Arc<Shared>,
    request: &BuildRequest,
) -> Result<BuildResult, BuildError> {
    if request.frontend.is_empty() {
        let Some(graph) = &request.definition else {
            return Ok(BuildResult::default());
        };
        let graph = shared.admit(graph.clone(), &[]).await?;
        let result = ResultRef {
            id: shared.job.name_of(&graph),
            graph: Some(graph),
        };
        return Ok(BuildResult {
            single: Some(result),
            ..BuildResult::default()
        });
    }
    Ok(bridge::run_frontend(&request.frontend, bridge(shared, request)).await?)
}

/// What a build came to.
#[derive(Clone, Copy)]
struct Outcome<'a> {
    result: &'a BuildResult,
    /// The ids of its refs, by platform.
    refs: &'a [(String, Option<Digest>)],
    /// What is known of its vertices.
    entries: &'a [CacheEntry],
    /// What is attested of its refs, by platform.
    attested: &'a BTreeMap<String, Vec<ExportAttestation>>,
}

async fn export(
    shared: &Shared,
    request: &BuildRequest,
    outcome: Outcome<'_>,
    index: usize,
    spec: &ExporterSpec,
) -> Result<Exported, BuildError> {
    let Outcome {
        result,
        refs,
        entries,
        attested,
    } = outcome;
    let platforms = platforms(result);
    let default = shared.worker.description().platforms[0].clone();
    let metadata = overridden(&result.metadata, &spec.attrs);
    let refs = refs.iter().map(|(key, id)| ExportRef {
        key: key.clone(),
        id: *id,
        platform: platforms
            .get(key)
            .cloned()
            .unwrap_or_else(|| default.clone()),
        config: config(&metadata, key),
        attestations: attested.get(key).cloned().unwrap_or_default(),
    });
    let mut refs: Vec<ExportRef> = refs.collect();
    if refs.is_empty() {
        // A build without a result exports an empty filesystem, as BuildKit does.
        refs.push(ExportRef {
            key: String::new(),
            id: None,
            platform: default,
            config: config(&metadata, ""),
            attestations: Vec::new(),
        });
    }
    let export = Export {
        job: shared.worker_job.clone(),
        kind: spec.kind.name().to_owned(),
        attrs: with_epoch(request, result, spec),
        session: request.session.clone(),
        target: index.to_string(),
        refs,
        multi_platform: result.single.is_none() && !result.refs.is_empty(),
        metadata,
        inline_cache: if request.cache_exports.iter().any(|c| c.kind == "inline") {
            entries.to_vec()
        } else {
            Vec::new()
        },
    };
    let vertex = Digest::of(format!("{}-export-{index}", request.session));
    let step = Step::begin(&shared.log, vertex, spec.kind.vertex_name());
    let log = shared.log.clone();
    let answer = shared
        .worker
        .export(export, move |news| show(&log, vertex, news))
        .await;
    match answer {
        Ok(exported) => {
            step.done();
            Ok(exported)
        }
        Err(error) => {
            step.failed(&error.message);
            let mut error = BuildError::from(bridge::step_error(error));
            error.vertex = Some(vertex);
            Err(error)
        }
    }
}

/// Metadata that a client gives with the exporter wins over that of the result.
fn overridden(
    metadata: &BTreeMap<String, Bytes>,
    attrs: &BTreeMap<String, String>,
) -> BTreeMap<String, Bytes> {
    let mut all = metadata.clone();
    for (key, value) in attrs {
        if key == CONFIG_KEY || key.starts_with("containerimage.config/") || key == "image.name" {
            all.insert(key.clone(), Bytes::from(value.clone()));
        }
    }
    all
}

fn config(metadata: &BTreeMap<String, Bytes>, key: &str) -> Option<Bytes> {
    let name = if key.is_empty() {
        CONFIG_KEY.to_owned()
    } else {
        format!("{CONFIG_KEY}/{key}")
    };
    metadata
        .get(&name)
        .or_else(|| metadata.get(CONFIG_KEY))
        .cloned()
}

/// The build argument `SOURCE_DATE_EPOCH` reaches exporters that were not told another time, and
/// so does a time that the frontend found in a source.
fn with_epoch(
    request: &BuildRequest,
    result: &BuildResult,
    spec: &ExporterSpec,
) -> BTreeMap<String, String> {
    const ATTR: &str = "source-date-epoch";
    let mut attrs = spec.attrs.clone();
    let argument = request
        .attrs
        .get("build-arg:SOURCE_DATE_EPOCH")
        .filter(|value| value.parse::<i64>().is_ok())
        .cloned();
    let found = result
        .metadata
        .get("source.date.epoch")
        .map(|value| String::from_utf8_lossy(value).into_owned());
    if let Some(epoch) = argument.or(found) {
        attrs.entry(ATTR.to_owned()).or_insert(epoch);
    }
    attrs
}

/// The platforms of a result, from the metadata that frontends give with it.
fn platforms(result: &BuildResult) -> BTreeMap<String, Platform> {
    #[derive(serde::Deserialize)]
    struct Platforms {
        #[serde(rename = "Platforms", default)]
        platforms: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(rename = "ID")]
        id: String,
        #[serde(rename = "Platform")]
        platform: Platform,
    }
    let Some(json) = result.metadata.get("refs.platforms") else {
        return BTreeMap::new();
    };
    let Ok(list) = serde_json::from_slice::<Platforms>(json) else {
        return BTreeMap::new();
    };
    let mut all: BTreeMap<String, Platform> = list
        .platforms
        .iter()
        .map(|e| (e.id.clone(), e.platform.clone()))
        .collect();
    if let ([only], true) = (list.platforms.as_slice(), result.single.is_some()) {
        all.insert(String::new(), only.platform.clone());
    }
    all
}

/// Shows what an export tells of itself on its vertex.
pub(crate) fn show(log: &Log, vertex: Digest, news: worker_client::OpNews) {
    match news {
        worker_client::OpNews::Item(item) => log.push(Event::Item(ItemState {
            id: item.id,
            vertex,
            name: item.name,
            current: item.current,
            total: item.total,
            timestamp: SystemTime::now(),
            started: item.started,
            completed: item.completed,
        })),
        worker_client::OpNews::Output { stream, data, time } => {
            log.push(Event::Output {
                vertex,
                stream,
                data,
                time,
            });
        }
        worker_client::OpNews::Warning {
            level,
            short,
            detail,
            url,
        } => {
            log.push(Event::Warning {
                warning: frontend::Warning {
                    vertex,
                    level,
                    short,
                    detail,
                    url,
                    location: None,
                },
            });
        }
    }
}
