//! What the engine lends a frontend: [`frontend::Bridge`] for one build.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use frontend::policy::Policy;
use frontend::{
    Bridge, BuildResult, ErrorClass, FileRange, FileStat, Frontend as _, FrontendError,
    LayoutStore, OpenContainer, ResolveImage, ResolveMode, ResolveSource, ResolvedImage,
    ResolvedSource, ResultRef, SolveFrontend, SolveGraph, Warning,
};
use oci::{Digest, Platform};
use tokio::sync::OnceCell;
use worker_client::{Worker, WorkerError};

use crate::cache::Imports;
use crate::container;
use crate::policy;
use crate::progress::{Event, Log, Step};
use crate::request::{BuildRequest, Entitlements};
use crate::sources::SourceMaps;
use crate::{BuildError, Frontends, devices, image_frontend};

/// The scheme of images' identifiers.
const IMAGE: &str = "docker-image://";

/// How deep frontends may call frontends (`# syntax=` inside `# syntax=`).
const MAX_DEPTH: usize = 8;

/// How often a client may ask for more before it judges a source (BuildKit: `llbsolver/policy.go`).
const MAX_QUESTIONS: usize = 10;

/// What all frontends of one build share.
pub(crate) struct Shared {
    /// What the worker knows the build as.
    pub(crate) worker_job: String,
    pub(crate) session: String,
    frontends: Frontends,
    pub(crate) job: solver::Job,
    pub(crate) worker: Worker,
    pub(crate) log: Arc<Log>,
    pub(crate) entitlements: Entitlements,
    policies: Vec<Policy>,
    /// The first frontend that was called, and what it was told.
    pub(crate) called: OnceLock<(String, BTreeMap<String, String>)>,
    verifier: Option<gateway::Verifier>,
    pub(crate) sources: Arc<SourceMaps>,
    pub(crate) imports: Imports,
    images: Mutex<HashMap<ImageQuery, Arc<OnceCell<worker_client::ResolvedImage>>>>,
}

/// What an image's resolution depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ImageQuery {
    reference: String,
    platform: Option<Platform>,
    mode: &'static str,
    layout: Option<LayoutStore>,
}

impl Shared {
    pub(crate) fn new(
        request: &BuildRequest,
        (worker_job, frontends): (String, Frontends),
        verifier: Option<gateway::Verifier>,
        job: solver::Job,
        worker: Worker,
        log: Arc<Log>,
        imports: Imports,
    ) -> Shared {
        Shared {
            worker_job,
            frontends,
            session: request.session.clone(),
            job,
            worker,
            log,
            entitlements: request.entitlements.clone(),
            policies: request.policies.clone(),
            called: OnceLock::new(),
            verifier,
            sources: Arc::default(),
            imports,
            images: Mutex::default(),
        }
    }

    /// Brings a graph's result into being and answers its id; `None` is the empty filesystem.
    pub(crate) async fn realize(
        &self,
        result: &ResultRef,
    ) -> Result<Option<Digest>, FrontendError> {
        let Some(graph) = &result.graph else {
            return Ok(None);
        };
        // A source is what it is: nothing is looked up for it.
        let is_source =
            |vertex: &Arc<llb::Vertex>| matches!(vertex.op().kind, llb::OpKind::Source(_));
        if !graph.vertices().all(is_source) {
            self.imports.ready().await;
        }
        match self.job.realize(graph).await {
            Ok(id) => Ok(Some(id)),
            Err(error) => Err(self.sources.explain(error)),
        }
    }

    /// Takes a graph into the build: checks what it asks for and remembers where it is written.
    /// Answers the graph with the sources that the policies want, those of the build and `more`.
    pub(crate) async fn admit(
        &self,
        graph: Arc<llb::Graph>,
        more: &[Policy],
    ) -> Result<Arc<llb::Graph>, FrontendError> {
        let invalid = |error: BuildError| {
            FrontendError::invalid(format!("failed to load LLB: {}", error.message))
        };
        self.entitlements.check(&graph).map_err(invalid)?;
        let granted = &self.entitlements.devices;
        let mut changed = devices::allow(&self.worker, granted, &graph)
            .await
            .map_err(|message| invalid(BuildError::user(message)))?;
        if self.judges(more) {
            for vertex in graph.vertices() {
                if let llb::OpKind::Source(source) = &vertex.op().kind {
                    let platform = vertex.op().platform.as_ref();
                    let wanted = self.wanted(source.clone(), platform, more).await;
                    let wanted = wanted.map_err(|error| {
                        error.within("failed to load LLB: error evaluating the source policy")
                    })?;
                    changed.insert(vertex.digest(), llb::OpKind::Source(wanted));
                }
            }
        }
        let graph = if changed.is_empty() {
            graph
        } else {
            let mut wanted = |vertex: &llb::Vertex| changed.remove(&vertex.digest());
            Arc::new(graph.map_ops(|vertex| Ok::<_, FrontendError>(wanted(vertex)))?)
        };
        self.sources.remember(&graph);
        Ok(graph)
    }

