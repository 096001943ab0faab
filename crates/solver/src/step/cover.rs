//! Tells a job of vertices for which nothing had to be done.

use llb::OpKind;

use super::job::{Job, Kind, Making};
use super::{News, Shared, VertexIx};

impl Job {
    /// A vertex was found: it and all it builds on count as completed without work, apart from what
    /// is worked on for another reason.
    pub(super) fn cover(&mut self, vertex: VertexIx, shared: &mut Shared) {
        let mut stack = vec![vertex];
        while let Some(vertex) = stack.pop() {
            let state = self.v(vertex);
            if state.covered || state.making != Making::Idle {
                continue;
            }
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
}

/// Whether a source that was looked up has still to be brought in, so that finding it is worth
/// telling. A client's directory is brought in when it is looked up.
fn is_lazy(vertex: &llb::Vertex, kind: Kind) -> bool {
    let OpKind::Source(source) = &vertex.op().kind else {
        return false;
    };
    kind == Kind::Source && !source.identifier.starts_with("local://")
}
