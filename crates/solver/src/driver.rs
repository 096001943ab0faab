//! Carries out what [`Core`] decides.
//!
//! One task owns the core and everything that goes with a job or an op: no locks, and events are
//! taken one after the other. Calls to the worker run as tasks in one set, which ends with the
//! driver. Lookups in the index are answered on the spot.

mod calls;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use llb::Graph;
use oci::Digest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::progress::{EventKind, Fanout, JobEvent, JobSink};
use crate::step::graph::input_digests;
use crate::step::{
    Core, Description, Effect, Event, Goal, JobNo, Limits, News, OpNo, Outcome, RequestNo,
};
use crate::{ErrorClass, ForeignKeys, JobId, KeyIndex, OpError, SolveError, Worker};

/// What the handles ask of the driver.
pub(crate) enum Message {
    Begin {
        job: JobNo,
        entry: JobEntry,
    },
    Ask {
        job: JobNo,
        request: RequestNo,
        graph: Arc<Graph>,
        goal: Goal,
        answer: Answer,
    },
    Withdraw {
        job: JobNo,
        request: RequestNo,
    },
    End {
        job: JobNo,
    },
    Describe {
        job: JobNo,
        graph: Arc<Graph>,
        answer: oneshot::Sender<Vec<Description>>,
    },
    Shutdown,
}

pub(crate) type Answer = oneshot::Sender<Result<Digest, SolveError>>;

/// What goes with a job.
pub(crate) struct JobEntry {
    pub(crate) id: JobId,
    pub(crate) salt: Digest,
    pub(crate) sessions: Vec<String>,
    pub(crate) foreign: Option<Arc<dyn ForeignKeys>>,
    pub(crate) sink: JobSink,
}

pub(crate) struct Driver {
    core: Core,
    worker: Arc<dyn Worker>,
    index: Arc<dyn KeyIndex>,
    messages: mpsc::UnboundedReceiver<Message>,
    jobs: HashMap<JobNo, JobEntry>,
    answers: HashMap<(JobNo, RequestNo), Answer>,
    calls: JoinSet<Outcome>,
    ops: HashMap<OpNo, Call>,
    op_of_task: HashMap<tokio::task::Id, OpNo>,
}

/// A call to the worker that has not ended.
struct Call {
    abort: AbortHandle,
    audience: Option<Audience>,
    /// Of a run, the key under which its time is kept, and when it began.
    timed: Option<(Digest, Instant)>,
}

/// Those who hear of a call and serve its needs.
struct Audience {
    fanout: Arc<Fanout>,
    sessions: watch::Sender<Arc<[String]>>,
    members: Vec<(JobNo, Digest)>,
}

impl Driver {
    pub(crate) fn new(
        worker: Arc<dyn Worker>,
        index: Arc<dyn KeyIndex>,
        limits: Limits,
        messages: mpsc::UnboundedReceiver<Message>,
    ) -> Driver {
        Driver {
            core: Core::new(limits),
            worker,
            index,
            messages,
            jobs: HashMap::new(),
            answers: HashMap::new(),
            calls: JoinSet::new(),
            ops: HashMap::new(),
            op_of_task: HashMap::new(),
        }
    }

