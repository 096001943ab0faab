//! Vertices of a graph that was written elsewhere.

use std::collections::HashMap;

use bytes::Bytes;
use oci::Digest;

use super::{Builder, Options, Output, SourceFile, State, VertexKind};
use crate::{Definition, Graph};

/// A vertex whose bytes are given.
#[derive(Debug)]
pub(super) struct ImportedVertex {
    pub(super) bytes: Bytes,
    pub(super) inputs: Vec<Output>,
}

impl Builder {
    /// The result of another graph.
    pub fn import(&mut self, graph: &Graph) -> State {
        let definition = graph.definition();
        let files: Vec<_> = definition
            .source
            .iter()
            .flat_map(|source| &source.infos)
            .map(|info| {
                self.source_file(SourceFile {
                    filename: info.filename.clone(),
                    language: info.language.clone(),
                    data: info.data.clone(),
                    definition: info.definition.as_deref().cloned(),
                })
            })
            .collect();
        let mut outputs: HashMap<Digest, Output> = HashMap::new();
        for vertex in graph.vertices() {
            let digest = vertex.digest();
            let inputs = vertex.inputs().iter();
            let inputs = inputs
                .filter_map(|input| Some(at(*outputs.get(&input.digest)?, input.output)))
                .collect();
            let locations = definition
                .source
                .iter()
                .flat_map(|s| s.locations.get(&digest));
            let options = Options {
                platform: None,
                metadata: definition
                    .metadata
                    .get(&digest)
                    .cloned()
                    .unwrap_or_default(),
                locations: locations
                    .flatten()
                    .filter_map(|place| {
                        let file = files.get(usize::try_from(place.source_index).ok()?)?;
                        Some((*file, place.ranges.clone()))
                    })
                    .collect(),
            };
            let bytes = vertex.raw().clone();
            let imported = VertexKind::Imported(ImportedVertex { bytes, inputs });
            outputs.insert(digest, self.add(imported, options));
        }
        let result = graph.result();
        let output = outputs
            .get(&result.digest)
            .map(|output| at(*output, result.output));
        State::of(output, None)
    }
}

fn at(output: Output, index: u32) -> Output {
    match output {
        Output::Vertex { vertex, .. } => Output::Vertex { vertex, index },
        deferred @ Output::Deferred(_) => deferred,
    }
}

/// Two files are the same when their text and the end of what brought them in are.
pub(super) fn same_file(a: &SourceFile, b: &SourceFile) -> bool {
    let head = |definition: &Option<Definition>| definition.as_ref()?.ops.last().cloned();
    let provenance = match (head(&a.definition), head(&b.definition)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    provenance && a.filename == b.filename && a.language == b.language && a.data == b.data
}
