//! A live launcher process, and making containers with it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use oci::RootedPath;
use oci_spec::runtime::{LinuxSeccomp, Process as ProcessSpec, Spec};
use rustix::fs::MemfdFlags;
use serde::Serialize;
use sys::fdpass::{Channel, Wait};
use sys::mount::MountFd;
use sys::pidfd;
use sys::root::RootDir;
use tokio::sync::{oneshot, watch};

use super::{ContainerRequest, MountAt};
use crate::container::{Container, ExitReceiver, Process, Running};
use crate::error::{CreateError, LostError, SpecError};
use crate::network::{Network, NetworkError, Pool};
use crate::plan::{self, Lowered};
use crate::protocol::{Bundle, GroupPlan, NetworkPlan, Report, Request, Slots, encode};
use crate::stdio::{Input, Output, Stdio, Streams, Terminal};
use crate::stubs::{Missing, Stubs};

/// The most system call filters that are kept compiled. A daemon has two or three.
const MAX_FILTERS: usize = 16;
/// The longest part of a container's name that goes into the name of its control group.
const MAX_GROUP_ID: usize = 64;

/// One launcher process, from its start to its end.
#[derive(Debug)]
pub(crate) struct Inner {
    channel: Channel,
    /// Held while a message is sent: one may be several packets.
    sending: Mutex<()>,
    pub(super) routes: Mutex<Routes>,
    network: Option<Arc<Pool>>,
    filters: Mutex<Vec<(LinuxSeccomp, Arc<OwnedFd>)>>,
}

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Routes {
    last_key: u64,
    /// Taken when the launcher has ended: then nobody may begin to wait.
    pub(super) processes: Option<HashMap<u64, Route>>,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) started: Option<oneshot::Sender<Result<OwnedFd, String>>>,
    pub(super) exit: watch::Sender<Option<Result<crate::Exit, LostError>>>,
    pub(super) missing: Option<Missing>,
}

/// What is known of a container before the launcher is asked.
struct Prepared {
    bundle: Bundle,
    lowered: Lowered,
    rootfs: usize,
    missing: Option<Missing>,
}

impl Inner {
    pub(super) fn new(channel: Channel, network: Option<Arc<Pool>>) -> Inner {
        Inner {
            channel,
            sending: Mutex::new(()),
            routes: Mutex::new(Routes {
                last_key: 0,
                processes: Some(HashMap::new()),
            }),
            network,
            filters: Mutex::new(Vec::new()),
        }
    }

    /// Tells the launcher to end everything, and whoever asks from now on that it has ended.
    pub(super) fn close(&self) {
        self.channel.close();
    }

    /// Whether the launcher has ended.
    pub(super) fn is_lost(&self) -> bool {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.processes.is_none()
    }

    pub(super) async fn create(
        self: Arc<Self>,
        request: ContainerRequest,
    ) -> Result<Container, CreateError> {
        let ContainerRequest {
            id,
            spec,
            rootfs,
            mounts,
            stdio,
            network,
            stubs,
        } = request;
        let mut streams = Streams::open(stdio).map_err(CreateError::host("make pipes"))?;
        let terminal = streams.terminal;
        let prepare = move || prepare(&spec, rootfs, mounts, terminal, stubs);
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let Prepared {
            mut bundle,
            lowered,
            rootfs,
            missing,
        } = prepared.map_err(|error| host_panic(&error))??;

        let (network, endpoint) = match network {
            Network::None => (NetworkPlan::Fresh, None),
            Network::Host => (NetworkPlan::Host, None),
            Network::Bridge => {
                let pool = self.network.as_ref().ok_or(NetworkError::Disabled)?;
                let endpoint = pool.take().await?;
                let namespace = endpoint.namespace.try_clone();
                let namespace = namespace.map_err(CreateError::host("copy a descriptor"))?;
                (
                    NetworkPlan::Namespace(bundle.add(namespace)),
                    Some(endpoint),
                )
            }
        };
        let filter = lowered
            .seccomp
            .map(|profile| self.filter(profile))
            .transpose()?;
        let (report, slots) = slots(&mut bundle, &mut streams, filter.as_deref(), Some(rootfs))?;
        let (key, started, exit) = self.expect(missing)?;
        let group = Box::new(GroupPlan {
            name: group_name(&id, key),
            parent: lowered.parent,
            limits: lowered.limits,
            devices: lowered.devices,
        });
        let request = Request::Create {
            key,
            group,
            network,
            slots,
        };
        self.send(&request, &lowered.plan, bundle).await?;

        let pidfd = started
            .await
            .map_err(|_| LostError)?
            .map_err(CreateError::Setup)?;
        let pidfd = pidfd::Process::from_fd(pidfd);
        let mut container = Container {
            stdin: streams.stdin.take(),
            stdout: streams.stdout.take(),
            stderr: streams.stderr.take(),
            running: Running {
                pidfd,
                exit,
                terminal: None,
            },
            launcher: self,
            key,
            endpoint,
            filter,
        };
        // From here on dropping the container undoes everything.
        if let Some(terminal) = executed(report).await? {
            let (stdin, stdout) = streams_of(&terminal)?;
            (container.stdin, container.stdout) = (Some(stdin), Some(stdout));
            container.running.terminal = Some(terminal);
        }
        Ok(container)
    }

