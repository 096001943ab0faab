//! A checked graph.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use oci::{Digest, Platform};
use petgraph::graph::{DiGraph, NodeIndex};
use proto::pb;

use crate::decode::{self, Received};
use crate::name::default_name;
use crate::{
    DecodeError, Definition, Input, Keying, Location, Op, OpKind, OpMetadata, SourceInfo,
    SourceMap, caps, encode_terminal,
};

/// One op of a [`Graph`], checked.
#[derive(Clone, Debug)]
pub struct Vertex {
    digest: Digest,
    raw: Bytes,
    op: Op,
    metadata: OpMetadata,
    name: String,
    platform: Platform,
    outputs: u32,
    keying: Keying,
}

impl Vertex {
    /// Its name in the graph: the sha256 of [`Vertex::raw`].
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The op's bytes as received.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// What it does. Every index in it is in range.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Its inputs, each an existing output of another vertex of the graph.
    pub fn inputs(&self) -> &[Input] {
        &self.op.inputs
    }

    /// What the definition says about it.
    pub fn metadata(&self) -> &OpMetadata {
        &self.metadata
    }

    /// What it is called: as the client named it, else by what it does.
    pub fn name(&self) -> &str {
        self.metadata
            .description
            .get("llb.customname")
            .unwrap_or(&self.name)
    }

    /// What it runs for: the op's platform, else this machine's; normalized.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// How many results it has.
    pub fn outputs(&self) -> u32 {
        self.outputs
    }

    /// What decides its key.
    pub fn keying(&self) -> &Keying {
        &self.keying
    }

    /// Whether known results are passed over.
    pub fn ignore_cache(&self) -> bool {
        self.metadata.ignore_cache
    }

    /// Takes a vertex by itself, as it is sent to a worker: [`Vertex::raw`] and its metadata.
    /// Whether its inputs exist is not looked at.
    ///
    /// # Errors
    /// An op that is not legal.
    pub fn decode(raw: Bytes, metadata: OpMetadata) -> Result<Vertex, DecodeError> {
        let received = decode::receive(&raw)?;
        Vertex::check(Digest::of(&raw), raw, received, metadata, |_| "")
    }

    fn check<'a>(
        digest: Digest,
        raw: Bytes,
        received: Received,
        metadata: OpMetadata,
        input_name: impl Fn(u32) -> &'a str,
    ) -> Result<Vertex, DecodeError> {
        for (capability, wanted) in &metadata.caps {
            if *wanted {
                caps::require(capability)?;
            }
        }
        let op = received.check()?;
        let platform = op
            .platform
            .as_ref()
            .map_or_else(Platform::host, Platform::normalized);
        let outputs = match &op.kind {
            OpKind::Exec(exec) => exec.outputs(),
            OpKind::File(file) => file.outputs(),
            OpKind::Passthrough(passthrough) => {
                u32::try_from(passthrough.outputs.len()).unwrap_or(u32::MAX)
            }
            OpKind::Source(_) | OpKind::Build(_) | OpKind::Merge(_) | OpKind::Diff(_) => 1,
        };
        let keying = Keying::of(&op, &platform)?;
        let name = default_name(&op, input_name);
        Ok(Vertex {
            digest,
            raw,
            op,
            metadata,
            name,
            platform,
            outputs,
            keying,
        })
    }
}

/// How a vertex uses another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Which input of the user it is.
    pub input: u32,
    /// Which output of the used it is.
    pub output: u32,
}

/// A checked graph of vertices with one result.
///
/// Holds only what the result depends on. Edges lead from a vertex to its users, and nodes are
/// numbered so that a vertex comes after all its inputs.
#[derive(Clone, Debug)]
pub struct Graph {
    vertices: DiGraph<Arc<Vertex>, Use>,
    by_digest: HashMap<Digest, NodeIndex>,
    result: Input,
    /// Metadata of the last op, which is no vertex.
    result_metadata: OpMetadata,
    source: Option<SourceMap>,
}

