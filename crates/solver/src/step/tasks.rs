//! What runs, and what runs next.
//!
//! A task is what makes one id. All jobs that want the id wait for one task. It is cancelled when
//! the last of them leaves, and whoever comes while it ends begins it anew after that.
//!
//! Which task starts: the job with the fewest running comes first (of those the one that was
//! served longest ago), and of its tasks the one with the longest known time to the build's end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use llb::{OpKind, Vertex};
use oci::Digest;

use super::job::Job;
use super::{Asked, Core, Effect, JobNo, Limits, OpNo, Run, Shared, VertexIx, Work};

/// What makes one id.
pub(super) struct Task {
    pub(super) seq: u64,
    weight: Weight,
    state: TaskState,
    /// The job that has made sure of the inputs. In `Queued` it is one of `waiters`.
    maker: JobNo,
    pub(super) waiters: Vec<Waiter>,
    vertex: Arc<Vertex>,
    output_ids: Vec<Digest>,
    inputs: Vec<Option<Digest>>,
    ignore_cache: bool,
}

/// Somebody who waits for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) job: JobNo,
    pub(super) vertex: VertexIx,
    digest: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskState {
    /// It may start when there is room.
    Queued,
    /// The driver runs it, on the account of a job. It has waiters.
    Running { op: OpNo, account: JobNo },
    /// The driver stops it. Waiters have come after that was decided.
    Cancelling { op: OpNo, account: JobNo },
}

/// What a task takes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// A container.
    Heavy,
    /// Anything else.
    Light,
}

/// What is left of a task that has ended.
pub(super) struct Ended {
    pub(super) seq: u64,
    pub(super) maker: JobNo,
    pub(super) waiters: Vec<(JobNo, VertexIx)>,
    pub(super) was_cancelled: bool,
}

/// All tasks.
pub(super) struct Tasks {
    by_id: HashMap<Digest, Task>,
    heavy: Queue,
    light: Queue,
    next_seq: u64,
}

/// The tasks of one weight that may start.
struct Queue {
    limit: usize,
    running: usize,
    /// Per job its tasks. Entries of tasks that have started or are gone are passed over.
    ready: BTreeMap<JobNo, BinaryHeap<Entry>>,
    accounts: HashMap<JobNo, Account>,
    starts: u64,
}

/// Rank, then age, then the task.
type Entry = (u64, Reverse<u64>, Digest);

/// What a job has had of a queue.
#[derive(Clone, Copy, Default)]
struct Account {
    running: usize,
    last_start: u64,
}

impl Tasks {
    pub(super) fn new(limits: Limits) -> Tasks {
        let queue = |limit: usize| Queue {
            limit: limit.max(1),
            running: 0,
            ready: BTreeMap::new(),
            accounts: HashMap::new(),
            starts: 0,
        };
        Tasks {
            by_id: HashMap::new(),
            heavy: queue(limits.heavy),
            light: queue(limits.light),
            next_seq: 0,
        }
    }

    pub(super) fn get(&self, id: &Digest) -> Option<&Task> {
        self.by_id.get(id)
    }

    fn queue(&mut self, weight: Weight) -> &mut Queue {
        match weight {
            Weight::Heavy => &mut self.heavy,
            Weight::Light => &mut self.light,
        }
    }

    /// Removes a task that the driver has ended.
    pub(super) fn end(&mut self, id: &Digest) -> Option<Ended> {
        let task = self.by_id.remove(id)?;
        let (account, was_cancelled) = match task.state {
            TaskState::Queued => return None,
            TaskState::Running { account, .. } => (account, false),
            TaskState::Cancelling { account, .. } => (account, true),
        };
        let queue = self.queue(task.weight);
        queue.running -= 1;
        if let Some(account) = queue.accounts.get_mut(&account) {
            account.running -= 1;
        }
        Some(Ended {
            seq: task.seq,
            maker: task.maker,
            waiters: task
                .waiters
                .iter()
                .map(|waiter| (waiter.job, waiter.vertex))
                .collect(),
            was_cancelled,
        })
    }

    /// A job has ended, and waits for nothing any more.
    pub(super) fn forget_job(&mut self, job: JobNo) {
        for queue in [&mut self.heavy, &mut self.light] {
            queue.ready.remove(&job);
            queue.accounts.remove(&job);
        }
    }