    /// Whether anybody has a say in what sources are used.
    fn judges(&self, more: &[Policy]) -> bool {
        !self.policies.is_empty() || !more.is_empty() || self.verifier.is_some()
    }

    /// What the policies want in the place of a source, then what a client wants that judges it.
    async fn wanted(
        &self,
        mut source: llb::SourceOp,
        platform: Option<&Platform>,
        more: &[Policy],
    ) -> Result<llb::SourceOp, FrontendError> {
        let by_rules = |source: llb::SourceOp| {
            let changed = policy::apply(self.policies.iter().chain(more), &source);
            let changed = changed.map_err(|error| FrontendError::invalid(error.message))?;
            Ok::<_, FrontendError>(changed.unwrap_or(source))
        };
        source = by_rules(source)?;
        let Some(verifier) = &self.verifier else {
            return Ok(source);
        };
        let mut known = None;
        for _ in 0..MAX_QUESTIONS {
            match verifier.judge(&source, platform, known.take()).await? {
                gateway::Verdict::Allow => return Ok(source),
                gateway::Verdict::Convert(other) => source = by_rules(other)?,
                gateway::Verdict::Resolve(ask, shown) => {
                    known = Some((self.pinned(*ask).await?, shown));
                }
            }
        }
        Err(FrontendError::invalid("too many policy requests"))
    }

    /// What the policies want in the place of a source that is looked up.
    async fn allowed(
        &self,
        source: llb::SourceOp,
        platform: Option<&Platform>,
        more: &[Policy],
    ) -> Result<llb::SourceOp, FrontendError> {
        let wanted = self.wanted(source, platform, more).await;
        wanted.map_err(|error| error.within("could not resolve image due to policy"))
    }

    /// The reference of the image that the policies want in the place of `reference`.
    async fn allowed_image(
        &self,
        reference: String,
        platform: Option<&Platform>,
        more: &[Policy],
    ) -> Result<String, FrontendError> {
        if !self.judges(more) {
            return Ok(reference);
        }
        let full = full_name(&reference);
        let source = llb::SourceOp {
            identifier: format!("{IMAGE}{full}"),
            attrs: BTreeMap::new(),
        };
        let source = self.allowed(source, platform, more).await;
        let source = source.map_err(|error| {
            error.within(&format!("failed to resolve source metadata for {full}"))
        })?;
        match source.identifier.strip_prefix(IMAGE) {
            Some(changed) if changed == full => Ok(reference),
            Some(changed) => Ok(changed.to_owned()),
            None => Err(FrontendError::invalid(format!(
                "could not resolve image due to policy: {} takes the place of image {full}",
                source.identifier
            ))),
        }
    }

    /// What pins a source, as it is asked for.
    async fn pinned(&self, request: ResolveSource) -> Result<ResolvedSource, FrontendError> {
        let attr = |key: &str| request.attrs.get(key).cloned().unwrap_or_default();
        let (reference, layout) = match request.identifier.split_once("://") {
            Some(("docker-image", reference)) => (reference.to_owned(), None),
            Some(("oci-layout", reference)) => {
                let layout = LayoutStore {
                    session: attr("oci.session"),
                    store: attr("oci.store"),
                };
                (reference.to_owned(), Some(self.own_session(layout)))
            }
            _ => return self.pinned_source(&request).await,
        };
        let query = ImageQuery {
            reference,
            platform: request.platform,
            mode: mode(request.mode),
            layout,
        };
        let image = self.resolve(query, &request.log_name).await?;
        Ok(ResolvedSource {
            identifier: request.identifier,
            attrs: request.attrs,
            image_digest: Some(image.digest),
            image_config: Some(image.config),
            ..ResolvedSource::default()
        })
    }

    /// The client's session, if it has one: nobody waits for one that does not come.
    fn sessions(&self) -> Vec<String> {
        let session = Some(self.session.clone());
        session.filter(|id| !id.is_empty()).into_iter().collect()
    }

    /// What pins a source that is not an image, shown as a step of its own.
    async fn pinned_source(
        &self,
        request: &ResolveSource,
    ) -> Result<ResolvedSource, FrontendError> {
        let name = match request.log_name.as_str() {
            "" => format!("resolve image config for {}", request.identifier),
            given => given.to_owned(),
        };
        let digest = Digest::of(format!("resolve {} {name}", request.identifier));
        let step = Step::begin(&self.log, digest, &name);
        let sessions = self.sessions();
        let answer = self
            .worker
            .resolve_source(&self.worker_job, request, sessions);
        match answer.await {
            Ok(found) => {
                step.done();
                Ok(found)
            }
            Err(error) => {
                step.failed(&error.message);
                Err(step_error(error))
            }
        }
    }

