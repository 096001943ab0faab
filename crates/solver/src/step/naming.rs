//! What a vertex's result would be called.
//!
//! ```text
//! source      Pinning ─────────────────────────────────────────────▶ Named
//! op          Inputs ▶ Lookup ▶ Content ▶ Digesting ▶ LookupExact ─▶ Named
//!                        └ linked, or no content counts ───────────▶ Named
//! passthrough Inputs ──────────────────────────────────────────────▶ Named
//! build       Inputs ▶ Content ▶ Loading ▶ Inner ──────────────────▶ Named
//! ```
//!
//! A failure leads back to `Idle` and is told to all who wait; it is not kept.

use std::collections::BTreeSet;

use llb::OpKind;
use oci::Digest;

use super::job::{Job, Kind, Naming, Presence, Told, definition_slot};
use super::making::MAX_RETRIES;
use super::{Asked, Effect, News, OpNo, Outcome, Shared, SlotIx, VertexIx, Work, misfit};
use crate::{ErrorClass, OpError, SolveError, key};

/// How many definitions a job may load through build ops. Each can bring the next, so that nothing
/// else ends a chain of them.
const MAX_LOADED: usize = 64;

impl Job {
    pub(super) fn name(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let state = self.v(vertex);
        if state.naming != Naming::Idle {
            return;
        }
        if state.kind == Kind::Source {
            let op = self.begin_op(
                Asked::Pin {
                    job: self.no,
                    vertex,
                },
                shared,
            );
            let state = self.v_mut(vertex);
            state.naming = Naming::Pinning { op };
            state.told = Told::Started;
            let op_vertex = state.vertex.clone();
            shared.tell(self.no, op_vertex.digest(), News::Started);
            shared.emit(Effect::Pin {
                op,
                job: self.no,
                vertex: op_vertex,
            });
            return;
        }
        let mut missing = 0;
        for slot in &state.inputs {
            let input = self.slot(*slot).vertex;
            if self.v(input).naming != Naming::Named {
                missing += 1;
                shared.push(self.no, Work::Name(input));
            }
        }
        self.v_mut(vertex).naming = Naming::Inputs { missing };
        if missing == 0 {
            shared.push(self.no, Work::InputsNamed(vertex));
        } else {
            self.join_foreseen(vertex, shared);
        }
    }

    pub(super) fn inputs_named(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let state = self.v(vertex);
        if state.naming != (Naming::Inputs { missing: 0 }) {
            return;
        }
        match state.kind {
            Kind::Source => {}
            Kind::Passthrough => {
                let OpKind::Passthrough(op) = &state.vertex.op().kind else {
                    return;
                };
                let inputs: Vec<SlotIx> = op
                    .outputs
                    .iter()
                    .map(|input| state.inputs[*input as usize])
                    .collect();
                self.named_as(vertex, &inputs, shared);
            }
            Kind::Build => self.begin_content(vertex, shared),
            Kind::Op => {
                let fast = key::fast(state.vertex.keying(), &self.input_ids(vertex));
                let state = self.v_mut(vertex);
                state.fast = Some(fast);
                state.exact = None;
                if state.ignore_cache {
                    self.not_linked(vertex, fast, shared);
                } else {
                    state.naming = Naming::Lookup;
                    shared.emit(Effect::Lookup {
                        job: self.no,
                        vertex,
                        key: fast,
                    });
                }
            }
        }
    }

    fn input_ids(&self, vertex: VertexIx) -> Vec<Digest> {
        self.v(vertex)
            .inputs
            .iter()
            .filter_map(|slot| self.slot(*slot).id)
            .collect()
    }

    /// The index has answered.
    pub(super) fn linked(&mut self, vertex: VertexIx, link: Option<Digest>, shared: &mut Shared) {
        let state = self.v(vertex);
        let is_exact = match state.naming {
            Naming::Lookup => false,
            Naming::LookupExact => true,
            Naming::Idle
            | Naming::Inputs { .. }
            | Naming::Pinning { .. }
            | Naming::Content { .. }
            | Naming::Digesting { .. }
            | Naming::Loading { .. }
            | Naming::Inner { .. }
            | Naming::Named => return,
        };
        match (is_exact, link, state.fast, state.exact) {
            (false, Some(id), ..) => self.named(vertex, id, shared),
            (false, None, Some(fast), _) => self.not_linked(vertex, fast, shared),
            (true, link, Some(fast), Some(exact)) => {
                let id = link.unwrap_or(exact);
                shared.emit(Effect::SetLink { key: fast, id });
                self.named(vertex, id, shared);
            }
            (false, None, None, _) | (true, _, None, _) | (true, _, _, None) => {}
        }
    }

