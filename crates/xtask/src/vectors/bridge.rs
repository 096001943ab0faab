//! The engine that a case describes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use frontend::{
    Bridge, BuildResult, FileRange, FileStat, FrontendError, ResolveImage, ResolveSource,
    ResolvedImage, ResolvedSource, ResultRef, SolveFrontend, SolveGraph, Warning,
};
use llb::{Graph, OpKind};
use oci::{Digest, Platform};

use super::Case;

/// The client's session in all cases.
const SESSION: &str = "sess";

/// Has the files and images of one case, and every capability. Runs nothing.
pub(super) struct CaseBridge {
    case: Arc<Case>,
    platforms: Vec<Platform>,
    warnings: Mutex<Vec<Warning>>,
}

impl CaseBridge {
    pub(super) fn new(case: Arc<Case>) -> CaseBridge {
        CaseBridge {
            case,
            platforms: vec![Platform::host()],
            warnings: Mutex::default(),
        }
    }

    /// The warnings so far.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let warnings = self.warnings.lock();
        warnings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name of the local directory that a graph is, if it is one.
    fn local_name(graph: &Graph) -> Option<&str> {
        match &graph.result_vertex().op().kind {
            OpKind::Source(source) => source.identifier.strip_prefix("local://"),
            _ => None,
        }
    }
}

#[async_trait]
impl Bridge for CaseBridge {
    fn options(&self) -> &BTreeMap<String, String> {
        &self.case.opts
    }

    async fn inputs(&self) -> Result<BTreeMap<String, Arc<Graph>>, FrontendError> {
        Ok(BTreeMap::new())
    }

    fn session_id(&self) -> &str {
        SESSION
    }

    fn worker_platforms(&self) -> &[Platform] {
        &self.platforms
    }

    fn has_capability(&self, _: &str) -> bool {
        true
    }

    async fn solve(&self, request: SolveGraph) -> Result<ResultRef, FrontendError> {
        Ok(ResultRef {
            id: request.graph.result().digest.to_string(),
            graph: Some(request.graph),
        })
    }

    async fn solve_frontend(&self, request: SolveFrontend) -> Result<BuildResult, FrontendError> {
        Err(FrontendError::Unsupported(request.frontend))
    }

    async fn read_file(
        &self,
        result: &ResultRef,
        path: &str,
        _: Option<FileRange>,
    ) -> Result<Bytes, FrontendError> {
        let filename = self.case.opts.get("filename");
        let filename = filename.map_or("Dockerfile", String::as_str);
        let text = match result.graph.as_deref().and_then(CaseBridge::local_name) {
            Some("dockerfile") if path == filename => Some(&self.case.dockerfile),
            Some("context") if path == ".dockerignore" => self.case.dockerignore.as_ref(),
            _ => None,
        };
        text.map(|text| Bytes::from(text.clone()))
            .ok_or_else(|| FrontendError::NotFound(format!("{path}: no such file or directory")))
    }

    async fn read_dir(
        &self,
        _: &ResultRef,
        path: &str,
        _: Option<&str>,
    ) -> Result<Vec<FileStat>, FrontendError> {
        Err(FrontendError::NotFound(path.to_owned()))
    }

    async fn stat_file(&self, _: &ResultRef, path: &str) -> Result<FileStat, FrontendError> {
        Err(FrontendError::NotFound(path.to_owned()))
    }

    async fn resolve_image(&self, request: ResolveImage) -> Result<ResolvedImage, FrontendError> {
        let platform = request.platform.unwrap_or_else(Platform::host);
        let key = format!("{}|{platform}", request.reference);
        let image = self.case.images.get(&key);
        let image = image.ok_or_else(|| FrontendError::NotFound(format!("{key}: not found")))?;
        let digest: Digest = image.digest.parse().map_err(|error| {
            FrontendError::Unsupported(format!("digest of `{key}` in the case: {error}"))
        })?;
        Ok(ResolvedImage {
            digest,
            config: Bytes::from(image.config.clone()),
            reference: request.reference,
        })
    }

    async fn resolve_source(&self, _: ResolveSource) -> Result<ResolvedSource, FrontendError> {
        Ok(ResolvedSource::default())
    }

    async fn warn(&self, warning: Warning) -> Result<(), FrontendError> {
        let warnings = self.warnings.lock();
        warnings
            .unwrap_or_else(PoisonError::into_inner)
            .push(warning);
        Ok(())
    }
}
