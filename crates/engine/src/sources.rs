//! Where the vertices of a build are written: for errors that name the Dockerfile's lines.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use frontend::{FrontendError, Remains, SourceLocation};
use oci::Digest;
use worker_client::WorkerError;

use crate::bridge::class;

/// The source maps of all graphs of a build.
#[derive(Default)]
pub(crate) struct SourceMaps {
    graphs: Mutex<HashMap<Digest, Arc<llb::Graph>>>,
}

impl SourceMaps {
    /// Remembers where the vertices of `graph` are written.
    pub(crate) fn remember(&self, graph: &Arc<llb::Graph>) {
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        for vertex in graph.vertices() {
            graphs
                .entry(vertex.digest())
                .or_insert_with(|| graph.clone());
        }
    }

    /// The names of the client's directories that the build reads.
    pub(crate) fn locals(&self) -> BTreeSet<String> {
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let ops = graphs.iter().filter_map(|(digest, graph)| {
            let llb::OpKind::Source(op) = &graph.vertex(digest)?.op().kind else {
                return None;
            };
            Some(op.identifier.strip_prefix("local://")?.to_owned())
        });
        ops.collect()
    }

    /// The reference of the image that a vertex brings in; `None` for other vertices.
    pub(crate) fn image(&self, vertex: &Digest) -> Option<String> {
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        match &graphs.get(vertex)?.vertex(vertex)?.op().kind {
            llb::OpKind::Source(op) => {
                let reference = op.identifier.strip_prefix("docker-image://")?;
                Some(reference.to_owned())
            }
            _ => None,
        }
    }

    /// The places where a vertex is written.
    pub(crate) fn locations(&self, vertex: &Digest) -> Vec<SourceLocation> {
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(graph) = graphs.get(vertex) else {
            return Vec::new();
        };
        graph
            .locations(vertex)
            .iter()
            .filter_map(|location| {
                let index = usize::try_from(location.source_index).ok()?;
                let info = graph.source_infos().get(index)?;
                Some(SourceLocation {
                    filename: info.filename.clone(),
                    language: info.language.clone(),
                    data: Arc::from(&*info.data),
                    ranges: location
                        .ranges
                        .iter()
                        .map(|r| {
                            (
                                (r.start.line, r.start.character),
                                (r.end.line, r.end.character),
                            )
                        })
                        .collect(),
                })
            })
            .collect()
    }

    /// A failed step, with the lines that it is written in.
    pub(crate) fn explain(&self, error: solver::SolveError) -> FrontendError {
        let locations = error.vertex.map(|v| self.locations(&v)).unwrap_or_default();
        let remains = error.vertex.and_then(|v| self.remains(&v, &error.error));
        FrontendError::Step {
            message: error.error.to_string(),
            class: class(error.error.class()),
            vertex: error.vertex,
            exit_code: error.error.exit_code,
            locations,
            remains,
        }
    }

    /// What a worker kept of a failed step.
    fn remains(&self, vertex: &Digest, error: &solver::OpError) -> Option<Arc<Remains>> {
        let carrier = error.carrier()?;
        let kept = carrier.downcast_ref::<WorkerError>()?.remains.clone()?;
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let vertex = graphs.get(vertex)?.vertex(vertex)?;
        let description = vertex.metadata().description.iter();
        Some(Arc::new(Remains {
            op: vertex.raw().clone(),
            description: description
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            inputs: kept.inputs.clone(),
            mounts: kept.mounts.clone(),
        }))
    }
}
