//! The `LLBBridge` service.

use std::sync::Arc;

use bytes::Bytes;
use frontend::{Bridge, BuildResult, SolveFrontend, SolveGraph};
use proto::frontend as wire;
use proto::frontend::llb_bridge_server::{LlbBridge, LlbBridgeServer};
use proto::sourcepolicy::Policy;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::build::{Build, exists};
use crate::builds::Builds;
use crate::convert::Shown;
use crate::policy::read_policy;
use crate::{container, convert, failure, process, result};

/// Names the build that a call is for.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// `moby.buildkit.v1.frontend.LLBBridge`, for clients that drive their builds themselves and for
/// frontends that are programs.
#[derive(Clone)]
pub struct Service {
    serves: Serves,
}

/// The builds that can be called.
#[derive(Clone)]
enum Serves {
    /// Those of clients: each call names its own.
    Named(Builds),
    /// The only one that the other side knows.
    One(Arc<Build>),
}

/// Messages of processes that wait for a slow frontend.
const QUEUE: usize = 64;

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    pub(crate) fn new(builds: Builds) -> Service {
        Service {
            serves: Serves::Named(builds),
        }
    }

    /// For a frontend that was started for one build.
    pub(crate) fn of(build: Arc<Build>) -> Service {
        Service {
            serves: Serves::One(build),
        }
    }

    /// What a server serves.
    pub fn server(self) -> LlbBridgeServer<Service> {
        LlbBridgeServer::new(self)
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE)
    }

    async fn build(&self, metadata: &MetadataMap) -> Result<Arc<Build>, Status> {
        let builds = match &self.serves {
            Serves::Named(builds) => builds,
            Serves::One(build) => return Ok(build.clone()),
        };
        let id = metadata.get(BUILD_ID).and_then(|value| value.to_str().ok());
        match id {
            Some(id) if !id.is_empty() => builds.find(id).await,
            _ => Err(Status::unknown("no buildid found in context")),
        }
    }

    /// Finds the build of a call and does `work` for it, as long as it runs.
    async fn call<Q, A, W>(&self, request: Request<Q>, work: W) -> Answer<A>
    where
        W: AsyncFnOnce(&Build, Q) -> Result<A, Status>,
    {
        let build = self.build(request.metadata()).await?;
        let answer = build.during(work(&build, request.into_inner())).await?;
        Ok(Response::new(answer))
    }
}

async fn solve(build: &Build, request: wire::SolveRequest) -> Result<wire::SolveResponse, Status> {
    let bridge = under(build, request.source_policies)?;
    let cache_imports = convert::cache_imports(request.cache_imports);
    let graph = convert::graph(request.definition.unwrap_or_default())?;
    let solved = match (graph, request.frontend.as_str()) {
        (Some(_), frontend) if !frontend.is_empty() => Err(Status::invalid_argument(
            "cannot solve with both Definition and Frontend specified",
        ))?,
        (Some(graph), _) => {
            let ask = SolveGraph {
                graph,
                cache_imports,
                evaluate: request.evaluate,
            };
            bridge.solve(ask).await.map(|single| BuildResult {
                single: Some(single),
                ..BuildResult::default()
            })
        }
        (None, "") => Ok(BuildResult::default()),
        (None, frontend) => {
            let ask = SolveFrontend {
                frontend: frontend.to_owned(),
                options: request.frontend_opt,
                inputs: convert::inputs(request.frontend_inputs)?,
                cache_imports,
            };
            let solved = build.bridge.solve_frontend(ask).await;
            match solved {
                Ok(solved) if request.evaluate => evaluate(build, &solved).await.map(|()| solved),
                solved => solved,
            }
        }
    };
    let solved = solved.map_err(|error| build.failed(&error))?;
    if !solved.refs.is_empty() && !request.allow_result_return {
        return Err(Status::unknown("solve did not return default result"));
    }
    let result = result::to_wire(build, &solved, request.allow_result_array_ref)?;
    let single = solved.single.as_ref().map(|r| r.id.clone());
    if request.r#final {
        build.set_outcome(Ok(with_attributes(solved, &request.exporter_attr)?))?;
    }
    Ok(wire::SolveResponse {
        r#ref: single
            .filter(|_| !request.allow_result_return)
            .unwrap_or_default(),
        result: Some(result),
    })
}

/// The bridge for a call under policies of its own. A frontend that is called is not under them, as
/// in BuildKit: it gives its own.
fn under(build: &Build, policies: Vec<Policy>) -> Result<Arc<dyn Bridge>, Status> {
    if policies.is_empty() {
        return Ok(build.bridge.clone());
    }
    let policies = policies.into_iter().map(read_policy);
    let policies = policies.collect::<Result<_, _>>();
    let bridge = policies.and_then(|policies| build.bridge.under(policies));
    bridge.map_err(|error| build.failed(&error))
}

