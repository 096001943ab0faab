//! buildkitd's flags, which are drydockd's too.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::file::File;
use super::units::{DiskSpace, parse_duration};
use super::{Config, ConfigError, Space, Tls};
use crate::paths::Family;

/// The build daemon. Serves BuildKit's API.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true, next_line_help = false)]
pub(crate) struct Flags {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log more.
    #[arg(long)]
    debug: bool,
    #[arg(long, hide = true)]
    trace: bool,
    /// Log level: trace, debug, info, warn or error.
    #[arg(long, env = "BUILDKITD_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log format: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Directory of everything that is kept.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Address to listen on: unix://, tcp:// or fd://. May be repeated.
    #[arg(long, value_name = "ADDR")]
    addr: Vec<String>,
    /// Group that may use unix sockets.
    #[arg(long)]
    group: Option<String>,
    /// Address of the debug server.
    #[arg(long, env = "BUILDKITD_DEBUGADDR", value_name = "ADDR")]
    debugaddr: Option<String>,
    /// Server certificate.
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Server key.
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Authority whose certificates clients must present.
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Entitlements that builds may be granted: network.host, security.insecure, device.
    #[arg(long, value_name = "NAME")]
    allow_insecure_entitlement: Vec<String>,
    /// Give no devices to steps.
    #[arg(long)]
    cdi_disabled: bool,
    /// Directories in which devices are described (Container Device Interface).
    #[arg(long, value_name = "DIR")]
    cdi_spec_dir: Vec<PathBuf>,
    /// Frontend images in whose place the built-in frontend is run, such as docker/dockerfile.
    #[arg(long, value_name = "REPOSITORY")]
    stand_in_for: Vec<String>,
    /// Socket to which steps can send their spans.
    #[arg(long, value_name = "PATH")]
    otel_socket_path: Option<PathBuf>,
    /// Run without root.
    #[arg(long)]
    rootless: bool,
    /// Leave when nothing was asked for so long.
    #[arg(long, value_name = "DURATION", hide = true)]
    idle_exit: Option<String>,
    /// Leave the caller's session.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
    /// Print the version.
    #[arg(long, short = 'v')]
    pub(crate) version: bool,
    #[command(flatten)]
    worker: WorkerFlags,
    #[command(flatten)]
    accepted: AcceptedFlags,
}

#[derive(Debug, clap::Args)]
struct WorkerFlags {
    /// Run the local worker: true, false or auto.
    #[arg(long = "oci-worker", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enabled: Option<String>,
    /// Labels of the worker, as key=value.
    #[arg(long = "oci-worker-labels", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// More platforms of the worker.
    #[arg(long = "oci-worker-platform", value_name = "PLATFORM")]
    platforms: Vec<String>,
    /// Snapshotter: auto, overlayfs or native.
    #[arg(long = "oci-worker-snapshotter", value_name = "NAME")]
    snapshotter: Option<String>,
    /// Network of steps: auto, bridge, host or none.
    #[arg(long = "oci-worker-net", value_name = "MODE")]
    net: Option<String>,
    /// OCI runtime to use instead of the embedded one.
    #[arg(long = "oci-worker-binary", value_name = "FILE")]
    binary: Option<PathBuf>,
    /// AppArmor profile of steps.
    #[arg(long = "oci-worker-apparmor-profile", value_name = "NAME")]
    apparmor_profile: Option<String>,
    /// Leave steps in the daemon's pid namespace.
    #[arg(long = "oci-worker-no-process-sandbox")]
    no_process_sandbox: bool,
    /// Throw away what is not used: true or false.
    #[arg(long = "oci-worker-gc", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    gc: Option<String>,
    /// Space to keep, as RESERVED[,FREE[,MAXIMUM]].
    #[arg(long = "oci-worker-gc-keepstorage", value_name = "SPACE")]
    gc_keep_storage: Option<String>,
    /// Containers that run at a time: a number or `num-cpu`; 0 is no bound.
    #[arg(long = "oci-max-parallelism", value_name = "N")]
    max_parallelism: Option<String>,
}

