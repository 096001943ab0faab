//! Bringing a slot into being.
//!
//! Somebody demands a slot. The worker is asked whether it is there, together with all below it, so
//! that one question is enough for a graph. Where it is there nothing below is touched. Where it
//! is not, its vertex makes its `deps` and then waits for the task of its id.
//!
//! A demand is held by a question (`RequestState::Making`), by each vertex in `Making::Deps` for
//! each of its deps, by each vertex in `Naming::Content` for each of its content slots, and by each
//! vertex for what it demands `early`.

use std::collections::HashSet;

use super::job::{Cover, Job, Making, Naming, Presence, Told};
use super::{Asked, Effect, News, OpNo, Outcome, Shared, SlotIx, VertexIx, Work, misfit};
use crate::{ErrorClass, OpError, SolveError};

/// How often a vertex is begun anew because something it needs has vanished. More than once, since
/// its inputs may vanish one after the other; not for ever, since a worker may be broken.
pub(super) const MAX_RETRIES: u8 = 3;

impl Job {
    /// One more wants a slot.
    pub(super) fn demand(&mut self, slot: SlotIx, shared: &mut Shared) {
        let state = self.slot_mut(slot);
        state.demand += 1;
        let vertex = state.vertex;
        match state.presence {
            Presence::Kept => self.cover(vertex, shared),
            Presence::Made => {}
            Presence::Unknown | Presence::Asked(_) | Presence::Absent => {
                shared.push(self.no, Work::Want(slot));
            }
        }
    }

    /// One less wants a slot.
    pub(super) fn release(&mut self, slot: SlotIx, shared: &mut Shared) {
        let state = self.slot_mut(slot);
        state.demand -= 1;
        let vertex = state.vertex;
        if state.demand == 0 && !state.is_satisfied() {
            shared.push(self.no, Work::Abandon(vertex));
        }
    }

    /// Changes whether a slot is there, and counts for those who wait for it.
    pub(super) fn set_presence(&mut self, slot: SlotIx, presence: Presence, shared: &mut Shared) {
        let state = self.slot_mut(slot);
        let was = state.is_satisfied();
        state.presence = presence;
        let is = state.is_satisfied();
        if was == is {
            return;
        }
        for at in 0..self.slot(slot).dependents.len() {
            let user = self.slot(slot).dependents[at];
            if let Making::Deps { missing } = &mut self.v_mut(user).making {
                *missing = if is { *missing - 1 } else { *missing + 1 };
                if *missing == 0 {
                    shared.push(self.no, Work::Ready(user));
                }
            }
        }
        for at in 0..self.slot(slot).content_users.len() {
            let user = self.slot(slot).content_users[at];
            if let Naming::Content { missing } = &mut self.v_mut(user).naming {
                *missing = if is { *missing - 1 } else { *missing + 1 };
                if *missing == 0 {
                    shared.push(self.no, Work::ContentMade(user));
                }
            }
        }
        if is {
            shared.push(self.no, Work::Satisfied(slot));
        } else if self.slot(slot).demand > 0 {
            shared.push(self.no, Work::Want(slot));
        }
    }

    /// Goes on with a slot that is demanded.
    pub(super) fn advance(&mut self, slot: SlotIx, shared: &mut Shared) {
        let state = self.slot(slot);
        if state.demand == 0 {
            return;
        }
        match state.presence {
            Presence::Made | Presence::Kept | Presence::Asked(_) => {}
            Presence::Absent => self.make(state.vertex, shared),
            Presence::Unknown if self.v(state.vertex).kind.is_alias() => {
                self.make(state.vertex, shared);
            }
            Presence::Unknown => self.look(slot, shared),
        }
    }

    /// Asks whether a slot is there, and all below it of which that is not known.
    fn look(&mut self, slot: SlotIx, shared: &mut Shared) {
        let mut stack = vec![slot];
        // Where a chain of aliases forks at each, there are more ways than can be walked.
        let mut aliases = HashSet::new();
        while let Some(slot) = stack.pop() {
            let state = self.slot(slot);
            let vertex = self.v(state.vertex);
            if state.presence != Presence::Unknown {
                continue;
            }
            if vertex.kind.is_alias() {
                if !aliases.insert(state.vertex) {
                    continue;
                }
            } else {
                match vertex.id {
                    // It is just being made: no need to ask.
                    Some(id) if shared.task(&id).is_some() => {
                        self.set_presence(slot, Presence::Absent, shared);
                        shared.push(self.no, Work::Want(slot));
                        continue;
                    }
                    Some(_) => self.check(slot, shared),
                    None => continue,
                }
            }
            let vertex = self.slot(slot).vertex;
            stack.extend(self.v(vertex).deps.iter().rev().copied());
        }
    }