    pub(crate) async fn exec(
        self: &Arc<Self>,
        container: u64,
        process: &ProcessSpec,
        stdio: Stdio,
        filter: Option<Arc<OwnedFd>>,
    ) -> Result<Process, CreateError> {
        let mut streams = Streams::open(stdio).map_err(CreateError::host("make pipes"))?;
        let plan = plan::process(process, streams.terminal)?;
        let mut bundle = Bundle::default();
        let (report, slots) = slots(&mut bundle, &mut streams, filter.as_deref(), None)?;
        let (key, started, exit) = self.expect(None)?;
        self.send(
            &Request::Exec {
                key,
                container,
                slots,
            },
            &plan,
            bundle,
        )
        .await?;

        let pidfd = started
            .await
            .map_err(|_| LostError)?
            .map_err(CreateError::Setup)?;
        let pidfd = pidfd::Process::from_fd(pidfd);
        let mut process = Process {
            stdin: streams.stdin.take(),
            stdout: streams.stdout.take(),
            stderr: streams.stderr.take(),
            running: Running {
                pidfd,
                exit,
                terminal: None,
            },
        };
        if let Some(terminal) = executed(report).await? {
            let (stdin, stdout) = streams_of(&terminal)?;
            (process.stdin, process.stdout) = (Some(stdin), Some(stdout));
            process.running.terminal = Some(terminal);
        }
        Ok(process)
    }

    /// Begins to wait for a new process.
    #[expect(
        clippy::type_complexity,
        reason = "three receivers of one registration"
    )]
    fn expect(
        &self,
        missing: Option<Missing>,
    ) -> Result<
        (
            u64,
            oneshot::Receiver<Result<OwnedFd, String>>,
            ExitReceiver,
        ),
        LostError,
    > {
        let (started, started_receiver) = oneshot::channel();
        let (exit, exit_receiver) = watch::channel(None);
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.last_key += 1;
        let key = routes.last_key;
        let processes = routes.processes.as_mut().ok_or(LostError)?;
        processes.insert(
            key,
            Route {
                started: Some(started),
                exit,
                missing,
            },
        );
        Ok((key, started_receiver, exit_receiver))
    }

    async fn send(
        self: &Arc<Self>,
        request: &Request,
        plan: &impl Serialize,
        bundle: Bundle,
    ) -> Result<(), CreateError> {
        let message = encode(request, plan)
            .map_err(io::Error::from)
            .map_err(CreateError::host("write a request"))?;
        match self.send_now(&message, &bundle, Wait::No) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(CreateError::Host {
                    what: "send a request",
                    source: error,
                });
            }
            sent => return Ok(sent.map_err(|_| LostError)?),
        }
        // The launcher has fallen behind: wait for it where waiting disturbs nobody.
        let inner = Arc::clone(self);
        let send = move || inner.send_now(&message, &bundle, Wait::Yes);
        let sent = tokio::task::spawn_blocking(send)
            .await
            .map_err(|error| host_panic(&error))?;
        Ok(sent.map_err(|_| LostError)?)
    }

    fn send_now(&self, message: &[u8], bundle: &Bundle, wait: Wait) -> io::Result<()> {
        let _turn = match wait {
            Wait::Yes => self.sending.lock().unwrap_or_else(PoisonError::into_inner),
            // Who holds it may be waiting for the launcher, and the launcher for this very thread to
            // hear its events.
            Wait::No => match self.sending.try_lock() {
                Ok(turn) => turn,
                Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            },
        };
        self.channel.send(message, &bundle.borrow(), wait)
    }

    /// The compiled program of a profile, as a file.
    fn filter(&self, profile: LinuxSeccomp) -> Result<Arc<OwnedFd>, CreateError> {
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, filter)) = filters.iter().find(|(known, _)| *known == profile) {
            return Ok(Arc::clone(filter));
        }
        let program = crate::seccomp::compile(&profile).map_err(SpecError::from)?;
        let write = || -> io::Result<OwnedFd> {
            let mut file = File::from(rustix::fs::memfd_create(c"filter", MemfdFlags::CLOEXEC)?);
            file.write_all(&crate::seccomp::encode(&program))?;
            Ok(file.into())
        };
        let filter = Arc::new(write().map_err(CreateError::host("keep a seccomp filter"))?);
        if filters.len() >= MAX_FILTERS {
            filters.remove(0);
        }
        filters.push((profile, Arc::clone(&filter)));
        Ok(filter)
    }
}

