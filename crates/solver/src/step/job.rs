//! One job: its vertices, its slots, its questions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use llb::Vertex;
use oci::Digest;

use super::{
    Asked, Description, Effect, Goal, JobNo, OpNo, RequestNo, Shared, SlotIx, VertexIx, Work,
};
use crate::SolveError;

/// One job.
pub(super) struct Job {
    pub(super) no: JobNo,
    pub(super) salt: Digest,
    pub(super) vertices: Vec<VertexState>,
    pub(super) slots: Vec<Slot>,
    /// The vertex that a digest names in graphs to come.
    pub(super) latest: HashMap<Digest, VertexIx>,
    pub(super) requests: BTreeMap<RequestNo, Request>,
    /// What the driver does for this job alone.
    pub(super) ops: BTreeSet<OpNo>,
    /// The slots whose existence is asked for at the end of the step, and under which number.
    pub(super) check: Option<(OpNo, Vec<SlotIx>)>,
    /// The slots whose existence has been asked for.
    pub(super) checks: HashMap<OpNo, Vec<SlotIx>>,
    /// How many definitions have been loaded for build ops.
    pub(super) loaded: usize,
    /// Vertices that were found in this step and have not been told of. Empty between steps.
    pub(super) found: Vec<VertexIx>,
    /// Vertices that in this step have joined a task that runs. Empty between steps.
    pub(super) joined: Vec<(VertexIx, u64)>,
}

/// A question of a job.
pub(super) struct Request {
    pub(super) slot: SlotIx,
    pub(super) goal: Goal,
    pub(super) state: RequestState,
}

/// How far a question is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RequestState {
    /// In the `name_requests` of the slot's vertex.
    Naming,
    /// In the `requests` of the slot, with a demand on it.
    Making,
}

/// A vertex of a job.
pub(super) struct VertexState {
    pub(super) vertex: Arc<Vertex>,
    pub(super) kind: Kind,
    /// Whether known results are passed over: any graph of the job can say so.
    pub(super) ignore_cache: bool,
    /// The slot of each input of the op.
    pub(super) inputs: Vec<SlotIx>,
    /// What must be there to make it, each once. Of a build op: what it stands for, once known.
    pub(super) deps: Vec<SlotIx>,
    pub(super) first_slot: u32,
    pub(super) naming: Naming,
    pub(super) making: Making,
    /// Vertices with this one as input, once for each such input.
    pub(super) users: Vec<VertexIx>,
    pub(super) name_requests: Vec<RequestNo>,
    pub(super) id: Option<Digest>,
    pub(super) fast: Option<Digest>,
    pub(super) exact: Option<Digest>,
    pub(super) contents: Vec<Option<Digest>>,
    /// Keys that stand for `id` once it is made.
    pub(super) links: Vec<Digest>,
    /// Whether content of its inputs is demanded while their names are waited for.
    pub(super) foreseen: bool,
    /// The slots of `content_slots` on which it holds such a demand, each once.
    pub(super) early: Vec<SlotIx>,
    /// Known time from its start to the end of the build, in µs.
    pub(super) rank: u64,
    pub(super) told: Told,
    pub(super) cover: Cover,
    /// Whether it will be if what is done for it is given up.
    pub(super) cover_due: bool,
    /// How often it was begun anew because something had vanished.
    pub(super) retries: u8,
}

/// What the job was last told of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Known,
    Started,
    Completed,
}

/// Whether finding a vertex is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// It is, and so it may be of all that it builds on.
    Open,
    /// What it builds on was told of. It is a source that was looked up, and nothing needed its files yet.
    Named,
    /// It and all below it have been told of.
    Whole,
}

/// What kind of vertex it is to the solver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its ids come from the worker.
    Source,
    /// It is run.
    Op,
    /// Its outputs are its inputs.
    Passthrough,
    /// Its output is the result of a definition in its input.
    Build,
}

impl Kind {
    /// Whether the outputs are slots of other vertices.
    pub(super) fn is_alias(self) -> bool {
        match self {
            Kind::Passthrough | Kind::Build => true,
            Kind::Source | Kind::Op => false,
        }
    }
}

/// How far the naming of a vertex is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// Nobody has asked.
    Idle,
    /// So many inputs are not named yet.
    Inputs { missing: usize },
    /// The worker looks at the source.
    Pinning { op: OpNo },
    /// The index looks for the fast key.
    Lookup,
    /// So many slots of `content_slots` are not there yet, all of which are demanded.
    Content { missing: usize },
    /// These digests of content are not there yet.
    Digesting { ops: BTreeSet<OpNo> },
    /// The index looks for the exact key.
    LookupExact,
    /// The worker reads the definition.
    Loading { op: OpNo },
    /// The vertex that a build op stands for is being named.
    Inner { slot: SlotIx },
    /// `id` and the ids of the slots are known.
    Named,
}

