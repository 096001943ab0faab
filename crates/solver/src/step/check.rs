//! What must hold between steps.

use std::collections::{HashMap, HashSet};

use oci::Digest;

use super::job::{Job, Making, Naming, Presence, RequestState};
use super::{Asked, Core, JobNo, SlotIx, VertexIx};

impl Core {
    /// Panics where an invariant is broken. Costs time in proportion to all state: for tests.
    ///
    /// * A step leaves no work behind.
    /// * The demand on a slot is the number of those who hold one.
    /// * `missing` counts what is missing.
    /// * A slot that is demanded and not there is being looked for or its vertex is being made.
    /// * A vertex waits for a task exactly if it is among the task's waiters.
    /// * A task that is not being cancelled has waiters, and one that is queued has its maker.
    /// * Everything that is waited for has been asked of the driver.
    /// * `by_id` has all named vertices of all jobs and nothing else.
    pub(crate) fn check(&self) {
        assert!(self.shared.work.is_empty(), "a step left work behind");
        assert!(
            self.shared.checking.is_empty(),
            "a step left questions unasked"
        );
        assert!(
            self.shared.telling.is_empty() && self.shared.answers.is_empty(),
            "a step left something untold"
        );
        for job in self.jobs.values() {
            assert!(job.found.is_empty() && job.joined.is_empty());
            job.check_demand();
            job.check_naming(self);
            job.check_making(self);
        }
        self.check_by_id();
        self.shared.tasks.check(|job, vertex, seq| {
            let job = self.jobs.get(&job);
            job.is_some_and(|job| job.v(vertex).making == Making::Task { seq })
        });
        for asked in self.shared.ops.values() {
            let job = match asked {
                Asked::Run { id } => {
                    assert!(self.shared.task(id).is_some(), "a run without a task");
                    continue;
                }
                Asked::Pin { job, .. }
                | Asked::Exists { job }
                | Asked::Digest { job, .. }
                | Asked::Load { job, .. } => job,
            };
            assert!(self.jobs.contains_key(job), "an op of a job that has ended");
        }
    }

    /// Whether what a digest names in graphs to come is being made, or the job is gone.
    pub(crate) fn is_making(&self, job: JobNo, digest: &Digest) -> bool {
        let Some(job) = self.jobs.get(&job) else {
            return true;
        };
        let vertex = job.latest.get(digest);
        vertex.is_some_and(|vertex| job.v(*vertex).making != Making::Idle)
    }

    /// All that is being made.
    pub(crate) fn making(&self) -> HashSet<(JobNo, Digest)> {
        let mut making = HashSet::new();
        for job in self.jobs.values() {
            let of_job = job.vertices.iter();
            let of_job = of_job.filter(|state| state.making != Making::Idle);
            making.extend(of_job.map(|state| (job.no, state.digest())));
        }
        making
    }

    /// Whether nothing is left of anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
            && self.shared.tasks.is_empty()
            && self.shared.ops.is_empty()
            && self.shared.by_id.is_empty()
    }

    fn check_by_id(&self) {
        let mut count = 0;
        for (id, all) in &self.shared.by_id {
            for (job, vertex) in all {
                count += 1;
                let job = self.jobs.get(job).expect("by_id has only jobs that live");
                assert_eq!(job.v(*vertex).id.as_ref(), Some(id));
            }
        }
        let named = self.jobs.values().flat_map(|job| &job.vertices);
        assert_eq!(count, named.filter(|state| state.id.is_some()).count());
    }
}

impl Job {
    fn indices(&self) -> impl Iterator<Item = VertexIx> + use<> {
        (0..u32::try_from(self.vertices.len()).unwrap_or(u32::MAX)).map(VertexIx)
    }

