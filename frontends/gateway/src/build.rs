//! One build, as the frontend that runs it sees it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frontend::{Bridge, BuildResult, Container, ContainerInput, FrontendError, ResultRef};
use oci::{Digest, Platform};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::failure;

/// The most results that a frontend may hold: far above what any does, low enough that what is kept
/// for each stays small.
const MAX_RESULTS: usize = 100_000;

/// What a frontend is told of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The worker's id.
    pub worker: String,
    /// The worker's labels.
    pub labels: BTreeMap<String, String>,
    /// What the worker can run, its own first.
    pub platforms: Vec<Platform>,
}

/// What a frontend holds while it runs.
pub(crate) struct Build {
    pub(crate) bridge: Arc<dyn Bridge>,
    pub(crate) facts: Facts,
    results: Mutex<HashMap<String, ResultRef>>,
    /// What is left of failed steps, by the names that their errors give.
    remains: Mutex<HashMap<String, Digest>>,
    containers: Mutex<HashMap<String, Arc<dyn Container>>>,
    outcome: Mutex<Outcome>,
    returned: Notify,
    ended: CancellationToken,
}

/// What the frontend has come to.
enum Outcome {
    Open,
    Returned(Result<BuildResult, FrontendError>),
    /// The engine has it: nothing can be returned any more.
    Taken,
}

impl Build {
    pub(crate) fn new(bridge: Arc<dyn Bridge>, facts: Facts) -> Build {
        Build {
            bridge,
            facts,
            results: Mutex::default(),
            remains: Mutex::default(),
            containers: Mutex::default(),
            outcome: Mutex::new(Outcome::Open),
            returned: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what the frontend returns, which is given once.
    pub(crate) async fn returned(&self) -> Result<BuildResult, FrontendError> {
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            {
                let mut outcome = self.outcome();
                if let Outcome::Returned(_) = &*outcome
                    && let Outcome::Returned(result) =
                        std::mem::replace(&mut *outcome, Outcome::Taken)
                {
                    return result;
                }
            }
            returned.await;
        }
    }

    /// Whether the frontend has said what comes of the build.
    pub(crate) fn has_returned(&self) -> bool {
        !matches!(&*self.outcome(), Outcome::Open)
    }

    /// What the frontend has returned, which is given once; `None` if it has not.
    pub(crate) fn take_outcome(&self) -> Option<Result<BuildResult, FrontendError>> {
        let mut outcome = self.outcome();
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Returned(result) => Some(result),
            Outcome::Open | Outcome::Taken => None,
        }
    }

    /// Takes what the frontend returns.
    pub(crate) fn set_outcome(
        &self,
        result: Result<BuildResult, FrontendError>,
    ) -> Result<(), Status> {
        let mut outcome = self.outcome();
        match &*outcome {
            Outcome::Open => *outcome = Outcome::Returned(result),
            Outcome::Returned(_) | Outcome::Taken => {
                return Err(Status::unknown("gateway result is already set"));
            }
        }
        drop(outcome);
        self.returned.notify_waiters();
        Ok(())
    }

    /// Ends what runs for the frontend.
    pub(crate) fn end(&self) {
        self.ended.cancel();
        self.containers().clear();
    }

    /// Resolves when the build has ended.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + use<> {
        self.ended.clone().cancelled_owned()
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<dyn Container>>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a container, unless the build has ended meanwhile.
    ///
    /// # Errors
    /// When another call has made one under this name meanwhile.
    pub(crate) fn add_container(
        &self,
        name: String,
        container: Arc<dyn Container>,
    ) -> Result<(), Status> {
        let mut containers = self.containers();
        if self.ended.is_cancelled() {
            return Ok(());
        }
        match containers.entry(name) {
            Entry::Occupied(entry) => Err(exists(entry.key())),
            Entry::Vacant(entry) => {
                entry.insert(container);
                Ok(())
            }
        }
    }

    /// The container that the frontend made under this name.
    pub(crate) fn container(&self, name: &str) -> Result<Arc<dyn Container>, Status> {
        let found = self.containers().get(name).cloned();
        found.ok_or_else(|| {
            let text = format!("container \"{name}\" previously released or not created");
            Status::not_found(text)
        })
    }

    /// Lets go of a container; with it ends what runs in it.
    pub(crate) fn release(&self, name: &str) -> bool {
        self.containers().remove(name).is_some()
    }

    /// The error on the wire. What it tells of a failed step can be mounted from now on.
    pub(crate) fn failed(&self, error: &FrontendError) -> Status {
        if let FrontendError::Step {
            remains: Some(left),
            ..
        } = error
        {
            let mut remains = self.remains.lock().unwrap_or_else(PoisonError::into_inner);
            let ids = left.inputs.iter().chain(&left.mounts).flatten();
            remains.extend(ids.map(|id| (id.to_string(), *id)));
        }
        failure::status(error)
    }

    /// What the frontend wants to be mounted; an empty name is nothing.
    pub(crate) fn mounted(&self, id: &str) -> Result<Option<ContainerInput>, Status> {
        if id.is_empty() {
            return Ok(None);
        }
        let remains = self.remains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = remains.get(id) {
            return Ok(Some(ContainerInput::Stored(*id)));
        }
        Ok(Some(ContainerInput::Result(self.find(id)?)))
    }

    /// Runs a call, unless the build ends before: then nothing of the call is left.
    pub(crate) async fn during<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        tokio::select! {
            answer = call => answer,
            () = self.ended.cancelled() => Err(Status::cancelled("context canceled")),
        }
    }

    fn results(&self) -> MutexGuard<'_, HashMap<String, ResultRef>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a result under its name.
    pub(crate) fn keep(&self, result: &ResultRef) -> Result<(), Status> {
        if result.is_scratch() {
            return Ok(());
        }
        let mut results = self.results();
        if results.len() >= MAX_RESULTS && !results.contains_key(&result.id) {
            return Err(Status::resource_exhausted(format!(
                "a frontend may hold {MAX_RESULTS} results at most"
            )));
        }
        results.insert(result.id.clone(), result.clone());
        Ok(())
    }

    /// The result that the frontend means; an empty name is the empty filesystem.
    pub(crate) fn find(&self, id: &str) -> Result<ResultRef, Status> {
        if id.is_empty() {
            return Ok(ResultRef::scratch());
        }
        let found = self.results().get(id).cloned();
        found.ok_or_else(|| Status::not_found(format!("no such ref: {id}")))
    }
}

/// What is said of a name that is taken.
pub(crate) fn exists(name: &str) -> Status {
    Status::already_exists(format!("Container {name} already exists"))
}
