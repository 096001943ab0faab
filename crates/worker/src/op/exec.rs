//! Exec ops: running a command in a container.

use std::time::Instant;

use bytes::Bytes;
use executor::{Container, ContainerRequest, CreateError, Network, Output, Stdio, Stubs};
use llb::{ExecOp, NetMode, SecurityMode};
use oci_spec::runtime::Spec;
use refs::Ref;
use sys::root::RootDir;
use tokio::io::AsyncReadExt as _;

use super::Made;
use super::log::{Clipped, LogLimits};
use super::mounts;
use super::secret::{self, Secret};
use super::tracing::Tracing;
use crate::events::Events;
use crate::failure::{Class, Failure, blocking, chain};
use crate::quote::quote;
use crate::sessions::Sessions;
use crate::state::Shared;

/// How much of a step's output is passed on at once, in bytes.
const CHUNK: usize = 32 << 10;

/// The path of programs where a step sets none (BuildKit: `util/system/path.go`).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The exit code of a runtime that could not start a container's process.
const RUNTIME_FAILED: i32 = 1;

/// A step to run.
pub(crate) struct Step<'a> {
    pub(crate) op: &'a ExecOp,
    /// The refs of the op's inputs.
    pub(crate) inputs: &'a [Option<Ref>],
    pub(crate) resources: Option<&'a proto::worker::LinuxResources>,
    /// Names the container; unique on this worker.
    pub(crate) id: String,
    pub(crate) ignore_cache: bool,
    /// Whether somebody may look into its mounts while it runs.
    pub(crate) browsed: bool,
    /// The build that it belongs to.
    pub(crate) job: &'a str,
    /// The span that it belongs to, or nothing.
    pub(crate) trace_parent: &'a str,
}

/// A step that failed.
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    /// What its mounts hold, where its process ran.
    pub(crate) left: Vec<Option<Made>>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed {
            failure,
            left: Vec::new(),
        }
    }
}

/// Runs the step's process to its end and answers what its mounts hold then, for each output.
pub(crate) async fn run(
    shared: &Shared,
    step: Step<'_>,
    sessions: &Sessions,
    events: &Events,
) -> Result<Vec<Made>, Failed> {
    let Step { op, .. } = step;
    let network = network(shared, op.network);
    let mut mounts = mounts::prepare(shared, &step, network, sessions, events).await?;
    let root = mounts
        .root
        .take()
        .ok_or_else(|| Failure::bug("exec op without a root mount"))?;
    let root_dir = RootDir::from_fd(root.try_clone().map_err(Failure::host)?.into_fd());
    let command = format!("process {}", quote(&op.meta.args.join(" ")));
    let failed =
        |failure: Failure| failure.context(format!("{command} did not complete successfully"));
    let surroundings = Surroundings {
        root: &root_dir,
        hostname: &op.meta.hostname,
        readonly_root: mounts.readonly_root,
        ssh_socket: mounts.ssh_socket.as_deref(),
    };
    let tracing = Tracing::of(shared, &step)?;
    let spec = async {
        let mut spec = spec(op, &surroundings, step.resources, sessions).await?;
        if let Some(tracing) = &tracing {
            tracing.tell(&mut spec);
        }
        with_devices(shared, op, spec).await
    };
    let spec = spec.await.map_err(|failure| match failure.class {
        // A secret that no client has is not the process's fault.
        Class::NotFound => failure,
        _ => failed(failure),
    })?;
    drop(root_dir);

    let mut others = mounts.take();
    others.extend(tracing.map(|tracing| tracing.mount));
    let request = ContainerRequest {
        id: step.id.clone(),
        spec,
        rootfs: root,
        mounts: others,
        stdio: Stdio::Pipes { stdin: false },
        network,
        stubs: if op.meta.remove_mount_stubs_recursive {
            Stubs::Recursive
        } else {
            Stubs::Leaves
        },
    };
    let container = shared.launcher.create(request).await;
    let mut container = match container {
        Ok(container) => container,
        Err(CreateError::Exec { message, .. } | CreateError::Setup(message)) => {
            let failure = failed(not_started(&message, events).await);
            let left = mounts.left(op);
            return Err(Failed { failure, left });
        }
        Err(error) => {
            return Err(Failed {
                failure: failed(Failure::user(chain(&error))),
                left: mounts.left(op),
            });
        }
    };
    let exit = watch(&mut container, shared.options.log_limits, events).await?;
    // The container's view of the mounts goes with it: layers are committed after that.
    drop(container);
    let allowed = if op.meta.valid_exit_codes.is_empty() {
        &[0][..]
    } else {
        &op.meta.valid_exit_codes
    };
    if !allowed.contains(&exit.code) {
        let killed = if exit.oom {
            ": container was killed because it ran out of memory"
        } else {
            ""
        };
        let message = format!(
            "{command} did not complete successfully: exit code: {}{killed}",
            exit.code
        );
        return Err(Failed {
            failure: Failure {
                exit_code: Some(exit.code),
                ..Failure::user(message)
            },
            left: mounts.left(op),
        });
    }
    Ok(blocking(move || mounts.outputs()).await?)
}

