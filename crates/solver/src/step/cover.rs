//! Tells a job of vertices in an order that can be read: a vertex after all it builds on.
//!
//! What was found counts as completed without work, with all below it. That is gathered while a
//! step works and told at its end, before what the step starts and before its answers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use llb::OpKind;

use super::job::{Cover, Job, Kind, Making, Presence, Told, VertexState};
use super::{Effect, News, Shared, VertexIx};

impl Job {
    /// A vertex was found: it and all it builds on count as completed. What is worked on for
    /// another reason counts as soon as that is given up.
    pub(super) fn cover(&mut self, vertex: VertexIx, shared: &mut Shared) {
        if self.v(vertex).cover != Cover::Whole {
            self.found.push(vertex);
            shared.telling.insert(self.no);
        }
    }

    /// A vertex waits for a task that has started already.
    pub(super) fn joined(&mut self, vertex: VertexIx, seq: u64, shared: &mut Shared) {
        self.joined.push((vertex, seq));
        shared.telling.insert(self.no);
    }

    /// Tells what was gathered.
    pub(super) fn tell_gathered(&mut self, shared: &mut Shared) {
        let found = std::mem::take(&mut self.found);
        self.tell_found(found, shared);
        for (vertex, seq) in std::mem::take(&mut self.joined) {
            // It may have left in the same step.
            if self.v(vertex).making != (Making::Task { seq }) {
                continue;
            }
            self.tell_started(vertex, shared);
            let state = self.v(vertex);
            if let Some(op) = state.id.and_then(|id| shared.running(&id)) {
                let (job, vertex) = (self.no, state.digest());
                shared.emit(Effect::Join { op, job, vertex });
            }
        }
    }

    /// Tells that a vertex starts to run, after what it builds on and did not have to be touched.
    pub(super) fn tell_started(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let used = self.builds_on(self.v(vertex)).collect();
        self.tell_found(used, shared);
        let state = self.v_mut(vertex);
        state.told = Told::Started;
        // Should it be given up and found, that ends what has started here.
        state.cover = Cover::Open;
        let digest = state.digest();
        shared.tell(self.no, digest, News::Started);
    }

    fn tell_found(&mut self, roots: Vec<VertexIx>, shared: &mut Shared) {
        let mut found = Vec::new();
        let mut stack: Vec<_> = roots.into_iter().map(|vertex| (vertex, true)).collect();
        while let Some((vertex, needed)) = stack.pop() {
            let state = self.v_mut(vertex);
            // A source below what was found is only looked up: nothing needs its files (as BuildKit
            // shows it).
            let looked_up =
                state.told == Told::Completed && is_lazy(&state.vertex, state.kind) && !needed;
            match state.cover {
                Cover::Whole => continue,
                Cover::Named if looked_up => continue,
                Cover::Named | Cover::Open => {}
            }
            if state.making != Making::Idle {
                state.cover_due = true;
                continue;
            }
            if looked_up {
                state.cover = Cover::Named;
                continue;
            }
            state.cover = Cover::Whole;
            found.push(vertex);
            stack.extend(self.builds_on(self.v(vertex)).map(|below| (below, false)));
        }
        for vertex in self.in_order(found) {
            self.tell_one_found(vertex, shared);
        }
    }

    fn tell_one_found(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let state = self.v(vertex);
        if state.told == Told::Completed && !is_lazy(&state.vertex, state.kind) {
            return;
        }
        // Only making sets the presence of what stands for others.
        let mut slots = state.slots();
        let was_made =
            state.kind.is_alias() && slots.all(|slot| self.slot(slot).presence == Presence::Kept);
        let state = self.v_mut(vertex);
        let digest = state.digest();
        if std::mem::replace(&mut state.told, Told::Completed) == Told::Known {
            shared.tell(self.no, digest, News::Started);
        }
        let news = News::Completed {
            cached: !was_made,
            error: None,
        };
        shared.tell(self.no, digest, news);
    }

    /// The vertices that a vertex builds on, some perhaps more than once.
    fn builds_on<'a>(&'a self, state: &'a VertexState) -> impl Iterator<Item = VertexIx> + 'a {
        let slots = state.inputs.iter().chain(&state.deps);
        slots.map(|slot| self.slot(*slot).vertex)
    }

    /// Sorts vertices so that each comes after those it builds on, otherwise as the job got them.
    fn in_order(&self, mut vertices: Vec<VertexIx>) -> Vec<VertexIx> {
        vertices.sort_unstable();
        // A vertex comes to a job after its inputs, but the definition that a build op loads later.
        let came_in_order = |vertex: &VertexIx| self.v(*vertex).kind != Kind::Build;
        if vertices.iter().all(came_in_order) {
            return vertices;
        }
        let mut missing: HashMap<VertexIx, usize> =
            vertices.iter().map(|vertex| (*vertex, 0)).collect();
        for vertex in &vertices {
            for user in &self.v(*vertex).users {
                if let Some(missing) = missing.get_mut(user) {
                    *missing += 1;
                }
            }
        }
        let mut ready: BinaryHeap<Reverse<VertexIx>> = vertices
            .iter()
            .filter(|vertex| missing[vertex] == 0)
            .map(|vertex| Reverse(*vertex))
            .collect();
        vertices.clear();
        while let Some(Reverse(vertex)) = ready.pop() {
            vertices.push(vertex);
            for user in &self.v(vertex).users {
                if let Some(missing) = missing.get_mut(user) {
                    *missing -= 1;
                    if *missing == 0 {
                        ready.push(Reverse(*user));
                    }
                }
            }
        }
        vertices
    }
}

/// Whether a source that was looked up has still to be brought in, so that finding it is worth
/// telling. A client's directory is brought in when it is looked up.
fn is_lazy(vertex: &llb::Vertex, kind: Kind) -> bool {
    let OpKind::Source(source) = &vertex.op().kind else {
        return false;
    };
    kind == Kind::Source && !source.identifier.starts_with("local://")
}
