//! The service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use engine::Engine;
use engine::progress::Log;
use futures::{Stream, StreamExt as _};
use proto::control as wire;
use proto::control::control_server::{Control as ControlApi, ControlServer};
use proto::pb;
use proto::types;
use rpc::tunnel;
use session::{Identity, Sessions};
use spans::{Recorder, SpanContext};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use worker_client::UsageRecord;

use crate::content::Store;
use crate::history::{self, Blob, History};
use crate::trace::Trace;
use crate::{failure, paced, request, status, usage};

/// Header with the daemon's time, by which clients correct the clocks of what they show.
const TIMESTAMP: &str = "buildkit-current-timestamp";

/// Status responses that wait for a slow watcher.
const QUEUE: usize = 16;

/// What the daemon says it is; clients decide by it what they may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Where the source is.
    pub package: String,
    /// BuildKit's version that this one is to be taken for, like `v0.26.0`.
    pub version: String,
    /// The source's revision.
    pub revision: String,
    /// The version of the Dockerfile language that the built-in frontend reads.
    pub dockerfile: String,
}

/// `moby.buildkit.v1.Control`.
#[derive(Clone)]
pub struct Control {
    engine: Engine,
    sessions: Sessions,
    history: History,
    recorder: Recorder,
    version: Version,
}

impl Control {
    /// Builds with `engine` for the clients whose sessions are in `sessions`, and keeps records of
    /// it in `history`, with what `recorder` has of their traces.
    pub fn new(
        engine: Engine,
        sessions: Sessions,
        history: History,
        recorder: Recorder,
        version: Version,
    ) -> Control {
        Control {
            engine,
            sessions,
            history,
            recorder,
            version,
        }
    }

    /// All that a daemon answers: this service, those beside it, health and reflection.
    ///
    /// # Panics
    /// Never: the descriptors that reflection answers with are our own.
    pub fn routes(&self) -> Routes {
        let control = ControlServer::new(self.clone())
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE);
        let (_, health) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        };
        let v1 = reflection().build_v1().expect("own descriptors decode");
        let alpha = reflection()
            .build_v1alpha()
            .expect("own descriptors decode");
        Routes::new(control)
            .add_service(self.engine.driven().service().server())
            .add_service(Store::server(self.history.clone()))
            .add_service(self.recorder.server())
            .add_service(health)
            .add_service(v1)
            .add_service(alpha)
    }

    fn version(&self) -> types::BuildkitVersion {
        types::BuildkitVersion {
            package: self.version.package.clone(),
            version: self.version.version.clone(),
            revision: self.version.revision.clone(),
            dockerfile_version: self.version.dockerfile.clone(),
        }
    }

    /// The devices that there are now.
    async fn devices(&self) -> Vec<types::CdiDevice> {
        let found = self.engine.worker().devices(&[]).await;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "the worker does not tell its devices");
            Vec::new()
        });
        let device = |device: worker_client::Device| types::CdiDevice {
            name: device.name,
            auto_allow: device.auto_allow,
            annotations: device.annotations,
            on_demand: false,
        };
        found.into_iter().map(device).collect()
    }

    fn worker(&self) -> types::WorkerRecord {
        let worker = self.engine.worker().description();
        types::WorkerRecord {
            id: worker.id.clone(),
            labels: worker.labels.clone(),
            platforms: worker.platforms.iter().map(platform).collect(),
            gc_policy: worker.gc_policies.iter().map(gc_policy).collect(),
            buildkit_version: Some(self.version()),
            cdi_devices: Vec::new(),
        }
    }

    /// Runs a build to its end.
    async fn build(&self, request: Request<wire::SolveRequest>) -> Answer<wire::SolveResponse> {
        let call = request.extensions().get::<SpanContext>().copied();
        let mut trace = call.map(|call| Trace::begin(&self.recorder, call));
        let request = request.into_inner();
        let record = (!request.internal).then(|| history::of_request(&request));
        // Policies may have expressions that take a while to compile.
        let allowed = self.engine.allowed();
        let mut request =
            tokio::task::spawn_blocking(move || request::build_request(request, allowed))
                .await
                .map_err(|error| Status::internal(error.to_string()))?
                .map_err(|error| failure::status(&error))?;
        request.trace_parent = call.map(|call| call.traceparent());
        // Closed as cancelled if the client goes away.
        let mut recording = None;
        let mut unrecorded = None;
        let begun = |log: &Arc<Log>| match record {
            Some(record) => {
                let (log, engine) = (log.clone(), self.engine.clone());
                recording = Some(self.history.begin(record, log, trace.take(), engine));
            }
            None => unrecorded = trace.take().map(|trace| (trace, log.clone())),
        };
        let solved = self.engine.solve(request, begun).await;
        if let Some((trace, log)) = unrecorded {
            trace.record(&log);
        }
        match solved {
            Ok(finished) => {
                if let Some(recording) = recording {
                    recording.succeeded(&finished);
                }
                Ok(Response::new(wire::SolveResponse {
                    exporter_response: finished.response,
                }))
            }
            Err(error) => {
                let status = failure::status(&error);
                if let Some(recording) = recording {
                    recording.failed(&status);
                }
                Err(status)
            }
        }
    }
}

