//! The handles by which the solver is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use llb::Graph;
use oci::Digest;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::driver::{Driver, JobEntry, Message};
use crate::progress::JobEvent;
use crate::step::{Goal, JobNo, Limits, RequestNo};
use crate::{ErrorClass, ForeignKeys, JobId, KeyIndex, OpError, SolveError, Worker};

/// How a [`Solver`] behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many containers run at once.
    pub max_parallel: usize,
    /// How many other ops run at once: copies, downloads.
    pub max_light: usize,
}

impl Default for Options {
    /// Room for four containers and many downloads.
    fn default() -> Options {
        Options {
            max_parallel: 4,
            max_light: 64,
        }
    }
}

/// Solves graphs for any number of jobs. Clones are the same solver.
#[derive(Clone)]
pub struct Solver(Arc<Inner>);

struct Inner {
    messages: mpsc::UnboundedSender<Message>,
    next_job: AtomicU64,
    began: SystemTime,
    driver: Mutex<Option<JoinHandle<()>>>,
}

/// What is said about a job when it begins.
#[derive(Clone)]
pub struct JobOptions {
    /// Its name, by which the worker knows it.
    pub id: String,
    /// The sessions that can serve it.
    pub sessions: Vec<String>,
    /// Where a key is looked up that the index does not know.
    pub foreign: Option<Arc<dyn ForeignKeys>>,
}

/// One client's build. Dropping it cancels all that nobody else waits for.
pub struct Job {
    no: JobNo,
    id: JobId,
    messages: mpsc::UnboundedSender<Message>,
    next_request: AtomicU64,
}

/// What happens to the vertices of a job.
pub struct Events(mpsc::UnboundedReceiver<JobEvent>);

impl Events {
    /// The next event; `None` once the job has ended.
    pub async fn next(&mut self) -> Option<JobEvent> {
        self.0.recv().await
    }
}

/// The result of a graph by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solved {
    /// The id of the graph's result.
    pub id: Digest,
}

/// What is known of a vertex that has been named: what a build cache carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VertexRecord {
    /// The vertex.
    pub vertex: Digest,
    /// Its id.
    pub id: Digest,
    /// The ids of its outputs.
    pub output_ids: Vec<Digest>,
    /// Its key with every input by identity; `None` for a source.
    pub fast: Option<Digest>,
    /// Its key with inputs by content, where that was needed.
    pub exact: Option<Digest>,
    /// Its inputs.
    pub inputs: Vec<InputRecord>,
}

/// How an input went into the keys of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputRecord {
    /// The id of the input.
    pub id: Digest,
    /// The digest of the content that counts in the exact key.
    pub content: Option<Digest>,
}

impl Solver {
    /// A solver that lets `worker` carry out ops and `index` remember keys. Must be called within
    /// a tokio runtime; ends when all its clones and jobs are dropped.
    pub fn new(worker: Arc<dyn Worker>, index: Arc<dyn KeyIndex>, options: Options) -> Solver {
        let (messages, receiver) = mpsc::unbounded_channel();
        let limits = Limits {
            heavy: options.max_parallel,
            light: options.max_light,
        };
        let driver = Driver::new(worker, index, limits, receiver);
        Solver(Arc::new(Inner {
            messages,
            next_job: AtomicU64::new(0),
            began: SystemTime::now(),
            driver: Mutex::new(Some(tokio::spawn(driver.run()))),
        }))
    }

    /// Begins a job.
    pub fn job(&self, options: JobOptions) -> (Job, Events) {
        let no = self.0.next_job.fetch_add(1, Ordering::Relaxed);
        let id = JobId::new(&options.id);
        let (sink, events) = mpsc::unbounded_channel();
        // A client may use a name again. What a job made afresh must not be taken for another's.
        let salt = Digest::of(format!("{:?} {no} {id}", self.0.began));
        let entry = JobEntry {
            id: id.clone(),
            salt,
            sessions: options.sessions,
            foreign: options.foreign,
            sink,
        };
        let messages = self.0.messages.clone();
        // A driver that is gone is noticed when something is asked.
        let _ = messages.send(Message::Begin { job: no, entry });
        (
            Job {
                no,
                id,
                messages,
                next_request: AtomicU64::new(0),
            },
            Events(events),
        )
    }

    /// Stops everything and waits until it has stopped.
    pub async fn shutdown(&self) {
        let _ = self.0.messages.send(Message::Shutdown);
        let driver = self.0.driver.lock().await.take();
        if let Some(driver) = driver {
            // A panic of the driver has been told to all who waited.
            let _ = driver.await;
        }
    }
}

impl Job {
    /// The name it was given.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// A name for the result of `graph` within this job, known without solving it.
    pub fn name_of(&self, graph: &Graph) -> String {
        let result = graph.result();
        Digest::of(format!("{} {} {}", self.id, result.digest, result.output)).hex()
    }

    /// Finds out what the result of `graph` is called, and does no more than that needs.
    ///
    /// # Errors
    /// What stopped it, with the vertex.
    pub async fn identify(&self, graph: &Arc<Graph>) -> Result<Solved, SolveError> {
        Ok(Solved {
            id: self.ask(graph, Goal::Name).await?,
        })
    }

    /// Brings the result of `graph` into being. It stays until the worker is told that the job has
    /// ended. Dropping the future withdraws the wish.
    ///
    /// # Errors
    /// What stopped it, with the vertex.
    pub async fn realize(&self, graph: &Arc<Graph>) -> Result<Digest, SolveError> {
        self.ask(graph, Goal::Make).await
    }

    /// What is known of the vertices of `graph`, in the graph's order: those that have been named.
    pub async fn records(&self, graph: &Arc<Graph>) -> Vec<VertexRecord> {
        let (answer, receiver) = oneshot::channel();
        let _ = self.messages.send(Message::Describe {
            job: self.no,
            graph: graph.clone(),
            answer,
        });
        let known = receiver.await.unwrap_or_default();
        let record = |known: crate::step::Description| {
            let contents = known.contents.into_iter().chain(std::iter::repeat(None));
            let inputs = known.input_ids.into_iter().zip(contents);
            VertexRecord {
                vertex: known.vertex,
                id: known.id,
                output_ids: known.output_ids,
                fast: known.fast,
                exact: known.exact,
                inputs: inputs
                    .map(|(id, content)| InputRecord { id, content })
                    .collect(),
            }
        };
        known.into_iter().map(record).collect()
    }

    async fn ask(&self, graph: &Arc<Graph>, goal: Goal) -> Result<Digest, SolveError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        let message = Message::Ask {
            job: self.no,
            request,
            graph: graph.clone(),
            goal,
            answer,
        };
        self.messages.send(message).map_err(|_| stopped())?;
        let mut wish = Wish {
            job: self,
            request,
            open: true,
        };
        let answer = receiver.await.map_err(|_| stopped());
        wish.open = false;
        answer?
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::End { job: self.no });
    }
}

/// A question that is withdrawn when nobody waits for its answer any more.
struct Wish<'a> {
    job: &'a Job,
    request: RequestNo,
    open: bool,
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        if self.open {
            let message = Message::Withdraw {
                job: self.job.no,
                request: self.request,
            };
            let _ = self.job.messages.send(message);
        }
    }
}

fn stopped() -> SolveError {
    let error = OpError::new(ErrorClass::Bug, "the solver has stopped");
    SolveError {
        error: Arc::new(error),
        vertex: None,
    }
}