/// Brings all refs of a result into being.
async fn evaluate(build: &Build, solved: &BuildResult) -> Result<(), frontend::FrontendError> {
    let graphs = solved.all_refs().filter_map(|(_, r)| r.graph.clone());
    let all = graphs.map(|graph| {
        build.bridge.solve(SolveGraph {
            graph,
            cache_imports: Vec::new(),
            evaluate: true,
        })
    });
    futures::future::try_join_all(all).await.map(drop)
}

/// The result of an old frontend, which hands metadata over with its last solve.
fn with_attributes(mut solved: BuildResult, json: &[u8]) -> Result<BuildResult, Status> {
    use base64::Engine as _;
    // Go writes byte slices as base64.
    let attributes: std::collections::BTreeMap<String, String> = serde_json::from_slice(json)
        .map_err(|error| {
            Status::invalid_argument(format!("invalid exporter attributes: {error}"))
        })?;
    for (key, value) in attributes {
        let value = base64::engine::general_purpose::STANDARD
            .decode(value)
            .map_err(|_| Status::invalid_argument("exporter attributes are not base64"))?;
        solved
            .metadata
            .entry(key)
            .or_insert_with(|| Bytes::from(value));
    }
    Ok(solved)
}

/// A file of a result is asked for: the empty filesystem has none.
fn named(build: &Build, id: &str) -> Result<frontend::ResultRef, Status> {
    let found = build.find(id)?;
    if found.is_scratch() {
        return Err(Status::not_found(format!("no such ref: {id}")));
    }
    Ok(found)
}

#[tonic::async_trait]
impl LlbBridge for Service {
    async fn resolve_image_config(
        &self,
        request: Request<wire::ResolveImageConfigRequest>,
    ) -> Answer<wire::ResolveImageConfigResponse> {
        self.call(request, async |build, mut request| {
            let bridge = under(build, std::mem::take(&mut request.source_policies))?;
            let ask = convert::resolve_image(request)?;
            let found = bridge.resolve_image(ask).await;
            let found = found.map_err(|error| build.failed(&error))?;
            Ok(wire::ResolveImageConfigResponse {
                digest: found.digest.to_string(),
                config: found.config,
                r#ref: found.reference,
            })
        })
        .await
    }

    async fn resolve_source_meta(
        &self,
        request: Request<wire::ResolveSourceMetaRequest>,
    ) -> Answer<wire::ResolveSourceMetaResponse> {
        self.call(request, async |build, mut request| {
            let shown = Shown::of(&request);
            let bridge = under(build, std::mem::take(&mut request.source_policies))?;
            let ask = convert::resolve_source(request)?;
            let found = bridge.resolve_source(ask).await;
            let found = found.map_err(|error| build.failed(&error))?;
            Ok(shown.source(found))
        })
        .await
    }

