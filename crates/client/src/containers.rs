//! Containers and images of a worker, as plain data.
//!
//! The calls are those of `worker.proto`, which a drydock daemon serves beside BuildKit's API.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use proto::worker::{self as wire, worker_client::WorkerClient};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Largest message either way; the same bound as that of BuildKit's API.
const MAX_MESSAGE: usize = 16 << 20;

/// Inputs of an attached process that wait to be sent. More makes the sender wait.
const INPUT_QUEUE: usize = 16;

/// A call that the worker refused or that did not reach it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// What went wrong, in the worker's words.
    pub message: String,
    /// What kind of failure it is.
    pub kind: CallErrorKind,
}

/// Kinds of failure that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallErrorKind {
    /// There is no such container or image; for a start, no such program.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request makes no sense now, such as removing what runs.
    Refused,
    /// A program may not be executed.
    Denied,
    /// The daemon serves no containers: it is not drydock's.
    Unsupported,
    /// Anything else.
    Other,
}

impl From<Status> for CallError {
    fn from(status: Status) -> CallError {
        let kind = match status.code() {
            Code::NotFound => CallErrorKind::NotFound,
            Code::AlreadyExists => CallErrorKind::AlreadyExists,
            Code::FailedPrecondition | Code::InvalidArgument => CallErrorKind::Refused,
            Code::PermissionDenied => CallErrorKind::Denied,
            Code::Unimplemented => CallErrorKind::Unsupported,
            _ => CallErrorKind::Other,
        };
        let message = match kind {
            CallErrorKind::Unsupported => "the daemon runs no containers".to_owned(),
            _ => status.message().to_owned(),
        };
        CallError { message, kind }
    }
}

/// The containers and images of a worker.
#[derive(Clone, Debug)]
pub struct Containers {
    worker: WorkerClient<Channel>,
}

/// A container to be made.
#[derive(Clone, Debug, Default)]
pub struct CreateContainer {
    /// Its name; one is made up if empty.
    pub name: String,
    /// An image's name, id or beginning of the id.
    pub image: String,
    /// Arguments after the entrypoint; the image's if empty.
    pub args: Vec<String>,
    /// Instead of the image's entrypoint; empty text for none.
    pub entrypoint: Option<String>,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// User and group, by name or number; the image's if empty.
    pub user: String,
    /// Working directory; the image's if empty.
    pub cwd: String,
    /// Host name; the beginning of the id if empty.
    pub hostname: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input stays open.
    pub open_stdin: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `bridge`, `host` or `none`; the default if empty.
    pub network: String,
    /// Ports reachable from the machine.
    pub ports: Vec<PublishedPort>,
    /// Directories of the machine and named volumes.
    pub mounts: Vec<BindMount>,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// Signal that asks it to stop; the image's if empty.
    pub stop_signal: String,
}

/// A port of a container, published on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedPort {
    /// Address it is published on; all if empty.
    pub host_ip: String,
    /// Port on the machine; 0 for any that is free.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// A directory or volume in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindMount {
    /// A path on the worker's machine, or a volume's name if it has no `/`.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Whether the container may not write there.
    pub readonly: bool,
}

/// A container, running or not.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image's name as it was asked for.
    pub image: String,
    /// Digest of the image's config.
    pub image_id: String,
    /// Process and arguments.
    pub command: Vec<String>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When it was started.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub finished: Option<SystemTime>,
    /// `created`, `running` or `exited`.
    pub state: String,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// Its published ports.
    pub ports: Vec<PublishedPort>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its first process on the worker's machine; 0 if it does not run.
    pub pid: u32,
    /// Its address; empty if it has none.
    pub ip: String,
    /// Its directories and volumes.
    pub mounts: Vec<BindMount>,
    /// Its network.
    pub network: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitStatus {
    /// As a shell would say it: 128 + n for signal n.
    pub code: i32,
    /// Whether it was killed for using too much memory.
    pub oom_killed: bool,
}

/// An image of the worker's store.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// All its names.
    pub names: Vec<String>,
    /// Digest of its config.
    pub id: String,
    /// Digest of its manifest or index, if it came from or went to a registry.
    pub digest: String,
    /// Its config as JSON.
    pub config: Bytes,
    /// Operating system and architecture, as in `linux/amd64`.
    pub platform: String,
    /// Bytes of all its layers.
    pub size: u64,
    /// When it was made.
    pub created: Option<SystemTime>,
}

