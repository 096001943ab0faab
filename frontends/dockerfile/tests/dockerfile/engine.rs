//! An engine that has files and images, and carries out nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use dockerfile::Dockerfile;
use frontend::{
    Bridge, BuildResult, FileRange, FileStat, Frontend as _, FrontendError, ResolveImage,
    ResolveSource, ResolvedImage, ResolvedSource, ResultRef, SolveFrontend, SolveGraph, Warning,
};
use llb::{Graph, OpKind};
use oci::{Digest, Platform};

/// The files of a build's context, its options and the images that there are.
pub(crate) struct Engine {
    options: BTreeMap<String, String>,
    /// By name of the local directory and path.
    files: BTreeMap<(&'static str, String), String>,
    /// Configs by reference.
    images: BTreeMap<String, String>,
    platforms: Vec<Platform>,
    warnings: Mutex<Vec<Warning>>,
}

/// What came of a build.
pub(crate) struct Outcome {
    pub(crate) result: Result<BuildResult, FrontendError>,
    pub(crate) warnings: Vec<Warning>,
}

impl Engine {
    /// A build of `text` on linux/amd64, where the images `alpine` and `debian:12` exist.
    pub(crate) fn new(text: &str) -> Engine {
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers",
            "diff_ids":["sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]},
            "history":[{"created_by":"base"}],"config":{"Env":["PATH=/bin"],"Cmd":["sh"]}}"#;
        let images = ["alpine:latest", "debian:12"];
        Engine {
            options: BTreeMap::new(),
            files: BTreeMap::new(),
            images: images
                .map(|name| (format!("docker.io/library/{name}"), config.to_owned()))
                .into(),
            platforms: vec!["linux/amd64".parse().unwrap()],
            warnings: Mutex::default(),
        }
        .file("dockerfile", "Dockerfile", text)
    }

    pub(crate) fn file(mut self, local: &'static str, path: &str, text: &str) -> Engine {
        self.files.insert((local, path.to_owned()), text.to_owned());
        self
    }

    pub(crate) fn option(mut self, key: &str, value: &str) -> Engine {
        self.options.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn image(mut self, reference: &str, config: &str) -> Engine {
        self.images.insert(reference.to_owned(), config.to_owned());
        self
    }

    pub(crate) fn build(self) -> Outcome {
        let engine = Arc::new(self);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let result = runtime.block_on(Dockerfile::new().build(engine.clone()));
        let warnings = engine.warnings.lock().unwrap().clone();
        Outcome { result, warnings }
    }
}

impl Outcome {
    /// The graph of a build for one platform.
    pub(crate) fn graph(&self) -> &Graph {
        let result = self.result.as_ref().unwrap();
        result.single.as_ref().unwrap().graph.as_deref().unwrap()
    }

    /// The image config.
    pub(crate) fn image(&self) -> serde_json::Value {
        let metadata = &self.result.as_ref().unwrap().metadata;
        serde_json::from_slice(&metadata["containerimage.config"]).unwrap()
    }
}

#[async_trait]
impl Bridge for Engine {
    fn options(&self) -> &BTreeMap<String, String> {
        &self.options
    }

    async fn inputs(&self) -> Result<BTreeMap<String, Arc<Graph>>, FrontendError> {
        Ok(BTreeMap::new())
    }

    fn session_id(&self) -> &str {
        "session"
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
        // What was asked for is what the tests look at.
        let source = request.options.get("source").cloned().unwrap_or_default();
        let message = format!("{} {source}", request.frontend);
        Err(FrontendError::Unsupported(message))
    }

    async fn read_file(
        &self,
        result: &ResultRef,
        path: &str,
        _: Option<FileRange>,
    ) -> Result<Bytes, FrontendError> {
        let vertex = result.graph.as_ref().unwrap().result_vertex();
        let OpKind::Source(source) = &vertex.op().kind else {
            panic!("`{path}` is read of something that is made");
        };
        let local = source.identifier.strip_prefix("local://").unwrap();
        let file = self
            .files
            .iter()
            .find(|((name, at), _)| *name == local && at == path);
        file.map(|(_, text)| Bytes::from(text.clone()))
            .ok_or_else(|| FrontendError::NotFound(format!("open {path}: no such file")))
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
        let reference = request.reference;
        match self.images.get(&reference) {
            Some(config) => Ok(ResolvedImage {
                digest: Digest::of(reference.as_bytes()),
                config: Bytes::from(config.clone()),
                reference,
            }),
            None => Err(FrontendError::NotFound(format!("{reference}: not found"))),
        }
    }

    async fn resolve_source(&self, _: ResolveSource) -> Result<ResolvedSource, FrontendError> {
        Ok(ResolvedSource::default())
    }

    async fn warn(&self, warning: Warning) -> Result<(), FrontendError> {
        self.warnings.lock().unwrap().push(warning);
        Ok(())
    }
}
