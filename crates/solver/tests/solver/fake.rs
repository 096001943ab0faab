//! A worker and an index in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use llb::OpKind;
use oci::Digest;
use solver::{
    DigestRequest, ErrorClass, Job, JobId, JobOptions, KeyIndex, OpError, Options, PinRequest,
    Pinned, RunRequest, Solver, Worker,
};
use tokio::sync::watch;

/// A test that waits longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it happens soon")
}

/// What a [`Fake`] knows, for tests to change and to look at.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) refs: HashSet<Digest>,
    /// The identity of sources where it is not their identifier.
    pub(crate) pins: HashMap<String, String>,
    /// What is in a source where that is not its identity.
    pub(crate) contents: HashMap<Digest, String>,
    /// Ops that do not end until they are let go.
    pub(crate) held: HashSet<String>,
    /// Errors to come, by name; a run takes the last.
    pub(crate) failures: HashMap<String, Vec<OpError>>,
    pub(crate) definitions: HashMap<String, Bytes>,
    /// Runs that have begun, in order.
    pub(crate) begun: Vec<String>,
    /// Runs that were dropped before they ended.
    pub(crate) dropped: Vec<String>,
    pub(crate) running: usize,
    pub(crate) most_running: usize,
    pub(crate) pinned: usize,
    pub(crate) digests: usize,
    pub(crate) exists: usize,
    pub(crate) last_run: Option<RunRequest>,
}

/// A worker that only pretends.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    index: Arc<Index>,
}

impl Fake {
    pub(crate) fn new() -> Fake {
        let changed = Arc::new(watch::channel(0).0);
        Fake {
            state: Arc::default(),
            changed,
            index: Arc::default(),
        }
    }

    /// A solver that uses this worker; what earlier solvers did is still known.
    pub(crate) fn solver(&self, max_parallel: usize) -> Solver {
        let options = Options {
            max_parallel,
            ..Options::default()
        };
        Solver::new(Arc::new(self.clone()), self.index.clone(), options)
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.send_modify(|version| *version += 1);
        result
    }

    pub(crate) fn runs(&self) -> usize {
        self.with(|state| state.begun.len())
    }

    pub(crate) fn hold(&self, name: &str) {
        self.with(|state| state.held.insert(name.into()));
    }

    pub(crate) fn let_go(&self, name: &str) {
        self.with(|state| state.held.remove(name));
    }

    pub(crate) fn fail(&self, name: &str, class: ErrorClass) {
        let error = OpError::new(class, format!("{name} failed"));
        self.with(|state| state.failures.entry(name.into()).or_default().push(error));
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, is_so: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        soon(async {
            while !is_so(&self.state.lock().unwrap()) {
                changed.changed().await.unwrap();
            }
        })
        .await;
    }

    pub(crate) async fn until_begun(&self, name: &str) {
        self.until(|state| state.begun.iter().any(|one| one == name))
            .await;
    }

    pub(crate) fn remember_duration(&self, op: Digest, duration: Duration) {
        self.index.set_duration(op, duration);
    }
}

pub(crate) fn job(solver: &Solver, id: &str) -> (Job, solver::Events) {
    solver.job(JobOptions {
        id: id.into(),
        sessions: vec![format!("session of {id}")],
        foreign: None,
    })
}

/// Notes that a run was dropped, unless it ends.
struct Running {
    fake: Fake,
    name: Option<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.fake.with(|state| {
            state.running -= 1;
            state.dropped.extend(self.name.take());
        });
    }
}

#[async_trait]
impl Worker for Fake {
    async fn pin(&self, request: PinRequest) -> Result<Pinned, OpError> {
        let OpKind::Source(source) = &request.vertex.op().kind else {
            panic!()
        };
        let id = self.with(|state| {
            state.pinned += 1;
            let identity = state
                .pins
                .get(&source.identifier)
                .unwrap_or(&source.identifier);
            let id = Digest::of(identity);
            if source.identifier.starts_with("local://") {
                state.refs.insert(id);
            }
            id
        });
        Ok(Pinned { ids: vec![id] })
    }

    async fn exists(&self, _job: &JobId, ids: &[Digest]) -> Result<Vec<bool>, OpError> {
        Ok(self.with(|state| {
            state.exists += 1;
            ids.iter().map(|id| state.refs.contains(id)).collect()
        }))
    }

    async fn digest(&self, request: DigestRequest) -> Result<Digest, OpError> {
        assert_ne!(
            request.id,
            Digest::of("local://panic"),
            "the fake panics as it was told"
        );
        Ok(self.with(|state| {
            state.digests += 1;
            assert!(state.refs.contains(&request.id), "a digest of nothing");
            state
                .contents
                .get(&request.id)
                .map_or(request.id, Digest::of)
        }))
    }

    async fn run(&self, request: RunRequest) -> Result<(), OpError> {
        let name = request.vertex.name().to_owned();
        self.with(|state| {
            if !request
                .inputs
                .iter()
                .flatten()
                .all(|id| state.refs.contains(id))
            {
                return Err(OpError::new(ErrorClass::Transient, "an input is gone"));
            }
            state.begun.push(name.clone());
            state.running += 1;
            state.most_running = state.most_running.max(state.running);
            state.last_run = Some(request.clone());
            Ok(())
        })?;
        let mut running = Running {
            fake: self.clone(),
            name: Some(name.clone()),
        };
        let mut changed = self.changed.subscribe();
        while self.state.lock().unwrap().held.contains(&name) {
            changed.changed().await.unwrap();
        }
        running.name = None;
        self.with(|state| {
            if let Some(error) = state.failures.get_mut(&name).and_then(Vec::pop) {
                return Err(error);
            }
            state.refs.extend(&request.output_ids);
            Ok(())
        })
    }

    async fn load_definition(
        &self,
        _job: &JobId,
        _id: Digest,
        filename: &str,
    ) -> Result<Bytes, OpError> {
        let missing = || OpError::new(ErrorClass::User, format!("no file `{filename}`"));
        self.with(|state| state.definitions.get(filename).cloned())
            .ok_or_else(missing)
    }
}

/// An index that forgets nothing.
#[derive(Default)]
struct Index {
    links: Mutex<BTreeMap<Digest, Digest>>,
    durations: Mutex<BTreeMap<Digest, Duration>>,
}

impl KeyIndex for Index {
    fn link(&self, key: &Digest) -> Option<Digest> {
        self.links.lock().unwrap().get(key).copied()
    }

    fn set_link(&self, key: Digest, id: Digest) {
        self.links.lock().unwrap().insert(key, id);
    }

    fn duration(&self, op: &Digest) -> Option<Duration> {
        self.durations.lock().unwrap().get(op).copied()
    }

    fn set_duration(&self, op: Digest, duration: Duration) {
        self.durations.lock().unwrap().insert(op, duration);
    }
}