/// Flags of buildkitd that start-up scripts give and that change nothing here.
#[derive(Debug, clap::Args)]
struct AcceptedFlags {
    #[arg(long, hide = true)]
    save_cache_debug: bool,
    #[arg(long, hide = true)]
    proxy_network: bool,
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    oci_worker_selinux: Option<String>,
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    oci_worker_rootless: Option<String>,
    #[arg(long, hide = true, value_name = "PATH")]
    oci_worker_proxy_snapshotter_path: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "PATH")]
    oci_cni_config_path: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "DIR")]
    oci_cni_binary_dir: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "N")]
    oci_cni_pool_size: Option<u32>,
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    containerd_worker: Option<String>,
    #[arg(long, hide = true, value_name = "PATH")]
    containerd_worker_addr: Option<PathBuf>,
    #[arg(long, hide = true)]
    containerd_worker_namespace: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    containerd_worker_net: Option<String>,
    #[arg(long, hide = true, value_name = "NAME")]
    containerd_worker_snapshotter: Option<String>,
    #[arg(long, hide = true, value_name = "KEY=VALUE")]
    containerd_worker_labels: Vec<String>,
    #[arg(long, hide = true, value_name = "PLATFORM")]
    containerd_worker_platform: Vec<String>,
    #[arg(long, hide = true, value_name = "NAME")]
    containerd_worker_runtime: Option<String>,
    #[arg(long, hide = true, value_name = "NAME")]
    containerd_worker_apparmor_profile: Option<String>,
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    containerd_worker_selinux: Option<String>,
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    containerd_worker_rootless: Option<String>,
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    containerd_worker_gc: Option<String>,
    #[arg(long, hide = true, value_name = "SPACE")]
    containerd_worker_gc_keepstorage: Option<String>,
    #[arg(long, hide = true, value_name = "PATH")]
    containerd_cni_config_path: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "DIR")]
    containerd_cni_binary_dir: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "N")]
    containerd_cni_pool_size: Option<u32>,
    #[arg(long, hide = true, value_name = "N")]
    containerd_max_parallelism: Option<String>,
}

impl Flags {
    /// Defaults of `family`, then the configuration file, then these flags.
    pub(crate) fn into_config(self, family: Family) -> Result<Config, ConfigError> {
        let socket = format!("unix://{}", family.socket().display());
        let mut config = Config::new(family.root(), socket);
        let path = self.config.clone().unwrap_or_else(|| family.config());
        File::read(&path, self.config.is_some())?.apply(&mut config)?;
        self.apply(&mut config)?;
        Ok(config)
    }

    fn apply(self, config: &mut Config) -> Result<(), ConfigError> {
        set(&mut config.root, self.root);
        if !self.addr.is_empty() {
            config.addresses = self.addr;
        }
        set(&mut config.log.level, self.log_level);
        if self.trace {
            config.log.level = "trace".to_owned();
        } else if self.debug {
            config.log.level = "debug".to_owned();
        }
        if let Some(format) = self.log_format {
            config.log.json = format == "json";
        }
        config.socket_owner.group = self.group;
        config.debug_address = self.debugaddr.or(config.debug_address.take());
        config.otel_socket = self.otel_socket_path.or(config.otel_socket.take());
        if let Some(tls) = tls(self.tlscert, self.tlskey, self.tlscacert)? {
            config.tls = Some(tls);
        }
        config
            .insecure_entitlements
            .extend(self.allow_insecure_entitlement);
        config.worker.rootless |= self.rootless;
        config.frontends.stood_in_for.extend(self.stand_in_for);
        config.devices.enabled &= !self.cdi_disabled;
        if !self.cdi_spec_dir.is_empty() {
            config.devices.directories = self.cdi_spec_dir;
        }
        if let Some(text) = self.idle_exit {
            config.idle_exit = Some(duration("--idle-exit", text)?);
        }
        self.worker.apply(&mut config.worker)
    }
}

impl WorkerFlags {
    fn apply(self, worker: &mut super::Worker) -> Result<(), ConfigError> {
        if let Some(value) = self.enabled.filter(|value| value != "auto") {
            worker.enabled = boolean("--oci-worker", value)?;
        }
        for label in self.labels {
            let Some((key, value)) = label.split_once('=') else {
                let expected = "key=value";
                return Err(ConfigError::Value {
                    name: "--oci-worker-labels",
                    value: label,
                    expected,
                });
            };
            worker.labels.insert(key.to_owned(), value.to_owned());
        }
        worker.platforms.extend(self.platforms);
        if let Some(name) = self.snapshotter {
            worker.snapshotter = super::snapshotter("--oci-worker-snapshotter", &name)?;
        }
        if let Some(name) = self.net {
            worker.network = super::network_mode("--oci-worker-net", &name)?;
        }
        if let Some(binary) = self.binary {
            worker.binary = Some(binary).filter(|path| !path.as_os_str().is_empty());
        }
        worker.apparmor_profile = self.apparmor_profile.or(worker.apparmor_profile.take());
        worker.no_process_sandbox |= self.no_process_sandbox;
        if let Some(value) = self.gc {
            worker.gc.enabled = boolean("--oci-worker-gc", value)?;
        }
        if let Some(text) = self.gc_keep_storage {
            worker.gc.space = space("--oci-worker-gc-keepstorage", &text)?;
        }
        if let Some(text) = self.max_parallelism {
            worker.max_parallelism = parallelism("--oci-max-parallelism", text)?;
        }
        Ok(())
    }
}

