//! Containers that frontends run for themselves, to look around in a result or a failed step.
//!
//! A sandbox is an exec op whose mounts are made and whose command is left to whoever attaches. What
//! is written to its mounts is thrown away with it.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use executor::{Container, ContainerRequest, Input, Output, Stdio, Stubs};
use llb::{ExecOp, OpKind, Vertex};
use oci::Digest;
use proto::worker as wire;
use sys::root::RootDir;
use tokio::sync::Mutex;

use crate::events::Events;
use crate::failure::{Class, Failure, chain};
use crate::op::exec::{self, Step, Surroundings};
use crate::op::mounts::{self, Mounts};
use crate::sessions::Sessions;
use crate::state::{Shared, id};

/// How many sandboxes a job may have open: a debugger has one or two.
const MAX_OPEN: usize = 100;

/// The open sandboxes by job and number.
#[derive(Default)]
pub(crate) struct Sandboxes(DashMap<(String, u64), Arc<Sandbox>>);

/// One sandbox; dropped, what runs in it ends.
pub(crate) struct Sandbox {
    op: ExecOp,
    /// Each mount by its place in the op.
    views: Vec<Option<RootDir>>,
    root: usize,
    readonly_root: bool,
    ssh_socket: Option<String>,
    network: executor::Network,
    id: String,
    state: Mutex<State>,
}

enum State {
    /// Nothing has run yet.
    Prepared(Box<Mounts>),
    /// A process was started; the mounts are kept for as long as it may run.
    Started {
        container: Arc<Container>,
        _mounts: Box<Mounts>,
    },
    /// The first process could not be started.
    Broken,
}

/// A process in a sandbox.
pub(crate) struct Started {
    pub(crate) live: Live,
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
}

/// What can be done to a process in a container.
pub(crate) enum Live {
    /// The container's first.
    First(Arc<Container>),
    /// A further one, which ends with its handle.
    Further(Box<executor::Process>),
}

impl Live {
    pub(crate) async fn wait(&self) -> Result<executor::Exit, Failure> {
        match self {
            Live::First(container) => container.wait().await.map_err(Failure::host),
            Live::Further(process) => process.wait().await.map_err(Failure::host),
        }
    }

    /// One without a terminal has no size.
    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        let _ = match self {
            Live::First(container) => container.resize(rows, cols),
            Live::Further(process) => process.resize(rows, cols),
        };
    }

    /// One that has just ended takes no signal any more.
    pub(crate) fn signal(&self, signal: i32) {
        let _ = match self {
            Live::First(container) => container.signal(signal),
            Live::Further(process) => process.signal(signal),
        };
    }

    /// Ends it.
    pub(crate) fn kill(&self) {
        match self {
            Live::First(container) => {
                let _ = container.kill();
            }
            Live::Further(process) => {
                let _ = process.signal(9);
            }
        }
    }
}

fn exec_op(bytes: bytes::Bytes) -> Result<ExecOp, Failure> {
    let vertex = Vertex::decode(bytes, llb::OpMetadata::default())
        .map_err(|error| Failure::user(chain(&error)))?;
    match &vertex.op().kind {
        OpKind::Exec(op) => Ok((**op).clone()),
        _ => Err(Failure::bug("a sandbox is made of an exec op")),
    }
}

impl Sandboxes {
    fn find(&self, job: &str, (id, name): (u64, &str)) -> Result<Arc<Sandbox>, Failure> {
        let key = (job.to_owned(), id);
        let found = self.0.get(&key).map(|entry| entry.value().clone());
        found.ok_or_else(|| Failure::not_found(format!("container \"{name}\" not found")))
    }

    /// The files of a mount.
    pub(crate) fn view(&self, job: &str, mount: &wire::SandboxMount) -> Result<RootDir, Failure> {
        let sandbox = self.find(job, (mount.id, &mount.name))?;
        let view = sandbox.views.get(mount.index as usize);
        let view = view.and_then(Option::as_ref);
        let view = view.ok_or_else(|| {
            let (name, index) = (&mount.name, mount.index);
            Failure::user(format!("container \"{name}\" has no mount {index} to read"))
        })?;
        view.try_clone().map_err(Failure::host)
    }

    /// Ends a sandbox; one that is not there is no error.
    pub(crate) fn close(&self, name: &wire::SandboxName) {
        self.0.remove(&(name.job.clone(), name.id));
    }

    /// Ends all sandboxes of a job.
    pub(crate) fn release(&self, job: &str) {
        self.0.retain(|(owner, _), _| owner != job);
    }
}