impl Graph {
    /// The most ops a definition may have: far above any known build (the largest are some
    /// thousand), low enough that what is kept per op stays small beside the message itself.
    pub const MAX_OPS: usize = 100_000;

    /// Checks a definition.
    ///
    /// # Errors
    /// Anything in it that is not legal.
    pub fn new(definition: &Definition) -> Result<Graph, DecodeError> {
        let metadata = |digest: &Digest| definition.metadata.get(digest).cloned();
        Graph::check(&definition.ops, definition.source.clone(), metadata)
    }

    /// `metadata` is asked for each vertex once.
    fn check(
        ops: &[Bytes],
        source: Option<SourceMap>,
        mut metadata: impl FnMut(&Digest) -> Option<OpMetadata>,
    ) -> Result<Graph, DecodeError> {
        let ops = Ops::receive(ops)?;
        let result = ops.result;
        let order = ops.in_order()?;
        let mut graph = Graph {
            vertices: DiGraph::with_capacity(order.len(), order.len()),
            by_digest: HashMap::with_capacity(order.len()),
            result,
            result_metadata: metadata(&Digest::of(encode_terminal(result))).unwrap_or_default(),
            source,
        };
        for (digest, raw, received) in order {
            let metadata = metadata(&digest).unwrap_or_default();
            graph.add(digest, raw, received, metadata)?;
        }
        graph.require_output(result)?;
        Ok(graph)
    }

    /// Checks a definition as it comes from the wire.
    ///
    /// # Errors
    /// Anything in it that is not legal.
    pub fn from_definition(definition: &pb::Definition) -> Result<Graph, DecodeError> {
        let mut definition = Definition::from_pb(definition.clone())?;
        let metadata = |digest: &Digest| definition.metadata.remove(digest);
        Graph::check(&definition.ops, definition.source, metadata)
    }

    /// Adds a vertex whose inputs have been added.
    fn add(
        &mut self,
        digest: Digest,
        raw: Bytes,
        received: Received,
        metadata: OpMetadata,
    ) -> Result<(), DecodeError> {
        let inputs = received.inputs.clone();
        for input in &inputs {
            self.require_output(*input)?;
        }
        let input_name = |index: u32| {
            let input = inputs.get(index as usize);
            input
                .and_then(|input| self.vertex(&input.digest))
                .map_or("", |vertex| vertex.name())
        };
        let vertex = Vertex::check(digest, raw, received, metadata, input_name)?;
        let node = self.vertices.add_node(Arc::new(vertex));
        for (number, input) in (0..).zip(&inputs) {
            let from = self.by_digest[&input.digest];
            self.vertices.add_edge(
                from,
                node,
                Use {
                    input: number,
                    output: input.output,
                },
            );
        }
        self.by_digest.insert(digest, node);
        Ok(())
    }

    fn require_output(&self, input: Input) -> Result<(), DecodeError> {
        let vertex = self
            .vertex(&input.digest)
            .ok_or(DecodeError::MissingInput(input.digest))?;
        if input.output < vertex.outputs {
            return Ok(());
        }
        Err(DecodeError::NoSuchOutput {
            digest: input.digest,
            output: input.output,
        })
    }

    /// What the graph results in.
    pub fn result(&self) -> Input {
        self.result
    }

    /// The vertex of the result.
    pub fn result_vertex(&self) -> &Arc<Vertex> {
        &self.vertices[self.by_digest[&self.result.digest]]
    }

    /// The vertex that `digest` names.
    pub fn vertex(&self, digest: &Digest) -> Option<&Arc<Vertex>> {
        self.by_digest.get(digest).map(|&node| &self.vertices[node])
    }

    /// All vertices, each after its inputs.
    pub fn vertices(&self) -> impl DoubleEndedIterator<Item = &Arc<Vertex>> {
        self.vertices.raw_nodes().iter().map(|node| &node.weight)
    }

    /// How many vertices there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a graph is never empty")]
    pub fn len(&self) -> usize {
        self.vertices.node_count()
    }

    /// The graph itself, for algorithms and drawing.
    pub fn as_petgraph(&self) -> &DiGraph<Arc<Vertex>, Use> {
        &self.vertices
    }

