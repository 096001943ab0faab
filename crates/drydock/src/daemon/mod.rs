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
mod sources;

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, bail};
use rpc::calls::Calls;
use rustix::fs::FlockOperation;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use parts::Daemon;

/// Runs a daemon until it is told to stop or has been idle for as long as the configuration says.
///
/// # Errors
/// When another daemon uses the same directory, or something that it needs cannot be had.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.root)
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
    let serving = listeners.serve(daemon.routes(), calls.clone(), stop.clone());
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

/// Makes sure that no other daemon uses `root`; the lock goes with the process.
fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("drydockd.lock");
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