    /// No link is known for, or wanted of, the fast key.
    fn not_linked(&mut self, vertex: VertexIx, fast: Digest, shared: &mut Shared) {
        if !self.content_slots(vertex).is_empty() {
            self.begin_content(vertex, shared);
        } else if self.v(vertex).ignore_cache {
            self.named_fresh(vertex, vec![fast], fast, shared);
        } else {
            self.named(vertex, fast, shared);
        }
    }

    fn begin_content(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let slots = self.content_slots(vertex);
        let missing = slots
            .iter()
            .filter(|slot| !self.slot(**slot).is_satisfied())
            .count();
        self.v_mut(vertex).naming = Naming::Content { missing };
        for slot in slots {
            self.demand(slot, shared);
        }
        self.release_early(vertex, shared);
        if missing == 0 {
            shared.push(self.no, Work::ContentMade(vertex));
        } else if self.is_content_made(vertex) {
            self.foresee(vertex, shared);
        }
    }

    pub(super) fn content_made(&mut self, vertex: VertexIx, shared: &mut Shared) {
        if self.v(vertex).naming != (Naming::Content { missing: 0 }) {
            return;
        }
        let slots = self.content_slots(vertex);
        if self.make_sure_of(&slots, shared) {
            return;
        }
        if self.v(vertex).kind == Kind::Build {
            self.load(vertex, shared);
        } else {
            self.digest(vertex, shared);
        }
        for slot in slots {
            self.release(slot, shared);
        }
    }

    fn digest(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let op_vertex = self.v(vertex).vertex.clone();
        let keying = op_vertex.keying();
        let mut ops = BTreeSet::new();
        for (input, keying) in (0u32..).zip(&keying.inputs) {
            let slot = self.v(vertex).inputs[input as usize];
            let (Some(selectors), Some(id)) = (&keying.content, self.slot(slot).id) else {
                continue;
            };
            let op = self.begin_op(
                Asked::Digest {
                    job: self.no,
                    vertex,
                    input,
                },
                shared,
            );
            let selectors = selectors.clone();
            shared.emit(Effect::Digest {
                op,
                job: self.no,
                id,
                selectors,
            });
            ops.insert(op);
        }
        let state = self.v_mut(vertex);
        state.contents = vec![None; state.inputs.len()];
        state.naming = Naming::Digesting { ops };
    }

    pub(super) fn digested(
        &mut self,
        vertex: VertexIx,
        (op, input): (OpNo, u32),
        outcome: Outcome,
        shared: &mut Shared,
    ) {
        let state = self.v_mut(vertex);
        let Naming::Digesting { ops } = &mut state.naming else {
            return;
        };
        ops.remove(&op);
        let is_last = ops.is_empty();
        match outcome.digest() {
            Ok(content) => {
                state.contents[input as usize] = Some(content);
                if is_last {
                    self.content_known(vertex, shared);
                }
            }
            Err(error) if error.class() == ErrorClass::Transient && state.retries < MAX_RETRIES => {
                // Perhaps the result has vanished: look again, and make it anew if need be.
                state.retries += 1;
                self.stop_naming(vertex, shared);
                for slot in self.content_slots(vertex) {
                    self.doubt(slot, shared);
                }
                self.begin_content(vertex, shared);
            }
            Err(error) => {
                // BuildKit: `solver/edge.go`.
                self.fail_naming_at(vertex, error, Some("failed to compute cache key"), shared);
            }
        }
    }

    fn content_known(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let ids = self.input_ids(vertex);
        let state = self.v_mut(vertex);
        let exact = key::exact(state.vertex.keying(), &ids, &state.contents);
        state.exact = Some(exact);
        match state.fast {
            Some(fast) if state.ignore_cache => {
                self.named_fresh(vertex, vec![fast, exact], fast, shared);
            }
            Some(_) | None => {
                state.naming = Naming::LookupExact;
                shared.emit(Effect::Lookup {
                    job: self.no,
                    vertex,
                    key: exact,
                });
            }
        }
    }

