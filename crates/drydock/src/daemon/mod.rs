//! The daemon: what it is made of, and its life from start to stop.
//!
//! ```text
//! lock ─▶ state (database, layers, blobs) ─▶ worker (launcher, registries) ─pipe─▶ engine ─▶ control ─▶ listeners
//! ```

mod debug;
mod idle;
mod listen;
mod notify;
mod parts;
mod rest;
mod sources;
mod trace;

use std::fs::{File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use rpc::calls::Calls;
use rustix::fs::FlockOperation;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use parts::Daemon;

/// The file that is locked while a daemon uses a directory.
const LOCK: &str = "drydockd.lock";

/// Runs a daemon until it is told to stop or has been idle for as long as the configuration says.
///
/// # Errors
/// When another daemon uses the same directory, or something that it needs cannot be had.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    raise_open_files();
    make_root(&config.root)
        .with_context(|| format!("failed to create `{}`", config.root.display()))?;
    let lock = lock(&config.root)?;
    // Before clients can reach the daemon: from then on it may be told to stop.
    let told_to_stop = told_to_stop()?;
    tokio::pin!(told_to_stop);
    let listeners = listen::bind(&config).await?;
    let debug = match config.debug_address.as_deref() {
        Some("") | None => None,
        Some(address) => Some(debug::bind(address).await?),
    };
    let daemon = Daemon::start(&config).await?;
    let stop = CancellationToken::new();
    let calls = Calls::default();
    let serving = listeners.serve(
        daemon.routes(),
        calls.clone(),
        daemon.serving(),
        stop.clone(),
    );
    tokio::pin!(serving);
    let probe = daemon.probe(calls.clone());
    let debugging = async {
        match debug {
            Some(listener) => debug::serve(listener, probe).await,
            None => std::future::pending().await,
        }
    };
    tracing::info!(root = %config.root.display(), "ready");
    notify::ready();
    let ended = tokio::select! {
        () = debugging => Ok(()),
        ended = &mut serving => ended,
        () = &mut told_to_stop => Ok(()),
        never = rest::give_back_memory(&daemon, &calls) => match never {},
        () = idle::wait(&daemon, &calls, config.idle_exit) => {
            tracing::info!("nothing to do: leaving");
            Ok(())
        }
    };
    notify::stopping();
    stop.cancel();
    let shutdown = daemon.shutdown();
    tokio::select! {
        () = shutdown => {}
        () = self::told_to_stop()? => tracing::warn!("told to stop again: not waiting any longer"),
    }
    drop(lock);
    ended
}

/// Makes the directory of everything that is kept. Logs, secrets' traces and files of containers that
/// run as somebody else are in it: nobody else may look.
fn make_root(root: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)?;
    // One that was made by an earlier version, not one that is used for other things too.
    if root.join(LOCK).exists() {
        let mode = std::fs::metadata(root)?.permissions().mode();
        std::fs::set_permissions(root, Permissions::from_mode(mode & 0o700))?;
    }
    Ok(())
}

/// Has as many files open at a time as the system lets the process: each client takes one at least.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays");
    }
}

/// Makes sure that no other daemon uses `root`; the lock goes with the process.
fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("failed to open `{}`", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "another daemon uses `{}`; stop it, or give this one another directory with --root",
            root.display()
        ),
        Err(error) => Err(error).with_context(|| format!("failed to lock `{}`", path.display())),
    }
}

/// Resolves with the next SIGTERM or SIGINT.
fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let catch = |kind| signal(kind).context("failed to catch signals");
    let (mut terminate, mut interrupt) = (
        catch(SignalKind::terminate())?,
        catch(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