    /// Asks whether a slot is there, with all other such questions of this step.
    pub(super) fn check(&mut self, slot: SlotIx, shared: &mut Shared) {
        let op = match &mut self.check {
            Some((op, slots)) => {
                slots.push(slot);
                *op
            }
            None => {
                let op = self.begin_op(Asked::Exists { job: self.no }, shared);
                self.check = Some((op, vec![slot]));
                shared.checking.insert(self.no);
                op
            }
        };
        self.set_presence(slot, Presence::Asked(op), shared);
    }

    /// The end of a step.
    pub(super) fn ask_what_exists(&mut self, shared: &mut Shared) {
        let Some((op, slots)) = self.check.take() else {
            return;
        };
        let ids = slots
            .iter()
            .filter_map(|slot| self.slot(*slot).id)
            .collect();
        self.checks.insert(op, slots);
        shared.emit(Effect::Exists {
            op,
            job: self.no,
            ids,
        });
    }

    pub(super) fn existence_known(&mut self, op: OpNo, outcome: Outcome, shared: &mut Shared) {
        let Some(slots) = self.checks.remove(&op) else {
            return;
        };
        let there = outcome.exists().and_then(|there| {
            if there.len() == slots.len() {
                Ok(there)
            } else {
                Err(misfit())
            }
        });
        match there {
            Ok(there) => {
                for (slot, there) in slots.into_iter().zip(there) {
                    // Others were made in the meantime, which is newer.
                    if self.slot(slot).presence == Presence::Asked(op) {
                        self.exists(slot, there, shared);
                    }
                }
            }
            Err(error) => {
                for slot in slots {
                    if self.slot(slot).presence != Presence::Asked(op) {
                        continue;
                    }
                    self.slot_mut(slot).presence = Presence::Unknown;
                    if self.slot(slot).demand > 0 {
                        let vertex = self.slot(slot).vertex;
                        let error = SolveError::at(self.v(vertex).digest(), error.clone());
                        shared.push(self.no, Work::MakeFailed(vertex, error));
                    }
                }
            }
        }
    }

    fn exists(&mut self, slot: SlotIx, there: bool, shared: &mut Shared) {
        if there {
            self.set_presence(slot, Presence::Kept, shared);
            let vertex = self.slot(slot).vertex;
            if self.slot(slot).demand > 0 {
                self.cover(vertex, shared);
            }
        } else {
            self.set_presence(slot, Presence::Absent, shared);
            shared.push(self.no, Work::Want(slot));
        }
    }

    /// Begins to make a vertex.
    fn make(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let state = self.v(vertex);
        if state.making != Making::Idle {
            return;
        }
        self.foresee_users(vertex, shared);
        if self.join_task(vertex, shared) {
            return;
        }
        let deps = self.v(vertex).deps.clone();
        let missing = deps
            .iter()
            .filter(|slot| !self.slot(**slot).is_satisfied())
            .count();
        self.v_mut(vertex).making = Making::Deps { missing };
        for slot in deps {
            self.demand(slot, shared);
        }
        if missing == 0 {
            shared.push(self.no, Work::Ready(vertex));
        }
    }

    /// Waits for the task of a vertex's id, if there is one.
    fn join_task(&mut self, vertex: VertexIx, shared: &mut Shared) -> bool {
        let state = self.v(vertex);
        let Some(id) = state.id else { return false };
        let (digest, rank) = (state.digest(), state.rank);
        let Some(seq) = shared.join(id, (self.no, vertex), digest, rank) else {
            return false;
        };
        self.v_mut(vertex).making = Making::Task { seq };
        if shared.has_started(&id) {
            self.joined(vertex, seq, shared);
        }
        true
    }

    /// Another job has begun a task for the id of a vertex: no need to see to the deps.
    pub(super) fn join(&mut self, vertex: VertexIx, shared: &mut Shared) {
        if let Making::Deps { .. } = self.v(vertex).making
            && self.join_task(vertex, shared)
        {
            self.release_deps(vertex, shared);
        }
    }

