//! What the launcher tells, and to whom it goes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use rustix::process::{WaitId, WaitIdOptions};
use sys::fdpass::{Channel, Wait};
use sys::pidfd;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::Inner;
use super::inner::Route;
use crate::error::LostError;
use crate::protocol::{Event, ExitPlan};

/// Listens to the launcher until it closes the channel, and then waits for it.
pub(super) async fn listen(
    inner: Arc<Inner>,
    channel: AsyncFd<Channel>,
    launcher: AsyncFd<OwnedFd>,
    ended: watch::Sender<bool>,
) {
    loop {
        let Ok(mut ready) = channel.readable().await else {
            break;
        };
        match ready.try_io(|channel| channel.get_ref().receive(Wait::No)) {
            Err(_would_block) => {}
            Ok(Ok(Some((message, descriptors)))) => match serde_json::from_slice(&message) {
                Ok(event) => inner.handle(event, descriptors),
                Err(error) => tracing::error!(%error, "the launcher said what nobody understands"),
            },
            Ok(Ok(None) | Err(_)) => break,
        }
    }
    inner.lose();
    if launcher.readable().await.is_ok() {
        let launcher = WaitId::PidFd(launcher.get_ref().as_fd());
        // It has ended, so this does not wait; somebody else may have collected it.
        let _ = rustix::process::waitid(launcher, WaitIdOptions::EXITED);
    }
    let _ = ended.send(true);
}

impl Inner {
    fn handle(self: &Arc<Self>, event: Event, mut descriptors: Vec<OwnedFd>) {
        match event {
            Event::Ready => {}
            Event::Started { key } => {
                let pidfd = descriptors.pop().ok_or_else(|| "no process".to_owned());
                if let Some(Ok(pidfd)) = self.started(key, pidfd) {
                    // Whoever asked for it has gone meanwhile.
                    let _ = pidfd::Process::from_fd(pidfd).kill();
                }
            }
            Event::Failed { key, message } => {
                self.started(key, Err(message));
                self.forget(key);
            }
            Event::Exited { key, exit } => self.exited(key, exit),
        }
    }

    /// Tells who waits for the start of `key`; returns the news if nobody does.
    fn started(&self, key: u64, news: Result<OwnedFd, String>) -> Option<Result<OwnedFd, String>> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = routes
            .processes
            .as_mut()
            .and_then(|processes| processes.get_mut(&key));
        match route.and_then(|route| route.started.take()) {
            Some(started) => started.send(news).err(),
            None => Some(news),
        }
    }

    fn forget(&self, key: u64) -> Option<Route> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.processes.as_mut()?.remove(&key)
    }

    fn exited(&self, key: u64, exit: ExitPlan) {
        let Some(Route {
            exit: waiters,
            missing,
            ..
        }) = self.forget(key)
        else {
            return;
        };
        let exit = Some(Ok(exit.into()));
        match missing {
            // Before anybody hears of the end and reads the root filesystem.
            Some(missing) => drop(tokio::task::spawn_blocking(move || {
                missing.remove();
                waiters.send_replace(exit);
            })),
            None => drop(waiters.send_replace(exit)),
        }
    }

    /// Lets everybody know that the launcher has ended: their senders go.
    fn lose(&self) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        for route in routes
            .processes
            .take()
            .into_iter()
            .flat_map(|all| all.into_values())
        {
            route.exit.send_replace(Some(Err(LostError)));
        }
    }
}

/// Waits for the first word of a new launcher.
pub(super) async fn ready(channel: &AsyncFd<Channel>) -> io::Result<()> {
    loop {
        let mut ready = channel.readable().await?;
        match ready.try_io(|channel| channel.get_ref().receive(Wait::No)) {
            Err(_would_block) => {}
            Ok(Ok(Some((message, _)))) => {
                return match serde_json::from_slice(&message)? {
                    Event::Ready => Ok(()),
                    Event::Started { .. } | Event::Failed { .. } | Event::Exited { .. } => {
                        Err(io::ErrorKind::InvalidData.into())
                    }
                };
            }
            Ok(Ok(None)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => return Err(error),
        }
    }
}
