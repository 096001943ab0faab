//! Running a command in a container.

/// A command, what it sees and what of that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOp {
    /// The process.
    pub meta: Meta,
    /// What is mounted; one has the destination `/`.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: NetMode,
    /// Its confinement.
    pub security: SecurityMode,
    /// Variables whose values are secrets.
    pub secret_env: Vec<SecretEnv>,
    /// CDI devices.
    pub devices: Vec<CdiDevice>,
}

impl ExecOp {
    /// The number of results: one for each mount that has an output.
    pub fn outputs(&self) -> u32 {
        self.mounts
            .iter()
            .filter_map(|mount| mount.output)
            .max()
            .map_or(0, |last| last + 1)
    }

    /// The mount at `/`, which [`crate::Graph`] makes sure is there.
    pub fn root_mount(&self) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.dest == "/")
    }
}

/// The process of an [`ExecOp`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// `KEY=value` each.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// `user[:group]`, by name or number; empty is root.
    pub user: String,
    /// Proxy variables, which are in no key.
    pub proxy_env: Option<ProxyEnv>,
    /// Lines for `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// Host name; empty is the default.
    pub hostname: String,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Parent of the container's cgroup; empty is the worker's.
    pub cgroup_parent: String,
    /// Whether empty mount points made for the run are removed, with their empty parents.
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that are success; empty is `0` alone.
    pub valid_exit_codes: Vec<i32>,
}

/// Values of the proxy variables, set in lower and in upper case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    /// `http_proxy`.
    pub http_proxy: String,
    /// `https_proxy`.
    pub https_proxy: String,
    /// `ftp_proxy`.
    pub ftp_proxy: String,
    /// `no_proxy`.
    pub no_proxy: String,
    /// `all_proxy`.
    pub all_proxy: String,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostIp {
    /// The name.
    pub host: String,
    /// Its address.
    pub ip: String,
}

/// A resource limit of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ulimit {
    /// As in `nofile`.
    pub name: String,
    /// The soft limit; `-1` is none.
    pub soft: i64,
    /// The hard limit; `-1` is none.
    pub hard: i64,
}

/// The network of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetMode {
    /// A network of its own, with a way out.
    #[default]
    Sandbox,
    /// The machine's.
    Host,
    /// Only a loopback device.
    None,
}

/// The confinement of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityMode {
    /// The usual.
    #[default]
    Sandbox,
    /// Privileged.
    Insecure,
}

/// An environment variable whose value is a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretEnv {
    /// The secret's id.
    pub id: String,
    /// The variable.
    pub name: String,
    /// Whether a missing secret is no error.
    pub optional: bool,
}

/// A device by its CDI name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CdiDevice {
    /// Fully qualified name.
    pub name: String,
    /// Whether a missing device is no error.
    pub optional: bool,
}

/// Something mounted into the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Index of the input it shows; `None` is empty.
    pub input: Option<u32>,
    /// Path inside the input; empty is all of it.
    pub selector: String,
    /// Path inside the container.
    pub dest: String,
    /// Which output of the op it becomes; `None` is none.
    pub output: Option<u32>,
    /// Whether the process cannot change it.
    pub readonly: bool,
    /// What is mounted.
    pub kind: MountKind,
    /// Id of a result (only for containers of a gateway).
    pub result_id: String,
    /// Whether the input may be matched by content.
    pub content: ContentMatching,
}

/// What a [`Mount`] is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MountKind {
    /// A result, or an empty directory.
    #[default]
    Bind,
    /// A file with a secret.
    Secret(SecretMount),
    /// A socket of an ssh agent.
    Ssh(SshMount),
    /// A directory that outlives the run.
    Cache(CacheMount),
    /// A directory in memory.
    Tmpfs {
        /// Bytes it may hold; `None` is the kernel's default. `Some(0)` differs in bytes only.
        size: Option<i64>,
    },
}

/// A file with a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretMount {
    /// The secret's id.
    pub id: String,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permission bits of the file.
    pub mode: u32,
    /// Whether a missing secret is no error.
    pub optional: bool,
}

/// A socket of an ssh agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshMount {
    /// The agent's id.
    pub id: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Whether a missing agent is no error.
    pub optional: bool,
}

/// A directory that outlives the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheMount {
    /// Its name; empty is the mount's destination.
    pub id: String,
    /// Who may use it at once.
    pub sharing: CacheSharing,
}

/// Who may use a cache mount at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheSharing {
    /// Any number of runs.
    #[default]
    Shared,
    /// One run; another gets a new directory.
    Private,
    /// One run; another waits.
    Locked,
}

/// Whether a mounted input may be matched by its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentMatching {
    /// Where it is safe, but not at `/`.
    #[default]
    Default,
    /// Yes; an error where it is not safe.
    On,
    /// No.
    Off,
}
