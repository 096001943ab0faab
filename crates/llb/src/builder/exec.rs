//! Exec ops.

use super::{Builder, Env, Options, Output, State, VertexKind};
use crate::{
    CacheMount, CdiDevice, HostIp, LinuxResources, NetMode, ProxyEnv, SecurityMode, Ulimit,
};

/// A command on a state.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Proxy variables.
    pub proxy: Option<ProxyEnv>,
    /// Mounts beside the root.
    pub mounts: Vec<BuilderMount>,
    /// Secrets as files or variables.
    pub secrets: Vec<SecretSpec>,
    /// Agent sockets.
    pub ssh: Vec<SshSpec>,
    /// Devices.
    pub devices: Vec<CdiDevice>,
    /// Lines for `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// Limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Parent of the container's cgroup.
    pub cgroup_parent: String,
    /// Another network than the state's.
    pub network: Option<NetMode>,
    /// Another confinement than the state's.
    pub security: Option<SecurityMode>,
}

/// Something mounted beside the root.
#[derive(Clone, Debug, Default)]
pub struct BuilderMount {
    /// Path in the container.
    pub target: String,
    /// What is mounted.
    pub source: State,
    /// Path in the source; empty is all of it.
    pub selector: String,
    /// Whether it cannot be changed.
    pub readonly: bool,
    /// Whether changes are thrown away.
    pub no_output: bool,
    /// A directory that outlives the run.
    pub cache: Option<CacheMount>,
    /// A directory in memory, and its size; 0 is the kernel's default.
    pub tmpfs: Option<i64>,
}

/// A secret for a command.
#[derive(Clone, Debug, Default)]
pub struct SecretSpec {
    /// The secret's id.
    pub id: String,
    /// The file, if it is to be one.
    pub target: Option<String>,
    /// The variable, if it is to be one.
    pub env: Option<String>,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permission bits of the file.
    pub mode: u32,
    /// Whether a missing secret is no error.
    pub optional: bool,
}

/// An agent socket for a command.
#[derive(Clone, Debug, Default)]
pub struct SshSpec {
    /// The agent's id.
    pub id: String,
    /// The socket; empty is `/run/buildkit/ssh_agent.<n>`.
    pub target: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Whether a missing agent is no error.
    pub optional: bool,
}

#[derive(Debug)]
pub(super) struct ExecVertex {
    pub(super) run: Run,
    /// The root and all mounts, by target.
    pub(super) mounts: Vec<MountVertex>,
    pub(super) env: Env,
    pub(super) cwd: String,
    pub(super) user: String,
    pub(super) hostname: String,
    pub(super) network: NetMode,
    pub(super) security: SecurityMode,
}

#[derive(Debug)]
pub(super) struct MountVertex {
    pub(super) source: Option<Output>,
    pub(super) mount: BuilderMount,
}

impl MountVertex {
    /// Whether the mount, changed, is a result of the op.
    pub(super) fn has_output(&self) -> bool {
        let mount = &self.mount;
        !mount.no_output && !mount.readonly && mount.cache.is_none() && mount.tmpfs.is_none()
    }
}

impl Builder {
    /// Runs a command; the new state is the changed root.
    pub fn run(&mut self, state: &State, mut run: Run, mut options: Options) -> State {
        for (index, ssh) in run.ssh.iter_mut().enumerate() {
            if ssh.target.is_empty() {
                ssh.target = format!("/run/buildkit/ssh_agent.{index}");
            }
        }
        let mut env = state.env.clone();
        if let Some(first) = run.ssh.first()
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", &first.target);
        }
        let root = BuilderMount {
            target: "/".to_owned(),
            ..BuilderMount::default()
        };
        let mut mounts = vec![MountVertex {
            source: state.output,
            mount: root,
        }];
        mounts.extend(
            std::mem::take(&mut run.mounts)
                .into_iter()
                .map(|mount| MountVertex {
                    source: if mount.tmpfs.is_some() {
                        None
                    } else {
                        mount.source.output
                    },
                    mount,
                }),
        );
        mounts.sort_by(|a, b| a.mount.target.cmp(&b.mount.target));
        let network = run.network.unwrap_or(state.network);
        let security = run.security.unwrap_or(state.security);
        add_caps(&mut options, &run, &mounts, network, security);
        if options.platform.is_none() {
            options.platform.clone_from(&state.platform);
        }
        let root = mounts
            .iter()
            .filter(|m| m.has_output())
            .position(|m| m.mount.target == "/");
        let vertex = ExecVertex {
            run,
            mounts,
            env,
            cwd: state.dir().to_owned(),
            user: state.user.clone(),
            hostname: state.hostname.clone(),
            network,
            security,
        };
        let output = match self.add(VertexKind::Exec(Box::new(vertex)), options) {
            Output::Vertex { vertex, .. } => Output::Vertex {
                vertex,
                index: root.and_then(|i| u32::try_from(i).ok()).unwrap_or(0),
            },
            deferred @ Output::Deferred(_) => deferred,
        };
        state.with_output(output)
    }

    /// What a mount of `ran`, the state of a command, is afterwards. Empty when the mount is no
    /// result of the command.
    pub fn mounted(&self, ran: &State, target: &str) -> State {
        let Some(Output::Vertex { vertex, .. }) = ran.output else {
            return State::scratch();
        };
        let VertexKind::Exec(exec) = &self.vertices[vertex].kind else {
            return State::scratch();
        };
        let mut results = exec.mounts.iter().filter(|mount| mount.has_output());
        let index = results.position(|mount| mount.mount.target == target);
        let index = index.and_then(|index| u32::try_from(index).ok());
        let output = index.map(|index| Output::Vertex { vertex, index });
        State::of(output, ran.platform.clone())
    }
}

fn add_caps(
    options: &mut Options,
    run: &Run,
    mounts: &[MountVertex],
    network: NetMode,
    security: SecurityMode,
) {
    let resources = options.metadata.linux_resources.is_some();
    let mut need = |wanted: bool, cap: &str| {
        if wanted {
            options.cap(cap);
        }
    };
    need(true, "exec.meta.base");
    need(!run.ulimits.is_empty(), "exec.meta.ulimit");
    need(resources, "exec.meta.linux.resources");
    need(network != NetMode::Sandbox, "exec.meta.network");
    need(security == SecurityMode::Insecure, "exec.meta.security");
    need(run.proxy.is_some(), "exec.meta.proxyenv");
    for MountVertex { source, mount } in mounts {
        need(!mount.selector.is_empty(), "exec.mount.selector");
        if mount.cache.is_some() {
            need(true, "exec.mount.cache");
            need(true, "exec.mount.cache.sharing");
        } else if let Some(size) = mount.tmpfs {
            need(true, "exec.mount.tmpfs");
            need(size > 0, "exec.mount.tmpfs.size");
        } else {
            need(source.is_some(), "exec.mount.bind");
        }
    }
    need(!run.secrets.is_empty(), "exec.mount.secret");
    need(
        run.secrets.iter().any(|secret| secret.env.is_some()),
        "exec.secretenv",
    );
    need(!run.ssh.is_empty(), "exec.mount.ssh");
    need(!run.devices.is_empty(), "exec.meta.cdi");
}

impl Options {
    /// Sets the limits of the container.
    #[must_use]
    pub fn limited(mut self, resources: Option<LinuxResources>) -> Options {
        self.metadata.linux_resources = resources;
        self
    }
}
