//! What a daemon is told: flags over the configuration file over defaults.

pub(crate) mod file;
pub(crate) mod flags;
mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use units::{DiskSpace, parse_bytes, parse_duration};

/// Everything that decides how a daemon behaves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// Directory of everything that is kept.
    pub(crate) root: PathBuf,
    /// `unix://<path>`, `tcp://<host>:<port>` or `fd://<name>`; at least one.
    pub(crate) addresses: Vec<String>,
    /// Owner of unix sockets.
    pub(crate) socket_owner: SocketOwner,
    pub(crate) tls: Option<Tls>,
    /// Where steps can send their spans; a socket in `root` if not said.
    pub(crate) otel_socket: Option<PathBuf>,
    /// Where debug HTTP is served.
    pub(crate) debug_address: Option<String>,
    pub(crate) log: Log,
    /// `network.host`, `security.insecure`, `device`: what builds may be granted.
    pub(crate) insecure_entitlements: Vec<String>,
    pub(crate) dns: Dns,
    pub(crate) worker: Worker,
    /// By host and port.
    pub(crate) registries: BTreeMap<String, Registry>,
    pub(crate) history: History,
    pub(crate) frontends: Frontends,
    pub(crate) devices: Devices,
    /// Requests to one registry at a time.
    pub(crate) max_registry_concurrency: usize,
    /// The daemon ends when nothing was asked of it for so long.
    pub(crate) idle_exit: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketOwner {
    /// A group's name or id.
    pub(crate) group: Option<String>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// PEM files of a TLS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Clients must present a certificate of this authority.
    pub(crate) client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// A level of `tracing`.
    pub(crate) level: String,
    pub(crate) json: bool,
}

/// What containers get instead of the machine's own resolver settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    pub(crate) nameservers: Vec<String>,
    pub(crate) options: Vec<String>,
    pub(crate) search_domains: Vec<String>,
}

/// How the local worker stores and runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Worker {
    pub(crate) enabled: bool,
    pub(crate) labels: BTreeMap<String, String>,
    /// Platforms beyond those that are found out.
    pub(crate) platforms: Vec<String>,
    pub(crate) snapshotter: Snapshotter,
    pub(crate) network: NetworkMode,
    pub(crate) bridge_name: Option<String>,
    /// In CIDR form.
    pub(crate) bridge_subnet: Option<String>,
    /// An OCI runtime to use instead of the embedded one.
    pub(crate) binary: Option<PathBuf>,
    pub(crate) rootless: bool,
    pub(crate) no_process_sandbox: bool,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) cgroup_parent: Option<String>,
    /// Containers that run at a time; no bound if none.
    pub(crate) max_parallelism: Option<usize>,
    pub(crate) gc: Gc,
}

/// Devices that steps may be given, by the Container Device Interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Devices {
    pub(crate) enabled: bool,
    /// Where they are described; a later directory is stronger.
    pub(crate) directories: Vec<PathBuf>,
    /// What every build may have.
    pub(crate) auto_allowed: Vec<String>,
}