    /// A layout, in the build's own session unless it names another.
    fn own_session(&self, mut layout: LayoutStore) -> LayoutStore {
        if layout.session.is_empty() {
            layout.session.clone_from(&self.session);
        }
        layout
    }

    async fn resolve(
        &self,
        query: ImageQuery,
        log_name: &str,
    ) -> Result<worker_client::ResolvedImage, FrontendError> {
        let cell = {
            let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            images.entry(query.clone()).or_default().clone()
        };
        let resolved = cell
            .get_or_try_init(|| async {
                let digest = Digest::of(format!("resolve {} {log_name}", query.reference));
                let step = Step::begin(&self.log, digest, log_name);
                let answer = self
                    .worker
                    .resolve_image(
                        &self.worker_job,
                        &query.reference,
                        query.platform.as_ref(),
                        query.mode,
                        query.layout.as_ref(),
                        self.sessions(),
                    )
                    .await;
                match answer {
                    Ok(image) => {
                        step.done();
                        Ok(image)
                    }
                    Err(error) => {
                        step.failed(&error.message);
                        Err(step_error(error))
                    }
                }
            })
            .await?;
        Ok(resolved.clone())
    }
}

/// The whole name of an image.
fn full_name(reference: &str) -> String {
    let parsed = oci::Reference::parse(reference);
    parsed.map_or_else(
        |_| reference.to_owned(),
        |r| r.with_default_tag().to_string(),
    )
}

/// One frontend's view of the build.
#[derive(Clone)]
pub(crate) struct BuildBridge {
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) inputs: BTreeMap<String, Arc<llb::Graph>>,
    pub(crate) depth: usize,
    /// What holds beside the policies of the build.
    pub(crate) policies: Arc<[Policy]>,
}

/// Runs the frontend `name` over a bridge of its own.
pub(crate) async fn run_frontend(
    name: &str,
    bridge: BuildBridge,
) -> Result<BuildResult, FrontendError> {
    bridge
        .shared
        .called
        .get_or_init(|| (name.to_owned(), bridge.options.clone()));
    if bridge.depth > MAX_DEPTH {
        return Err(FrontendError::invalid(format!(
            "frontend {name} calls frontends more than {MAX_DEPTH} levels deep"
        )));
    }
    let source = bridge.options.get("source").map(String::as_str);
    let source = source.filter(|_| name == "gateway.v0");
    bridge.shared.frontends.admit(name, source)?;
    if name == "gateway.v0" {
        let source = match source {
            None | Some("") => {
                return Err(FrontendError::invalid("no source specified for gateway"));
            }
            Some(source) => source.to_owned(),
        };
        // A gateway whose source is the built-in frontend's name is the built-in frontend, unless
        // the client offers a context of that name (BuildKit: `frontend/gateway/gateway.go`).
        let stands_in = &bridge.shared.frontends.stood_in_for;
        if source != "dockerfile.v0" && !image_frontend::is_stood_in(stands_in, &source) {
            return image_frontend::run(bridge, &source).await;
        }
    }
    dockerfile::Dockerfile::new().build(Arc::new(bridge)).await
}

#[async_trait]
impl Bridge for BuildBridge {
    fn options(&self) -> &BTreeMap<String, String> {
        &self.options
    }

    async fn inputs(&self) -> Result<BTreeMap<String, Arc<llb::Graph>>, FrontendError> {
        Ok(self.inputs.clone())
    }

    fn session_id(&self) -> &str {
        &self.shared.session
    }

    fn worker_platforms(&self) -> &[Platform] {
        &self.shared.worker.description().platforms
    }

    fn has_capability(&self, id: &str) -> bool {
        llb::has_capability(id)
    }

    async fn solve(&self, request: SolveGraph) -> Result<ResultRef, FrontendError> {
        let graph = self.shared.admit(request.graph, &self.policies).await?;
        self.shared.imports.add_all(request.cache_imports);
        let result = ResultRef {
            id: self.shared.job.name_of(&graph),
            graph: Some(graph),
        };
        if request.evaluate {
            self.shared.realize(&result).await?;
        }
        Ok(result)
    }

    async fn solve_frontend(&self, request: SolveFrontend) -> Result<BuildResult, FrontendError> {
        self.shared.imports.add_all(request.cache_imports);
        let bridge = BuildBridge {
            shared: self.shared.clone(),
            options: request.options,
            inputs: request.inputs,
            depth: self.depth + 1,
            policies: Arc::default(),
        };
        Box::pin(run_frontend(&request.frontend, bridge)).await
    }

