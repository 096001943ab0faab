//! Takes graphs into a job.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use llb::{ActionInput, FileActionKind, Graph, OpKind, UserRef, Vertex};
use oci::Digest;

use super::job::{Cover, Job, Kind, Making, Naming, Presence, Slot, Told, VertexState};
use super::{News, Shared, SlotIx, VertexIx};

/// What an op is thought to take that has never been seen: short, so that known times decide, but
/// not nothing, so that longer chains come first.
const UNKNOWN_MICROS: u64 = 10_000;

impl Job {
    /// Adds what is new in a graph and returns the slot of its result.
    ///
    /// A vertex that an earlier graph had is the same vertex, unless this graph wants known results
    /// passed over and the earlier did not, for it or for something it depends on.
    pub(super) fn add_graph(
        &mut self,
        graph: &Graph,
        durations: &[Option<Duration>],
        shared: &mut Shared,
    ) -> SlotIx {
        let mut here = HashMap::with_capacity(graph.len());
        let mut order = Vec::with_capacity(graph.len());
        for vertex in graph.vertices() {
            let inputs: Vec<SlotIx> = vertex
                .inputs()
                .iter()
                .map(|input| self.output(here[&input.digest], input.output))
                .collect();
            let index = match self.latest.get(&vertex.digest()) {
                Some(&old) if self.can_stand_for(old, vertex, &inputs) => old,
                Some(_) | None => self.add_vertex(vertex, inputs, shared),
            };
            here.insert(vertex.digest(), index);
            order.push(index);
        }
        self.rank(&order, durations);
        let result = graph.result();
        self.output(here[&result.digest], result.output)
    }

    fn output(&self, vertex: VertexIx, output: u32) -> SlotIx {
        SlotIx(self.v(vertex).first_slot + output)
    }

    fn can_stand_for(&self, old: VertexIx, vertex: &Vertex, inputs: &[SlotIx]) -> bool {
        let old = self.v(old);
        old.inputs == inputs && (old.ignore_cache || !vertex.ignore_cache())
    }

    fn add_vertex(
        &mut self,
        vertex: &Arc<Vertex>,
        inputs: Vec<SlotIx>,
        shared: &mut Shared,
    ) -> VertexIx {
        // Graphs are bounded (`Graph::MAX_OPS`), and so is how many a job can bring in messages.
        let index = VertexIx(u32::try_from(self.vertices.len()).unwrap_or(u32::MAX));
        let first_slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let digest = vertex.digest();
        let earlier = self.latest.insert(digest, index);
        let ignore_cache =
            vertex.ignore_cache() || earlier.is_some_and(|old| self.v(old).ignore_cache);
        let deps: BTreeSet<SlotIx> = used_inputs(vertex)
            .into_iter()
            .map(|input| inputs[input as usize])
            .collect();
        for slot in &inputs {
            let input = self.slot(*slot).vertex;
            self.v_mut(input).users.push(index);
        }
        for slot in &deps {
            self.slot_mut(*slot).dependents.push(index);
        }
        self.slots.extend((0..vertex.outputs()).map(|_| Slot {
            vertex: index,
            id: None,
            presence: Presence::Unknown,
            demand: 0,
            dependents: Vec::new(),
            content_users: Vec::new(),
            requests: Vec::new(),
        }));
        self.vertices.push(VertexState {
            vertex: vertex.clone(),
            kind: kind(vertex),
            ignore_cache,
            inputs,
            deps: deps.into_iter().collect(),
            first_slot,
            naming: Naming::Idle,
            making: Making::Idle,
            users: Vec::new(),
            name_requests: Vec::new(),
            id: None,
            fast: None,
            exact: None,
            contents: Vec::new(),
            links: Vec::new(),
            foreseen: false,
            early: Vec::new(),
            rank: 0,
            told: Told::Known,
            cover: Cover::Open,
            cover_due: false,
            retries: 0,
        });
        for slot in self.content_slots(index) {
            self.slot_mut(slot).content_users.push(index);
        }
        if earlier.is_none() {
            shared.tell(self.no, digest, News::Known(vertex.clone()));
        }
        index
    }