fn platform(platform: &oci::Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

fn gc_policy(policy: &worker_client::GcPolicy) -> types::GcPolicy {
    types::GcPolicy {
        all: policy.all,
        keep_duration: i64::try_from(policy.keep_duration.as_nanos()).unwrap_or(i64::MAX),
        reserved_space: policy.reserved_space,
        filters: policy.filters.clone(),
        max_used_space: policy.max_used_space,
        min_free_space: policy.min_free_space,
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A response whose headers tell the time.
fn timed<T>(body: T) -> Response<T> {
    let mut response = Response::new(body);
    let now = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339);
    if let Some(value) = now.ok().and_then(|text| MetadataValue::try_from(text).ok()) {
        response.metadata_mut().insert(TIMESTAMP, value);
    }
    response
}

#[tonic::async_trait]
impl ControlApi for Control {
    async fn disk_usage(
        &self,
        request: Request<wire::DiskUsageRequest>,
    ) -> Answer<wire::DiskUsageResponse> {
        let request = request.into_inner();
        let age = usage::duration(request.age_limit);
        let records = self.engine.worker().disk_usage(request.filter, age).await;
        let mut records = records.map_err(|error| usage::failure(&error))?;
        // A worker does not know since when it holds blobs for others; these are the history's.
        let undated = |record: &&mut UsageRecord| record.created == Some(SystemTime::UNIX_EPOCH);
        if let Some(held) = records.iter_mut().find(undated) {
            held.created = self.history.oldest_blob().await?;
        }
        let record = records.into_iter().map(usage::record).collect();
        Ok(Response::new(wire::DiskUsageResponse { record }))
    }

    type PruneStream = Responses<wire::UsageRecord>;

    async fn prune(&self, request: Request<wire::PruneRequest>) -> Answer<Self::PruneStream> {
        let policy = usage::policy(request.into_inner());
        let removed = self.engine.worker().prune(policy).await;
        let removed = removed.map_err(|error| usage::failure(&error))?;
        let records = removed.map(|record| match record {
            Ok(record) => Ok(usage::record(record)),
            Err(error) => Err(usage::failure(&error)),
        });
        Ok(Response::new(records.boxed()))
    }

    async fn solve(&self, request: Request<wire::SolveRequest>) -> Answer<wire::SolveResponse> {
        let session = request.get_ref().session.clone();
        let answer = self.build(request).await;
        if answer.is_err() {
            // The client leaves now, maybe before its session was set up.
            self.sessions.settle(&session).await;
        }
        answer
    }

    type StatusStream = ReceiverStream<Result<wire::StatusResponse, Status>>;

    async fn status(&self, request: Request<wire::StatusRequest>) -> Answer<Self::StatusStream> {
        let name = request.into_inner().r#ref;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut watcher = match self.engine.find(&name) {
            Some(watcher) => watcher,
            // Ended a while ago, or not yet begun.
            None => match self.history.log(&name).await? {
                Some(blob) => {
                    tokio::spawn(paced::send(blob, read_log, sender));
                    return Ok(timed(ReceiverStream::new(receiver)));
                }
                None => {
                    let watcher = self.engine.watch(&name).await;
                    watcher.map_err(|error| Status::not_found(error.message))?
                }
            },
        };
        tokio::spawn(async move {
            loop {
                let events = tokio::select! {
                    events = watcher.next() => events,
                    () = sender.closed() => return,
                };
                let Some(events) = events else { return };
                for response in status::responses(&events) {
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(timed(ReceiverStream::new(receiver)))
    }

    type SessionStream = Responses<wire::BytesMessage>;

    async fn session(
        &self,
        request: Request<Streaming<wire::BytesMessage>>,
    ) -> Answer<Self::SessionStream> {
        let mut identity = Identity::from_metadata(request.metadata())
            .map_err(|error| Status::invalid_argument(rpc::status::chain(&error)))?;
        identity.trace = request.extensions().get().copied();
        let incoming = request.into_inner();
        let (outgoing, messages) = tunnel::outgoing();
        let (sessions, id) = (self.sessions.clone(), identity.id.clone());
        tokio::spawn(async move {
            if let Err(error) = sessions.accept(identity, incoming, outgoing).await {
                tracing::info!(session = %id, error = %rpc::status::chain(&error), "a session ended");
            }
        });
        Ok(Response::new(messages.map(Ok).boxed()))
    }

    async fn list_workers(
        &self,
        _: Request<wire::ListWorkersRequest>,
    ) -> Answer<wire::ListWorkersResponse> {
        let mut record = self.worker();
        record.cdi_devices = self.devices().await;
        let record = vec![record];
        Ok(Response::new(wire::ListWorkersResponse { record }))
    }

    async fn info(&self, _: Request<wire::InfoRequest>) -> Answer<wire::InfoResponse> {
        Ok(Response::new(wire::InfoResponse {
            buildkit_version: Some(self.version()),
        }))
    }

    type ListenBuildHistoryStream = ReceiverStream<Result<wire::BuildHistoryEvent, Status>>;

    async fn listen_build_history(
        &self,
        request: Request<wire::BuildHistoryRequest>,
    ) -> Answer<Self::ListenBuildHistoryStream> {
        let events = self.history.listen(request.into_inner()).await?;
        Ok(timed(ReceiverStream::new(events)))
    }

    async fn update_build_history(
        &self,
        request: Request<wire::UpdateBuildHistoryRequest>,
    ) -> Answer<wire::UpdateBuildHistoryResponse> {
        let request = request.into_inner();
        if request.delete {
            self.history.delete(&request.r#ref).await?;
        } else if request.finalize {
            self.history.finalize(&request.r#ref).await;
        } else {
            self.history.pin(&request.r#ref, request.pinned).await?;
        }
        Ok(Response::new(wire::UpdateBuildHistoryResponse {}))
    }
}

/// The next part of a kept log.
fn read_log(blob: &mut Blob) -> Result<Option<wire::StatusResponse>, Status> {
    blob.next()
        .map_err(|error| Status::data_loss(format!("failed to read the log of a build: {error}")))
}