    pub(super) fn ready(&mut self, vertex: VertexIx, shared: &mut Shared) {
        if self.v(vertex).making != (Making::Deps { missing: 0 }) {
            return;
        }
        let is_alias = self.v(vertex).kind.is_alias();
        if !is_alias && self.join_task(vertex, shared) {
            return self.release_deps(vertex, shared);
        }
        let deps = self.v(vertex).deps.clone();
        if self.make_sure_of(&deps, shared) {
            return;
        }
        if is_alias {
            self.v_mut(vertex).making = Making::Idle;
            for slot in self.v(vertex).slots() {
                self.set_presence(slot, Presence::Kept, shared);
            }
            self.cover(vertex, shared);
        } else {
            let seq = self.begin_task(vertex, shared);
            self.v_mut(vertex).making = seq.map_or(Making::Idle, |seq| Making::Task { seq });
        }
        self.release_deps(vertex, shared);
    }

    fn release_deps(&mut self, vertex: VertexIx, shared: &mut Shared) {
        for at in 0..self.v(vertex).deps.len() {
            let slot = self.v(vertex).deps[at];
            self.release(slot, shared);
        }
    }

    /// The id of a vertex has been made: by a task of this job (`here`) or of another.
    pub(super) fn made(&mut self, vertex: VertexIx, here: bool, shared: &mut Shared) {
        let making = std::mem::replace(&mut self.v_mut(vertex).making, Making::Idle);
        match making {
            Making::Task { .. } => {
                let state = self.v_mut(vertex);
                state.told = Told::Completed;
                state.cover = Cover::Whole;
                let digest = state.digest();
                shared.tell(
                    self.no,
                    digest,
                    News::Completed {
                        cached: false,
                        error: None,
                    },
                );
            }
            Making::Deps { .. } => {
                self.release_deps(vertex, shared);
                self.cover(vertex, shared);
            }
            Making::Idle => {
                if self
                    .v(vertex)
                    .slots()
                    .any(|slot| self.slot(slot).demand > 0)
                {
                    self.cover(vertex, shared);
                }
            }
        }
        self.v_mut(vertex).retries = 0;
        if let Some(id) = self.v(vertex).id {
            for key in std::mem::take(&mut self.v_mut(vertex).links) {
                shared.emit(Effect::SetLink { key, id });
            }
        }
        for slot in self.v(vertex).slots() {
            match (here, self.slot(slot).presence) {
                (true, _) => self.set_presence(slot, Presence::Kept, shared),
                (false, Presence::Kept) => {}
                (false, _) => self.set_presence(slot, Presence::Made, shared),
            }
        }
    }

    /// The task that a vertex waited for has ended without a result and without a fault of the op.
    pub(super) fn again(
        &mut self,
        vertex: VertexIx,
        seq: u64,
        error: Option<OpError>,
        shared: &mut Shared,
    ) {
        let state = self.v_mut(vertex);
        if state.making != (Making::Task { seq }) {
            return;
        }
        state.making = Making::Idle;
        if let Some(error) = error {
            if state.retries >= MAX_RETRIES {
                return self.run_failed(vertex, error, shared);
            }
            state.retries += 1;
            for slot in self.v(vertex).deps.clone() {
                self.doubt(slot, shared);
            }
        }
        for slot in self.v(vertex).slots() {
            shared.push(self.no, Work::Want(slot));
        }
    }

    /// Forgets that a slot is there: it will be looked for before it is used again.
    pub(super) fn doubt(&mut self, slot: SlotIx, shared: &mut Shared) {
        let mut stack = vec![slot];
        let mut aliases = HashSet::new();
        while let Some(slot) = stack.pop() {
            if self.slot(slot).is_satisfied() {
                self.set_presence(slot, Presence::Unknown, shared);
            }
            let index = self.slot(slot).vertex;
            let vertex = self.v(index);
            if vertex.kind.is_alias() && aliases.insert(index) {
                stack.extend(vertex.deps.iter().copied());
            }
        }
    }

    /// The task that a vertex waited for has failed.
    pub(super) fn task_failed(
        &mut self,
        vertex: VertexIx,
        seq: u64,
        error: OpError,
        shared: &mut Shared,
    ) {
        if self.v(vertex).making == (Making::Task { seq }) {
            self.v_mut(vertex).making = Making::Idle;
            self.run_failed(vertex, error, shared);
        }
    }

