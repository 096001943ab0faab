//! The solver's `Worker` port over `worker.proto`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::Digest;
use proto::worker as wire;
use solver::{
    DigestRequest, ItemStatus, JobId, LogChunk, OpError, PinRequest, Pinned, Progress, RunRequest,
    Warning,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::convert::{self, OpNews};
use crate::{Worker, WorkerError};

/// The largest definition that a step may hand on to be solved, in bytes.
const MAX_DEFINITION: u64 = 15 << 20;

/// Tells the shared key of a session: what makes its local sources the same from build to build.
pub type SharedKeys = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Tells the span that a job belongs to, as W3C's `traceparent` says it.
pub type TraceParents = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// A worker as the solver sees it.
pub struct JobPort {
    worker: Worker,
    shared_keys: SharedKeys,
    trace_parents: TraceParents,
}

impl JobPort {
    /// The port of `worker`.
    pub fn new(worker: Worker, shared_keys: SharedKeys, trace_parents: TraceParents) -> JobPort {
        JobPort {
            worker,
            shared_keys,
            trace_parents,
        }
    }
}

/// Passes on what an op tells of itself.
fn tell(progress: &Progress) -> impl FnMut(OpNews) + Send + use<> {
    let progress = progress.clone();
    move |news| match news {
        OpNews::Item(item) => progress.status(ItemStatus {
            id: item.id,
            name: item.name,
            current: item.current,
            total: item.total,
            time: std::time::SystemTime::now(),
            started: item.started,
            completed: item.completed,
        }),
        OpNews::Output { stream, data, time } => progress.log(LogChunk {
            stream: u32::try_from(stream).unwrap_or(1),
            data,
            time,
        }),
        OpNews::Warning {
            level,
            short,
            detail,
            url,
        } => {
            progress.warning(Warning {
                level,
                short,
                detail,
                url,
            });
        }
    }
}

#[async_trait]
impl solver::Worker for JobPort {
    async fn pin(&self, request: PinRequest) -> Result<Pinned, OpError> {
        let sessions = request.sessions.current().to_vec();
        let shared_key = sessions
            .first()
            .map(|id| (self.shared_keys)(id))
            .unwrap_or_default();
        let message = wire::PinRequest {
            job: request.job.as_str().to_owned(),
            op: request.vertex.raw().clone(),
            sessions,
            shared_key,
            resolve_mode: String::new(),
        };
        let answer = self
            .worker
            .client
            .clone()
            .pin(message)
            .await
            .map_err(WorkerError::from)?;
        let outcome = convert::follow(answer.into_inner(), tell(&request.progress)).await?;
        Ok(Pinned { ids: outcome.ids })
    }

    async fn exists(&self, job: &JobId, ids: &[Digest]) -> Result<Vec<bool>, OpError> {
        let message = wire::ExistsRequest {
            job: job.as_str().to_owned(),
            ids: ids.iter().map(ToString::to_string).collect(),
        };
        let answer = self
            .worker
            .client
            .clone()
            .exists(message)
            .await
            .map_err(WorkerError::from)?;
        let exists = answer.into_inner().exists;
        if exists.len() != ids.len() {
            return Err(WorkerError::protocol("Exists answered for other ids than asked").into());
        }
        Ok(exists)
    }

    async fn digest(&self, request: DigestRequest) -> Result<Digest, OpError> {
        let message = wire::DigestRequest {
            job: request.job.as_str().to_owned(),
            id: request.id.to_string(),
            selectors: request.selectors.iter().map(convert::selector).collect(),
        };
        let answer = self
            .worker
            .client
            .clone()
            .digest(message)
            .await
            .map_err(WorkerError::from)?;
        Ok(convert::digest(&answer.into_inner().digest)?)
    }

    async fn run(&self, request: RunRequest) -> Result<(), OpError> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let start = wire::RunStart {
            job: request.job.as_str().to_owned(),
            op: request.vertex.raw().clone(),
            output_ids: request.output_ids.iter().map(ToString::to_string).collect(),
            input_ids: request
                .inputs
                .iter()
                .map(|id| id.map(|id| id.to_string()).unwrap_or_default())
                .collect(),
            sessions: request.sessions.current().to_vec(),
            ignore_cache: request.ignore_cache,
            name: request.vertex.name().to_owned(),
            trace_parent: (self.trace_parents)(request.job.as_str()).unwrap_or_default(),
            resources: request
                .vertex
                .metadata()
                .linux_resources
                .as_ref()
                .map(convert::resources),
        };
        let known = start.sessions.clone();
        let first = wire::RunRequest {
            request: Some(wire::run_request::Request::Start(start)),
        };
        // The receiver is in our hands: the queue of one takes the first message.
        let _ = sender.try_send(first);
        let call = async {
            let stream = ReceiverStream::new(receiver);
            let answer = self
                .worker
                .client
                .clone()
                .run(stream)
                .await
                .map_err(WorkerError::from)?;
            convert::follow(answer.into_inner(), tell(&request.progress)).await
        };
        let joiners = add_sessions(request.sessions.clone(), known, sender);
        tokio::pin!(call, joiners);
        let outcome = tokio::select! {
            outcome = &mut call => outcome?,
            () = &mut joiners => call.await?,
        };
        drop(outcome);
        Ok(())
    }

    async fn load_definition(
        &self,
        job: &JobId,
        id: Digest,
        filename: &str,
    ) -> Result<Bytes, OpError> {
        Ok(self
            .worker
            .read_file(job.as_str(), id, filename, 0, MAX_DEFINITION)
            .await?)
    }
}

/// Tells the worker of clients that join while an op runs.
async fn add_sessions(
    mut sessions: solver::Sessions,
    mut known: Vec<String>,
    sender: tokio::sync::mpsc::Sender<wire::RunRequest>,
) {
    while let Some(current) = sessions.changed().await {
        for id in current.iter() {
            if known.contains(id) {
                continue;
            }
            known.push(id.clone());
            let request = Some(wire::run_request::Request::AddSession(id.clone()));
            if sender.send(wire::RunRequest { request }).await.is_err() {
                return;
            }
        }
    }
    // The stream of requests stays open until the op has ended: its end would say nothing, but a
    // worker behind a proxy might take it for the end of the call.
    sender.closed().await;
}