    /// The next task to start and the job on whose account it does.
    fn next(&mut self, weight: Weight) -> Option<(Digest, JobNo)> {
        loop {
            let queue = self.queue(weight);
            if queue.running >= queue.limit {
                return None;
            }
            let account = |job: &JobNo| {
                let account = queue.accounts.get(job).copied().unwrap_or_default();
                (account.running, account.last_start)
            };
            let job = *queue.ready.keys().min_by_key(|job| account(job))?;
            let heap = queue.ready.get_mut(&job)?;
            let entry = heap.pop();
            if heap.is_empty() {
                queue.ready.remove(&job);
            }
            let Some((_, Reverse(seq), id)) = entry else {
                continue;
            };
            let Some(task) = self.by_id.get(&id) else {
                continue;
            };
            if task.seq != seq || task.state != TaskState::Queued {
                continue;
            }
            if task.waiters.iter().any(|waiter| waiter.job == job) {
                return Some((id, job));
            }
        }
    }
}

impl Queue {
    fn push(&mut self, job: JobNo, entry: Entry) {
        self.ready.entry(job).or_default().push(entry);
    }

    fn start(&mut self, job: JobNo) {
        self.running += 1;
        self.starts += 1;
        let last_start = self.starts;
        let account = self.accounts.entry(job).or_default();
        account.running += 1;
        account.last_start = last_start;
    }
}

impl Job {
    /// Makes the task of a vertex whose deps are there to stay.
    pub(super) fn begin_task(&mut self, vertex: VertexIx, shared: &mut Shared) -> Option<u64> {
        let state = self.v(vertex);
        let id = state.id?;
        let input = |slot| {
            // The deps of what is run are sorted.
            let is_used = state.deps.binary_search(slot).is_ok();
            self.slot(*slot).id.filter(|_| is_used)
        };
        let inputs = state.inputs.iter().map(input).collect();
        let tasks = &mut shared.tasks;
        tasks.next_seq += 1;
        let seq = tasks.next_seq;
        let weight = match state.vertex.op().kind {
            OpKind::Exec(_) => Weight::Heavy,
            OpKind::Source(_)
            | OpKind::File(_)
            | OpKind::Build(_)
            | OpKind::Merge(_)
            | OpKind::Diff(_)
            | OpKind::Passthrough(_) => Weight::Light,
        };
        tasks
            .queue(weight)
            .push(self.no, (state.rank, Reverse(seq), id));
        let task = Task {
            seq,
            weight,
            state: TaskState::Queued,
            maker: self.no,
            waiters: vec![Waiter {
                job: self.no,
                vertex,
                digest: state.digest(),
            }],
            vertex: state.vertex.clone(),
            output_ids: state
                .slots()
                .filter_map(|slot| self.slot(slot).id)
                .collect(),
            inputs,
            ignore_cache: state.ignore_cache,
        };
        tasks.by_id.insert(id, task);
        for (job, other) in shared.by_id.get(&id).into_iter().flatten() {
            if (*job, *other) != (self.no, vertex) {
                shared.work.push_back((*job, Work::Join(*other)));
            }
        }
        Some(seq)
    }
}

impl Shared {
    /// Waits for the task of an id, if there is one.
    pub(super) fn join(
        &mut self,
        id: Digest,
        (job, vertex): (JobNo, VertexIx),
        digest: Digest,
        rank: u64,
    ) -> Option<u64> {
        let task = self.tasks.by_id.get_mut(&id)?;
        let seq = task.seq;
        task.waiters.push(Waiter {
            job,
            vertex,
            digest,
        });
        match task.state {
            TaskState::Queued => {
                let (weight, entry) = (task.weight, (rank, Reverse(seq), id));
                self.tasks.queue(weight).push(job, entry);
            }
            // It may still end well.
            TaskState::Running { .. } | TaskState::Cancelling { .. } => {}
        }
        Some(seq)
    }