/// Credentials for one registry.
#[derive(Clone, Default)]
pub struct RegistryAuth {
    /// User; empty for a token.
    pub username: String,
    /// Password or token; empty for anonymous.
    pub secret: String,
}

/// What a process attached to is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// The end of its standard input.
    StdinEof,
    /// The size of its terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// A signal by name, such as `SIGINT`.
    Signal(String),
}

/// What is heard of a process attached to.
#[derive(Clone, Debug)]
pub enum Output {
    /// It runs; these ports are published.
    Started(Vec<PublishedPort>),
    /// Bytes of its standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// It ended. Nothing follows.
    Exit(ExitStatus),
}

/// What to attach to.
#[derive(Clone, Debug)]
pub enum AttachTo {
    /// The container's first process; started if it is not running.
    Start {
        /// Name or id of the container.
        container: String,
    },
    /// The container's first process as it runs.
    Running {
        /// Name or id of the container.
        container: String,
    },
    /// A new process in a running container.
    Exec {
        /// Name or id of the container.
        container: String,
        /// The process.
        process: ExecProcess,
    },
}

/// A process to run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecProcess {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's.
    pub env: Vec<String>,
    /// User and group; the container's if empty.
    pub user: String,
    /// Working directory; the container's if empty.
    pub cwd: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has a standard input.
    pub open_stdin: bool,
}

/// Both directions of an attached process. Dropping it detaches, and kills a process made by
/// [`AttachTo::Exec`].
#[derive(Debug)]
pub struct Attached {
    /// To the process. Dropping all senders does not end its standard input; [`Input::StdinEof`] does.
    pub input: mpsc::Sender<Input>,
    output: Streaming<wire::AttachResponse>,
}

impl Attached {
    /// Waits for what comes next; none when the worker has closed the connection.
    pub async fn next(&mut self) -> Result<Option<Output>, CallError> {
        use wire::attach_response::Response;
        while let Some(message) = self.output.message().await? {
            return Ok(Some(match message.response {
                Some(Response::Started(started)) => Output::Started(ports(started.ports)),
                Some(Response::Stdout(data)) => Output::Stdout(data),
                Some(Response::Stderr(data)) => Output::Stderr(data),
                Some(Response::Exit(exit)) => Output::Exit(exit.into()),
                // A later version may tell more than this one understands.
                None => continue,
            }));
        }
        Ok(None)
    }
}

/// Output kept of a container.
#[derive(Clone, Debug)]
pub struct LogChunk {
    /// 1 for standard output, 2 for standard error.
    pub stream: i64,
    /// The bytes, not cut at lines.
    pub data: Bytes,
    /// When they were written.
    pub time: Option<SystemTime>,
}

/// One thing heard while an image is fetched or sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What moves, such as a layer's digest.
    pub id: String,
    /// What is done with it.
    pub name: String,
    /// Bytes done.
    pub current: i64,
    /// Bytes in all; 0 if not known.
    pub total: i64,
    /// Whether it is finished.
    pub completed: bool,
}

impl Containers {
    /// Calls the worker behind `channel`.
    pub fn new(channel: Channel) -> Containers {
        let worker = WorkerClient::new(channel);
        Containers {
            worker: worker
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        }
    }

    /// Makes a container and gives its id. It does not run yet.
    pub async fn create(&self, container: CreateContainer) -> Result<String, CallError> {
        let request = wire::CreateContainerRequest {
            name: container.name,
            image: container.image,
            args: container.args,
            entrypoint: container.entrypoint,
            env: container.env,
            user: container.user,
            cwd: container.cwd,
            hostname: container.hostname,
            tty: container.tty,
            open_stdin: container.open_stdin,
            labels: container.labels.into_iter().collect(),
            network: container.network,
            ports: container.ports.into_iter().map(Into::into).collect(),
            mounts: container.mounts.into_iter().map(Into::into).collect(),
            auto_remove: container.auto_remove,
            stop_signal: container.stop_signal,
            ..wire::CreateContainerRequest::default()
        };
        Ok(self
            .worker
            .clone()
            .create_container(request)
            .await?
            .into_inner()
            .name)
    }

