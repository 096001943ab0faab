//! What a job is told, and in which order it must be told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use llb::{Graph, Vertex};
use oci::Digest;

use crate::step::News;

/// What one job was told.
#[derive(Default)]
pub(super) struct Story {
    vertices: HashMap<Digest, Told>,
    /// Vertices in the order in which they became known.
    known: Vec<Digest>,
    /// Whether one digest may stand for several vertices, or results vanish that must not: then
    /// the order does not follow from the digests.
    pub(super) is_blurred: bool,
}

struct Told {
    vertex: Arc<Vertex>,
    state: State,
    completed: u32,
    /// How far the inputs were when it last started.
    inputs: Vec<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Known,
    Started,
    Completed,
}

impl Story {
    /// Takes what is told next. `is_making` says of a vertex whether work on it goes on.
    pub(super) fn tell(
        &mut self,
        digest: Digest,
        news: &News,
        is_making: impl Fn(&Digest) -> bool,
    ) {
        match news {
            News::Known(vertex) => self.known(digest, vertex),
            News::Started => {
                let inputs = self.inputs(digest);
                let told = self.of_mut(digest);
                told.state = State::Started;
                told.inputs = inputs;
            }
            News::Completed { error, .. } => {
                if error.is_none() {
                    self.check_completed(digest, is_making);
                }
                let told = self.of_mut(digest);
                assert_ne!(
                    told.state,
                    State::Known,
                    "`{}` completed before it started",
                    told.vertex.name()
                );
                told.state = State::Completed;
                told.completed += 1;
            }
        }
    }

    fn known(&mut self, digest: Digest, vertex: &Arc<Vertex>) {
        assert_eq!(vertex.digest(), digest);
        for input in vertex.inputs() {
            assert!(
                self.vertices.contains_key(&input.digest),
                "`{}` became known before its inputs",
                vertex.name()
            );
        }
        let told = Told {
            vertex: vertex.clone(),
            state: State::Known,
            completed: 0,
            inputs: Vec::new(),
        };
        let earlier = self.vertices.insert(digest, told);
        assert!(earlier.is_none(), "`{}` became known twice", vertex.name());
        self.known.push(digest);
    }

    fn of(&self, digest: &Digest) -> &Told {
        let told = self.vertices.get(digest);
        told.expect("a vertex is known before anything else is told of it")
    }

    fn of_mut(&mut self, digest: Digest) -> &mut Told {
        let told = self.vertices.get_mut(&digest);
        told.expect("a vertex is known before anything else is told of it")
    }

    fn inputs(&self, digest: Digest) -> Vec<State> {
        let inputs = self.of(&digest).vertex.inputs().iter();
        inputs.map(|input| self.of(&input.digest).state).collect()
    }

    /// A vertex completes after its inputs, unless these are worked on for another reason.
    fn check_completed(&self, digest: Digest, is_making: impl Fn(&Digest) -> bool) {
        let vertex = &self.of(&digest).vertex;
        for (input, state) in vertex.inputs().iter().zip(self.inputs(digest)) {
            assert!(
                self.is_blurred || state == State::Completed || is_making(&input.digest),
                "`{}` completed before `{}`, which is {state:?}",
                vertex.name(),
                self.of(&input.digest).vertex.name()
            );
        }
    }

    /// A vertex runs: it was told to have started after all that it uses has completed. `used`
    /// are its inputs if they were made for this job; what others made may not need them.
    pub(super) fn check_run(
        &self,
        digest: Digest,
        used: Option<&[Option<Digest>]>,
        is_making: impl Fn(&Digest) -> bool,
    ) {
        let told = self.of(&digest);
        assert_eq!(told.state, State::Started, "a run that was not told");
        if self.is_blurred {
            return;
        }
        for (at, state) in told.inputs.iter().enumerate() {
            let input = self.of(&told.vertex.inputs()[at].digest);
            let must_be_there = used.is_some_and(|used| used[at].is_some());
            // Another output of the input may be worked on.
            let may_be_made = !must_be_there || input.vertex.outputs() > 1;
            assert!(
                *state == State::Completed || may_be_made && is_making(&input.vertex.digest()),
                "`{}` started before `{}`, which was {state:?}, had completed",
                told.vertex.name(),
                input.vertex.name()
            );
        }
    }

    /// How many vertices are known.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// A graph was asked for when `before` vertices were known: the new ones are in its order.
    pub(super) fn check_order(&self, graph: &Graph, before: usize) {
        let (old, new) = self.known.split_at(before);
        let digests = graph.vertices().map(|vertex| vertex.digest());
        let expected: Vec<Digest> = digests.filter(|digest| !old.contains(digest)).collect();
        assert_eq!(new, expected, "vertices became known in another order");
    }

    /// A graph has its result: all of it has completed, unless it is worked on for another reason
    /// or only such work builds on it.
    pub(super) fn check_result(&self, graph: &Graph, is_making: impl Fn(&Digest) -> bool) {
        let mut must_be_told = HashSet::from([graph.result().digest]);
        for vertex in graph.vertices().rev() {
            let digest = vertex.digest();
            if !must_be_told.contains(&digest) || is_making(&digest) {
                continue;
            }
            let told = self.of(&digest);
            assert!(told.completed > 0, "`{}` is not completed", vertex.name());
            must_be_told.extend(vertex.inputs().iter().map(|input| input.digest));
        }
    }
}