    /// Runs until all handles are gone or one says so.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                message = self.messages.recv() => match message {
                    None | Some(Message::Shutdown) => break,
                    Some(message) => self.take(message),
                },
                Some(ended) = self.calls.join_next_with_id() => self.ended(ended),
            }
        }
        self.calls.shutdown().await;
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Begin { job, entry } => {
                let salt = entry.salt;
                self.jobs.insert(job, entry);
                self.step(Event::Begin { job, salt });
            }
            Message::Ask {
                job,
                request,
                graph,
                goal,
                answer,
            } => {
                self.answers.insert((job, request), answer);
                let durations = durations(&*self.index, &graph);
                self.step(Event::Ask {
                    job,
                    request,
                    graph,
                    durations,
                    goal,
                });
            }
            Message::Withdraw { job, request } => {
                self.answers.remove(&(job, request));
                self.step(Event::Withdraw { job, request });
            }
            Message::End { job } => {
                self.step(Event::End { job });
                self.jobs.remove(&job);
            }
            Message::Describe { job, graph, answer } => {
                // Whoever asked may have gone.
                let _ = answer.send(self.core.describe(job, &graph));
            }
            Message::Shutdown => {}
        }
    }

    /// A call has ended by itself, was aborted, or has panicked.
    fn ended(&mut self, ended: Result<(tokio::task::Id, Outcome), JoinError>) {
        let (task, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => {
                (error.id(), Outcome::Failed(OpError::canceled()))
            }
            Err(error) => {
                let failed = OpError::new(ErrorClass::Bug, "the call of a worker panicked");
                (error.id(), Outcome::Failed(failed.with_source(error)))
            }
        };
        let Some(op) = self.op_of_task.remove(&task) else {
            return;
        };
        if let Some(call) = self.ops.remove(&op) {
            if let Some(audience) = call.audience {
                audience.fanout.close();
            }
            if let (Some((key, began)), Outcome::Ran) = (call.timed, &outcome) {
                self.index.set_duration(key, began.elapsed());
            }
        }
        self.step(Event::Done { op, outcome });
    }

    /// Lets the core take an event, and all events that follow from it on the spot.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut effects = Vec::new();
        while let Some(event) = events.pop_front() {
            self.core.step(event, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect, &mut events);
            }
        }
    }

    fn perform(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Pin { op, job, vertex } => self.pin(op, job, vertex),
            Effect::Exists { op, job, ids } => self.exists(op, job, ids),
            Effect::Digest {
                op,
                job,
                id,
                selectors,
            } => self.digest(op, job, id, selectors),
            Effect::Load {
                op,
                job,
                id,
                filename,
            } => self.load(op, job, id, filename),
            Effect::Run(run) => self.run_op(run),
            Effect::Join { op, job, vertex } => {
                let Some(entry) = self.jobs.get(&job) else {
                    return;
                };
                let Some(call) = self.ops.get_mut(&op) else {
                    return;
                };
                let Some(audience) = &mut call.audience else {
                    return;
                };
                audience.fanout.join(job, vertex, entry.sink.clone());
                audience.members.push((job, vertex));
                audience.update_sessions(&self.jobs);
            }
            Effect::Leave { op, job, vertex } => {
                let Some(call) = self.ops.get_mut(&op) else {
                    return;
                };
                let Some(audience) = &mut call.audience else {
                    return;
                };
                audience.fanout.leave(job, vertex);
                audience.members.retain(|member| *member != (job, vertex));
                audience.update_sessions(&self.jobs);
            }
            Effect::Abort { op } => {
                let Some(call) = self.ops.get_mut(&op) else {
                    return;
                };
                if let Some(audience) = &call.audience {
                    audience.fanout.close();
                }
                call.abort.abort();
            }
            Effect::Lookup { job, vertex, key } => {
                let link = self
                    .index
                    .link(&key)
                    .or_else(|| self.foreign_link(job, &key));
                events.push_back(Event::Link { job, vertex, link });
            }
            Effect::SetLink { key, id } => self.index.set_link(key, id),
            Effect::Tell { job, vertex, news } => self.tell(job, vertex, news),
            Effect::Answer {
                job,
                request,
                answer,
            } => {
                if let Some(sender) = self.answers.remove(&(job, request)) {
                    // Whoever asked may have gone.
                    let _ = sender.send(answer);
                }
            }
        }
    }

    /// What a job was told of a key by others. It is remembered: the result comes here with it.
    fn foreign_link(&self, job: JobNo, key: &Digest) -> Option<Digest> {
        let id = self.jobs.get(&job)?.foreign.as_ref()?.link(key)?;
        self.index.set_link(*key, id);
        Some(id)
    }

    fn tell(&self, job: JobNo, vertex: Digest, news: News) {
        let Some(entry) = self.jobs.get(&job) else {
            return;
        };
        let time = SystemTime::now();
        let kind = match news {
            News::Known(vertex) => EventKind::Known {
                name: vertex.name().to_owned(),
                inputs: input_digests(&vertex),
                group: vertex.metadata().progress_group.clone(),
                internal: vertex.metadata().internal(),
            },
            News::Started => EventKind::Started { time },
            News::Completed { cached, error } => EventKind::Completed {
                time,
                cached,
                error,
            },
        };
        // Whoever listened may have gone.
        let _ = entry.sink.send(JobEvent { vertex, kind });
    }
}

impl Audience {
    fn update_sessions(&self, jobs: &HashMap<JobNo, JobEntry>) {
        let all = sessions_of(&self.members, jobs);
        self.sessions.send_if_modified(|sessions| {
            let differs = **sessions != *all;
            if differs {
                *sessions = all.into();
            }
            differs
        });
    }
}

/// The sessions of all members, the first member's first, each once.
fn sessions_of(members: &[(JobNo, Digest)], jobs: &HashMap<JobNo, JobEntry>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (job, _) in members {
        for session in jobs.get(job).into_iter().flat_map(|entry| &entry.sessions) {
            if !all.contains(session) {
                all.push(session.clone());
            }
        }
    }
    all
}

/// What is known of how long the vertices of a graph take.
fn durations(index: &dyn KeyIndex, graph: &Graph) -> Vec<Option<Duration>> {
    graph
        .vertices()
        .map(|vertex| index.duration(&vertex.keying().op_key))
        .collect()
}
