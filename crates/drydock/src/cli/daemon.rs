//! `drydock daemon`: the daemon itself.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdFlags, Signal};

use super::Global;
use crate::config::flags::Flags;
use crate::error::hinted;

/// A daemon that stops takes its containers down first.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Run or stop the daemon.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Run the daemon in the foreground, as `drydockd` does.
    Run(Box<Flags>),
    /// Start the daemon in the background if none runs.
    Start,
    /// Stop the daemon and its containers.
    Stop,
}

/// Starts or stops the daemon.
pub(super) async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Start => global.connect().await.map(drop),
        Command::Stop => {
            let (address, _) = global.address();
            tokio::task::spawn_blocking(move || stop(&address))
                .await
                .context("given up")?
        }
        Command::Run(_) => Err(hinted(
            "the daemon does not run inside of a client",
            "see `main`",
        )),
    }
}

/// Asks the process behind the socket to end, and waits until it has.
fn stop(address: &str) -> anyhow::Result<()> {
    let path = address
        .strip_prefix("unix://")
        .with_context(|| format!("address `{address}` is no unix socket"))?;
    let Ok(socket) = UnixStream::connect(path) else {
        println!("no daemon runs at `{address}`");
        return Ok(());
    };
    let peer = rustix::net::sockopt::socket_peercred(&socket)
        .context("failed to ask who serves the socket")?
        .pid;
    let process = rustix::process::pidfd_open(peer, PidfdFlags::empty())
        .context("failed to find the daemon's process")?;
    rustix::process::pidfd_send_signal(&process, Signal::TERM)
        .context("failed to signal the daemon")?;
    let timeout = Timespec::try_from(STOP_TIMEOUT).context("the timeout is too long")?;
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    match rustix::event::poll(&mut ended, Some(&timeout)).context("failed to wait")? {
        0 => anyhow::bail!("the daemon (process {peer}) does not stop"),
        _ => Ok(()),
    }
}