    fn check_demand(&self) {
        let mut demand: HashMap<SlotIx, usize> = HashMap::new();
        for vertex in self.indices() {
            let state = self.v(vertex);
            if let Making::Deps { missing } = state.making {
                let gone = state
                    .deps
                    .iter()
                    .filter(|slot| !self.slot(**slot).is_satisfied());
                assert_eq!(missing, gone.count(), "missing deps of {}", state.digest());
                assert!(
                    missing > 0,
                    "{} has its deps and does not go on",
                    state.digest()
                );
                state
                    .deps
                    .iter()
                    .for_each(|slot| *demand.entry(*slot).or_default() += 1);
            }
            assert!(state.foreseen || state.early.is_empty());
            state
                .early
                .iter()
                .for_each(|slot| *demand.entry(*slot).or_default() += 1);
            if let Naming::Content { missing } = state.naming {
                assert!(!state.foreseen, "it waits for no name");
                let slots = self.content_slots(vertex);
                let gone = slots
                    .iter()
                    .filter(|slot| !self.slot(**slot).is_satisfied());
                assert_eq!(
                    missing,
                    gone.count(),
                    "missing content of {}",
                    state.digest()
                );
                assert!(
                    missing > 0,
                    "{} has its content and does not go on",
                    state.digest()
                );
                slots
                    .iter()
                    .for_each(|slot| *demand.entry(*slot).or_default() += 1);
            }
        }
        for (no, request) in &self.requests {
            let slot = self.slot(request.slot);
            match request.state {
                RequestState::Naming => {
                    assert!(self.v(slot.vertex).name_requests.contains(no));
                    assert_ne!(self.v(slot.vertex).naming, Naming::Idle);
                }
                RequestState::Making => {
                    assert!(slot.requests.contains(no));
                    assert_ne!(slot.presence, Presence::Kept, "an answer is due");
                    *demand.entry(request.slot).or_default() += 1;
                }
            }
        }
        for (at, slot) in (0..).zip(&self.slots) {
            let expected = demand.get(&SlotIx(at)).copied().unwrap_or(0);
            assert_eq!(
                slot.demand,
                expected,
                "demand on {}",
                self.v(slot.vertex).digest()
            );
        }
    }

    fn check_naming(&self, core: &Core) {
        for vertex in self.indices() {
            let state = self.v(vertex);
            match &state.naming {
                Naming::Inputs { missing } => {
                    let unnamed = state.inputs.iter().filter(|slot| {
                        let input = self.v(self.slot(**slot).vertex);
                        assert_ne!(input.naming, Naming::Idle, "nobody names an input");
                        input.naming != Naming::Named
                    });
                    assert_eq!(*missing, unnamed.count());
                    assert!(
                        *missing > 0,
                        "{} has its inputs and does not go on",
                        state.digest()
                    );
                }
                Naming::Pinning { op } | Naming::Loading { op } => {
                    assert!(self.ops.contains(op) && core.shared.ops.contains_key(op));
                }
                Naming::Digesting { ops } => {
                    assert!(!ops.is_empty());
                    assert!(ops.iter().all(|op| core.shared.ops.contains_key(op)));
                }
                Naming::Inner { slot } => {
                    assert_ne!(self.v(self.slot(*slot).vertex).naming, Naming::Named);
                }
                Naming::Named => {
                    assert!(state.slots().all(|slot| self.slot(slot).id.is_some()));
                }
                Naming::Idle | Naming::Lookup | Naming::LookupExact | Naming::Content { .. } => {}
            }
        }
    }

    fn check_making(&self, core: &Core) {
        for slot in &self.slots {
            let state = self.v(slot.vertex);
            if slot.demand > 0 && !slot.is_satisfied() {
                let is_asked = matches!(slot.presence, Presence::Asked(_));
                assert!(
                    is_asked || state.making != Making::Idle,
                    "{} rests",
                    state.digest()
                );
            }
            if let Presence::Asked(op) = slot.presence {
                assert!(core.shared.ops.contains_key(&op), "nobody was asked");
            }
        }
        for vertex in self.indices() {
            let state = self.v(vertex);
            if let (Making::Task { seq }, Some(id)) = (state.making, state.id) {
                let task = core
                    .shared
                    .task(&id)
                    .expect("a vertex waits for a task that is there");
                assert!(task.has_waiter(seq, self.no, vertex));
            }
            let is_wanted = state.slots().any(|slot| self.slot(slot).demand > 0);
            assert!(is_wanted || state.making == Making::Idle, "made for nobody");
        }
    }
}

impl super::tasks::Task {
    fn has_waiter(&self, seq: u64, job: JobNo, vertex: VertexIx) -> bool {
        self.seq == seq
            && self
                .waiters
                .iter()
                .any(|waiter| (waiter.job, waiter.vertex) == (job, vertex))
    }
}
