//! A running container and further processes in it, seen from the daemon.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sys::pidfd;
use tokio::sync::watch;

use crate::error::{CreateError, LostError};
use crate::handle::Inner;
use crate::network::Endpoint;
use crate::protocol::ExitPlan;
use crate::stdio::{Input, Output, Stdio, Terminal};
use oci_spec::runtime::Process as ProcessSpec;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 and the number of the signal that killed it.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container because its memory limit, or all memory,
    /// was used up. Known for a container's first process only.
    pub oom: bool,
}

impl From<ExitPlan> for Exit {
    fn from(plan: ExitPlan) -> Exit {
        let code = plan
            .code
            .or(plan.signal.map(|signal| 128 + signal))
            .unwrap_or(255);
        Exit {
            code,
            signal: plan.signal,
            oom: plan.oom_kills > 0,
        }
    }
}

pub(crate) type ExitReceiver = watch::Receiver<Option<Result<Exit, LostError>>>;

/// What a container's first process and a further one have in common.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pidfd: pidfd::Process,
    pub(crate) exit: ExitReceiver,
    pub(crate) terminal: Option<Terminal>,
}

impl Running {
    async fn wait(&self) -> Result<Exit, LostError> {
        let mut exit = self.exit.clone();
        let ended = exit
            .wait_for(Option::is_some)
            .await
            .map_err(|_| LostError)?;
        ended.unwrap_or(Err(LostError))
    }

    fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        match &self.terminal {
            Some(terminal) => terminal.resize(rows, cols),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "process has no terminal",
            )),
        }
    }
}

/// A running container. Dropping it kills everything in it.
#[derive(Debug)]
pub struct Container {
    /// The process's input, if it has any; taken by whoever feeds it.
    pub stdin: Option<Input>,
    /// The process's output; all of it, where it has a terminal.
    pub stdout: Option<Output>,
    /// The process's error output.
    pub stderr: Option<Output>,
    pub(crate) running: Running,
    pub(crate) launcher: Arc<Inner>,
    pub(crate) key: u64,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) filter: Option<Arc<OwnedFd>>,
}

impl Container {
    /// The number of the first process on the host, until it has ended.
    pub fn pid(&self) -> Option<i32> {
        self.running.pidfd.pid().ok().flatten()
    }

    /// The container's address on the bridge; none without one.
    pub fn ip(&self) -> Option<Ipv4Addr> {
        self.endpoint.as_ref().map(|endpoint| endpoint.address)
    }

    /// Waits until the first process has ended, and with it the container.
    ///
    /// # Errors
    /// If the launcher has ended; then so has the container.
    pub async fn wait(&self) -> Result<Exit, LostError> {
        self.running.wait().await
    }

    /// Sends a signal, by number, to the first process. One that has ended is not an error.
    ///
    /// The kernel drops signals for which the first process of a container has no handler, except
    /// SIGKILL and SIGSTOP.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.running.pidfd.signal(signal)
    }

    /// Kills all processes of the container at once.
    pub fn kill(&self) -> io::Result<()> {
        self.running.pidfd.kill()
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// `Unsupported` without a terminal.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        self.running.resize(rows, cols)
    }

    /// Starts a further process in the container.
    ///
    /// # Errors
    /// [`CreateError::Ended`] when the container has ended.
    pub async fn exec(&self, process: &ProcessSpec, stdio: Stdio) -> Result<Process, CreateError> {
        if self.running.exit.borrow().is_some() {
            return Err(CreateError::Ended);
        }
        let filter = self.filter.clone();
        self.launcher.exec(self.key, process, stdio, filter).await
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It fails only for a process that cannot be killed, which no container has.
        let _ = self.running.pidfd.kill();
    }
}

/// A further process in a container. Dropping it kills it, but not what it has started.
#[derive(Debug)]
pub struct Process {
    /// The process's input, if it has any; taken by whoever feeds it.
    pub stdin: Option<Input>,
    /// The process's output; all of it, where it has a terminal.
    pub stdout: Option<Output>,
    /// The process's error output.
    pub stderr: Option<Output>,
    pub(crate) running: Running,
}

impl Process {
    /// The process's number on the host, until it has ended.
    pub fn pid(&self) -> Option<i32> {
        self.running.pidfd.pid().ok().flatten()
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// If the launcher has ended; then so has the process.
    pub async fn wait(&self) -> Result<Exit, LostError> {
        self.running.wait().await
    }

    /// Sends a signal, by number. A process that has ended is not an error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.running.pidfd.signal(signal)
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// `Unsupported` without a terminal.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        self.running.resize(rows, cols)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // As for a container.
        let _ = self.running.pidfd.kill();
    }
}
