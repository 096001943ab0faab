//! What the solver needs of the world: somebody who carries out ops, and somebody who remembers keys.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use llb::{Selector, Vertex};
use oci::Digest;
use tokio::sync::watch;

use crate::OpError;
use crate::progress::Progress;

/// The name of a job, given by its owner.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Arc<str>);

impl JobId {
    /// The job called `name`.
    pub fn new(name: &str) -> JobId {
        JobId(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job `{}`", self.0)
    }
}

/// The sessions that can serve the needs of one call, in the order in which their jobs came.
///
/// The list changes while the call runs: jobs join and leave.
#[derive(Clone, Debug)]
pub struct Sessions(watch::Receiver<Arc<[String]>>);

impl Sessions {
    /// The list, and the end by which it is changed.
    pub fn new(ids: Vec<String>) -> (watch::Sender<Arc<[String]>>, Sessions) {
        let (sender, receiver) = watch::channel(ids.into());
        (sender, Sessions(receiver))
    }

    /// The sessions there are now.
    pub fn current(&self) -> Arc<[String]> {
        self.0.borrow().clone()
    }

    /// Waits until the list differs from what the last call of this saw, and returns it; `None` if
    /// it cannot change any more.
    pub async fn changed(&mut self) -> Option<Arc<[String]>> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}

/// Asks what a source is now.
#[derive(Clone, Debug)]
pub struct PinRequest {
    /// For whom.
    pub job: JobId,
    /// A vertex with a source op.
    pub vertex: Arc<Vertex>,
    /// Sessions that can serve it.
    pub sessions: Sessions,
    /// Where it tells how far it is.
    pub progress: Progress,
}

/// What a source is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Per output the identity of its content.
    pub ids: Vec<Digest>,
}

/// Asks for the digest of some content of a result.
#[derive(Clone, Debug)]
pub struct DigestRequest {
    /// For whom.
    pub job: JobId,
    /// The result.
    pub id: Digest,
    /// The content.
    pub selectors: Vec<Selector>,
}

/// Asks for an op to be carried out.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The job that got here first. Others may join, and this one may leave.
    pub job: JobId,
    /// The op.
    pub vertex: Arc<Vertex>,
    /// Under which id each output is to be stored. Some may be stored already.
    pub output_ids: Vec<Digest>,
    /// Per input its id; `None` for one that the op does not use. For a source that was pinned all
    /// there is to know is in `output_ids`.
    pub inputs: Vec<Option<Digest>>,
    /// Sessions of all jobs that wait for it.
    pub sessions: Sessions,
    /// Whether what cache mounts hold is passed over, too.
    pub ignore_cache: bool,
    /// Where it tells how far it is.
    pub progress: Progress,
}

/// Carries out ops and keeps results.
///
/// A future that is dropped is cancelled. A result that a call names for a job, or makes for it, is
/// kept until the job's owner says that the job has ended. That a result has vanished all the same
/// is an error of class [`crate::ErrorClass::Transient`]; the solver then makes it again.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// Gives the outputs of a source op their ids. Called once per job and vertex.
    async fn pin(&self, request: PinRequest) -> Result<Pinned, OpError>;

    /// Which of these results are there, now and for as long as `job` lives.
    async fn exists(&self, job: &JobId, ids: &[Digest]) -> Result<Vec<bool>, OpError>;

    /// The digest of selected content of a result that is there.
    async fn digest(&self, request: DigestRequest) -> Result<Digest, OpError>;

    /// Carries out an op whose inputs are there. Called once at a time for each set of ids.
    async fn run(&self, request: RunRequest) -> Result<(), OpError>;

    /// The definition in the file `filename` of a result that is there.
    async fn load_definition(
        &self,
        job: &JobId,
        id: Digest,
        filename: &str,
    ) -> Result<Bytes, OpError>;
}

/// Keys that others have found out, for one job.
///
/// Called from the solver's own task: a call must not block.
pub trait ForeignKeys: Send + Sync + 'static {
    /// The id that `key` stands for.
    fn link(&self, key: &Digest) -> Option<Digest>;
}

/// Remembers keys and times across builds.
///
/// Called from the solver's own task: a call must not block.
pub trait KeyIndex: Send + Sync + 'static {
    /// The id that `key` stands for.
    fn link(&self, key: &Digest) -> Option<Digest>;

    /// Lets `key` stand for `id` from now on.
    fn set_link(&self, key: Digest, id: Digest);

    /// The keys that stand for `id`, as far as that is remembered.
    fn keys(&self, id: &Digest) -> Vec<Digest> {
        let _ = id;
        Vec::new()
    }

    /// How long the op of this key took last time.
    fn duration(&self, op: &Digest) -> Option<Duration>;

    /// Notes how long the op of this key took.
    fn set_duration(&self, op: Digest, duration: Duration);
}
