//! The builds whose clients are their frontends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frontend::{Bridge, BuildResult, FrontendError};
use rpc::status::Failure;
use tokio::sync::Notify;
use tonic::{Code, Status};

use crate::build::{Build, Facts};
use crate::service::Service;

/// How long a call waits for its build: a client sends it at the same time as the request that
/// begins the build (BuildKit: `control/gateway/gateway.go`).
const WAIT: Duration = Duration::from_secs(3);

/// All builds that wait for what their clients do, by their ids. Clones are the same.
#[derive(Clone, Default)]
pub struct Builds {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    open: Mutex<HashMap<String, Arc<Build>>>,
    added: Notify,
}

/// A build that its client can call; dropped, it no longer can, and calls that run end.
pub struct Served {
    builds: Builds,
    id: String,
    build: Arc<Build>,
}

impl Builds {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Build>>> {
        self.inner
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends `bridge` to the client of the build `id`.
    ///
    /// # Errors
    /// When there is such a build already.
    pub fn serve(
        &self,
        id: &str,
        bridge: Arc<dyn Bridge>,
        facts: Facts,
    ) -> Result<Served, FrontendError> {
        let build = Arc::new(Build::new(bridge, facts));
        {
            let mut open = self.lock();
            if open.contains_key(id) {
                return Err(FrontendError::invalid(format!(
                    "gateway for build {id} exists"
                )));
            }
            open.insert(id.to_owned(), build.clone());
        }
        self.inner.added.notify_waiters();
        Ok(Served {
            builds: self.clone(),
            id: id.to_owned(),
            build,
        })
    }

    /// The gRPC service that clients call.
    pub fn service(&self) -> Service {
        Service::new(self.clone())
    }

    /// The build `id`; waits a little for one that is only about to begin.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Build>, Status> {
        let search = async {
            loop {
                let added = self.inner.added.notified();
                tokio::pin!(added);
                added.as_mut().enable();
                if let Some(build) = self.lock().get(id).cloned() {
                    return build;
                }
                added.await;
            }
        };
        tokio::time::timeout(WAIT, search)
            .await
            .map_err(|_| Failure::new(Code::NotFound, format!("no such job {id}")).to_status())
    }
}

impl Served {
    /// What the client returns in the end.
    ///
    /// # Errors
    /// The error that the client returns.
    pub async fn result(&self) -> Result<BuildResult, FrontendError> {
        self.build.returned().await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.builds.lock().remove(&self.id);
        self.build.end();
    }
}
