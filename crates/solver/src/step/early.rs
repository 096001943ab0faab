//! Making content before it is known that it will be looked into.
//!
//! Of `COPY --from=a` followed by `COPY --from=b`, the second can be named only when the first is,
//! for which `a` must be made; only then is it known whether `b` has to be made for the second. If
//! that were waited for, independent stages would be made one after the other. So where the content
//! of an input has to be made, all who wait for the name demand the content of their own inputs,
//! too. What is made in vain by that had vanished while everything built on it had not.

use super::job::{Job, Making, Naming};
use super::{Shared, SlotIx, VertexIx};

impl Job {
    /// Whether a vertex waits for content that is being made, not just looked for.
    pub(super) fn is_content_made(&self, vertex: VertexIx) -> bool {
        let is_made = |slot: &SlotIx| self.v(self.slot(*slot).vertex).making != Making::Idle;
        matches!(self.v(vertex).naming, Naming::Content { .. })
            && self.content_slots(vertex).iter().any(is_made)
    }

    /// A vertex is being made: whoever waits for it to look into it will do so late.
    pub(super) fn foresee_users(&mut self, vertex: VertexIx, shared: &mut Shared) {
        for slot in self.v(vertex).slots() {
            for at in 0..self.slot(slot).content_users.len() {
                let user = self.slot(slot).content_users[at];
                if let Naming::Content { .. } = self.v(user).naming {
                    self.foresee(user, shared);
                }
            }
        }
    }

    /// The content that decides a vertex's name is being made: whoever waits for that name may as
    /// well have the content of theirs made.
    pub(super) fn foresee(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let users = self.v(vertex).users.clone();
        self.foresee_all(users, shared);
    }

    fn foresee_all(&mut self, mut stack: Vec<VertexIx>, shared: &mut Shared) {
        while let Some(user) = stack.pop() {
            let state = self.v(user);
            if state.foreseen || !matches!(state.naming, Naming::Inputs { .. }) {
                continue;
            }
            stack.extend(&state.users);
            self.v_mut(user).foreseen = true;
            for slot in self.content_slots(user) {
                let input = self.slot(slot).vertex;
                if self.v(input).naming == Naming::Named {
                    self.v_mut(user).early.push(slot);
                    self.demand(slot, shared);
                }
            }
        }
    }

    /// A vertex is about to wait for the names of its inputs, one of which may have been foreseen
    /// before there was this user.
    pub(super) fn join_foreseen(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let is_late = self.v(vertex).inputs.iter().any(|slot| {
            let input = self.slot(*slot).vertex;
            self.v(input).foreseen || self.is_content_made(input)
        });
        if is_late {
            self.foresee_all(vec![vertex], shared);
        }
    }

    /// A vertex has its name: those who look into its slots and were foreseen can have them made.
    pub(super) fn demand_early(&mut self, vertex: VertexIx, shared: &mut Shared) {
        for slot in self.v(vertex).slots() {
            for at in 0..self.slot(slot).content_users.len() {
                let user = self.slot(slot).content_users[at];
                let state = self.v_mut(user);
                if state.foreseen && matches!(state.naming, Naming::Inputs { .. }) {
                    state.early.push(slot);
                    self.demand(slot, shared);
                }
            }
        }
    }

    /// What was demanded ahead is demanded for good, or not needed.
    pub(super) fn release_early(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let state = self.v_mut(vertex);
        state.foreseen = false;
        for slot in std::mem::take(&mut state.early) {
            self.release(slot, shared);
        }
    }
}