/// A step whose program cannot be executed ends as one that a runtime of its own would have run: the
/// reason is what it printed, and its exit code is the runtime's.
async fn not_started(reason: &str, events: &Events) -> Failure {
    // What the kernel said of the program itself stands alone.
    let line = if reason.starts_with("exec ") {
        format!("{reason}\n")
    } else {
        format!("unable to start container process: {reason}\n")
    };
    events.output(2, Bytes::from(line)).await;
    Failure {
        exit_code: Some(RUNTIME_FAILED),
        ..Failure::user(format!("exit code: {RUNTIME_FAILED}: {reason}"))
    }
}

/// Gives the step's container its devices.
async fn with_devices(shared: &Shared, op: &ExecOp, mut spec: Spec) -> Result<Spec, Failure> {
    if op.devices.is_empty() {
        return Ok(spec);
    }
    let (options, wanted) = (shared.options.devices.clone(), op.devices.clone());
    let inject = move || {
        let devices = crate::cdi::Devices::read(&options);
        devices.inject(&mut spec, &wanted).map(|()| spec)
    };
    blocking(inject)
        .await
        .map_err(|failure| failure.context("CDI device injection failed"))
}

/// What a process finds in its container.
pub(crate) struct Surroundings<'a> {
    pub(crate) root: &'a RootDir,
    pub(crate) hostname: &'a str,
    pub(crate) readonly_root: bool,
    /// Where the first ssh agent is.
    pub(crate) ssh_socket: Option<&'a str>,
}

/// The container of an op, as the op's process sees it.
pub(crate) async fn spec(
    op: &ExecOp,
    surroundings: &Surroundings<'_>,
    resources: Option<&proto::worker::LinuxResources>,
    sessions: &Sessions,
) -> Result<Spec, Failure> {
    let user = executor::user::lookup(surroundings.root, &op.meta.user)
        .map_err(|e| Failure::user(chain(&e)))?;
    executor::spec::step(executor::spec::StepSpec {
        args: op.meta.args.clone(),
        env: environment(op, surroundings.ssh_socket, sessions).await?,
        cwd: if op.meta.cwd.is_empty() {
            "/".to_owned()
        } else {
            op.meta.cwd.clone()
        },
        user,
        hostname: surroundings.hostname.to_owned(),
        ulimits: op.meta.ulimits.iter().map(ulimit).collect(),
        limits: limits(resources),
        security: match op.security {
            SecurityMode::Sandbox => executor::spec::Security::Sandbox,
            // The engine admits such an op only where daemon and client allow it.
            SecurityMode::Insecure => executor::spec::Security::Insecure(
                executor::spec::Entitlement::insecure_was_granted(),
            ),
        },
        readonly_rootfs: surroundings.readonly_root,
        shm_size_bytes: 0,
        oom_score_adj: None,
    })
    .map_err(|e| Failure::user(chain(&e)))
}