/// How far the making of a vertex is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Making {
    /// Nothing is done.
    Idle,
    /// So many of `deps` are not there yet, all of which are demanded.
    Deps { missing: usize },
    /// It waits for a task of its id, the one of this number.
    Task { seq: u64 },
}

/// One output of a vertex.
pub(super) struct Slot {
    pub(super) vertex: VertexIx,
    pub(super) id: Option<Digest>,
    pub(super) presence: Presence,
    /// How many want it: requests in `Making`, vertices in `Deps` and in `Content`, and `early`.
    pub(super) demand: usize,
    /// Vertices that have it in `deps`, each once.
    pub(super) dependents: Vec<VertexIx>,
    /// Vertices that have it in `content_slots`, each once.
    pub(super) content_users: Vec<VertexIx>,
    pub(super) requests: Vec<RequestNo>,
}

/// Whether the result of a slot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Unknown,
    /// The worker is asked, under this number.
    Asked(OpNo),
    Absent,
    /// It was made for another job. It is there, but may not stay.
    Made,
    /// It is there for as long as this job lives.
    Kept,
}

impl Slot {
    pub(super) fn is_satisfied(&self) -> bool {
        match self.presence {
            Presence::Made | Presence::Kept => true,
            Presence::Unknown | Presence::Asked(_) | Presence::Absent => false,
        }
    }
}

impl VertexState {
    pub(super) fn digest(&self) -> Digest {
        self.vertex.digest()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = SlotIx> + use<> {
        let first = self.first_slot;
        (first..first + self.vertex.outputs()).map(SlotIx)
    }
}

impl Job {
    pub(super) fn new(no: JobNo, salt: Digest) -> Job {
        Job {
            no,
            salt,
            vertices: Vec::new(),
            slots: Vec::new(),
            latest: HashMap::new(),
            requests: BTreeMap::new(),
            ops: BTreeSet::new(),
            check: None,
            checks: HashMap::new(),
            loaded: 0,
            found: Vec::new(),
            joined: Vec::new(),
        }
    }

    pub(super) fn v(&self, vertex: VertexIx) -> &VertexState {
        &self.vertices[vertex.0 as usize]
    }

    pub(super) fn v_mut(&mut self, vertex: VertexIx) -> &mut VertexState {
        &mut self.vertices[vertex.0 as usize]
    }

    pub(super) fn slot(&self, slot: SlotIx) -> &Slot {
        &self.slots[slot.0 as usize]
    }

    pub(super) fn slot_mut(&mut self, slot: SlotIx) -> &mut Slot {
        &mut self.slots[slot.0 as usize]
    }