    pub(super) fn pinned(&mut self, vertex: VertexIx, outcome: Outcome, shared: &mut Shared) {
        let state = self.v_mut(vertex);
        let outputs = state.vertex.outputs() as usize;
        let ids = outcome.pinned().and_then(|ids| {
            if ids.len() == outputs {
                Ok(ids)
            } else {
                Err(misfit())
            }
        });
        match ids {
            Ok(ids) => {
                let digest = state.digest();
                state.told = Told::Completed;
                let news = News::Completed {
                    cached: false,
                    error: None,
                };
                shared.tell(self.no, digest, news);
                self.named_with(vertex, ids[0], ids, shared);
            }
            Err(error) => {
                // A local directory is named by what comes in: there is no key to be had before.
                let keyed = !matches!(&state.vertex.op().kind,
                    OpKind::Source(source) if source.identifier.starts_with("local://"));
                let what = keyed.then_some("failed to load cache key");
                self.fail_naming_at(vertex, error, what, shared);
            }
        }
    }

    fn load(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let state = self.v(vertex);
        let OpKind::Build(build) = &state.vertex.op().kind else {
            return;
        };
        let filename = build.filename().to_owned();
        let Some(id) = definition_slot(state).and_then(|slot| self.slot(slot).id) else {
            return;
        };
        let op = self.begin_op(
            Asked::Load {
                job: self.no,
                vertex,
            },
            shared,
        );
        self.v_mut(vertex).naming = Naming::Loading { op };
        shared.emit(Effect::Load {
            op,
            job: self.no,
            id,
            filename,
        });
    }

    pub(super) fn loaded(&mut self, vertex: VertexIx, outcome: Outcome, shared: &mut Shared) {
        let (graph, durations) = match outcome.definition() {
            Ok(definition) => definition,
            Err(error)
                if error.class() == ErrorClass::Transient
                    && self.v(vertex).retries < MAX_RETRIES =>
            {
                self.v_mut(vertex).retries += 1;
                for slot in self.content_slots(vertex) {
                    self.doubt(slot, shared);
                }
                return self.begin_content(vertex, shared);
            }
            Err(error) => return self.fail_naming_at(vertex, error, None, shared),
        };
        self.loaded += 1;
        if self.loaded > MAX_LOADED {
            let error = OpError::new(
                ErrorClass::User,
                format!("more than {MAX_LOADED} definitions were loaded from results"),
            );
            return self.fail_naming_at(vertex, error, None, shared);
        }
        let slot = self.add_graph(&graph, &durations, shared);
        let inner = self.slot(slot).vertex;
        if self.reaches(inner, vertex) {
            let error = OpError::new(
                ErrorClass::User,
                "a definition builds on the op that loads it",
            );
            return self.fail_naming_at(vertex, error, None, shared);
        }
        self.stand_for(vertex, slot);
        if self.v(inner).naming == Naming::Named {
            self.named_as(vertex, &[slot], shared);
        } else {
            self.v_mut(vertex).naming = Naming::Inner { slot };
            shared.push(self.no, Work::Name(inner));
        }
    }

    /// Lets a build op stand for the result of the definition it has loaded.
    fn stand_for(&mut self, vertex: VertexIx, slot: SlotIx) {
        for old in std::mem::replace(&mut self.v_mut(vertex).deps, vec![slot]) {
            let inner = self.slot(old).vertex;
            self.v_mut(inner).users.retain(|user| *user != vertex);
            self.slot_mut(old).dependents.retain(|user| *user != vertex);
        }
        let inner = self.slot(slot).vertex;
        self.v_mut(inner).users.push(vertex);
        self.slot_mut(slot).dependents.push(vertex);
    }

    fn named_fresh(
        &mut self,
        vertex: VertexIx,
        links: Vec<Digest>,
        fast: Digest,
        shared: &mut Shared,
    ) {
        self.v_mut(vertex).links = links;
        let id = key::fresh(self.salt, fast);
        self.named(vertex, id, shared);
    }

    fn named(&mut self, vertex: VertexIx, id: Digest, shared: &mut Shared) {
        let outputs = (0..self.v(vertex).vertex.outputs())
            .map(|n| key::output(id, n))
            .collect();
        self.named_with(vertex, id, outputs, shared);
    }

    fn named_with(
        &mut self,
        vertex: VertexIx,
        id: Digest,
        outputs: Vec<Digest>,
        shared: &mut Shared,
    ) {
        self.v_mut(vertex).id = Some(id);
        for (slot, id) in self.v(vertex).slots().zip(outputs) {
            self.slot_mut(slot).id = Some(id);
        }
        shared.remember(id, self.no, vertex);
        self.tell_named(vertex, shared);
    }

    /// The outputs of a vertex are those slots.
    fn named_as(&mut self, vertex: VertexIx, slots: &[SlotIx], shared: &mut Shared) {
        for (own, other) in self.v(vertex).slots().zip(slots) {
            self.slot_mut(own).id = self.slot(*other).id;
        }
        self.tell_named(vertex, shared);
    }