/// Passes on what the step prints until it has ended.
async fn watch(
    container: &mut Container,
    limits: LogLimits,
    events: &Events,
) -> Result<executor::Exit, Failure> {
    let out = pump(container.stdout.take(), 1, limits, events);
    let err = pump(container.stderr.take(), 2, limits, events);
    let (exit, (), ()) = tokio::join!(container.wait(), out, err);
    exit.map_err(Failure::host)
}

async fn pump(output: Option<Output>, stream: i64, limits: LogLimits, events: &Events) {
    let Some(mut output) = output else { return };
    let (mut clipped, begun) = (Clipped::new(limits), Instant::now());
    let mut buffer = vec![0; CHUNK];
    // A pipe fails only when its process is gone, and then there is no more.
    while let Ok(length) = output.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        let shown = clipped.take(&buffer[..length], begun.elapsed());
        if !shown.is_empty() {
            events.output(stream, shown).await;
        }
    }
    let mut rest = clipped.rest();
    while !rest.is_empty() {
        let part = rest.split_to(rest.len().min(CHUNK));
        events.output(stream, part).await;
    }
}

pub(crate) fn network(shared: &Shared, mode: NetMode) -> Network {
    match mode {
        NetMode::Sandbox => shared.options.step_network,
        NetMode::Host => Network::Host,
        NetMode::None => Network::None,
    }
}

async fn environment(
    op: &ExecOp,
    ssh_socket: Option<&str>,
    sessions: &Sessions,
) -> Result<Vec<String>, Failure> {
    let mut env = op.meta.env.clone();
    let is_set = |env: &[String], name: &str| {
        env.iter()
            .any(|entry| entry.split('=').next() == Some(name))
    };
    if !is_set(&env, "PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    if let Some(proxy) = &op.meta.proxy_env {
        for (name, value) in [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("FTP_PROXY", &proxy.ftp_proxy),
            ("NO_PROXY", &proxy.no_proxy),
            ("ALL_PROXY", &proxy.all_proxy),
        ] {
            if !value.is_empty() {
                env.push(format!("{name}={value}"));
                env.push(format!("{}={value}", name.to_lowercase()));
            }
        }
    }
    for wanted in &op.secret_env {
        match Secret::fetch(sessions, &wanted.id).await? {
            Some(value) => env.push(format!("{}={}", wanted.name, value.into_env(&wanted.id)?)),
            None if wanted.optional => {}
            None => return Err(secret::missing(&wanted.id)),
        }
    }
    if let Some(socket) = ssh_socket
        && !is_set(&env, "SSH_AUTH_SOCK")
    {
        env.push(format!("SSH_AUTH_SOCK={socket}"));
    }
    Ok(env)
}

fn ulimit(limit: &llb::Ulimit) -> executor::spec::Ulimit {
    // Negative is no limit.
    let value = |v: i64| u64::try_from(v).unwrap_or(u64::MAX);
    executor::spec::Ulimit {
        name: limit.name.to_lowercase(),
        soft: value(limit.soft),
        hard: value(limit.hard),
    }
}

fn limits(resources: Option<&proto::worker::LinuxResources>) -> sys::cgroup::Limits {
    let Some(r) = resources else {
        return sys::cgroup::Limits::default();
    };
    let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    sys::cgroup::Limits {
        memory_bytes: (r.memory != 0).then_some(r.memory),
        memory_swap_bytes: (r.memory_swap != 0).then_some(r.memory_swap),
        cpu_shares: (r.cpu_shares != 0).then_some(r.cpu_shares),
        cpu_period_us: (r.cpu_period != 0).then_some(r.cpu_period),
        cpu_quota_us: (r.cpu_quota != 0).then_some(r.cpu_quota),
        cpuset_cpus: some(&r.cpuset_cpus),
        cpuset_mems: some(&r.cpuset_mems),
        ..sys::cgroup::Limits::default()
    }
}
