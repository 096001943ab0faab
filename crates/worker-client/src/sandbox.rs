//! Containers that frontends run for themselves.

use bytes::Bytes;
use frontend::{ContainerProcess, FrontendError, ProcessInput, ProcessOutput, StartProcess};
use oci::Digest;
use proto::worker as wire;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wire::attach_request::Request as In;
use wire::attach_response::Response as Out;

use crate::{Worker, WorkerError, convert};

/// How many messages may wait for a slow reader, in either direction.
const QUEUE: usize = 16;

/// A sandbox of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The job.
    pub job: String,
    /// Its name for people.
    pub name: String,
    /// Unique in the job, and never used again.
    pub id: u64,
}

impl Sandbox {
    fn to_wire(&self) -> wire::SandboxName {
        wire::SandboxName {
            job: self.job.clone(),
            name: self.name.clone(),
            id: self.id,
        }
    }

    fn mount(&self, index: u32) -> Option<wire::SandboxMount> {
        Some(wire::SandboxMount {
            name: self.name.clone(),
            index,
            id: self.id,
        })
    }
}

impl Worker {
    /// Makes the mounts of an exec op, whose inputs are there.
    ///
    /// # Errors
    /// When there is such a sandbox already, or a mount cannot be made.
    pub async fn open_sandbox(
        &self,
        sandbox: &Sandbox,
        op: Bytes,
        inputs: &[Option<Digest>],
        sessions: Vec<String>,
    ) -> Result<(), WorkerError> {
        let id = |id: &Option<Digest>| id.map(|id| id.to_string()).unwrap_or_default();
        let request = wire::OpenSandboxRequest {
            name: Some(sandbox.to_wire()),
            op,
            input_ids: inputs.iter().map(id).collect(),
            sessions,
        };
        self.client.clone().open_sandbox(request).await?;
        Ok(())
    }

    /// Ends a sandbox and all that runs in it.
    ///
    /// # Errors
    /// When the worker cannot be reached.
    pub async fn close_sandbox(&self, sandbox: &Sandbox) -> Result<(), WorkerError> {
        self.client.clone().close_sandbox(sandbox.to_wire()).await?;
        Ok(())
    }

    /// Starts a process in a sandbox. The first is its init.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start_in_sandbox(
        &self,
        sandbox: &Sandbox,
        process: StartProcess,
        sessions: Vec<String>,
    ) -> Result<ContainerProcess, WorkerError> {
        let process = wire::SandboxProcess {
            name: Some(sandbox.to_wire()),
            op: process.op,
            tty: process.tty,
            open_stdin: process.stdin,
            sessions,
        };
        let start = In::Start(wire::AttachStart {
            sandbox: Some(process),
            ..wire::AttachStart::default()
        });
        let (input, told) = mpsc::channel(QUEUE);
        let first = tokio_stream::once(message(start));
        let requests = first.chain(ReceiverStream::new(told).map(|said| message(request(said))));
        let answer = self.client.clone().attach(requests).await?;
        let (said, output) = mpsc::channel(QUEUE);
        tokio::spawn(follow(answer.into_inner(), said));
        Ok(ContainerProcess { input, output })
    }

    /// Reads a file of a sandbox's mount; `length` 0 reads to the end.
    ///
    /// # Errors
    /// [`WorkerError::is_not_found`] when there is no such file.
    pub async fn read_sandbox_file(
        &self,
        sandbox: &Sandbox,
        mount: u32,
        path: &str,
        range: frontend::FileRange,
    ) -> Result<Bytes, WorkerError> {
        let request = wire::ReadFileRequest {
            job: sandbox.job.clone(),
            path: path.to_owned(),
            offset: i64::try_from(range.offset).unwrap_or(i64::MAX),
            length: i64::try_from(range.length).unwrap_or(i64::MAX),
            sandbox: sandbox.mount(mount),
            ..wire::ReadFileRequest::default()
        };
        let answer = self.client.clone().read_file(request).await?;
        Ok(answer.into_inner().data)
    }

    /// Lists a directory of a sandbox's mount.
    ///
    /// # Errors
    /// [`WorkerError::is_not_found`] when there is no such directory.
    pub async fn read_sandbox_dir(
        &self,
        sandbox: &Sandbox,
        mount: u32,
        path: &str,
        include: &str,
    ) -> Result<Vec<frontend::FileStat>, WorkerError> {
        let request = wire::ReadDirRequest {
            job: sandbox.job.clone(),
            path: path.to_owned(),
            include_pattern: include.to_owned(),
            sandbox: sandbox.mount(mount),
            ..wire::ReadDirRequest::default()
        };
        let answer = self.client.clone().read_dir(request).await?.into_inner();
        Ok(answer.entries.into_iter().map(convert::file_stat).collect())
    }

    /// Metadata of a file of a sandbox's mount.
    ///
    /// # Errors
    /// [`WorkerError::is_not_found`] when there is no such file.
    pub async fn stat_sandbox_file(
        &self,
        sandbox: &Sandbox,
        mount: u32,
        path: &str,
    ) -> Result<frontend::FileStat, WorkerError> {
        let request = wire::StatFileRequest {
            job: sandbox.job.clone(),
            path: path.to_owned(),
            sandbox: sandbox.mount(mount),
            ..wire::StatFileRequest::default()
        };
        let answer = self.client.clone().stat_file(request).await?.into_inner();
        let stat = answer.stat.map(convert::file_stat);
        stat.ok_or_else(|| WorkerError::protocol("StatFile answered without a stat"))
    }
}

fn message(request: In) -> wire::AttachRequest {
    wire::AttachRequest {
        request: Some(request),
    }
}

fn request(said: ProcessInput) -> In {
    match said {
        ProcessInput::Stdin(data) => In::Stdin(data),
        ProcessInput::CloseStdin => In::StdinEof(true),
        ProcessInput::Resize { rows, cols } => In::Resize(wire::TerminalSize { rows, cols }),
        ProcessInput::Signal(name) => In::Signal(name),
    }
}

/// Passes on what a process says, until its end or until nobody listens.
async fn follow(
    mut answers: Streaming<wire::AttachResponse>,
    said: mpsc::Sender<Result<ProcessOutput, FrontendError>>,
) {
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer,
            // The call ends with its stream, and the process with the call.
            () = said.closed() => return,
        };
        let output = match answer {
            Ok(Some(answer)) => match answer.response {
                Some(Out::Stdout(data)) => Ok(ProcessOutput::Stdout(data)),
                Some(Out::Stderr(data)) => Ok(ProcessOutput::Stderr(data)),
                Some(Out::Exit(exit)) => Ok(ProcessOutput::Exit(exit.code)),
                Some(Out::Started(_)) | None => continue,
            },
            Ok(None) => return,
            Err(status) => Err(FrontendError::invalid(status.message())),
        };
        if said.send(output).await.is_err() {
            return;
        }
    }
}