    /// The run of a vertex has failed for good.
    fn run_failed(&mut self, vertex: VertexIx, error: OpError, shared: &mut Shared) {
        let digest = self.v(vertex).digest();
        let error = SolveError::at(digest, error);
        let news = News::Completed {
            cached: false,
            error: Some(error.error.clone()),
        };
        shared.tell(self.no, digest, news);
        let state = self.v_mut(vertex);
        state.told = Told::Completed;
        state.cover = Cover::Whole;
        self.make_failed(vertex, error, shared);
    }

    /// A vertex cannot be made: tells all who wait for it.
    pub(super) fn make_failed(&mut self, vertex: VertexIx, error: SolveError, shared: &mut Shared) {
        self.stop_making(vertex, shared);
        self.v_mut(vertex).retries = 0;
        if std::mem::take(&mut self.v_mut(vertex).cover_due) {
            self.cover(vertex, shared);
        }
        for slot in self.v(vertex).slots() {
            if self.slot(slot).is_satisfied() {
                continue;
            }
            for request in std::mem::take(&mut self.slot_mut(slot).requests) {
                self.release(slot, shared);
                self.answer(request, Err(error.clone()), shared);
            }
            for user in &self.slot(slot).dependents {
                if let Making::Deps { .. } = self.v(*user).making {
                    shared.push(self.no, Work::MakeFailed(*user, error.clone()));
                }
            }
            for user in &self.slot(slot).content_users {
                match self.v(*user).naming {
                    Naming::Content { .. } => {
                        shared.push(self.no, Work::NameFailed(*user, error.clone()));
                    }
                    // It would fail as soon as the other inputs have their names.
                    Naming::Inputs { .. } if self.v(*user).early.contains(&slot) => {
                        shared.push(self.no, Work::NameFailed(*user, error.clone()));
                    }
                    // Perhaps a link is found, and it was not needed.
                    Naming::Lookup if self.v(*user).early.contains(&slot) => {
                        shared.push(self.no, Work::NotEarly(*user));
                    }
                    Naming::Idle
                    | Naming::Inputs { .. }
                    | Naming::Pinning { .. }
                    | Naming::Lookup
                    | Naming::Digesting { .. }
                    | Naming::LookupExact
                    | Naming::Loading { .. }
                    | Naming::Inner { .. }
                    | Naming::Named => {}
                }
            }
        }
    }

    /// Perhaps nobody wants a vertex any more.
    pub(super) fn abandon(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let is_wanted = |slot| {
            let slot = self.slot(slot);
            slot.demand > 0 && !slot.is_satisfied()
        };
        if self.v(vertex).slots().any(is_wanted) {
            return;
        }
        self.stop_making(vertex, shared);
        if std::mem::take(&mut self.v_mut(vertex).cover_due) {
            self.cover(vertex, shared);
        }
    }

    fn stop_making(&mut self, vertex: VertexIx, shared: &mut Shared) {
        match std::mem::replace(&mut self.v_mut(vertex).making, Making::Idle) {
            Making::Idle => {}
            Making::Deps { .. } => self.release_deps(vertex, shared),
            Making::Task { .. } => {
                if let Some(id) = self.v(vertex).id {
                    shared.leave(id, self.no, vertex);
                }
            }
        }
    }
}

impl Shared {
    /// A task has ended.
    pub(super) fn task_ended(&mut self, id: oci::Digest, outcome: Outcome) {
        let Some(ended) = self.tasks.end(&id) else {
            return;
        };
        let seq = ended.seq;
        match outcome.ran() {
            Ok(()) => {
                let mut others = self.by_id.get(&id).cloned().unwrap_or_default();
                // First the job that has the inputs of what comes next for sure.
                for (job, vertex) in ended.waiters {
                    others.remove(&(job, vertex));
                    self.push(
                        job,
                        Work::Made {
                            vertex,
                            here: job == ended.maker,
                        },
                    );
                }
                for (job, vertex) in others {
                    self.push(
                        job,
                        Work::Made {
                            vertex,
                            here: job == ended.maker,
                        },
                    );
                }
            }
            Err(error) => {
                for (job, vertex) in ended.waiters {
                    let work = if ended.was_cancelled {
                        Work::Again {
                            vertex,
                            seq,
                            error: None,
                        }
                    } else if error.class() == ErrorClass::Transient {
                        Work::Again {
                            vertex,
                            seq,
                            error: Some(error.clone()),
                        }
                    } else {
                        Work::RunFailed {
                            vertex,
                            seq,
                            error: error.clone(),
                        }
                    };
                    self.push(job, work);
                }
            }
        }
    }
}