    async fn read_file(
        &self,
        result: &ResultRef,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Bytes, FrontendError> {
        let id = self.realize_for_reading(result, path).await?;
        let range = range.unwrap_or(FileRange {
            offset: 0,
            length: 0,
        });
        self.shared
            .worker
            .read_file(
                &self.shared.worker_job,
                id,
                path,
                range.offset,
                range.length,
            )
            .await
            .map_err(step_error)
    }

    async fn read_dir(
        &self,
        result: &ResultRef,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<FileStat>, FrontendError> {
        let id = self.realize_for_reading(result, path).await?;
        self.shared
            .worker
            .read_dir(&self.shared.worker_job, id, path, include.unwrap_or(""))
            .await
            .map_err(step_error)
    }

    async fn stat_file(&self, result: &ResultRef, path: &str) -> Result<FileStat, FrontendError> {
        let id = self.realize_for_reading(result, path).await?;
        self.shared
            .worker
            .stat_file(&self.shared.worker_job, id, path)
            .await
            .map_err(step_error)
    }

    async fn resolve_image(&self, request: ResolveImage) -> Result<ResolvedImage, FrontendError> {
        let query = ImageQuery {
            reference: match request.layout {
                Some(_) => request.reference,
                None => {
                    let platform = request.platform.as_ref();
                    self.shared
                        .allowed_image(request.reference, platform, &self.policies)
                        .await?
                }
            },
            platform: request.platform,
            mode: mode(request.mode),
            layout: request.layout.map(|layout| self.shared.own_session(layout)),
        };
        // Other sources fail without these words, as in BuildKit, where clients add them.
        let what = full_name(&query.reference);
        let image = self.shared.resolve(query, &request.log_name).await;
        let image = image.map_err(|error| {
            error.within(&format!("failed to resolve source metadata for {what}"))
        })?;
        Ok(ResolvedImage {
            digest: image.digest,
            config: image.config,
            reference: image.reference,
        })
    }

    async fn resolve_source(
        &self,
        request: ResolveSource,
    ) -> Result<ResolvedSource, FrontendError> {
        let source = llb::SourceOp {
            identifier: request.identifier.clone(),
            attrs: request.attrs.clone(),
        };
        let platform = request.platform.as_ref();
        let source = self
            .shared
            .allowed(source, platform, &self.policies)
            .await?;
        let ask = ResolveSource {
            identifier: source.identifier,
            attrs: source.attrs,
            ..request
        };
        self.shared.pinned(ask).await
    }

    async fn ssh_host_key(&self, host: &str) -> Option<String> {
        match self.shared.worker.ssh_host_key(host).await {
            Ok(line) => line,
            Err(error) => {
                // The server is then trusted as it is, which git tells if it cannot be reached.
                tracing::debug!(host, error = %error.message, "no key of an ssh server");
                None
            }
        }
    }

    async fn warn(&self, warning: Warning) -> Result<(), FrontendError> {
        self.shared.log.push(Event::Warning { warning });
        Ok(())
    }

    fn under(&self, policies: Vec<Policy>) -> Result<Arc<dyn Bridge>, FrontendError> {
        let mut bridge = self.clone();
        bridge.policies = self.policies.iter().cloned().chain(policies).collect();
        Ok(Arc::new(bridge))
    }

    async fn open_container(
        &self,
        request: OpenContainer,
    ) -> Result<Arc<dyn frontend::Container>, FrontendError> {
        container::open(&self.shared, request).await
    }
}

impl BuildBridge {
    async fn realize_for_reading(
        &self,
        result: &ResultRef,
        path: &str,
    ) -> Result<Digest, FrontendError> {
        let id = self.shared.realize(result).await?;
        id.ok_or_else(|| FrontendError::NotFound(format!("{path}: no such file or directory")))
    }
}

/// BuildKit's name of a mode.
fn mode(mode: ResolveMode) -> &'static str {
    match mode {
        ResolveMode::Default => "default",
        ResolveMode::ForcePull => "pull",
        ResolveMode::PreferLocal => "local",
    }
}

/// A worker's refusal as the frontend sees it.
pub(crate) fn step_error(error: WorkerError) -> FrontendError {
    if error.is_not_found() {
        return FrontendError::NotFound(error.message);
    }
    FrontendError::Step {
        class: class(error.class),
        message: error.message,
        vertex: None,
        exit_code: error.exit_code,
        locations: Vec::new(),
        remains: None,
    }
}

/// The solver's word for who has to act, in the frontend's.
pub(crate) fn class(class: solver::ErrorClass) -> ErrorClass {
    match class {
        solver::ErrorClass::User => ErrorClass::User,
        solver::ErrorClass::Host => ErrorClass::Host,
        solver::ErrorClass::Transient => ErrorClass::Transient,
        solver::ErrorClass::Canceled => ErrorClass::Canceled,
        solver::ErrorClass::Bug => ErrorClass::Bug,
    }
}