    /// Starts a container that was made, and gives its published ports.
    pub async fn start(&self, name: &str) -> Result<Vec<PublishedPort>, CallError> {
        let response = self
            .worker
            .clone()
            .start_container(container_name(name))
            .await?;
        Ok(ports(response.into_inner().ports))
    }

    /// Connects to a process. `size` is that of the caller's terminal: lines, then columns.
    pub async fn attach(
        &self,
        to: AttachTo,
        size: Option<(u16, u16)>,
    ) -> Result<Attached, CallError> {
        let first = attach_request(wire::attach_request::Request::Start(attach_start(to, size)));
        let (input, mut inputs) = mpsc::channel(INPUT_QUEUE);
        let requests = async_stream(first, move |context| inputs.poll_recv(context));
        let output = self.worker.clone().attach(requests).await?.into_inner();
        Ok(Attached { input, output })
    }

    /// What a container wrote, from `tail` lines before the end on (all if none). With `follow`,
    /// also what it will write.
    pub async fn logs(
        &self,
        name: &str,
        follow: bool,
        tail: Option<u32>,
    ) -> Result<impl Stream<Item = Result<LogChunk, CallError>> + use<>, CallError> {
        let request = wire::LogsRequest {
            container: name.to_owned(),
            follow,
            tail: tail.map_or(-1, i64::from),
        };
        let chunks = self.worker.clone().logs(request).await?.into_inner();
        Ok(chunks.map(|chunk| {
            let chunk = chunk?;
            Ok(LogChunk {
                stream: chunk.stream,
                data: chunk.data,
                time: time(chunk.time),
            })
        }))
    }

    /// Waits until a container has ended.
    pub async fn wait(&self, name: &str) -> Result<ExitStatus, CallError> {
        let response = self
            .worker
            .clone()
            .wait_container(container_name(name))
            .await?;
        Ok(response.into_inner().exit.unwrap_or_default().into())
    }

    /// Asks a container to stop, and kills it after `timeout`.
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<(), CallError> {
        let timeout_ns = i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
        let request = wire::StopContainerRequest {
            name: name.to_owned(),
            timeout_ns,
        };
        self.worker.clone().stop_container(request).await?;
        Ok(())
    }

    /// Sends a signal, by name, to a container's first process.
    pub async fn kill(&self, name: &str, signal: &str) -> Result<(), CallError> {
        let request = wire::KillContainerRequest {
            name: name.to_owned(),
            signal: signal.to_owned(),
        };
        self.worker.clone().kill_container(request).await?;
        Ok(())
    }

    /// Removes a container; with `force` also one that runs.
    pub async fn remove(&self, name: &str, force: bool) -> Result<(), CallError> {
        let request = wire::RemoveContainerRequest {
            name: name.to_owned(),
            force,
        };
        self.worker.clone().remove_container(request).await?;
        Ok(())
    }

    /// Running containers; with `all` also those that are not.
    pub async fn list(&self, all: bool) -> Result<Vec<Container>, CallError> {
        let request = wire::ListContainersRequest { all };
        let response = self
            .worker
            .clone()
            .list_containers(request)
            .await?
            .into_inner();
        Ok(response.containers.into_iter().map(Into::into).collect())
    }

    /// Every image of the store.
    pub async fn images(&self) -> Result<Vec<Image>, CallError> {
        let request = wire::ListImagesRequest::default();
        let response = self.worker.clone().list_images(request).await?.into_inner();
        Ok(response.images.into_iter().map(Into::into).collect())
    }

    /// The image of a name, id or beginning of an id.
    pub async fn image(&self, name: &str) -> Result<Image, CallError> {
        let request = wire::ImageName {
            name: name.to_owned(),
        };
        Ok(self
            .worker
            .clone()
            .inspect_image(request)
            .await?
            .into_inner()
            .into())
    }

    /// Gives an image another name.
    pub async fn tag(&self, source: &str, target: &str) -> Result<(), CallError> {
        let request = wire::TagImageRequest {
            source: source.to_owned(),
            target: target.to_owned(),
        };
        self.worker.clone().tag_image(request).await?;
        Ok(())
    }

