//! Containers that frontends run for themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use frontend::{
    Container, ContainerInput, ContainerProcess, FileRange, FileStat, FrontendError, OpenContainer,
    StartProcess,
};
use worker_client::{Sandbox, Worker};

use crate::bridge::{Shared, step_error};
use crate::request::Entitlements;

/// A container of a frontend on a worker; it ends when this is dropped.
struct OnWorker {
    worker: Worker,
    sandbox: Sandbox,
    session: String,
    entitlements: Entitlements,
}

/// Makes what is to be mounted, and mounts it.
pub(crate) async fn open(
    shared: &Shared,
    request: OpenContainer,
) -> Result<Arc<dyn Container>, FrontendError> {
    admit(&shared.entitlements, &request.op)?;
    let inputs = request.inputs.iter().map(|input| async move {
        match input {
            ContainerInput::Result(result) => shared.realize(result).await,
            ContainerInput::Stored(id) => Ok(Some(*id)),
        }
    });
    let inputs = futures::future::try_join_all(inputs).await?;
    let sandbox = Sandbox {
        job: shared.worker_job.clone(),
        name: request.name,
        id: NEXT.fetch_add(1, Ordering::Relaxed),
    };
    // From here on: also a call that is cut off may have made it.
    let container = OnWorker {
        worker: shared.worker.clone(),
        sandbox,
        session: shared.session.clone(),
        entitlements: shared.entitlements.clone(),
    };
    let opened = container.worker.open_sandbox(
        &container.sandbox,
        request.op,
        &inputs,
        container.sessions(),
    );
    opened.await.map_err(step_error)?;
    Ok(Arc::new(container))
}

/// The number of the next sandbox. A frontend may make one under the name of another that is still
/// being closed.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Refuses an op that is not legal or needs more than was granted.
fn admit(entitlements: &Entitlements, op: &Bytes) -> Result<(), FrontendError> {
    let vertex = llb::Vertex::decode(op.clone(), llb::OpMetadata::default())
        .map_err(|error| FrontendError::invalid(error.to_string()))?;
    entitlements
        .check_op(vertex.op())
        .map_err(|error| FrontendError::invalid(error.message))
}

impl OnWorker {
    fn sessions(&self) -> Vec<String> {
        let session = Some(self.session.clone());
        session.filter(|id| !id.is_empty()).into_iter().collect()
    }
}

#[async_trait]
impl Container for OnWorker {
    async fn start(&self, process: StartProcess) -> Result<ContainerProcess, FrontendError> {
        admit(&self.entitlements, &process.op)?;
        self.worker
            .start_in_sandbox(&self.sandbox, process, self.sessions())
            .await
            .map_err(step_error)
    }

    async fn read_file(
        &self,
        mount: u32,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Bytes, FrontendError> {
        let range = range.unwrap_or(FileRange {
            offset: 0,
            length: 0,
        });
        self.worker
            .read_sandbox_file(&self.sandbox, mount, path, range)
            .await
            .map_err(step_error)
    }

    async fn read_dir(
        &self,
        mount: u32,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<FileStat>, FrontendError> {
        self.worker
            .read_sandbox_dir(&self.sandbox, mount, path, include.unwrap_or(""))
            .await
            .map_err(step_error)
    }

    async fn stat_file(&self, mount: u32, path: &str) -> Result<FileStat, FrontendError> {
        self.worker
            .stat_sandbox_file(&self.sandbox, mount, path)
            .await
            .map_err(step_error)
    }
}

impl Drop for OnWorker {
    fn drop(&mut self) {
        let (worker, sandbox) = (self.worker.clone(), self.sandbox.clone());
        // Outside a runtime the worker is going down, too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = worker.close_sandbox(&sandbox).await {
                    tracing::debug!(name = %sandbox.name, %error, "failed to close a sandbox");
                }
            });
        }
    }
}
