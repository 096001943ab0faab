//! Containers that a frontend runs for itself.

use async_trait::async_trait;
use bytes::Bytes;
use oci::Digest;
use tokio::sync::mpsc;

use crate::{FileRange, FileStat, FrontendError, ResultRef};

/// A container to make.
#[derive(Clone, Debug)]
pub struct OpenContainer {
    /// Its name, unique in the build.
    pub name: String,
    /// An exec op as it travels: its mounts, network and names of hosts are the container's.
    pub op: Bytes,
    /// What the inputs of the op are.
    pub inputs: Vec<ContainerInput>,
}

/// A filesystem that is mounted.
#[derive(Clone, Debug)]
pub enum ContainerInput {
    /// A result of the build, not yet made perhaps.
    Result(ResultRef),
    /// What is left of a failed step.
    Stored(Digest),
}

/// A process to run in a container.
#[derive(Clone, Debug)]
pub struct StartProcess {
    /// An exec op as it travels: its command, environment, secrets and security are the process's.
    pub op: Bytes,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its input is fed.
    pub stdin: bool,
}

/// A container of a frontend; dropped, it and all that runs in it ends.
#[async_trait]
pub trait Container: Send + Sync {
    /// Starts a process. The first is the container's init: when it ends, all others do.
    async fn start(&self, process: StartProcess) -> Result<ContainerProcess, FrontendError>;

    /// Reads a file of the mount with this place in the container's op.
    ///
    /// # Errors
    /// [`FrontendError::NotFound`] when there is no such file.
    async fn read_file(
        &self,
        mount: u32,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Bytes, FrontendError>;

    /// What is in a directory of a mount; `include` filters names.
    async fn read_dir(
        &self,
        mount: u32,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<FileStat>, FrontendError>;

    /// Metadata of a file of a mount.
    async fn stat_file(&self, mount: u32, path: &str) -> Result<FileStat, FrontendError>;
}

/// A process that runs. Dropping the output kills it.
#[derive(Debug)]
pub struct ContainerProcess {
    /// What it is told.
    pub input: mpsc::Sender<ProcessInput>,
    /// What it says; the last is [`ProcessOutput::Exit`] or an error.
    pub output: mpsc::Receiver<Result<ProcessOutput, FrontendError>>,
}

/// Something that a process is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessInput {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// The end of its standard input.
    CloseStdin,
    /// The size of its terminal.
    Resize {
        /// Lines.
        rows: u32,
        /// Characters in a line.
        cols: u32,
    },
    /// A signal by its name, e.g. `SIGINT`.
    Signal(String),
}

/// Something that a process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessOutput {
    /// Bytes from its standard output, or its terminal.
    Stdout(Bytes),
    /// Bytes from its standard error.
    Stderr(Bytes),
    /// It has ended.
    Exit(i32),
}
