//! The rules, without a clock, I/O, randomness or `async`: a seed replays a run.
//!
//! [`Core`] owns all state. [`Core::step`] takes one event and says what is to be done about it.
//!
//! A job has *vertices*, and each output of a vertex is a *slot*. A vertex is **named** once
//! (`naming`): its id is known from the ids of its inputs, from a link in the index, or from the
//! content of inputs. A slot is **made** when somebody demands it (`making`): it is found on the
//! worker, or its vertex's inputs are made and a **task** runs (`tasks`). Tasks are shared by all
//! jobs: one id is one task, whoever wants it.
//!
//! What one step sets off goes through a queue of [`Work`] instead of recursion, since graphs are
//! as deep as a client likes.

mod job;

mod early;
mod making;
mod naming;

mod cover;
pub(crate) mod graph;
mod tasks;

mod check;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use llb::{Graph, Selector, Vertex};
use oci::Digest;

use crate::{ErrorClass, OpError, SolveError};
use job::Job;
use tasks::{Task, Tasks};

/// Names a job within a [`Core`].
pub(crate) type JobNo = u64;
/// Names a question of a job.
pub(crate) type RequestNo = u64;
/// Names something that the driver was asked to do and that ends with [`Event::Done`].
pub(crate) type OpNo = u64;

/// The index of a vertex in its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VertexIx(u32);

/// The index of an output of a vertex in its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SlotIx(u32);

/// How much may run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Containers.
    pub(crate) heavy: usize,
    /// Ops without one.
    pub(crate) light: usize,
}

/// What is asked of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The id of its result.
    Name,
    /// Its result.
    Make,
}

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A job begins. `salt` differs from that of every other job, ever.
    Begin { job: JobNo, salt: Digest },
    /// A job wants something of a graph. `durations` are those known of the graph's vertices.
    Ask {
        job: JobNo,
        request: RequestNo,
        graph: Arc<Graph>,
        durations: Vec<Option<Duration>>,
        goal: Goal,
    },
    /// A job does not want it any more.
    Withdraw { job: JobNo, request: RequestNo },
    /// A job ends.
    End { job: JobNo },
    /// What the index knows of a key.
    Link {
        job: JobNo,
        vertex: VertexIx,
        link: Option<Digest>,
    },
    /// Something that was asked for has ended, on its own or because of [`Effect::Abort`].
    Done { op: OpNo, outcome: Outcome },
}

/// How something that was asked for has ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Pinned(Vec<Digest>),
    Exists(Vec<bool>),
    Digest(Digest),
    Definition {
        graph: Arc<Graph>,
        durations: Vec<Option<Duration>>,
    },
    Ran,
    Failed(OpError),
}

impl Outcome {
    fn pinned(self) -> Result<Vec<Digest>, OpError> {
        let Outcome::Pinned(ids) = self else {
            return Err(self.error());
        };
        Ok(ids)
    }

    fn exists(self) -> Result<Vec<bool>, OpError> {
        let Outcome::Exists(there) = self else {
            return Err(self.error());
        };
        Ok(there)
    }

    fn digest(self) -> Result<Digest, OpError> {
        let Outcome::Digest(digest) = self else {
            return Err(self.error());
        };
        Ok(digest)
    }

    fn definition(self) -> Result<(Arc<Graph>, Vec<Option<Duration>>), OpError> {
        let Outcome::Definition { graph, durations } = self else {
            return Err(self.error());
        };
        Ok((graph, durations))
    }

    fn ran(self) -> Result<(), OpError> {
        let Outcome::Ran = self else {
            return Err(self.error());
        };
        Ok(())
    }

    /// The error in an outcome that is not the one hoped for.
    fn error(self) -> OpError {
        let Outcome::Failed(error) = self else {
            return misfit();
        };
        error
    }
}

/// A worker has answered something else than it was asked.
fn misfit() -> OpError {
    OpError::new(
        ErrorClass::Bug,
        "the worker gave an answer that does not fit",
    )
}