fn streams_of(terminal: &Terminal) -> Result<(Input, Output), CreateError> {
    let copy = || {
        let copy = terminal.try_clone();
        copy.map_err(CreateError::host("copy a descriptor"))
    };
    Ok((Input::Terminal(copy()?), Output::Terminal(copy()?)))
}

fn host_panic(error: &tokio::task::JoinError) -> CreateError {
    CreateError::Host {
        what: "prepare a container",
        source: io::Error::other(error.to_string()),
    }
}

fn prepare(
    spec: &Spec,
    rootfs: MountFd,
    mounts: Vec<MountAt>,
    terminal: Option<(u16, u16)>,
    stubs: Stubs,
) -> Result<Prepared, CreateError> {
    let mut bundle = Bundle::default();
    let destinations: Vec<PathBuf> = mounts
        .iter()
        .map(|mount| clean(&mount.destination))
        .collect();
    let lowered = plan::container(spec, mounts, terminal, &mut bundle)?;
    let mut missing = None;
    if stubs != Stubs::Kept {
        let copy = rootfs
            .try_clone()
            .map_err(CreateError::host("copy a descriptor"))?;
        let root = RootDir::from_fd(copy.into_fd());
        let destinations = destinations.iter().map(PathBuf::as_path);
        missing = Some(Missing::look(root, destinations, stubs)).filter(|found| !found.is_empty());
    }
    let rootfs = bundle.add(rootfs);
    Ok(Prepared {
        bundle,
        lowered,
        rootfs,
        missing,
    })
}

/// The place of a mount as the plan has it. One that is not text makes no plan.
fn clean(destination: &Path) -> PathBuf {
    PathBuf::from(RootedPath::normalize(&destination.to_string_lossy()).as_str())
}

/// Adds what every process has; returns the daemon's end of its report.
fn slots(
    bundle: &mut Bundle,
    streams: &mut Streams,
    filter: Option<&OwnedFd>,
    rootfs: Option<usize>,
) -> Result<(Channel, Slots), CreateError> {
    let (report, theirs) = Channel::pair().map_err(CreateError::host("make a channel"))?;
    let report_slot = bundle.add(theirs.into_fd());
    let filter = filter.map(OwnedFd::try_clone).transpose();
    let seccomp = filter
        .map_err(CreateError::host("copy a descriptor"))?
        .map(|fd| bundle.add(fd));
    let stdio = std::mem::take(&mut streams.theirs).map(|fd| fd.map(|fd| bundle.add(fd)));
    Ok((
        report,
        Slots {
            report: report_slot,
            stdio,
            seccomp,
            rootfs,
        },
    ))
}

/// Waits until the process has executed its program; returns its terminal, if it has one.
async fn executed(report: Channel) -> Result<Option<Terminal>, CreateError> {
    let report = crate::watch::watch(report).map_err(CreateError::host("watch a channel"))?;
    let mut terminal = None;
    loop {
        let mut ready = report
            .readable()
            .await
            .map_err(CreateError::host("watch a channel"))?;
        match ready.try_io(|channel| channel.get_ref().receive(Wait::No)) {
            Err(_would_block) => {}
            Ok(Ok(None)) => return Ok(terminal),
            Ok(Ok(Some((message, mut descriptors)))) => match serde_json::from_slice(&message) {
                Ok(Report::Terminal) => {
                    let master = descriptors.pop().map(Terminal::new).transpose();
                    terminal = master.map_err(CreateError::host("watch a terminal"))?;
                }
                Ok(Report::Setup { message }) => return Err(CreateError::Setup(message)),
                Ok(Report::Exec { message, missing }) => {
                    return Err(CreateError::Exec { message, missing });
                }
                Err(error) => {
                    let source = io::Error::from(error);
                    return Err(CreateError::Host {
                        what: "read a report",
                        source,
                    });
                }
            },
            Ok(Err(source)) => {
                return Err(CreateError::Host {
                    what: "read a report",
                    source,
                });
            }
        }
    }
}

fn group_name(id: &str, key: u64) -> String {
    let allowed = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
    let id: String = id.chars().filter(allowed).take(MAX_GROUP_ID).collect();
    format!("{key}-{id}")
}