    fn tell_named(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let state = self.v_mut(vertex);
        state.naming = Naming::Named;
        state.retries = 0;
        self.release_early(vertex, shared);
        self.demand_early(vertex, shared);
        for at in 0..self.v(vertex).users.len() {
            let user = self.v(vertex).users[at];
            match &mut self.v_mut(user).naming {
                Naming::Inputs { missing } => {
                    *missing -= 1;
                    if *missing == 0 {
                        shared.push(self.no, Work::InputsNamed(user));
                    }
                }
                Naming::Inner { slot } => {
                    let slot = *slot;
                    self.named_as(user, &[slot], shared);
                }
                Naming::Idle
                | Naming::Pinning { .. }
                | Naming::Lookup
                | Naming::Content { .. }
                | Naming::Digesting { .. }
                | Naming::LookupExact
                | Naming::Loading { .. }
                | Naming::Named => {}
            }
        }
        self.answer_named(vertex, shared);
    }

    /// The vertex itself is why it cannot be named.
    /// The vertex shows the error as it is; the build also learns what it was wanted for.
    fn fail_naming_at(
        &mut self,
        vertex: VertexIx,
        error: OpError,
        doing: Option<&str>,
        shared: &mut Shared,
    ) {
        let digest = self.v(vertex).digest();
        if self.v(vertex).kind != Kind::Source {
            shared.tell(self.no, digest, News::Started);
        }
        let news = News::Completed {
            cached: false,
            error: Some(std::sync::Arc::new(error.clone())),
        };
        shared.tell(self.no, digest, news);
        self.v_mut(vertex).told = Told::Completed;
        let error = match doing {
            Some(doing) => error.while_doing(doing),
            None => error,
        };
        self.name_failed(vertex, SolveError::at(digest, error), shared);
    }

    /// Stops what is done for a name, whatever it is.
    fn stop_naming(&mut self, vertex: VertexIx, shared: &mut Shared) {
        self.release_early(vertex, shared);
        match std::mem::replace(&mut self.v_mut(vertex).naming, Naming::Idle) {
            Naming::Content { .. } => {
                for slot in self.content_slots(vertex) {
                    self.release(slot, shared);
                }
            }
            Naming::Digesting { ops } => {
                for op in ops {
                    self.abort(op, shared);
                }
            }
            Naming::Pinning { op } | Naming::Loading { op } => self.abort(op, shared),
            Naming::Idle
            | Naming::Inputs { .. }
            | Naming::Lookup
            | Naming::LookupExact
            | Naming::Inner { .. }
            | Naming::Named => {}
        }
    }

    fn abort(&mut self, op: OpNo, shared: &mut Shared) {
        self.ops.remove(&op);
        if shared.ops.remove(&op).is_some() {
            shared.emit(Effect::Abort { op });
        }
    }

    pub(super) fn name_failed(&mut self, vertex: VertexIx, error: SolveError, shared: &mut Shared) {
        match self.v(vertex).naming {
            Naming::Idle | Naming::Named => return,
            Naming::Inputs { .. }
            | Naming::Pinning { .. }
            | Naming::Lookup
            | Naming::Content { .. }
            | Naming::Digesting { .. }
            | Naming::LookupExact
            | Naming::Loading { .. }
            | Naming::Inner { .. } => {}
        }
        self.stop_naming(vertex, shared);
        self.v_mut(vertex).retries = 0;
        for request in std::mem::take(&mut self.v_mut(vertex).name_requests) {
            self.answer(request, Err(error.clone()), shared);
        }
        for at in 0..self.v(vertex).users.len() {
            let user = self.v(vertex).users[at];
            match self.v(user).naming {
                Naming::Inputs { .. } | Naming::Inner { .. } => {
                    shared.push(self.no, Work::NameFailed(user, error.clone()));
                }
                Naming::Idle
                | Naming::Pinning { .. }
                | Naming::Lookup
                | Naming::Content { .. }
                | Naming::Digesting { .. }
                | Naming::LookupExact
                | Naming::Loading { .. }
                | Naming::Named => {}
            }
        }
    }

    /// Sees to it that slots that are there stay there. Returns whether that has to be waited for.
    pub(super) fn make_sure_of(&mut self, slots: &[SlotIx], shared: &mut Shared) -> bool {
        let mut must_wait = false;
        for slot in slots {
            if self.slot(*slot).presence == Presence::Made {
                self.check(*slot, shared);
                must_wait = true;
            }
        }
        must_wait
    }
}