/// Something to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Ask the worker what a source is.
    Pin {
        op: OpNo,
        job: JobNo,
        vertex: Arc<Vertex>,
    },
    /// Ask the worker which results are there.
    Exists {
        op: OpNo,
        job: JobNo,
        ids: Vec<Digest>,
    },
    /// Ask the worker for a digest of content.
    Digest {
        op: OpNo,
        job: JobNo,
        id: Digest,
        selectors: Vec<Selector>,
    },
    /// Ask the worker for a definition, and check it.
    Load {
        op: OpNo,
        job: JobNo,
        id: Digest,
        filename: String,
    },
    /// Let the worker carry out an op.
    Run(Run),
    /// A vertex of a job waits for what runs; it is to hear of it from the start.
    Join {
        op: OpNo,
        job: JobNo,
        vertex: Digest,
    },
    /// A vertex of a job does not wait for it any more.
    Leave {
        op: OpNo,
        job: JobNo,
        vertex: Digest,
    },
    /// Stop. Of a `Run` the end is told all the same.
    Abort { op: OpNo },
    /// Look a key up; the answer is [`Event::Link`].
    Lookup {
        job: JobNo,
        vertex: VertexIx,
        key: Digest,
    },
    /// Remember a link.
    SetLink { key: Digest, id: Digest },
    /// Tell a job of a vertex.
    Tell {
        job: JobNo,
        vertex: Digest,
        news: News,
    },
    /// Answer a question of a job.
    Answer {
        job: JobNo,
        request: RequestNo,
        answer: Result<Digest, SolveError>,
    },
}

/// What [`Effect::Run`] asks for.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) op: OpNo,
    pub(crate) job: JobNo,
    pub(crate) vertex: Arc<Vertex>,
    pub(crate) output_ids: Vec<Digest>,
    pub(crate) inputs: Vec<Option<Digest>>,
    pub(crate) ignore_cache: bool,
    /// The jobs that wait for it, and as which vertex.
    pub(crate) waiters: Vec<(JobNo, Digest)>,
}

/// What a job is told of a vertex.
#[derive(Debug, Clone)]
pub(crate) enum News {
    Known(Arc<Vertex>),
    Started,
    Completed {
        cached: bool,
        error: Option<Arc<OpError>>,
    },
}

/// All state of the solver.
pub(crate) struct Core {
    jobs: BTreeMap<JobNo, Job>,
    shared: Shared,
}

/// What is not of one job.
struct Shared {
    tasks: Tasks,
    /// What the driver has been asked to do.
    ops: HashMap<OpNo, Asked>,
    next_op: OpNo,
    /// The vertices of all jobs by their ids, once they are named.
    by_id: HashMap<Digest, BTreeSet<(JobNo, VertexIx)>>,
    /// What this step has still to do. Empty between steps.
    work: VecDeque<(JobNo, Work)>,
    /// Jobs that have something to ask the worker at the end of this step.
    checking: BTreeSet<JobNo>,
    /// Jobs that have something to be told of in this step.
    telling: BTreeSet<JobNo>,
    /// Answers of this step, which come after all that is told. Empty between steps.
    answers: Vec<Effect>,
    effects: Vec<Effect>,
}

/// What the end of an op is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Pin {
        job: JobNo,
        vertex: VertexIx,
    },
    Exists {
        job: JobNo,
    },
    Digest {
        job: JobNo,
        vertex: VertexIx,
        input: u32,
    },
    Load {
        job: JobNo,
        vertex: VertexIx,
    },
    Run {
        id: Digest,
    },
}

/// Something a step has still to do for a job.
#[derive(Debug)]
enum Work {
    /// Find out what a vertex's result is called.
    Name(VertexIx),
    /// All inputs of a vertex are named.
    InputsNamed(VertexIx),
    /// What decides the vertex's id by content is there.
    ContentMade(VertexIx),
    /// A vertex cannot be named.
    NameFailed(VertexIx, SolveError),
    /// What was demanded early for a vertex cannot be made, and may not be needed.
    NotEarly(VertexIx),
    /// A slot is demanded.
    Want(SlotIx),
    /// All that a vertex needs to be made is there.
    Ready(VertexIx),
    /// Perhaps nobody demands a vertex any more.
    Abandon(VertexIx),
    /// A vertex cannot be made.
    MakeFailed(VertexIx, SolveError),
    /// A slot is there; those who asked for it may be answered.
    Satisfied(SlotIx),
    /// A task has ended well: the id of this vertex has been made, for this job or another.
    Made { vertex: VertexIx, here: bool },
    /// There is a task now for the id of this vertex.
    Join(VertexIx),
    /// The task of number `seq` has failed.
    RunFailed {
        vertex: VertexIx,
        seq: u64,
        error: OpError,
    },
    /// The task of number `seq` was not carried out, and that is nobody's fault: begin anew.
    Again {
        vertex: VertexIx,
        seq: u64,
        error: Option<OpError>,
    },
}

impl Core {
    pub(crate) fn new(limits: Limits) -> Core {
        Core {
            jobs: BTreeMap::new(),
            shared: Shared {
                tasks: Tasks::new(limits),
                ops: HashMap::new(),
                next_op: 0,
                by_id: HashMap::new(),
                work: VecDeque::new(),
                checking: BTreeSet::new(),
                telling: BTreeSet::new(),
                answers: Vec::new(),
                effects: Vec::new(),
            },
        }
    }

