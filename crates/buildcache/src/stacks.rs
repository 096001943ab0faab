//! The layers of many results: each once, with the one that it lies on.

use std::collections::HashMap;
use std::iter::successors;

use oci::Digest;

/// Layers by number. Those that one lies on have lower numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stacks(Vec<Node>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    blob: Digest,
    below: Option<usize>,
}

impl Stacks {
    /// How many layers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The blob of a layer of this.
    pub fn blob(&self, layer: usize) -> Digest {
        self.0[layer].blob
    }

    /// The layer that one of this lies on.
    pub fn below(&self, layer: usize) -> Option<usize> {
        self.0[layer].below
    }

    /// A layer of this and all below it, lowest first.
    pub fn stack(&self, top: usize) -> impl Iterator<Item = usize> + use<> {
        let mut stack: Vec<usize> = successors(Some(top), |at| self.below(*at)).collect();
        stack.reverse();
        stack.into_iter()
    }
}

/// Takes in layers.
pub(crate) struct Builder {
    stacks: Stacks,
    numbers: HashMap<(Option<usize>, Digest), usize>,
    depths: Vec<usize>,
    max_depth: usize,
    /// The numbers of layers by those that they have in what is read.
    known: Vec<Option<usize>>,
}

impl Builder {
    /// For a text that has `layers` layers; no stack has more than `max_depth`.
    pub(crate) fn new(layers: usize, max_depth: usize) -> Builder {
        Builder {
            stacks: Stacks::default(),
            numbers: HashMap::new(),
            depths: Vec::new(),
            max_depth,
            known: vec![None; layers],
        }
    }

    /// The number of the layer `blob` on `below`; `None` if there are too many in a stack.
    pub(crate) fn add(&mut self, below: Option<usize>, blob: Digest) -> Option<usize> {
        if let Some(number) = self.numbers.get(&(below, blob)) {
            return Some(*number);
        }
        let depth = below.map_or(1, |below| self.depths[below] + 1);
        if depth > self.max_depth {
            return None;
        }
        let number = self.stacks.0.len();
        self.stacks.0.push(Node { blob, below });
        self.depths.push(depth);
        self.numbers.insert((below, blob), number);
        Some(number)
    }

    /// Notes the number of the layer that has `index` in what is read.
    pub(crate) fn learn(&mut self, index: usize, number: usize) {
        self.known[index] = Some(number);
    }

    /// The number of the layer that has `index` in what is read, if it was taken in.
    pub(crate) fn known(&self, index: usize) -> Option<usize> {
        self.known.get(index).copied().flatten()
    }

    pub(crate) fn finish(self) -> Stacks {
        self.stacks
    }
}