    /// Gives each vertex of a graph the known time to the graph's end.
    fn rank(&mut self, order: &[VertexIx], durations: &[Option<Duration>]) {
        let mut rest: HashMap<VertexIx, u64> = HashMap::with_capacity(order.len());
        for (at, &index) in order.iter().enumerate().rev() {
            let own = durations
                .get(at)
                .copied()
                .flatten()
                .map_or(UNKNOWN_MICROS, |known| {
                    u64::try_from(known.as_micros()).unwrap_or(u64::MAX)
                });
            let total = own.saturating_add(rest.get(&index).copied().unwrap_or(0));
            let state = self.v_mut(index);
            state.rank = state.rank.max(total);
            let total = state.rank;
            for slot in 0..self.v(index).inputs.len() {
                let input = self.slot(self.v(index).inputs[slot]).vertex;
                let most = rest.entry(input).or_default();
                *most = total.max(*most);
            }
        }
    }

    /// Whether making or naming `from` needs `to`.
    pub(super) fn reaches(&self, from: VertexIx, to: VertexIx) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut stack = vec![from];
        while let Some(vertex) = stack.pop() {
            if vertex == to {
                return true;
            }
            let state = self.v(vertex);
            for slot in state.inputs.iter().chain(&state.deps) {
                let next = self.slot(*slot).vertex;
                if seen.insert(next) {
                    stack.push(next);
                }
            }
        }
        false
    }
}

fn kind(vertex: &Vertex) -> Kind {
    match &vertex.op().kind {
        OpKind::Source(_) => Kind::Source,
        OpKind::Passthrough(_) => Kind::Passthrough,
        OpKind::Build(_) => Kind::Build,
        OpKind::Exec(_) | OpKind::File(_) | OpKind::Merge(_) | OpKind::Diff(_) => Kind::Op,
    }
}

/// The inputs that must be there to carry out an op.
fn used_inputs(vertex: &Vertex) -> Vec<u32> {
    let count = u32::try_from(vertex.inputs().len()).unwrap_or(u32::MAX);
    match &vertex.op().kind {
        OpKind::Exec(exec) => exec.mounts.iter().filter_map(|mount| mount.input).collect(),
        OpKind::File(file) => file.actions.iter().flat_map(action_inputs).collect(),
        OpKind::Merge(merge) => merge.inputs.iter().filter_map(|input| *input).collect(),
        OpKind::Diff(diff) => [diff.lower, diff.upper].into_iter().flatten().collect(),
        OpKind::Passthrough(_) => (0..count).collect(),
        // What a build op needs is known when its definition has been read.
        OpKind::Source(_) | OpKind::Build(_) => Vec::new(),
    }
}

fn action_inputs(action: &llb::FileAction) -> Vec<u32> {
    let owner = match &action.kind {
        FileActionKind::Copy(copy) => copy.owner.as_ref(),
        FileActionKind::MkFile(file) => file.owner.as_ref(),
        FileActionKind::MkDir(dir) => dir.owner.as_ref(),
        FileActionKind::Symlink(link) => link.owner.as_ref(),
        FileActionKind::Rm(_) => None,
    };
    let owners = owner
        .into_iter()
        .flat_map(|owner| [&owner.user, &owner.group]);
    let named = owners.filter_map(|user| match user {
        Some(UserRef::ByName { input, .. }) => Some(*input),
        Some(UserRef::ById(_)) | None => None,
    });
    [action.input, action.secondary]
        .into_iter()
        .chain(named)
        .filter_map(|input| match input {
            ActionInput::Input(index) => Some(index),
            ActionInput::Empty | ActionInput::Action(_) => None,
        })
        .collect()
}

/// The digests of the vertices that a vertex builds on, each once.
pub(crate) fn input_digests(vertex: &Vertex) -> Vec<Digest> {
    let mut seen = BTreeSet::new();
    let digests = vertex.inputs().iter().map(|input| input.digest);
    digests.filter(|digest| seen.insert(*digest)).collect()
}