    /// Does not wait for the task of an id any more.
    pub(super) fn leave(&mut self, id: Digest, job: JobNo, vertex: VertexIx) {
        let Some(task) = self.tasks.by_id.get_mut(&id) else {
            return;
        };
        let Some(at) = task
            .waiters
            .iter()
            .position(|one| (one.job, one.vertex) == (job, vertex))
        else {
            return;
        };
        let waiter = task.waiters.remove(at);
        match task.state {
            TaskState::Queued => {
                // The others have not made sure of the inputs: one of them does that now.
                if task.waiters.is_empty() || !task.waiters.iter().any(|one| one.job == task.maker)
                {
                    let (seq, waiters) = (task.seq, std::mem::take(&mut task.waiters));
                    self.tasks.by_id.remove(&id);
                    for Waiter { job, vertex, .. } in waiters {
                        self.push(
                            job,
                            Work::Again {
                                vertex,
                                seq,
                                error: None,
                            },
                        );
                    }
                }
            }
            TaskState::Running { op, account } => {
                let is_last = task.waiters.is_empty();
                if is_last {
                    task.state = TaskState::Cancelling { op, account };
                }
                self.emit(Effect::Leave {
                    op,
                    job,
                    vertex: waiter.digest,
                });
                if is_last {
                    self.emit(Effect::Abort { op });
                }
            }
            TaskState::Cancelling { .. } => {}
        }
    }

    /// Whether the task of an id has started.
    pub(super) fn has_started(&self, id: &Digest) -> bool {
        self.task(id)
            .is_some_and(|task| task.state != TaskState::Queued)
    }

    /// What runs for an id, unless it is being stopped.
    pub(super) fn running(&self, id: &Digest) -> Option<OpNo> {
        match self.task(id)?.state {
            TaskState::Running { op, .. } => Some(op),
            TaskState::Queued | TaskState::Cancelling { .. } => None,
        }
    }
}

impl Core {
    /// Starts what there is room for.
    pub(super) fn start_tasks(&mut self) {
        let shared = &mut self.shared;
        for weight in [Weight::Heavy, Weight::Light] {
            while let Some((id, account)) = shared.tasks.next(weight) {
                let op = shared.begin_op(Asked::Run { id });
                shared.tasks.queue(weight).start(account);
                let Some(task) = shared.tasks.by_id.get_mut(&id) else {
                    continue;
                };
                task.state = TaskState::Running { op, account };
                let run = Run {
                    op,
                    job: task.maker,
                    vertex: task.vertex.clone(),
                    output_ids: task.output_ids.clone(),
                    inputs: task.inputs.clone(),
                    ignore_cache: task.ignore_cache,
                    waiters: task
                        .waiters
                        .iter()
                        .map(|one| (one.job, one.digest))
                        .collect(),
                };
                for waiter in task.waiters.clone() {
                    if let Some(job) = self.jobs.get_mut(&waiter.job) {
                        job.tell_started(waiter.vertex, shared);
                    }
                }
                shared.emit(Effect::Run(run));
            }
        }
    }
}

impl Tasks {
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.heavy.is_empty() && self.light.is_empty()
    }

    /// Panics where an invariant is broken; `waits` says whether a vertex waits for a task.
    pub(super) fn check(&self, waits: impl Fn(JobNo, VertexIx, u64) -> bool) {
        let (mut heavy, mut light) = (0, 0);
        for task in self.by_id.values() {
            let is_running = match task.state {
                TaskState::Queued => {
                    assert!(task.waiters.iter().any(|waiter| waiter.job == task.maker));
                    0
                }
                TaskState::Running { .. } => {
                    assert!(!task.waiters.is_empty(), "a task runs for nobody");
                    1
                }
                TaskState::Cancelling { .. } => 1,
            };
            match task.weight {
                Weight::Heavy => heavy += is_running,
                Weight::Light => light += is_running,
            }
            assert!(
                task.waiters
                    .iter()
                    .all(|one| waits(one.job, one.vertex, task.seq))
            );
        }
        assert_eq!((heavy, light), (self.heavy.running, self.light.running));
        assert!(heavy <= self.heavy.limit && light <= self.light.limit);
        let queued = self
            .by_id
            .values()
            .filter(|task| task.state == TaskState::Queued);
        for task in queued {
            let queue = if task.weight == Weight::Heavy {
                &self.heavy
            } else {
                &self.light
            };
            assert!(
                queue.running == queue.limit,
                "a task waits though there is room"
            );
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.running == 0 && self.ready.is_empty() && self.accounts.is_empty()
    }
}