    /// Removes a name, and the image if it was the last one. Gives what was removed of both.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
    ) -> Result<(Vec<String>, Vec<String>), CallError> {
        let request = wire::RemoveImageRequest {
            name: name.to_owned(),
            force,
        };
        let response = self
            .worker
            .clone()
            .remove_image(request)
            .await?
            .into_inner();
        Ok((response.untagged, response.deleted))
    }

    /// Fetches an image. The stream ends when it is there.
    pub async fn pull(
        &self,
        reference: &str,
        platform: Option<&oci::Platform>,
        auth: RegistryAuth,
    ) -> Result<impl Stream<Item = Result<Transfer, CallError>> + use<>, CallError> {
        let request = wire::PullImageRequest {
            reference: reference.to_owned(),
            platform: platform.map(|platform| wire::Platform {
                os: platform.os.clone(),
                architecture: platform.architecture.clone(),
                variant: platform.variant.clone(),
                ..wire::Platform::default()
            }),
            auth: Some(auth.into()),
        };
        Ok(transfers(
            self.worker.clone().pull_image(request).await?.into_inner(),
        ))
    }

    /// Sends an image to its registry. The stream ends when it is there.
    pub async fn push(
        &self,
        reference: &str,
        auth: RegistryAuth,
    ) -> Result<impl Stream<Item = Result<Transfer, CallError>> + use<>, CallError> {
        let request = wire::PushImageRequest {
            reference: reference.to_owned(),
            auth: Some(auth.into()),
        };
        Ok(transfers(
            self.worker.clone().push_image(request).await?.into_inner(),
        ))
    }

    /// A docker-style tar of the named images.
    pub async fn save(
        &self,
        names: Vec<String>,
    ) -> Result<impl Stream<Item = Result<Bytes, CallError>> + use<>, CallError> {
        let request = wire::SaveImagesRequest { names };
        let chunks = self.worker.clone().save_images(request).await?.into_inner();
        Ok(chunks.map(|chunk| Ok(chunk?.data)))
    }

    /// Takes a docker or OCI tar in, and gives the names that it held.
    pub async fn load(
        &self,
        tar: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Vec<String>, CallError> {
        let chunks = tar.map(|data| wire::Bytes { data });
        Ok(self
            .worker
            .clone()
            .load_images(chunks)
            .await?
            .into_inner()
            .names)
    }
}

/// `first`, then every input that `poll` yields.
fn async_stream(
    first: wire::AttachRequest,
    mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Input>> + Send + 'static,
) -> impl Stream<Item = wire::AttachRequest> + Send + 'static {
    use wire::attach_request::Request;
    let inputs = futures::stream::poll_fn(move |context| poll(context)).map(|input| {
        attach_request(match input {
            Input::Stdin(data) => Request::Stdin(data),
            Input::StdinEof => Request::StdinEof(true),
            Input::Resize { rows, columns } => Request::Resize(terminal_size((rows, columns))),
            Input::Signal(name) => Request::Signal(name),
        })
    });
    // Never ends by itself: the end of requests would detach.
    futures::stream::iter([first])
        .chain(inputs)
        .chain(futures::stream::pending())
}

fn attach_request(request: wire::attach_request::Request) -> wire::AttachRequest {
    wire::AttachRequest {
        request: Some(request),
    }
}

fn attach_start(to: AttachTo, size: Option<(u16, u16)>) -> wire::AttachStart {
    let size = size.map(terminal_size);
    match to {
        AttachTo::Start { container } => wire::AttachStart {
            sandbox: None,
            container,
            start_container: true,
            exec: None,
            size,
        },
        AttachTo::Running { container } => wire::AttachStart {
            sandbox: None,
            container,
            start_container: false,
            exec: None,
            size,
        },
        AttachTo::Exec { container, process } => {
            let exec = Some(wire::ExecSpec {
                args: process.args,
                env: process.env,
                user: process.user,
                cwd: process.cwd,
                tty: process.tty,
                open_stdin: process.open_stdin,
            });
            wire::AttachStart {
                sandbox: None,
                container,
                start_container: false,
                exec,
                size,
            }
        }
    }
}

