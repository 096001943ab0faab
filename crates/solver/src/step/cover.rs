//! Tells a job of vertices for which nothing had to be done.

use llb::OpKind;

use super::job::{Job, Kind, Making};
use super::{News, Shared, VertexIx};

impl Job {
    /// A vertex was found: it and all it builds on count as completed without work. What is worked
    /// on for another reason counts as soon as that is given up.
    pub(super) fn cover(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let mut stack = vec![vertex];
        while let Some(vertex) = stack.pop() {
            let state = self.v_mut(vertex);
            if state.covered {
                continue;
            }
            if state.making != Making::Idle {
                state.cover_due = true;
                continue;
            }
            let state = self.v(vertex);
            stack.extend(
                state
                    .inputs
                    .iter()
                    .chain(&state.deps)
                    .map(|slot| self.slot(*slot).vertex),
            );
            let state = self.v_mut(vertex);
            state.covered = true;
            if state.completed && !is_lazy(&state.vertex, state.kind) {
                continue;
            }
            let digest = state.digest();
            if !std::mem::replace(&mut state.completed, true) {
                shared.tell(self.no, digest, News::Started);
            }
            shared.tell(
                self.no,
                digest,
                News::Completed {
                    cached: true,
                    error: None,
                },
            );
        }
    }

    /// A vertex has been made: what it builds on and was not touched counts as found.
    pub(super) fn cover_inputs(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let state = self.v(vertex);
        let used: Vec<VertexIx> = state
            .inputs
            .iter()
            .chain(&state.deps)
            .map(|slot| self.slot(*slot).vertex)
            .collect();
        for input in used {
            self.cover(input, shared);
        }
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