    /// Where a vertex was written.
    pub fn locations(&self, digest: &Digest) -> &[Location] {
        let source = self.source.as_ref();
        source
            .and_then(|source| source.locations.get(digest))
            .map_or(&[], Vec::as_slice)
    }

    /// The files of [`Graph::locations`].
    pub fn source_infos(&self) -> &[SourceInfo] {
        self.source
            .as_ref()
            .map_or(&[], |source| source.infos.as_slice())
    }

    /// The graph as a definition, with nothing that the result does not depend on.
    pub fn definition(&self) -> Definition {
        let mut metadata: BTreeMap<_, _> = self
            .vertices()
            .filter(|vertex| vertex.metadata != OpMetadata::default())
            .map(|vertex| (vertex.digest, vertex.metadata.clone()))
            .collect();
        let last = Bytes::from(encode_terminal(self.result));
        if self.result_metadata != OpMetadata::default() {
            metadata.insert(Digest::of(&last), self.result_metadata.clone());
        }
        let mut ops: Vec<_> = self.vertices().map(|vertex| vertex.raw.clone()).collect();
        ops.push(last);
        Definition {
            ops,
            metadata,
            source: self.source.clone(),
        }
    }

    /// [`Graph::definition`] for the wire.
    pub fn to_definition(&self) -> pb::Definition {
        self.definition().to_pb()
    }

    /// The graph with other ops: `map` gives what takes the place of a vertex's, or `None` to leave
    /// it. Everything that depends on a replaced op gets another digest.
    ///
    /// # Errors
    /// What `map` fails with.
    pub fn map_ops<E>(
        &self,
        mut map: impl FnMut(&Vertex) -> Result<Option<OpKind>, E>,
    ) -> Result<Graph, E> {
        let mut graph = Graph {
            vertices: DiGraph::with_capacity(self.len(), self.vertices.edge_count()),
            by_digest: HashMap::with_capacity(self.len()),
            ..self.clone()
        };
        let mut renamed: HashMap<Digest, Digest> = HashMap::new();
        for vertex in self.vertices() {
            let mut changed = Vertex::clone(vertex);
            let mut is_changed = false;
            for input in &mut changed.op.inputs {
                if let Some(new) = renamed.get(&input.digest) {
                    input.digest = *new;
                    is_changed = true;
                }
            }
            if let Some(new) = map(vertex)? {
                is_changed |= changed.op.kind != new;
                if let OpKind::Source(source) = &new {
                    changed.name.clone_from(&source.identifier);
                }
                changed.op.kind = new;
            }
            if !is_changed {
                graph.adopt(vertex.clone());
                continue;
            }
            changed.raw = Bytes::from(changed.op.encode());
            changed.digest = Digest::of(&changed.raw);
            if let Ok(keying) = Keying::of(&changed.op, &changed.platform) {
                changed.keying = keying;
            }
            renamed.insert(vertex.digest, changed.digest);
            graph.adopt(Arc::new(changed));
        }
        let rename = |digest: &Digest| *renamed.get(digest).unwrap_or(digest);
        graph.result.digest = rename(&graph.result.digest);
        if let Some(source) = &mut graph.source {
            let locations = std::mem::take(&mut source.locations);
            source.locations = locations
                .into_iter()
                .map(|(digest, at)| (rename(&digest), at))
                .collect();
        }
        Ok(graph)
    }

    /// Adds a checked vertex. Two that became the same are one.
    fn adopt(&mut self, vertex: Arc<Vertex>) {
        let Entry::Vacant(entry) = self.by_digest.entry(vertex.digest) else {
            return;
        };
        let node = self.vertices.add_node(vertex.clone());
        entry.insert(node);
        for (number, input) in (0..).zip(vertex.inputs()) {
            let from = self.by_digest[&input.digest];
            self.vertices.add_edge(
                from,
                node,
                Use {
                    input: number,
                    output: input.output,
                },
            );
        }
    }
}