    async fn solve(&self, request: Request<wire::SolveRequest>) -> Answer<wire::SolveResponse> {
        self.call(request, async |build, request| solve(build, request).await)
            .await
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Answer<wire::ReadFileResponse> {
        self.call(request, async |build, request| {
            let found = named(build, &request.r#ref)?;
            let range = request.range.map(convert::range).transpose()?;
            let data = build
                .bridge
                .read_file(&found, &request.file_path, range)
                .await
                .map_err(|error| build.failed(&error))?;
            Ok(wire::ReadFileResponse { data })
        })
        .await
    }

    async fn read_dir(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Answer<wire::ReadDirResponse> {
        self.call(request, async |build, request| {
            let found = named(build, &request.r#ref)?;
            let include = Some(request.include_pattern.as_str()).filter(|p| !p.is_empty());
            let entries = build
                .bridge
                .read_dir(&found, &request.dir_path, include)
                .await
                .map_err(|error| build.failed(&error))?;
            let entries = entries.into_iter().map(convert::stat).collect();
            Ok(wire::ReadDirResponse { entries })
        })
        .await
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Answer<wire::StatFileResponse> {
        self.call(request, async |build, request| {
            let found = named(build, &request.r#ref)?;
            let stat = build.bridge.stat_file(&found, &request.path).await;
            let stat = stat.map_err(|error| build.failed(&error))?;
            Ok(wire::StatFileResponse {
                stat: Some(convert::stat(stat)),
            })
        })
        .await
    }

    async fn evaluate(
        &self,
        request: Request<wire::EvaluateRequest>,
    ) -> Answer<wire::EvaluateResponse> {
        self.call(request, async |build, request| {
            let single = Some(named(build, &request.r#ref)?);
            let result = BuildResult {
                single,
                ..BuildResult::default()
            };
            let evaluated = evaluate(build, &result).await;
            evaluated.map_err(|error| build.failed(&error))?;
            Ok(wire::EvaluateResponse {})
        })
        .await
    }

    async fn ping(&self, request: Request<wire::PingRequest>) -> Answer<wire::PongResponse> {
        self.call(request, async |build, _| {
            Ok(convert::pong(&*build.bridge, &build.facts))
        })
        .await
    }

    async fn r#return(
        &self,
        request: Request<wire::ReturnRequest>,
    ) -> Answer<wire::ReturnResponse> {
        self.call(request, async |build, request| {
            let outcome = match (request.result, request.error) {
                (Some(result), None) => Ok(result::from_wire(build, result)?),
                (None, Some(error)) => Err(failure::returned(error)),
                (None, None) | (Some(_), Some(_)) => {
                    return Err(Status::invalid_argument(
                        "gateway return must be either result or err",
                    ));
                }
            };
            build.set_outcome(outcome)?;
            Ok(wire::ReturnResponse {})
        })
        .await
    }

    async fn inputs(&self, request: Request<wire::InputsRequest>) -> Answer<wire::InputsResponse> {
        self.call(request, async |build, _| {
            let inputs = build.bridge.inputs().await;
            let inputs = inputs.map_err(|error| build.failed(&error))?;
            let definitions = inputs.into_iter();
            let definitions = definitions.map(|(name, graph)| (name, graph.to_definition()));
            Ok(wire::InputsResponse {
                definitions: definitions.collect(),
            })
        })
        .await
    }

    async fn warn(&self, request: Request<wire::WarnRequest>) -> Answer<wire::WarnResponse> {
        self.call(request, async |build, request| {
            let warned = build.bridge.warn(convert::warning(request)?).await;
            warned.map_err(|error| build.failed(&error))?;
            Ok(wire::WarnResponse {})
        })
        .await
    }

    async fn new_container(
        &self,
        request: Request<wire::NewContainerRequest>,
    ) -> Answer<wire::NewContainerResponse> {
        self.call(request, async |build, request| {
            let name = request.container_id.clone();
            if build.container(&name).is_ok() {
                return Err(exists(&name));
            }
            let ask = container::open(build, request)?;
            let opened = build.bridge.open_container(ask).await;
            let opened = opened.map_err(|error| build.failed(&error))?;
            build.add_container(name, opened)?;
            Ok(wire::NewContainerResponse {})
        })
        .await
    }

    async fn release_container(
        &self,
        request: Request<wire::ReleaseContainerRequest>,
    ) -> Answer<wire::ReleaseContainerResponse> {
        self.call(request, async |build, request| {
            let name = request.container_id;
            match build.release(&name) {
                true => Ok(wire::ReleaseContainerResponse {}),
                false => Err(Status::not_found(format!(
                    "container details for {name} not found"
                ))),
            }
        })
        .await
    }

    type ExecProcessStream = ReceiverStream<Result<wire::ExecMessage, Status>>;

    async fn exec_process(
        &self,
        request: Request<Streaming<wire::ExecMessage>>,
    ) -> Answer<Self::ExecProcessStream> {
        let build = self.build(request.metadata()).await?;
        let (answers, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(process::serve(build, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn read_file_container(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Answer<wire::ReadFileResponse> {
        self.call(request, async |build, request| {
            let container = build.container(&request.r#ref)?;
            let mount = container::index(request.mount_index)?;
            let range = request.range.map(convert::range).transpose()?;
            let data = container.read_file(mount, &request.file_path, range).await;
            let data = data.map_err(|error| build.failed(&error))?;
            Ok(wire::ReadFileResponse { data })
        })
        .await
    }

    async fn read_dir_container(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Answer<wire::ReadDirResponse> {
        self.call(request, async |build, request| {
            let container = build.container(&request.r#ref)?;
            let mount = container::index(request.mount_index)?;
            let include = Some(request.include_pattern.as_str()).filter(|p| !p.is_empty());
            let entries = container.read_dir(mount, &request.dir_path, include).await;
            let entries = entries.map_err(|error| build.failed(&error))?;
            let entries = entries.into_iter().map(convert::stat).collect();
            Ok(wire::ReadDirResponse { entries })
        })
        .await
    }

    async fn stat_file_container(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Answer<wire::StatFileResponse> {
        self.call(request, async |build, request| {
            let container = build.container(&request.r#ref)?;
            let mount = container::index(request.mount_index)?;
            let stat = container.stat_file(mount, &request.path).await;
            let stat = stat.map_err(|error| build.failed(&error))?;
            Ok(wire::StatFileResponse {
                stat: Some(convert::stat(stat)),
            })
        })
        .await
    }
}