    /// Takes an event and adds to `effects` what is to be done about it, in order.
    pub(crate) fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        std::mem::swap(&mut self.shared.effects, effects);
        self.take(event);
        loop {
            while let Some((no, work)) = self.shared.work.pop_front() {
                if let Some(job) = self.jobs.get_mut(&no) {
                    job.work(work, &mut self.shared);
                }
            }
            while let Some(no) = self.shared.telling.pop_first() {
                if let Some(job) = self.jobs.get_mut(&no) {
                    job.tell_gathered(&mut self.shared);
                }
            }
            self.start_tasks();
            if self.shared.work.is_empty() {
                break;
            }
        }
        while let Some(no) = self.shared.checking.pop_first() {
            if let Some(job) = self.jobs.get_mut(&no) {
                job.ask_what_exists(&mut self.shared);
            }
        }
        let shared = &mut self.shared;
        shared.effects.append(&mut shared.answers);
        std::mem::swap(&mut self.shared.effects, effects);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begin { job, salt } => drop(self.jobs.insert(job, Job::new(job, salt))),
            Event::Ask {
                job: no,
                request,
                graph,
                durations,
                goal,
            } => {
                let Some(job) = self.jobs.get_mut(&no) else {
                    return;
                };
                let slot = job.add_graph(&graph, &durations, &mut self.shared);
                job.ask(request, slot, goal, &mut self.shared);
            }
            Event::Withdraw { job, request } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.withdraw(request, &mut self.shared);
                }
            }
            Event::End { job } => {
                if let Some(job) = self.jobs.remove(&job) {
                    job.end(&mut self.shared);
                }
            }
            Event::Link { job, vertex, link } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.linked(vertex, link, &mut self.shared);
                }
            }
            Event::Done { op, outcome } => {
                // What was aborted may still end, and nobody cares.
                let Some(asked) = self.shared.ops.remove(&op) else {
                    return;
                };
                self.done(op, asked, outcome);
            }
        }
    }

    fn done(&mut self, op: OpNo, asked: Asked, outcome: Outcome) {
        let no = match asked {
            Asked::Run { id } => return self.shared.task_ended(id, outcome),
            Asked::Pin { job, .. }
            | Asked::Exists { job }
            | Asked::Digest { job, .. }
            | Asked::Load { job, .. } => job,
        };
        let Some(job) = self.jobs.get_mut(&no) else {
            return;
        };
        job.ops.remove(&op);
        let shared = &mut self.shared;
        match asked {
            Asked::Pin { vertex, .. } => job.pinned(vertex, outcome, shared),
            Asked::Exists { .. } => job.existence_known(op, outcome, shared),
            Asked::Digest { vertex, input, .. } => {
                job.digested(vertex, (op, input), outcome, shared);
            }
            Asked::Load { vertex, .. } => job.loaded(vertex, outcome, shared),
            Asked::Run { .. } => {}
        }
    }

    /// What is known of the vertices of a graph, in the graph's order.
    pub(crate) fn describe(&self, job: JobNo, graph: &Graph) -> Vec<Description> {
        let Some(job) = self.jobs.get(&job) else {
            return Vec::new();
        };
        graph
            .vertices()
            .filter_map(|vertex| job.describe(&vertex.digest()))
            .collect()
    }
}

/// What is known of a vertex that has been named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) vertex: Digest,
    pub(crate) id: Digest,
    pub(crate) output_ids: Vec<Digest>,
    pub(crate) fast: Option<Digest>,
    pub(crate) exact: Option<Digest>,
    pub(crate) input_ids: Vec<Digest>,
    pub(crate) contents: Vec<Option<Digest>>,
}

impl Shared {
    fn push(&mut self, job: JobNo, work: Work) {
        self.work.push_back((job, work));
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn answer(&mut self, job: JobNo, request: RequestNo, answer: Result<Digest, SolveError>) {
        self.answers.push(Effect::Answer {
            job,
            request,
            answer,
        });
    }

    fn tell(&mut self, job: JobNo, vertex: Digest, news: News) {
        self.effects.push(Effect::Tell { job, vertex, news });
    }

    /// A new number for something the driver is asked to do.
    fn begin_op(&mut self, asked: Asked) -> OpNo {
        self.next_op += 1;
        self.ops.insert(self.next_op, asked);
        self.next_op
    }

    fn task(&self, id: &Digest) -> Option<&Task> {
        self.tasks.get(id)
    }
}