/// Both or neither of `cert` and `key`.
pub(super) fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Result<Option<Tls>, ConfigError> {
    let incomplete = |given, missing| Err(ConfigError::Incomplete { given, missing });
    match (cert, key, client_ca) {
        (Some(cert), Some(key), client_ca) => Ok(Some(Tls {
            cert,
            key,
            client_ca,
        })),
        (Some(_), None, _) => incomplete("tlscert", "tlskey"),
        (None, Some(_), _) => incomplete("tlskey", "tlscert"),
        (None, None, Some(_)) => incomplete("tlscacert", "tlscert"),
        (None, None, None) => Ok(None),
    }
}

fn boolean(name: &'static str, value: String) -> Result<bool, ConfigError> {
    match value.as_str() {
        "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => Err(ConfigError::Value {
            name,
            value,
            expected: "true or false",
        }),
    }
}

fn duration(name: &'static str, value: String) -> Result<Duration, ConfigError> {
    let parsed = parse_duration(&value);
    parsed.ok_or(ConfigError::Value {
        name,
        value,
        expected: "a duration such as `10m`",
    })
}

fn parallelism(name: &'static str, value: String) -> Result<Option<usize>, ConfigError> {
    if value == "num-cpu" {
        return Ok(std::thread::available_parallelism().ok().map(Into::into));
    }
    match value.parse() {
        Ok(0) => Ok(None),
        Ok(bound) => Ok(Some(bound)),
        Err(_) => Err(ConfigError::Value {
            name,
            value,
            expected: "a number or `num-cpu`",
        }),
    }
}

fn space(name: &'static str, text: &str) -> Result<Space, ConfigError> {
    let mut parts = [DiskSpace::default(); 3];
    for (index, part) in text.split(',').enumerate() {
        let parsed = DiskSpace::parse(part);
        let (Some(slot), Some(space)) = (parts.get_mut(index), parsed) else {
            let expected = "RESERVED[,FREE[,MAXIMUM]]";
            return Err(ConfigError::Value {
                name,
                value: text.to_owned(),
                expected,
            });
        };
        *slot = space;
    }
    let [reserved, min_free, max_used] = parts;
    Ok(Space {
        reserved,
        max_used,
        min_free,
    })
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NetworkMode, Snapshotter};
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, ConfigError> {
        let mut config = Config::new("/root".into(), "unix:///sock".into());
        let program = ["buildkitd"].into_iter();
        let flags = Flags::try_parse_from(program.chain(arguments.iter().copied())).unwrap();
        flags.apply(&mut config)?;
        Ok(config)
    }

    #[test]
    fn flags_override_the_defaults() {
        let config = parse(&[
            "--root=/state",
            "--addr",
            "tcp://127.0.0.1:1",
            "--addr=unix:///a",
            "--debug",
            "--oci-worker-net=host",
            "--oci-worker-snapshotter=overlayfs",
            "--oci-worker=true",
            "--oci-worker-gc-keepstorage=10GB,20%,1TB",
            "--oci-max-parallelism=3",
            "--allow-insecure-entitlement=network.host",
            "--containerd-worker=false",
            "--idle-exit=10m",
        ])
        .unwrap();
        assert_eq!(config.addresses, ["tcp://127.0.0.1:1", "unix:///a"]);
        assert_eq!(config.log.level, "debug");
        assert_eq!(config.worker.network, NetworkMode::Host);
        assert_eq!(config.worker.snapshotter, Snapshotter::Overlayfs);
        assert_eq!(config.worker.gc.space.min_free, DiskSpace::Percent(20));
        assert_eq!(
            config.worker.gc.space.max_used,
            DiskSpace::Bytes(1_000_000_000_000)
        );
        assert_eq!(config.worker.max_parallelism, Some(3));
        assert_eq!(config.insecure_entitlements, ["network.host"]);
        assert_eq!(config.idle_exit, Some(Duration::from_secs(600)));
    }

    #[test]
    fn no_flags_change_nothing() {
        assert_eq!(
            parse(&[]).unwrap(),
            Config::new("/root".into(), "unix:///sock".into())
        );
    }

    #[test]
    fn half_a_key_pair_is_refused() {
        let error = parse(&["--tlscert=/c"]).unwrap_err().to_string();
        assert_eq!(error, "`tlscert` needs `tlskey`");
    }
}
