//! A daemon that is measured.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use client::Client;
use tempfile::TempDir;

/// How long a daemon may take to answer for the first time.
const START: Duration = Duration::from_secs(60);

/// Of a failed daemon's log so many bytes are shown.
const LOG: usize = 4096;

/// A running daemon with state of its own; killed and removed when dropped.
pub(super) struct Daemon {
    name: &'static str,
    process: Running,
    client: Client,
    state: TempDir,
}

impl Daemon {
    /// Starts `program` with buildkitd's flags, under the name `called` if given.
    pub(super) async fn start(
        name: &'static str,
        program: &Path,
        called: Option<&str>,
    ) -> anyhow::Result<Daemon> {
        let state = TempDir::with_prefix("bench-")?;
        let address = format!("unix://{}/daemon.sock", state.path().display());
        let log = std::fs::File::create(state.path().join("log"))?;
        let mut command = Command::new(program);
        if let Some(called) = called {
            command.arg0(called);
        }
        let process = command
            .arg("--root")
            .arg(state.path().join("root"))
            .args(["--addr", &address])
            .args(["--oci-worker=true", "--containerd-worker=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to run `{}`", program.display()))?;
        let mut daemon = Started {
            process: Some(process),
            state: Some(state),
        };
        let client = daemon.wait(&address).await?;
        let (Some(process), Some(state)) = (daemon.process.take(), daemon.state.take()) else {
            bail!("the daemon was taken twice");
        };
        Ok(Daemon {
            name,
            process: Running(process),
            client,
            state,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The last lines that it logged.
    pub(super) fn log(&self) -> String {
        let log = std::fs::read(self.state.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG)..]);
        log.into_owned()
    }

    /// Stops it, and leaves what it kept to whoever drops that.
    pub(super) fn stop(self) -> TempDir {
        self.state
    }

    /// Bytes of its main process that are in memory.
    pub(super) fn resident(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.process.0.id());
        let status =
            std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: Option<u64> =
            line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        Ok(kilobytes.context("no VmRSS in the process's status")? * 1024)
    }
}

/// A process that is stopped when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

/// A daemon that may not answer yet.
struct Started {
    process: Option<Child>,
    state: Option<TempDir>,
}

impl Started {
    async fn wait(&mut self, address: &str) -> anyhow::Result<Client> {
        let begun = Instant::now();
        loop {
            if let Ok(client) = Client::connect(address).await
                && client
                    .list_workers()
                    .await
                    .is_ok_and(|workers| !workers.is_empty())
            {
                return Ok(client);
            }
            let ended = self
                .process
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten();
            if ended.is_some() || begun.elapsed() > START {
                let log = self.state.as_ref().map(|state| state.path().join("log"));
                let log = log
                    .and_then(|path| std::fs::read_to_string(path).ok())
                    .unwrap_or_default();
                bail!("the daemon does not answer:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            stop(process);
        }
    }
}

/// Lets the daemon clean up, but not for ever.
fn stop(process: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
    // One that has ended is stopped.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = process.kill();
    let _ = process.wait();
}