/// The ops of a definition, parsed but not checked.
struct Ops {
    /// As in the definition, without repetitions. An op is taken out when it is added to the graph.
    received: Vec<(Digest, Bytes, Received)>,
    /// Where in `received` an op is. The last op, which only names the result, is not in here.
    by_digest: HashMap<Digest, usize>,
    result: Input,
}

impl Ops {
    fn receive(ops: &[Bytes]) -> Result<Ops, DecodeError> {
        if ops.len() > Graph::MAX_OPS {
            return Err(DecodeError::TooMany(ops.len()));
        }
        let mut received = Vec::with_capacity(ops.len());
        let mut by_digest = HashMap::with_capacity(ops.len());
        let mut last = None;
        for raw in ops {
            let digest = Digest::of(raw);
            last = Some(digest);
            if let Entry::Vacant(entry) = by_digest.entry(digest) {
                entry.insert(received.len());
                received.push((digest, raw.clone(), decode::receive(raw)?));
            }
        }
        let last = last.ok_or(DecodeError::Empty)?;
        if received.len() < 2 {
            return Err(DecodeError::TooFew(received.len()));
        }
        let terminal = by_digest.remove(&last);
        let result = terminal.and_then(|at| received[at].2.inputs.first().copied());
        Ok(Ops {
            received,
            by_digest,
            result: result.ok_or(DecodeError::NoResult)?,
        })
    }

    /// What the result depends on, each op after its inputs, otherwise as in the definition.
    fn in_order(self) -> Result<Vec<(Digest, Bytes, Received)>, DecodeError> {
        let reachable = self.reachable()?;
        let order = if self.is_sorted(&reachable)? {
            (0..self.received.len())
                .filter(|at| reachable[*at])
                .collect()
        } else {
            self.sort(&reachable)?
        };
        let mut received: Vec<Option<_>> = self.received.into_iter().map(Some).collect();
        // Each position is there once.
        Ok(order
            .into_iter()
            .filter_map(|at: usize| received[at].take())
            .collect())
    }

    fn position(&self, digest: &Digest) -> Result<usize, DecodeError> {
        let at = self.by_digest.get(digest).copied();
        at.ok_or(DecodeError::MissingInput(*digest))
    }

    fn inputs(&self, at: usize) -> impl Iterator<Item = Result<usize, DecodeError>> {
        let inputs = self.received[at].2.inputs.iter();
        inputs.map(|input| self.position(&input.digest))
    }

    fn reachable(&self) -> Result<Vec<bool>, DecodeError> {
        let mut reachable = vec![false; self.received.len()];
        let mut stack = vec![self.position(&self.result.digest)?];
        while let Some(at) = stack.pop() {
            if !std::mem::replace(&mut reachable[at], true) {
                for input in self.inputs(at) {
                    stack.push(input?);
                }
            }
        }
        Ok(reachable)
    }

    fn is_sorted(&self, reachable: &[bool]) -> Result<bool, DecodeError> {
        for at in (0..self.received.len()).filter(|at| reachable[*at]) {
            for input in self.inputs(at) {
                if input? >= at {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn sort(&self, reachable: &[bool]) -> Result<Vec<usize>, DecodeError> {
        let mut missing = vec![0_usize; self.received.len()];
        let mut users = vec![Vec::new(); self.received.len()];
        let mut ready = BinaryHeap::new();
        for at in (0..self.received.len()).filter(|at| reachable[*at]) {
            for input in self.inputs(at) {
                users[input?].push(at);
                missing[at] += 1;
            }
            if missing[at] == 0 {
                ready.push(Reverse(at));
            }
        }
        let mut order = Vec::with_capacity(self.received.len());
        while let Some(Reverse(at)) = ready.pop() {
            order.push(at);
            for &user in &users[at] {
                missing[user] -= 1;
                if missing[user] == 0 {
                    ready.push(Reverse(user));
                }
            }
        }
        // That would take an op that holds its own digest.
        match missing.iter().position(|missing| *missing > 0) {
            Some(stuck) => Err(DecodeError::Loop(self.received[stuck].0)),
            None => Ok(order),
        }
    }
}