/// Makes the mounts of a sandbox.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    request: wire::OpenSandboxRequest,
) -> Result<(), Failure> {
    let name = request.name.unwrap_or_default();
    let sessions = shared.enter(&name.job, &request.sessions)?;
    let op = exec_op(request.op)?;
    let find = |text: &String| match text.as_str() {
        "" => Ok(None),
        text => shared.find(&name.job, id(text)?).map(Some),
    };
    let inputs = request.input_ids.iter().map(find);
    let inputs = inputs.collect::<Result<Vec<_>, Failure>>()?;
    let network = exec::network(shared, op.network);
    let step = Step {
        op: &op,
        inputs: &inputs,
        resources: None,
        id: Digest::of(format!("sandbox {} {}", name.job, name.id)).short(),
        ignore_cache: false,
        browsed: true,
        job: &name.job,
        trace_parent: "",
    };
    let step_id = step.id.clone();
    let mut mounts = mounts::prepare(shared, &step, network, &sessions, &Events::none()).await?;
    let root = op.mounts.iter().position(|mount| mount.dest == "/");
    let sandbox = Arc::new(Sandbox {
        root: root.ok_or_else(|| Failure::bug("exec op without a root mount"))?,
        views: std::mem::take(&mut mounts.views),
        readonly_root: mounts.readonly_root,
        ssh_socket: mounts.ssh_socket.clone(),
        network,
        id: step_id,
        state: Mutex::new(State::Prepared(Box::new(mounts))),
        op,
    });
    let sandboxes = &shared.sandboxes.0;
    let open = sandboxes.iter().filter(|entry| entry.key().0 == name.job);
    if open.count() >= MAX_OPEN {
        return Err(Failure::user(format!(
            "a build may have {MAX_OPEN} containers at most"
        )));
    }
    match sandboxes.entry((name.job.clone(), name.id)) {
        Entry::Occupied(_) => {
            let text = format!("Container {} already exists", name.name);
            return Err(Failure::new(Class::Exists, text));
        }
        Entry::Vacant(entry) => drop(entry.insert(sandbox)),
    }
    // Of a job that was released meanwhile nobody would close it.
    if let Err(over) = shared.job(&name.job) {
        shared.sandboxes.close(&name);
        return Err(over);
    }
    Ok(())
}

/// Starts a process in a sandbox.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    process: wire::SandboxProcess,
    (rows, cols): (u16, u16),
) -> Result<Started, Failure> {
    let name = process.name.unwrap_or_default();
    let sandbox = shared.sandboxes.find(&name.job, (name.id, &name.name))?;
    let sessions = shared.enter(&name.job, &process.sessions)?;
    let mut op = exec_op(process.op)?;
    let has_term = op.meta.env.iter().any(|entry| entry.starts_with("TERM="));
    if process.tty && !has_term {
        op.meta.env.push("TERM=xterm".to_owned());
    }
    let stdio = match process.tty {
        true => Stdio::Tty { rows, cols },
        false => Stdio::Pipes {
            stdin: process.open_stdin,
        },
    };
    let mut state = sandbox.state.lock().await;
    let spec = sandbox.spec(&op, &sessions).await?;
    match std::mem::replace(&mut *state, State::Broken) {
        State::Prepared(mut mounts) => {
            let root = mounts.root.take();
            let request = ContainerRequest {
                id: sandbox.id.clone(),
                spec,
                rootfs: root.ok_or_else(|| Failure::bug("a sandbox lost its root"))?,
                mounts: std::mem::take(&mut mounts.others),
                stdio,
                network: sandbox.network,
                stubs: Stubs::Leaves,
            };
            let container = shared.launcher.create(request).await;
            let mut container = container.map_err(|error| Failure::user(chain(&error)))?;
            let (stdin, stdout, stderr) = (
                container.stdin.take(),
                container.stdout.take(),
                container.stderr.take(),
            );
            let container = Arc::new(container);
            *state = State::Started {
                container: container.clone(),
                _mounts: mounts,
            };
            Ok(Started {
                live: Live::First(container),
                stdin,
                stdout,
                stderr,
            })
        }
        State::Started { container, _mounts } => {
            let process = spec.process().clone();
            let process = process.ok_or_else(|| Failure::bug("a step without a process"))?;
            let started = container.exec(&process, stdio).await;
            *state = State::Started { container, _mounts };
            let mut started = started.map_err(|error| Failure::user(chain(&error)))?;
            Ok(Started {
                stdin: started.stdin.take(),
                stdout: started.stdout.take(),
                stderr: started.stderr.take(),
                live: Live::Further(Box::new(started)),
            })
        }
        State::Broken => Err(Failure::user(format!(
            "container \"{}\" has ended",
            name.name
        ))),
    }
}

impl Sandbox {
    async fn spec(
        &self,
        op: &ExecOp,
        sessions: &Sessions,
    ) -> Result<oci_spec::runtime::Spec, Failure> {
        let root = self.views.get(self.root).and_then(Option::as_ref);
        let surroundings = Surroundings {
            root: root.ok_or_else(|| Failure::bug("a sandbox without a root"))?,
            hostname: &self.op.meta.hostname,
            readonly_root: self.readonly_root,
            ssh_socket: self.ssh_socket.as_deref(),
        };
        exec::spec(op, &surroundings, None, sessions).await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Whoever is attached holds the container too.
        if let State::Started { container, .. } = self.state.get_mut() {
            let _ = container.kill();
        }
    }
}
