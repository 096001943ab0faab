//! buildkitd's configuration file. Unknown keys are ignored, as buildkitd does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::units::{self, DiskSpace};
use super::{Config, ConfigError, GcPolicy, Registry, Space, Tls};

/// Largest configuration that is read. A real one has a few kilobytes.
const MAX_SIZE: u64 = 4 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct File {
    root: Option<PathBuf>,
    debug: bool,
    trace: bool,
    #[serde(rename = "insecure-entitlements")]
    insecure_entitlements: Vec<String>,
    log: LogTable,
    dns: DnsTable,
    grpc: GrpcTable,
    history: HistoryTable,
    worker: WorkerTables,
    registry: BTreeMap<String, RegistryTable>,
    frontend: BTreeMap<String, FrontendTable>,
    system: SystemTable,
    cdi: CdiTable,
    otel: OtelTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OtelTable {
    socket_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CdiTable {
    disabled: Option<bool>,
    spec_dirs: Vec<PathBuf>,
    auto_allowed: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogTable {
    format: Option<String>,
    level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DnsTable {
    nameservers: Vec<String>,
    options: Vec<String>,
    search_domains: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GrpcTable {
    address: Vec<String>,
    debug_address: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    tls: TlsTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TlsTable {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct HistoryTable {
    #[serde(deserialize_with = "units::duration")]
    max_age: Option<Duration>,
    max_entries: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WorkerTables {
    oci: WorkerTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WorkerTable {
    enabled: Option<bool>,
    platforms: Vec<String>,
    labels: BTreeMap<String, String>,
    snapshotter: Option<String>,
    rootless: bool,
    no_process_sandbox: bool,
    binary: Option<PathBuf>,
    network_mode: Option<String>,
    bridge_name: Option<String>,
    bridge_subnet: Option<String>,
    #[serde(rename = "apparmor-profile")]
    apparmor_profile: Option<String>,
    #[serde(rename = "max-parallelism")]
    max_parallelism: Option<usize>,
    default_cgroup_parent: Option<String>,
    gc: Option<bool>,
    #[serde(rename = "gckeepstorage")]
    gc_keep_storage: Option<DiskSpace>,
    reserved_space: Option<DiskSpace>,
    max_used_space: Option<DiskSpace>,
    min_free_space: Option<DiskSpace>,
    #[serde(rename = "gcpolicy")]
    gc_policies: Vec<GcPolicyTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GcPolicyTable {
    all: bool,
    filters: Vec<String>,
    #[serde(deserialize_with = "units::duration")]
    keep_duration: Option<Duration>,
    keep_bytes: Option<DiskSpace>,
    reserved_space: Option<DiskSpace>,
    max_used_space: Option<DiskSpace>,
    min_free_space: Option<DiskSpace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RegistryTable {
    mirrors: Vec<String>,
    http: Option<bool>,
    insecure: Option<bool>,
    ca: Vec<PathBuf>,
    #[serde(rename = "keypair")]
    keypairs: Vec<KeypairTable>,
    #[serde(rename = "tlsconfigdir")]
    tls_config_dirs: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct KeypairTable {
    key: PathBuf,
    cert: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FrontendTable {
    enabled: Option<bool>,
    allowed_repositories: Vec<String>,
    /// Of our own: buildkitd has no such key.
    stands_in_for: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SystemTable {
    max_registry_concurrency: Option<usize>,
}

impl File {
    /// Reads `path`. A missing file is empty unless it was `asked` for.
    pub(crate) fn read(path: &Path, asked: bool) -> Result<File, ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !asked => String::new(),
            Err(error) => return Err(read(error)),
        };
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(error),
        })
    }

    /// Lays what the file says over `config`.
    pub(crate) fn apply(self, config: &mut Config) -> Result<(), ConfigError> {
        set(&mut config.root, self.root);
        config.otel_socket = self.otel.socket_path.or(config.otel_socket.take());
        if !self.grpc.address.is_empty() {
            config.addresses = self.grpc.address;
        }
        config
            .insecure_entitlements
            .extend(self.insecure_entitlements);
        set(&mut config.log.level, self.log.level);
        if self.trace {
            config.log.level = "trace".to_owned();
        } else if self.debug {
            config.log.level = "debug".to_owned();
        }
        if let Some(format) = self.log.format {
            config.log.json = format == "json";
        }
        config.dns.nameservers = self.dns.nameservers;
        config.dns.options = self.dns.options;
        config.dns.search_domains = self.dns.search_domains;
        config.debug_address = self.grpc.debug_address;
        (config.socket_owner.uid, config.socket_owner.gid) = (self.grpc.uid, self.grpc.gid);
        config.tls = self.grpc.tls.checked()?;
        set(&mut config.history.max_age, self.history.max_age);
        set(&mut config.history.max_entries, self.history.max_entries);
        set(
            &mut config.max_registry_concurrency,
            self.system.max_registry_concurrency,
        );
        for (name, frontend) in self.frontend {
            let enabled = match name.as_str() {
                "dockerfile.v0" => {
                    config.frontends.stood_in_for = frontend.stands_in_for;
                    &mut config.frontends.dockerfile
                }
                "gateway.v0" => {
                    config.frontends.gateway_repositories = frontend.allowed_repositories;
                    &mut config.frontends.gateway
                }
                _ => continue,
            };
            set(enabled, frontend.enabled);
        }
        if self.cdi.disabled == Some(true) {
            config.devices.enabled = false;
        }
        if !self.cdi.spec_dirs.is_empty() {
            config.devices.directories = self.cdi.spec_dirs;
        }
        config.devices.auto_allowed = self.cdi.auto_allowed;
        let registries = self
            .registry
            .into_iter()
            .map(|(host, table)| (host, table.into()));
        config.registries = registries.collect();
        self.worker.oci.apply(&mut config.worker)
    }
}

impl TlsTable {
    fn checked(self) -> Result<Option<Tls>, ConfigError> {
        super::flags::tls(self.cert, self.key, self.ca)
    }
}

impl WorkerTable {
    fn apply(self, worker: &mut super::Worker) -> Result<(), ConfigError> {
        set(&mut worker.enabled, self.enabled);
        worker.platforms = self.platforms;
        worker.labels = self.labels;
        if let Some(name) = self.snapshotter {
            worker.snapshotter = super::snapshotter("worker.oci.snapshotter", &name)?;
        }
        if let Some(name) = self.network_mode {
            worker.network = super::network_mode("worker.oci.networkMode", &name)?;
        }
        worker.rootless = self.rootless;
        worker.no_process_sandbox = self.no_process_sandbox;
        worker.binary = self.binary.filter(|path| !path.as_os_str().is_empty());
        worker.bridge_name = self.bridge_name;
        worker.bridge_subnet = self.bridge_subnet;
        worker.apparmor_profile = self.apparmor_profile;
        worker.cgroup_parent = self.default_cgroup_parent;
        // buildkitd takes 0 as no bound.
        worker.max_parallelism = self.max_parallelism.filter(|&bound| bound > 0);
        set(&mut worker.gc.enabled, self.gc);
        worker.gc.space = Space {
            reserved: self
                .reserved_space
                .or(self.gc_keep_storage)
                .unwrap_or_default(),
            max_used: self.max_used_space.unwrap_or_default(),
            min_free: self.min_free_space.unwrap_or_default(),
        };
        worker.gc.policies = self.gc_policies.into_iter().map(GcPolicy::from).collect();
        Ok(())
    }
}

impl From<GcPolicyTable> for GcPolicy {
    fn from(table: GcPolicyTable) -> GcPolicy {
        GcPolicy {
            all: table.all,
            filters: table.filters,
            keep_duration: table.keep_duration.unwrap_or_default(),
            space: Space {
                reserved: table.reserved_space.unwrap_or_default(),
                // The old `keepBytes` was a bound on use.
                max_used: table
                    .max_used_space
                    .or(table.keep_bytes)
                    .unwrap_or_default(),
                min_free: table.min_free_space.unwrap_or_default(),
            },
        }
    }
}

impl From<RegistryTable> for Registry {
    fn from(table: RegistryTable) -> Registry {
        Registry {
            mirrors: table.mirrors,
            http: table.http,
            insecure: table.insecure,
            ca: table.ca,
            keypairs: table
                .keypairs
                .into_iter()
                .map(|pair| (pair.key, pair.cert))
                .collect(),
            tls_config_dirs: table.tls_config_dirs,
        }
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(
        &mut io::Read::take(std::fs::File::open(path)?, MAX_SIZE),
        &mut text,
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::{NetworkMode, Snapshotter};
    use super::*;

    fn parse(text: &str) -> Config {
        let mut config = Config::new("/root".into(), "unix:///sock".into());
        toml::from_str::<File>(text)
            .unwrap()
            .apply(&mut config)
            .unwrap();
        config
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        assert_eq!(
            parse(""),
            Config::new("/root".into(), "unix:///sock".into())
        );
    }

    #[test]
    fn unknown_keys_are_ignored() {
        let config = parse("unknown = 1\n[worker.oci]\nalso = true\n[worker.containerd]\nx = 2\n");
        assert_eq!(config, Config::new("/root".into(), "unix:///sock".into()));
    }

    #[test]
    fn buildkits_keys_are_understood() {
        let config = parse(
            r#"
            root = "/state"
            debug = true
            insecure-entitlements = ["network.host"]
            [grpc]
            address = ["tcp://0.0.0.0:1234"]
            gid = 7
            [grpc.tls]
            cert = "/c"
            key = "/k"
            ca = "/a"
            [dns]
            nameservers = ["1.1.1.1"]
            searchDomains = ["example.com"]
            [history]
            maxAge = 172800
            maxEntries = 5
            [worker.oci]
            snapshotter = "native"
            networkMode = "host"
            max-parallelism = 4
            gckeepstorage = "10GB"
            [[worker.oci.gcpolicy]]
            keepDuration = "48h"
            keepBytes = 512
            filters = ["type==source.local"]
            [registry."docker.io"]
            mirrors = ["127.0.0.1:5000"]
            [registry."127.0.0.1:5000"]
            http = true
            [[registry."127.0.0.1:5000".keypair]]
            key = "/key"
            cert = "/cert"
            [frontend."gateway.v0"]
            enabled = false
            allowedRepositories = ["docker/dockerfile"]
            [system]
            maxRegistryConcurrency = 9
            "#,
        );
        assert_eq!(config.root, Path::new("/state"));
        assert_eq!(config.log.level, "debug");
        assert_eq!(config.addresses, ["tcp://0.0.0.0:1234"]);
        assert_eq!(config.socket_owner.gid, Some(7));
        assert_eq!(config.tls.unwrap().client_ca.unwrap(), Path::new("/a"));
        assert_eq!(config.dns.search_domains, ["example.com"]);
        assert_eq!(config.history.max_age, Duration::from_secs(172_800));
        assert_eq!(config.worker.snapshotter, Snapshotter::Native);
        assert_eq!(config.worker.network, NetworkMode::Host);
        assert_eq!(config.worker.max_parallelism, Some(4));
        assert_eq!(
            config.worker.gc.space.reserved,
            DiskSpace::Bytes(10_000_000_000)
        );
        let policy = &config.worker.gc.policies[0];
        assert_eq!(policy.keep_duration, Duration::from_secs(172_800));
        assert_eq!(policy.space.max_used, DiskSpace::Bytes(512));
        assert_eq!(config.registries["docker.io"].mirrors, ["127.0.0.1:5000"]);
        assert_eq!(config.registries["127.0.0.1:5000"].http, Some(true));
        assert_eq!(config.registries["127.0.0.1:5000"].keypairs.len(), 1);
        assert!(!config.frontends.gateway);
        assert_eq!(config.max_registry_concurrency, 9);
    }

    #[test]
    fn wrong_values_name_their_key() {
        let mut config = Config::new("/root".into(), "unix:///sock".into());
        let file: File = toml::from_str("[worker.oci]\nnetworkMode = \"moon\"").unwrap();
        let error = file.apply(&mut config).unwrap_err().to_string();
        assert!(
            error.contains("worker.oci.networkMode") && error.contains("moon"),
            "{error}"
        );
    }
}
