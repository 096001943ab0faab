//! The daemon's side of the launcher.

mod events;
mod inner;
mod start;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::Spec;
use sys::mount::MountFd;
use tokio::sync::watch;

use crate::container::Container;
use crate::error::CreateError;
use crate::network::{Network, NetworkOptions, Pool};
use crate::stdio::Stdio;
use crate::stubs::Stubs;

pub(crate) use inner::Inner;
pub use start::sweep;

/// How a launcher is started.
#[derive(Clone, Debug)]
pub struct LauncherOptions {
    /// The program that calls [`crate::launcher_main`] when it is called [`crate::LAUNCHER_NAME`];
    /// usually this one.
    pub program: PathBuf,
    /// Arguments for it; usually none.
    pub arguments: Vec<String>,
    /// A directory of this daemon's own. No two live daemons have the same.
    pub state_dir: PathBuf,
    /// Control group below which those of containers are made, relative to the hierarchies' roots.
    pub cgroup_parent: String,
    /// The bridge.
    pub network: NetworkOptions,
}

/// A mount in a container.
#[derive(Debug)]
pub struct MountAt {
    /// What is mounted: a directory or a file.
    pub mount: MountFd,
    /// Where, absolute in the container. What is missing of the path is made.
    pub destination: PathBuf,
    /// Whether nothing can be written through it.
    pub readonly: bool,
}

/// A container to be made.
#[derive(Debug)]
pub struct ContainerRequest {
    /// A name for it, shown in its control group's.
    pub id: String,
    /// What it is; see [`crate::spec::step`].
    pub spec: Spec,
    /// Its root filesystem.
    pub rootfs: MountFd,
    /// Mounts besides those of the spec, in this order after them.
    pub mounts: Vec<MountAt>,
    /// Its first process's streams.
    pub stdio: Stdio,
    /// Its network.
    pub network: Network,
    /// Which mount points of `mounts` that were missing are removed when it has ended. Those of the
    /// spec stay, as in BuildKit: a layer may come to have a `/proc`.
    pub stubs: Stubs,
}

/// The launcher process. Dropping it ends the process and every container.
///
/// If the process dies, its containers die with it, and the next container gets a new process.
#[derive(Debug)]
pub struct Launcher {
    options: LauncherOptions,
    network: Option<Arc<Pool>>,
    live: Mutex<Live>,
    /// Held while a new process is started, so that one is.
    starting: tokio::sync::Mutex<()>,
}

/// A process, and word of its end.
#[derive(Clone, Debug)]
struct Live {
    inner: Arc<Inner>,
    ended: watch::Receiver<bool>,
}

impl Launcher {
    /// Makes a container and starts its first process. Dropping the future ends what has begun.
    ///
    /// # Errors
    /// [`CreateError::Exec`] when everything is there but the program.
    pub async fn create(&self, request: ContainerRequest) -> Result<Container, CreateError> {
        self.revived().await?.inner.create(request).await
    }

    /// Ends all containers and waits until nothing of them is left. No more can be made then.
    pub async fn shutdown(&self) {
        let mut live = self.live();
        self.close();
        // The sender goes when the launcher's end has been seen; either way it is over.
        let _ = live.ended.wait_for(|ended| *ended).await;
    }

    fn close(&self) {
        if let Some(pool) = &self.network {
            pool.stop();
        }
        self.live().inner.close();
    }

    fn live(&self) -> Live {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.clone()
    }

    /// The process, or a new one if it has died.
    async fn revived(&self) -> Result<Live, CreateError> {
        let live = self.live();
        if !live.inner.is_lost() {
            return Ok(live);
        }
        let _turn = self.starting.lock().await;
        let mut live = self.live();
        if !live.inner.is_lost() {
            return Ok(live);
        }
        tracing::error!(
            "the container launcher died, and all containers with it; starting another"
        );
        let _ = live.ended.wait_for(|ended| *ended).await;
        let live = start::again(&self.options, self.network.clone()).await?;
        let mut place = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *place = live.clone();
        Ok(live)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.close();
    }
}