fn terminal_size((rows, columns): (u16, u16)) -> wire::TerminalSize {
    wire::TerminalSize {
        rows: rows.into(),
        cols: columns.into(),
    }
}

fn container_name(name: &str) -> wire::ContainerName {
    wire::ContainerName {
        name: name.to_owned(),
    }
}

/// What moves, until the outcome.
fn transfers(events: Streaming<wire::OpEvent>) -> impl Stream<Item = Result<Transfer, CallError>> {
    use wire::op_event::Event;
    let is_running = |event: &Result<wire::OpEvent, Status>| {
        let is_done = matches!(event, Ok(event) if matches!(event.event, Some(Event::Done(_))));
        std::future::ready(!is_done)
    };
    events.take_while(is_running).filter_map(|event| async {
        match event.map(|event| event.event) {
            Ok(Some(Event::Progress(progress))) => Some(Ok(Transfer {
                id: progress.id,
                name: progress.name,
                current: progress.current,
                total: progress.total,
                completed: progress.completed.is_some(),
            })),
            Ok(_) => None,
            Err(status) => Some(Err(status.into())),
        }
    })
}

fn ports(ports: Vec<wire::PublishedPort>) -> Vec<PublishedPort> {
    ports.into_iter().map(Into::into).collect()
}

fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| SystemTime::try_from(timestamp).ok())
}

impl From<RegistryAuth> for wire::RegistryAuth {
    fn from(auth: RegistryAuth) -> wire::RegistryAuth {
        wire::RegistryAuth {
            username: auth.username,
            secret: auth.secret,
        }
    }
}

impl From<wire::ExitStatus> for ExitStatus {
    fn from(exit: wire::ExitStatus) -> ExitStatus {
        ExitStatus {
            code: exit.code,
            oom_killed: exit.oom_killed,
        }
    }
}

impl From<PublishedPort> for wire::PublishedPort {
    fn from(port: PublishedPort) -> wire::PublishedPort {
        wire::PublishedPort {
            host_ip: port.host_ip,
            host_port: port.host_port.into(),
            container_port: port.container_port.into(),
            protocol: port.protocol,
        }
    }
}

impl From<wire::PublishedPort> for PublishedPort {
    fn from(port: wire::PublishedPort) -> PublishedPort {
        PublishedPort {
            host_ip: port.host_ip,
            // The worker has no port beyond these.
            host_port: u16::try_from(port.host_port).unwrap_or_default(),
            container_port: u16::try_from(port.container_port).unwrap_or_default(),
            protocol: port.protocol,
        }
    }
}

impl From<BindMount> for wire::BindMount {
    fn from(mount: BindMount) -> wire::BindMount {
        wire::BindMount {
            source: mount.source,
            destination: mount.destination,
            readonly: mount.readonly,
        }
    }
}

impl From<wire::BindMount> for BindMount {
    fn from(mount: wire::BindMount) -> BindMount {
        BindMount {
            source: mount.source,
            destination: mount.destination,
            readonly: mount.readonly,
        }
    }
}

impl From<wire::Container> for Container {
    fn from(container: wire::Container) -> Container {
        Container {
            id: container.id,
            name: container.name,
            image: container.image,
            image_id: container.image_id,
            command: container.command,
            created: time(container.created),
            started: time(container.started),
            finished: time(container.finished),
            state: container.state,
            exit: container.exit.map(Into::into),
            ports: ports(container.ports),
            labels: container.labels.into_iter().collect(),
            pid: container.pid,
            ip: container.ip,
            mounts: container.mounts.into_iter().map(Into::into).collect(),
            network: container.network,
        }
    }
}

impl From<wire::Image> for Image {
    fn from(image: wire::Image) -> Image {
        let platform = image.platform.unwrap_or_default();
        let variant = match platform.variant.as_str() {
            "" => String::new(),
            variant => format!("/{variant}"),
        };
        Image {
            names: image.names,
            id: image.id,
            digest: image.digest,
            config: image.config,
            platform: format!("{}/{}{variant}", platform.os, platform.architecture),
            size: u64::try_from(image.size).unwrap_or_default(),
            created: time(image.created),
        }
    }
}