    /// The slots whose content decides the id of a vertex, each once.
    pub(super) fn content_slots(&self, vertex: VertexIx) -> Vec<SlotIx> {
        let state = self.v(vertex);
        if state.kind == Kind::Build {
            return definition_slot(state).into_iter().collect();
        }
        let keying = state.vertex.keying();
        let by_content = keying.inputs.iter().zip(&state.inputs);
        let mut slots: Vec<SlotIx> = by_content
            .filter(|(input, _)| input.content.is_some())
            .map(|(_, slot)| *slot)
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    pub(super) fn work(&mut self, work: Work, shared: &mut Shared) {
        match work {
            Work::Name(vertex) => self.name(vertex, shared),
            Work::InputsNamed(vertex) => self.inputs_named(vertex, shared),
            Work::ContentMade(vertex) => self.content_made(vertex, shared),
            Work::NameFailed(vertex, error) => self.name_failed(vertex, error, shared),
            Work::NotEarly(vertex) => self.release_early(vertex, shared),
            Work::Want(slot) => self.advance(slot, shared),
            Work::Ready(vertex) => self.ready(vertex, shared),
            Work::Abandon(vertex) => self.abandon(vertex, shared),
            Work::MakeFailed(vertex, error) => self.make_failed(vertex, error, shared),
            Work::Satisfied(slot) => self.answer_satisfied(slot, shared),
            Work::Join(vertex) => self.join(vertex, shared),
            Work::Made { vertex, here } => self.made(vertex, here, shared),
            Work::Again { vertex, seq, error } => self.again(vertex, seq, error, shared),
            Work::RunFailed { vertex, seq, error } => self.task_failed(vertex, seq, error, shared),
        }
    }

    /// A new number for something the driver does for this job.
    pub(super) fn begin_op(&mut self, asked: Asked, shared: &mut Shared) -> OpNo {
        let op = shared.begin_op(asked);
        self.ops.insert(op);
        op
    }

    /// Takes a question.
    pub(super) fn ask(
        &mut self,
        request: RequestNo,
        slot: SlotIx,
        goal: Goal,
        shared: &mut Shared,
    ) {
        let vertex = self.slot(slot).vertex;
        self.requests.insert(
            request,
            Request {
                slot,
                goal,
                state: RequestState::Naming,
            },
        );
        self.v_mut(vertex).name_requests.push(request);
        if self.v(vertex).naming == Naming::Named {
            self.answer_named(vertex, shared);
        } else {
            shared.push(self.no, Work::Name(vertex));
        }
    }

    /// A vertex is named: answers those who asked for no more and goes on for the others.
    pub(super) fn answer_named(&mut self, vertex: VertexIx, shared: &mut Shared) {
        for no in std::mem::take(&mut self.v_mut(vertex).name_requests) {
            let Some(request) = self.requests.get_mut(&no) else {
                continue;
            };
            let slot = request.slot;
            match (request.goal, self.slots[slot.0 as usize].id) {
                (Goal::Name, Some(id)) => self.answer(no, Ok(id), shared),
                (Goal::Name, None) => self.answer(no, Err(SolveError::canceled()), shared),
                (Goal::Make, _) => {
                    request.state = RequestState::Making;
                    self.slot_mut(slot).requests.push(no);
                    self.demand(slot, shared);
                    if self.slot(slot).is_satisfied() {
                        shared.push(self.no, Work::Satisfied(slot));
                    }
                }
            }
        }
    }

    /// A slot is there: answers those who asked for it, once it is sure to stay.
    fn answer_satisfied(&mut self, slot: SlotIx, shared: &mut Shared) {
        if self.slot(slot).requests.is_empty() {
            return;
        }
        match (self.slot(slot).presence, self.slot(slot).id) {
            (Presence::Kept, Some(id)) => {
                for no in std::mem::take(&mut self.slot_mut(slot).requests) {
                    self.release(slot, shared);
                    self.answer(no, Ok(id), shared);
                }
            }
            (Presence::Made, _) => self.check(slot, shared),
            (Presence::Kept | Presence::Unknown | Presence::Asked(_) | Presence::Absent, _) => {}
        }
    }

    /// Ends a question.
    pub(super) fn answer(
        &mut self,
        request: RequestNo,
        answer: Result<Digest, SolveError>,
        shared: &mut Shared,
    ) {
        if self.requests.remove(&request).is_some() {
            shared.answer(self.no, request, answer);
        }
    }

    /// Forgets a question.
    pub(super) fn withdraw(&mut self, no: RequestNo, shared: &mut Shared) {
        let Some(request) = self.requests.remove(&no) else {
            return;
        };
        match request.state {
            RequestState::Naming => {
                let vertex = self.slot(request.slot).vertex;
                self.v_mut(vertex).name_requests.retain(|one| *one != no);
            }
            RequestState::Making => {
                self.slot_mut(request.slot)
                    .requests
                    .retain(|one| *one != no);
                self.release(request.slot, shared);
            }
        }
    }

    /// Lets go of everything.
    pub(super) fn end(mut self, shared: &mut Shared) {
        for op in std::mem::take(&mut self.ops) {
            shared.ops.remove(&op);
            shared.emit(Effect::Abort { op });
        }
        for index in 0..self.vertices.len() {
            let vertex = VertexIx(u32::try_from(index).unwrap_or(u32::MAX));
            let Some(id) = self.v(vertex).id else {
                continue;
            };
            if let Making::Task { .. } = self.v(vertex).making {
                shared.leave(id, self.no, vertex);
            }
            shared.forget(id, self.no, vertex);
        }
        for no in std::mem::take(&mut self.requests).into_keys() {
            shared.answer(self.no, no, Err(SolveError::canceled()));
        }
        shared.tasks.forget_job(self.no);
    }

    pub(super) fn describe(&self, digest: &Digest) -> Option<Description> {
        let state = self.v(*self.latest.get(digest)?);
        Some(Description {
            vertex: *digest,
            id: state.id?,
            output_ids: state
                .slots()
                .filter_map(|slot| self.slot(slot).id)
                .collect(),
            fast: state.fast,
            exact: state.exact,
            input_ids: state
                .inputs
                .iter()
                .filter_map(|slot| self.slot(*slot).id)
                .collect(),
            contents: state.contents.clone(),
        })
    }
}

/// The slot with the definition of a build op.
pub(super) fn definition_slot(state: &VertexState) -> Option<SlotIx> {
    let llb::OpKind::Build(build) = &state.vertex.op().kind else {
        return None;
    };
    state
        .inputs
        .get(build.definition_input()? as usize)
        .copied()
}

impl Shared {
    /// Remembers who has the vertex of an id.
    pub(super) fn remember(&mut self, id: Digest, job: JobNo, vertex: VertexIx) {
        self.by_id.entry(id).or_default().insert((job, vertex));
    }

    fn forget(&mut self, id: Digest, job: JobNo, vertex: VertexIx) {
        if let Some(all) = self.by_id.get_mut(&id) {
            all.remove(&(job, vertex));
            if all.is_empty() {
                self.by_id.remove(&id);
            }
        }
    }
}