impl Default for Devices {
    fn default() -> Devices {
        let directories = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];
        Devices {
            enabled: true,
            directories: directories.map(PathBuf::from).into(),
            auto_allowed: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Snapshotter {
    #[default]
    Auto,
    Overlayfs,
    Native,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NetworkMode {
    #[default]
    Auto,
    Bridge,
    Host,
    None,
}

/// When what is kept is thrown away.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gc {
    pub(crate) enabled: bool,
    /// In order; the default policies if empty.
    pub(crate) policies: Vec<GcPolicy>,
    /// Bounds for the default policies.
    pub(crate) space: Space,
}

/// Bounds on disk use. Zero is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Space {
    /// Always kept.
    pub(crate) reserved: DiskSpace,
    /// Never exceeded.
    pub(crate) max_used: DiskSpace,
    /// Left free on the disk.
    pub(crate) min_free: DiskSpace,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GcPolicy {
    pub(crate) all: bool,
    pub(crate) filters: Vec<String>,
    pub(crate) keep_duration: Duration,
    pub(crate) space: Space,
}

/// How a registry is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registry {
    /// `host[:port][/path]`, tried in order before the registry itself.
    pub(crate) mirrors: Vec<String>,
    pub(crate) http: Option<bool>,
    pub(crate) insecure: Option<bool>,
    /// PEM files of more authorities.
    pub(crate) ca: Vec<PathBuf>,
    /// Key and certificate of this client.
    pub(crate) keypairs: Vec<(PathBuf, PathBuf)>,
    /// Directories with `*.crt` (authorities) and `X.cert` beside `X.key`.
    pub(crate) tls_config_dirs: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) max_age: Duration,
    pub(crate) max_entries: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frontends {
    pub(crate) dockerfile: bool,
    pub(crate) gateway: bool,
    /// Repositories that frontend images may come from; any if empty.
    pub(crate) gateway_repositories: Vec<String>,
    /// Repositories of frontend images in whose place the built-in frontend is run.
    pub(crate) stood_in_for: Vec<String>,
}

impl From<Frontends> for engine::Frontends {
    fn from(given: Frontends) -> engine::Frontends {
        engine::Frontends {
            dockerfile: given.dockerfile,
            gateway: given.gateway,
            gateway_repositories: given.gateway_repositories,
            stood_in_for: given.stood_in_for,
        }
    }
}

const DEFAULT_HISTORY_AGE: Duration = Duration::from_secs(48 * 3600);
const DEFAULT_HISTORY_ENTRIES: usize = 50;
const DEFAULT_REGISTRY_CONCURRENCY: usize = 4;

impl Default for Worker {
    fn default() -> Worker {
        Worker {
            enabled: true,
            labels: BTreeMap::new(),
            platforms: Vec::new(),
            snapshotter: Snapshotter::Auto,
            network: NetworkMode::Auto,
            bridge_name: None,
            bridge_subnet: None,
            binary: None,
            rootless: false,
            no_process_sandbox: false,
            apparmor_profile: None,
            cgroup_parent: None,
            max_parallelism: None,
            gc: Gc {
                enabled: true,
                policies: Vec::new(),
                space: Space::default(),
            },
        }
    }
}

impl Config {
    /// Defaults, with everything kept in `root` and served at `address`.
    pub(crate) fn new(root: PathBuf, address: String) -> Config {
        Config {
            root,
            addresses: vec![address],
            socket_owner: SocketOwner::default(),
            tls: None,
            otel_socket: None,
            debug_address: None,
            log: Log {
                level: "info".to_owned(),
                json: false,
            },
            insecure_entitlements: Vec::new(),
            dns: Dns::default(),
            worker: Worker::default(),
            registries: BTreeMap::new(),
            history: History {
                max_age: DEFAULT_HISTORY_AGE,
                max_entries: DEFAULT_HISTORY_ENTRIES,
            },
            frontends: Frontends {
                dockerfile: true,
                gateway: true,
                gateway_repositories: Vec::new(),
                stood_in_for: Vec::new(),
            },
            devices: Devices::default(),
            max_registry_concurrency: DEFAULT_REGISTRY_CONCURRENCY,
            idle_exit: None,
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("failed to read configuration `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("failed to parse configuration `{}`", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("`{value}` is no value for `{name}`: expected {expected}")]
    Value {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("`{given}` needs `{missing}`")]
    Incomplete {
        given: &'static str,
        missing: &'static str,
    },
}

/// Chooses a network mode by its name.
pub(super) fn network_mode(name: &'static str, value: &str) -> Result<NetworkMode, ConfigError> {
    Ok(match value {
        "" | "auto" => NetworkMode::Auto,
        // CNI plugins are not run; the bridge is what they are set up for.
        "bridge" | "cni" => NetworkMode::Bridge,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        _ => {
            let expected = "auto, bridge, cni, host or none";
            return Err(ConfigError::Value {
                name,
                value: value.to_owned(),
                expected,
            });
        }
    })
}

/// Chooses a snapshotter by its name.
pub(super) fn snapshotter(name: &'static str, value: &str) -> Result<Snapshotter, ConfigError> {
    Ok(match value {
        "" | "auto" => Snapshotter::Auto,
        "overlayfs" => Snapshotter::Overlayfs,
        "native" => Snapshotter::Native,
        _ => {
            let expected = "auto, overlayfs or native";
            return Err(ConfigError::Value {
                name,
                value: value.to_owned(),
                expected,
            });
        }
    })
}
