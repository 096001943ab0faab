//! The gRPC service.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use executor::Launcher;
use proto::worker as wire;
use proto::worker::worker_server::{Worker, WorkerServer};
use refs::{PruneOptions, Refs};
use rpc::tunnel;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::audience::{Audience, ClientRules};
use crate::containers::{self, Containers};
use crate::events::{self, EventStream};
use crate::failure::Failure;
use crate::jobs::Jobs;
use crate::remains;
use crate::scratch::Scratch;
use crate::state::{Options, Shared, id};
use crate::{
    cache, convert, digests, export, files, images, load, op, pin, resolve, sandbox, store,
};

/// How long after the last prune the next one may run (BuildKit: `control/control.go`).
const GC_INTERVAL: Duration = Duration::from_secs(60);

/// Where the containers that users run are kept, below the worker's state.
const CONTAINERS: &str = "containers";

/// What a worker is made of.
pub struct Parts {
    /// The stored filesystems.
    pub refs: Refs,
    /// Makes containers.
    pub launcher: Launcher,
    /// Speaks to registries.
    pub registry: registry::Registry,
    /// Fetches URLs.
    pub http: source::Http,
}

/// A worker, to be served to engines and to users' clients.
#[derive(Clone)]
pub struct WorkerService {
    shared: Arc<Shared>,
    audience: Audience,
}

