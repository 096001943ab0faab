//! The life of one build: entitlements, frontend, solve, export.
//!
//! Owns what happens between a client's request and its answer, and the progress that is shown
//! meanwhile. Knows digests and ids, never bytes; knows nothing of the wire. Start at
//! [`Engine::solve`].

mod error;
mod request;

mod attest;
mod bridge;
mod build;
mod builds;
mod cache;
mod container;
mod devices;
mod image_frontend;
mod outputs;
mod policy;
pub mod progress;
pub mod provenance;
mod sources;
mod steps;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use frontend::FrontendError;
use worker_client::Worker;

pub use build::Finished;
pub use cache::CacheSpec;
pub use error::{BuildError, Refusal};
pub use request::{AllowedEntitlements, BuildRequest, Entitlements, ExporterKind, ExporterSpec};

use builds::Builds;

/// The engine: runs builds on a worker.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    worker: Worker,
    solver: solver::Solver,
    index: Arc<dyn solver::KeyIndex>,
    builds: Arc<Builds>,
    sessions: session::Sessions,
    driven: gateway::Builds,
    /// The spans that jobs belong to, by the job's name at the worker.
    traces: Arc<Traces>,
    options: Options,
}

type Traces = Mutex<HashMap<String, String>>;

/// How an engine behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// What builds may be granted.
    pub allowed: AllowedEntitlements,
    /// How many steps may run containers at once; `None` is as many as there are processors, at
    /// least four.
    pub max_parallelism: Option<usize>,
    /// An existing directory for progress that is too much for memory.
    pub logs: PathBuf,
    /// Which frontends builds may use.
    pub frontends: Frontends,
}

/// Which frontends there are (BuildKit: the `[frontend]` tables of buildkitd.toml).
#[derive(Clone, Debug)]
pub struct Frontends {
    /// `dockerfile.v0`.
    pub dockerfile: bool,
    /// `gateway.v0`: frontends that are images.
    pub gateway: bool,
    /// Repositories that such images may come from; any if empty.
    pub gateway_repositories: Vec<String>,
    /// Repositories of images in whose place `dockerfile.v0` is run.
    pub stood_in_for: Vec<String>,
}

impl Frontends {
    /// Refuses a frontend that builds may not use, in BuildKit's words.
    pub(crate) fn admit(&self, name: &str, source: Option<&str>) -> Result<(), FrontendError> {
        let is_there = match name {
            "dockerfile.v0" => self.dockerfile,
            "gateway.v0" => self.gateway,
            _ => false,
        };
        if !is_there {
            return Err(FrontendError::invalid(format!("invalid frontend: {name}")));
        }
        let (Some(source), false) = (source, self.gateway_repositories.is_empty()) else {
            return Ok(());
        };
        let repository = |name: &str| oci::Reference::parse(name).map(|reference| reference.name());
        let asked = repository(source).map_err(|error| {
            FrontendError::invalid(format!("invalid gateway source {source}: {error}"))
        })?;
        let mut allowed = self.gateway_repositories.iter();
        if !allowed.any(|allowed| repository(allowed).is_ok_and(|allowed| allowed == asked)) {
            return Err(FrontendError::invalid(format!(
                "'{source}' is not an allowed gateway source"
            )));
        }
        Ok(())
    }
}

impl Engine {
    /// An engine that builds on `worker` for the clients of `sessions`, and looks keys up in
    /// `index`. Must be called within a tokio runtime.
    pub fn new(
        worker: Worker,
        sessions: session::Sessions,
        index: Arc<dyn solver::KeyIndex>,
        options: Options,
    ) -> Engine {
        let clients = sessions.clone();
        let shared_key: worker_client::SharedKeys = Arc::new(move |id| {
            let session = sessions.find(id);
            session.map_or_else(String::new, |s| s.identity.shared_key.clone())
        });
        let traces = Arc::<Traces>::default();
        let of_jobs = traces.clone();
        let trace_parent: worker_client::TraceParents = Arc::new(move |job| {
            let traces = of_jobs.lock().unwrap_or_else(PoisonError::into_inner);
            traces.get(job).cloned()
        });
        let port = worker_client::JobPort::new(worker.clone(), shared_key, trace_parent);
        let port = Arc::new(port);
        let parallel = options.max_parallelism.unwrap_or_else(default_parallelism);
        let options_of_solver = solver::Options {
            max_parallel: parallel,
            ..solver::Options::default()
        };
        let solver = solver::Solver::new(port, index.clone(), options_of_solver);
        Engine {
            inner: Arc::new(Inner {
                worker,
                solver,
                index,
                builds: Arc::new(Builds::new(options.logs.clone())),
                sessions: clients,
                driven: gateway::Builds::default(),
                traces,
                options,
            }),
        }
    }

    /// Runs one build to its end. `begun` is called with its progress as soon as it has begun.
    ///
    /// Dropping the future cancels the build: steps that no other build waits for are stopped.
    ///
    /// # Errors
    /// The build's error, with the lines that it is about.
    pub async fn solve(
        &self,
        request: BuildRequest,
        begun: impl FnOnce(&Arc<progress::Log>) + Send,
    ) -> Result<Finished, BuildError> {
        let outcome = build::run(self, request, begun).await;
        outcome.map_err(|error| BuildError {
            message: oci::redact_text(&error.message),
            ..error
        })
    }

    /// The progress of the build `name`, if it runs or has ended a moment ago.
    pub fn find(&self, name: &str) -> Option<progress::Watcher> {
        Some(self.inner.builds.find(name)?.watch())
    }

    /// Lets go of the progress of a build that has ended and is kept elsewhere.
    pub fn forget(&self, log: &Arc<progress::Log>) {
        self.inner.builds.forget(log);
    }

    /// The progress of the build `name`, from its beginning.
    ///
    /// # Errors
    /// When there is no such build, after a few seconds of waiting for it.
    pub async fn watch(&self, name: &str) -> Result<progress::Watcher, BuildError> {
        Ok(self.inner.builds.log(name).await?.watch())
    }

    /// The builds whose clients are their frontends, for the service by which those clients call.
    pub fn driven(&self) -> &gateway::Builds {
        &self.inner.driven
    }

    /// Stops all builds and waits until their steps have ended.
    pub async fn shutdown(&self) {
        self.inner.solver.shutdown().await;
    }

    /// How many builds run.
    pub fn running(&self) -> usize {
        self.inner.builds.running()
    }

    /// What the operator allows builds to ask for.
    pub fn allowed(&self) -> AllowedEntitlements {
        self.inner.options.allowed
    }

    /// The worker that builds run on.
    pub fn worker(&self) -> &Worker {
        &self.inner.worker
    }
}

/// Steps mostly wait for disk and network, so a small machine runs more than it has processors.
fn default_parallelism() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get().max(4))
}