impl WorkerService {
    /// Puts a worker together, and begins to throw away what is in nobody's use.
    ///
    /// # Errors
    /// When the records of containers cannot be read, or the disk fails.
    pub fn new(parts: Parts, options: Options) -> Result<WorkerService, StartError> {
        let Parts {
            refs,
            launcher,
            registry,
            http,
        } = parts;
        let dir = options.state_dir.join(CONTAINERS);
        let containers = Containers::open(&dir).map_err(|failure| StartError {
            what: "take up containers",
            dir,
            reason: failure.to_string(),
        })?;
        let scratch = Scratch::open(&options.state_dir).map_err(|error| StartError {
            what: "make a directory",
            dir: options.state_dir.clone(),
            reason: error.to_string(),
        })?;
        let fetcher = source::Fetcher::new(refs.clone());
        let shared = Arc::new(Shared {
            fetcher,
            exporter: exporter::Exporter::new(refs.clone(), registry.clone()),
            options,
            refs,
            launcher,
            registry,
            resolver: source::ImageResolver::new(),
            http,
            tunnel: Arc::default(),
            digests: digests::Digests::default(),
            copies: crate::copies::Copies::default(),
            listings: crate::listings::Listings::default(),
            containers,
            imports: cache::Imports::default(),
            scratch,
            sandboxes: sandbox::Sandboxes::default(),
            gc: tokio::sync::Notify::new(),
            jobs: Jobs::default(),
            emptied: dashmap::DashMap::new(),
        });
        shared.gc.notify_one();
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while let Some(shared) = weak.upgrade() {
                shared.gc.notified().await;
                if let Err(error) = shared.refs.gc(&shared.options.gc).await {
                    tracing::warn!(error = %rpc::status::chain(&error), "garbage collection failed");
                }
                drop(shared);
                tokio::time::sleep(GC_INTERVAL).await;
            }
        });
        let audience = Audience::Engine;
        Ok(WorkerService { shared, audience })
    }

    /// The tonic service for engines, who may do everything.
    pub fn server(&self) -> WorkerServer<WorkerService> {
        self.server_for(Audience::Engine)
    }

    /// The tonic service for the clients of users: images and containers. What it does for builds,
    /// as which client and with what rights, only the engine may say.
    pub fn client_server(&self, rules: ClientRules) -> WorkerServer<WorkerService> {
        self.server_for(Audience::Clients(rules))
    }

    fn server_for(&self, audience: Audience) -> WorkerServer<WorkerService> {
        let shared = self.shared.clone();
        WorkerServer::new(WorkerService { shared, audience })
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE)
    }

    /// How many containers of users run.
    pub fn running_containers(&self) -> usize {
        self.shared.containers.running()
    }

    /// Ends all containers of users and makes everything durable.
    pub async fn shutdown(&self) {
        self.shared.containers.shutdown().await;
        self.shared.launcher.shutdown().await;
        if let Err(error) = self.shared.refs.flush().await {
            tracing::error!(error = %rpc::status::chain(&error), "failed to write the last records");
        }
    }
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} in `{}`: {reason}", dir.display())]
pub struct StartError {
    what: &'static str,
    dir: PathBuf,
    reason: String,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Worker for WorkerService {
    async fn describe(&self, _: Request<wire::DescribeRequest>) -> Answer<wire::DescribeResponse> {
        let options = &self.shared.options;
        Ok(Response::new(wire::DescribeResponse {
            id: options.id.clone(),
            labels: options.labels.clone(),
            platforms: options
                .platforms
                .iter()
                .map(convert::platform_to_wire)
                .collect(),
            version: options.version.clone(),
            gc_policies: options.gc.iter().map(convert::gc_policy).collect(),
        }))
    }

    async fn find_devices(
        &self,
        request: Request<wire::FindDevicesRequest>,
    ) -> Answer<wire::FindDevicesResponse> {
        let options = self.shared.options.devices.clone();
        let wanted = request.into_inner().wanted.into_iter();
        let wanted: Vec<_> = wanted
            .map(|device| llb::CdiDevice {
                name: device.name,
                optional: device.optional,
            })
            .collect();
        let find = move || {
            let devices = crate::cdi::Devices::read(&options);
            let names = match wanted.is_empty() {
                true => devices.names(),
                false => devices.find(&wanted)?,
            };
            Ok(devices.describe(&names))
        };
        let devices = crate::failure::blocking(find).await?;
        Ok(Response::new(wire::FindDevicesResponse { devices }))
    }

    type SessionsStream = ReceiverStream<Result<wire::Bytes, Status>>;

    async fn sessions(
        &self,
        request: Request<Streaming<wire::Bytes>>,
    ) -> Answer<Self::SessionsStream> {
        self.audience.engines_only()?;
        let (outgoing, stream) = tunnel::outgoing::<wire::Bytes>();
        let incoming = request.into_inner();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            match tunnel::client_over(tunnel::Tunnel::new(incoming, outgoing)).await {
                Ok(channel) => shared.tunnel.set(channel),
                Err(error) => tracing::error!(%error, "the tunnel for sessions failed"),
            }
        });
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut stream = stream;
            while let Some(bytes) = stream.next().await {
                if sender.send(Ok(bytes)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type PinStream = EventStream;

    async fn pin(&self, request: Request<wire::PinRequest>) -> Answer<EventStream> {
        self.audience.engines_only()?;
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let run = |events| async move { pin::pin(&shared, request, events).await };
        Ok(Response::new(events::run(run)))
    }

    type RunStream = EventStream;

    async fn run(&self, request: Request<Streaming<wire::RunRequest>>) -> Answer<EventStream> {
        self.audience.engines_only()?;
        use wire::run_request::Request as In;
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await?
            .and_then(|message| message.request);
        let Some(In::Start(start)) = first else {
            return Err(Status::invalid_argument(
                "the first request must start an op",
            ));
        };
        let shared = self.shared.clone();
        let sessions = shared.enter(&start.job, &start.sessions)?;
        let joined = sessions.clone();
        let run = |events| async move {
            let work = op::run(&shared, start, sessions, events);
            let joins = async {
                while let Ok(Some(message)) = requests.message().await {
                    if let Some(In::AddSession(id)) = message.request {
                        joined.add(id);
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                outcome = work => outcome,
                () = joins => Err(Failure::bug("waiting for sessions ended")),
            }
        };
        Ok(Response::new(events::run(run)))
    }

    async fn exists(&self, request: Request<wire::ExistsRequest>) -> Answer<wire::ExistsResponse> {
        self.audience.engines_only()?;
        let request = request.into_inner();
        let ids = request
            .ids
            .iter()
            .map(|text| id(text))
            .collect::<Result<Vec<_>, _>>()?;
        let job = self.shared.job(&request.job)?;
        let mut exists = job.lease.keep(&self.shared.refs, &ids);
        for (id, there) in ids.iter().zip(&mut exists) {
            *there = *there || cache::restore(&self.shared, &request.job, id).is_some();
        }
        Ok(Response::new(wire::ExistsResponse { exists }))
    }

    async fn digest(&self, request: Request<wire::DigestRequest>) -> Answer<wire::DigestResponse> {
        self.audience.engines_only()?;
        let request = request.into_inner();
        let selectors = request
            .selectors
            .into_iter()
            .map(convert::selector)
            .collect();
        let digest =
            digests::digest(&self.shared, &request.job, id(&request.id)?, selectors).await?;
        Ok(Response::new(wire::DigestResponse {
            digest: digest.to_string(),
        }))
    }

    async fn resolve_image(
        &self,
        request: Request<wire::ResolveImageRequest>,
    ) -> Answer<wire::ResolveImageResponse> {
        self.audience.engines_only()?;
        let request = request.into_inner();
        let sessions = self.shared.enter(&request.job, &request.sessions)?;
        let platform = request.platform.map(convert::platform);
        let mode = images::Mode::parse(&request.resolve_mode)?;
        let layout = request.layout.map(|layout| (layout.session, layout.store));
        let (reference, image) = images::resolve(
            &self.shared,
            &request.reference,
            platform,
            (mode, layout),
            &sessions,
        )
        .await?;
        Ok(Response::new(wire::ResolveImageResponse {
            digest: image.digest().to_string(),
            config: image.config(),
            reference: reference.to_string(),
        }))
    }

    async fn resolve_source(
        &self,
        request: Request<wire::ResolveSourceRequest>,
    ) -> Answer<wire::ResolveSourceResponse> {
        let found = resolve::source(&self.shared, request.into_inner()).await?;
        Ok(Response::new(found))
    }

    async fn find_host_key(
        &self,
        request: Request<wire::FindHostKeyRequest>,
    ) -> Answer<wire::FindHostKeyResponse> {
        self.audience.engines_only()?;
        let host = request.into_inner().host;
        let known_host = source::ssh_host_key(&host).await.unwrap_or_default();
        Ok(Response::new(wire::FindHostKeyResponse { known_host }))
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Answer<wire::ReadFileResponse> {
        self.audience.engines_only()?;
        let data = files::read_file(&self.shared, request.into_inner()).await?;
        Ok(Response::new(wire::ReadFileResponse { data }))
    }

    async fn read_dir(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Answer<wire::ReadDirResponse> {
        self.audience.engines_only()?;
        let entries = files::read_dir(&self.shared, request.into_inner()).await?;
        Ok(Response::new(wire::ReadDirResponse { entries }))
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Answer<wire::StatFileResponse> {
        self.audience.engines_only()?;
        let stat = files::stat_file(&self.shared, request.into_inner()).await?;
        Ok(Response::new(wire::StatFileResponse { stat: Some(stat) }))
    }

    type ExportStream = EventStream;

    async fn export(&self, request: Request<wire::ExportRequest>) -> Answer<EventStream> {
        self.audience.engines_only()?;
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let run = |events| async move { export::run(&shared, request, events).await };
        Ok(Response::new(events::run(run)))
    }

    type ImportCacheStream = EventStream;

    async fn import_cache(
        &self,
        request: Request<wire::ImportCacheRequest>,
    ) -> Answer<EventStream> {
        self.audience.engines_only()?;
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let run = |events| async move { cache::import(&shared, request, events).await };
        Ok(Response::new(events::run(run)))
    }

    type ExportCacheStream = EventStream;

    async fn export_cache(
        &self,
        request: Request<wire::ExportCacheRequest>,
    ) -> Answer<EventStream> {
        self.audience.engines_only()?;
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let run = |events| async move { cache::export(&shared, request, events).await };
        Ok(Response::new(events::run(run)))
    }

    async fn release_job(
        &self,
        request: Request<wire::ReleaseJobRequest>,
    ) -> Answer<wire::ReleaseJobResponse> {
        self.audience.engines_only()?;
        let request = request.into_inner();
        let remains = self.shared.jobs.release(&request.job);
        // After it, so that a call of the job that adds to them sees that it is over.
        cache::release(&self.shared, &request.job);
        self.shared.sandboxes.release(&request.job);
        if !remains.is_empty() {
            remains::forget_later(&self.shared.refs, remains);
        }
        self.shared.emptied.remove(&request.job);
        self.shared.gc.notify_one();
        if request.flush {
            self.shared.refs.flush().await.map_err(Failure::host)?;
        }
        Ok(Response::new(wire::ReleaseJobResponse {}))
    }

    async fn disk_usage(
        &self,
        request: Request<wire::DiskUsageRequest>,
    ) -> Answer<wire::DiskUsageResponse> {
        self.audience.engines_only()?;
        let request = request.into_inner();
        let age = duration(request.age_limit_ns);
        let records = self.shared.refs.usage(&request.filter, age).await;
        let records = records.map_err(|e| Failure::user(rpc::status::chain(&e)))?;
        let records = records.into_iter().map(convert::usage).collect();
        Ok(Response::new(wire::DiskUsageResponse { records }))
    }

    type PruneStream = ReceiverStream<Result<wire::UsageRecord, Status>>;

    async fn prune(&self, request: Request<wire::PruneRequest>) -> Answer<Self::PruneStream> {
        self.audience.engines_only()?;
        let request = request.into_inner();
        let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
        let options = PruneOptions {
            filter: request.filter,
            all: request.all,
            keep_duration: duration(request.keep_duration_ns),
            reserved_space: bytes(request.reserved_space),
            max_used_space: bytes(request.max_used_space),
            min_free_space: bytes(request.min_free_space),
        };
        let removed = self.shared.refs.prune(&options).await;
        let removed = removed.map_err(|e| Failure::user(rpc::status::chain(&e)))?;
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            for record in removed {
                if sender.send(Ok(convert::usage(record))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_images(
        &self,
        _: Request<wire::ListImagesRequest>,
    ) -> Answer<wire::ListImagesResponse> {
        Ok(Response::new(wire::ListImagesResponse {
            images: store::list(&self.shared).await,
        }))
    }

    async fn inspect_image(&self, request: Request<wire::ImageName>) -> Answer<wire::Image> {
        let name = request.into_inner().name;
        Ok(Response::new(store::inspect(&self.shared, &name).await?))
    }

    async fn tag_image(
        &self,
        request: Request<wire::TagImageRequest>,
    ) -> Answer<wire::TagImageResponse> {
        let request = request.into_inner();
        store::tag(&self.shared, &request.source, &request.target)?;
        self.shared.refs.flush().await.map_err(Failure::host)?;
        Ok(Response::new(wire::TagImageResponse {}))
    }

    async fn remove_image(
        &self,
        request: Request<wire::RemoveImageRequest>,
    ) -> Answer<wire::RemoveImageResponse> {
        let request = request.into_inner();
        let removed = store::remove(&self.shared, &request.name, request.force)?;
        self.shared.refs.flush().await.map_err(Failure::host)?;
        Ok(Response::new(removed))
    }

    type PullImageStream = EventStream;

    async fn pull_image(&self, request: Request<wire::PullImageRequest>) -> Answer<EventStream> {
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let run = |events| async move { store::pull(&shared, request, events).await };
        Ok(Response::new(events::run(run)))
    }

    type PushImageStream = EventStream;

    async fn push_image(&self, request: Request<wire::PushImageRequest>) -> Answer<EventStream> {
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let run = |events| async move { store::push(&shared, request, events).await };
        Ok(Response::new(events::run(run)))
    }

    type SaveImagesStream = ReceiverStream<Result<wire::Bytes, Status>>;

    async fn save_images(
        &self,
        request: Request<wire::SaveImagesRequest>,
    ) -> Answer<Self::SaveImagesStream> {
        Ok(Response::new(
            store::save(&self.shared, request.into_inner().names).await?,
        ))
    }

    async fn load_images(
        &self,
        request: Request<Streaming<wire::Bytes>>,
    ) -> Answer<wire::LoadImagesResponse> {
        let names = load::load(&self.shared, request.into_inner()).await?;
        self.shared.refs.flush().await.map_err(Failure::host)?;
        Ok(Response::new(wire::LoadImagesResponse { names }))
    }

    async fn open_sandbox(
        &self,
        request: Request<wire::OpenSandboxRequest>,
    ) -> Answer<wire::OpenSandboxResponse> {
        self.audience.engines_only()?;
        sandbox::open(&self.shared, request.into_inner()).await?;
        Ok(Response::new(wire::OpenSandboxResponse {}))
    }

    async fn close_sandbox(
        &self,
        request: Request<wire::SandboxName>,
    ) -> Answer<wire::CloseSandboxResponse> {
        self.audience.engines_only()?;
        self.shared.sandboxes.close(&request.into_inner());
        Ok(Response::new(wire::CloseSandboxResponse {}))
    }

    async fn create_container(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Answer<wire::ContainerName> {
        let rights = self.audience.rights(request.extensions());
        let name = containers::create(&self.shared, request.into_inner(), rights).await?;
        Ok(Response::new(wire::ContainerName { name }))
    }

    async fn start_container(
        &self,
        request: Request<wire::ContainerName>,
    ) -> Answer<wire::StartContainerResponse> {
        Ok(Response::new(
            containers::start(&self.shared, &request.into_inner().name).await?,
        ))
    }

    type AttachStream = ReceiverStream<Result<wire::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::AttachRequest>>,
    ) -> Answer<Self::AttachStream> {
        let rights = self.audience.rights(request.extensions());
        let requests = request.into_inner();
        Ok(Response::new(
            containers::attach(&self.shared, requests, self.audience, rights).await?,
        ))
    }

    type LogsStream = ReceiverStream<Result<wire::LogChunk, Status>>;

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Answer<Self::LogsStream> {
        Ok(Response::new(containers::logs(
            &self.shared,
            &request.into_inner(),
        )?))
    }

    async fn wait_container(
        &self,
        request: Request<wire::ContainerName>,
    ) -> Answer<wire::WaitContainerResponse> {
        let entry = self.shared.containers.find(&request.into_inner().name)?;
        let exit = Some(entry.wait().await);
        Ok(Response::new(wire::WaitContainerResponse { exit }))
    }

    async fn stop_container(
        &self,
        request: Request<wire::StopContainerRequest>,
    ) -> Answer<wire::StopContainerResponse> {
        let request = request.into_inner();
        containers::stop(&self.shared, &request.name, duration(request.timeout_ns)).await?;
        Ok(Response::new(wire::StopContainerResponse {}))
    }

    async fn kill_container(
        &self,
        request: Request<wire::KillContainerRequest>,
    ) -> Answer<wire::KillContainerResponse> {
        let request = request.into_inner();
        let signal = if request.signal.is_empty() {
            "KILL"
        } else {
            &request.signal
        };
        containers::send_signal(&self.shared, &request.name, signal)?;
        Ok(Response::new(wire::KillContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<wire::RemoveContainerRequest>,
    ) -> Answer<wire::RemoveContainerResponse> {
        let request = request.into_inner();
        self.shared
            .containers
            .remove(&request.name, request.force)
            .await?;
        Ok(Response::new(wire::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Answer<wire::ListContainersResponse> {
        let containers = self.shared.containers.list(request.into_inner().all);
        Ok(Response::new(wire::ListContainersResponse { containers }))
    }
}

fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}
