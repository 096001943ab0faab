//! What a daemon is made of.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use buildcache::LocalIndex;
use content::Content;
use control::{Control, History, Version};
use engine::{AllowedEntitlements, Engine};
use executor::files::DnsOptions;
use executor::{Launcher, LauncherOptions, Network, NetworkOptions};
use oci::Platform;
use refs::{Db, PruneOptions, Refs};
use rpc::calls::Calls;
use session::{Proxy, Sessions};
use snapshot::{Kind, Snapshots};
use spans::Recorder;
use tonic::service::Routes;
use tonic::transport::Server;
use worker::{ClientRules, WorkerService};

use super::sources::registry_options;
use crate::config::{Config, Dns, Gc, NetworkMode, Snapshotter, Space};

/// The control group below which those of containers are made, unless the configuration names one.
const CGROUP_PARENT: &str = "drydock";

/// A running daemon without its listeners.
pub(super) struct Daemon {
    sessions: Sessions,
    engine: Engine,
    control: Control,
    history: History,
    recorder: Recorder,
    worker: WorkerService,
    rules: ClientRules,
}

impl Daemon {
    /// Opens the state, starts a worker on it, and an engine on that.
    pub(super) async fn start(config: &Config) -> anyhow::Result<Daemon> {
        refuse_what_is_not_kept(config)?;
        let launcher = Launcher::start(launcher_options(config)?);
        let (root, kind) = (config.root.clone(), kind(config.worker.snapshotter));
        let state = tokio::task::spawn_blocking(move || State::open(&root, kind));
        let (launcher, state) = tokio::join!(launcher, state);
        let launcher = launcher.context("failed to start the launcher of containers")?;
        let State { refs, index } = state.context("opening the state was cut short")??;

        let registry = registry::Registry::new(registry_options(config))
            .context("failed to set up registries")?;
        let user_agent = concat!("drydock/", env!("CARGO_PKG_VERSION"));
        let client = registry::http_client(user_agent).context("failed to set up downloads")?;
        let parts = worker::Parts {
            http: source::Http::new(client, refs.snapshots().clone()),
            launcher,
            registry,
            refs: refs.clone(),
        };
        let recorder = recorder()?;
        let worker_options = worker::Options {
            trace_socket: super::trace::listen(&recorder, config),
            ..worker_options(config, &refs)?
        };
        let worker = WorkerService::new(parts, worker_options)?;

        let sessions = Sessions::new();
        let proxy = Proxy::new(sessions.clone()).recorded(recorder.clone());
        let connected = connect(&worker, proxy).await?;
        let allowed = allowed(&config.insecure_entitlements, config.devices.enabled);
        let options = engine::Options {
            allowed,
            max_parallelism: config.worker.max_parallelism,
            logs: config.root.clone(),
            frontends: config.frontends.clone().into(),
        };
        let engine = Engine::new(connected, sessions.clone(), index, options);
        let version = Version {
            package: "github.com/moby/buildkit".to_owned(),
            version: crate::buildkit_version().to_owned(),
            revision: crate::revision().to_owned(),
            dockerfile: engine::provenance::DOCKERFILE_VERSION.to_owned(),
        };
        let retention = control::Retention {
            max_age: config.history.max_age,
            max_entries: config.history.max_entries,
        };
        let history = History::open(refs, retention);
        let control = Control::new(
            engine.clone(),
            sessions.clone(),
            history.clone(),
            recorder.clone(),
            version,
        );
        Ok(Daemon {
            sessions,
            engine,
            control,
            history,
            recorder,
            worker,
            rules: ClientRules {
                host_network: allowed.network_host,
            },
        })
    }

    /// All that clients can call.
    pub(super) fn routes(&self) -> Routes {
        let worker = self.worker.client_server(self.rules);
        self.control.routes().add_service(worker)
    }

    /// What is recorded of the calls of clients.
    pub(super) fn serving(&self) -> spans::Serving {
        self.recorder.layer()
    }

    /// Whether no client, build or container needs the daemon.
    pub(super) fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && self.engine.running() == 0
            && self.worker.running_containers() == 0
    }

    /// What can be looked at while the daemon runs.
    pub(super) fn probe(&self, calls: Calls) -> Probe {
        Probe {
            sessions: self.sessions.clone(),
            engine: self.engine.clone(),
            worker: self.worker.clone(),
            calls,
        }
    }

    /// Ends builds and containers, and makes all that was recorded durable.
    pub(super) async fn shutdown(self) {
        self.engine.shutdown().await;
        self.history.finish().await;
        self.recorder.shutdown().await;
        self.worker.shutdown().await;
    }
}

/// Looks at a running daemon.
#[derive(Clone)]
pub(super) struct Probe {
    sessions: Sessions,
    engine: Engine,
    worker: WorkerService,
    calls: Calls,
}

impl Probe {
    /// Builds that run.
    pub(super) fn builds(&self) -> usize {
        self.engine.running()
    }

    /// Clients with a session.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Containers of users that run.
    pub(super) fn containers(&self) -> usize {
        self.worker.running_containers()
    }

    /// Calls that are not answered yet.
    pub(super) fn calls(&self) -> usize {
        self.calls.count()
    }
}

/// What is on the disk.
struct State {
    refs: Refs,
    index: Arc<LocalIndex>,
}

impl State {
    fn open(root: &Path, kind: Kind) -> anyhow::Result<State> {
        let db = Db::open(&root.join("drydock.db"))?;
        let snapshots = Snapshots::open(&root.join("snapshots"), kind)?;
        let content = Content::open(&root.join("content"))?;
        let refs = Refs::open(db.clone(), snapshots, content, refs::Options::default())?;
        let index = Arc::new(LocalIndex::open(db, |ids| refs.exists(ids))?);
        let evicted = Arc::downgrade(&index);
        refs.on_evicted(move |ids| {
            if let Some(index) = evicted.upgrade() {
                index.evicted(ids);
            }
        });
        Ok(State { refs, index })
    }
}

/// Refuses a configuration that asks for protection which this daemon does not give; what it does
/// better than asked for is only told.
fn refuse_what_is_not_kept(config: &Config) -> anyhow::Result<()> {
    let worker = &config.worker;
    if !worker.enabled {
        bail!(
            "the only worker is disabled: leave out `--oci-worker=false` and `enabled = false` of [worker.oci]"
        );
    }
    if let Some(profile) = worker
        .apparmor_profile
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        bail!(
            "AppArmor profile `{profile}` would not be applied: this daemon confines steps by capabilities and \
               seccomp only; leave `apparmor-profile` out"
        );
    }
    if worker.rootless {
        tracing::warn!("`rootless` changes nothing: the daemon runs as the user who started it");
    }
    if worker.no_process_sandbox {
        tracing::info!(
            "`noProcessSandbox` changes nothing: steps always have process namespaces of their own"
        );
    }
    Ok(())
}

fn kind(snapshotter: Snapshotter) -> Kind {
    match snapshotter {
        Snapshotter::Auto => Kind::Auto,
        Snapshotter::Overlayfs => Kind::Overlay,
        Snapshotter::Native => Kind::Native,
    }
}

fn launcher_options(config: &Config) -> anyhow::Result<LauncherOptions> {
    let worker = &config.worker;
    if let Some(binary) = &worker.binary {
        tracing::warn!(
            binary = %binary.display(),
            "this daemon runs containers itself; the configured OCI runtime is not used"
        );
    }
    let state_dir = config.root.join("executor");
    std::fs::create_dir_all(&state_dir)
        .with_context(|| format!("failed to create `{}`", state_dir.display()))?;
    Ok(LauncherOptions {
        program: std::env::current_exe().context("failed to find the program itself")?,
        arguments: Vec::new(),
        state_dir,
        cgroup_parent: worker
            .cgroup_parent
            .clone()
            .unwrap_or_else(|| CGROUP_PARENT.to_owned()),
        network: NetworkOptions {
            enabled: worker.network != NetworkMode::None,
            bridge_name: worker.bridge_name.clone(),
            subnet: worker.bridge_subnet.clone(),
            ..NetworkOptions::default()
        },
    })
}

/// The network of steps. As in BuildKit, what is not configured is the host's unless the
/// environment asks for a bridge and there can be one.
fn step_network(mode: NetworkMode, bridge: bool) -> Network {
    let wanted = std::env::var("BUILDKIT_NETWORK_BRIDGE_AUTO");
    let wanted = wanted.is_ok_and(|value| matches!(value.as_str(), "1" | "true" | "TRUE" | "t"));
    match mode {
        NetworkMode::Bridge => Network::Bridge,
        NetworkMode::Host => Network::Host,
        NetworkMode::None => Network::None,
        NetworkMode::Auto if wanted && bridge => Network::Bridge,
        NetworkMode::Auto => Network::Host,
    }
}

fn worker_options(config: &Config, refs: &Refs) -> anyhow::Result<worker::Options> {
    let given = &config.worker;
    let bridge = given.network != NetworkMode::None && bridge_available();
    let step_network = step_network(given.network, bridge);
    let state_dir = config.root.join("worker");
    std::fs::create_dir_all(&state_dir)
        .with_context(|| format!("failed to create `{}`", state_dir.display()))?;
    let mut platforms = vec![Platform::host()];
    if given.platforms.is_empty() {
        platforms.extend(also_run_here()?);
    }
    for text in &given.platforms {
        let platform: Platform = text
            .parse()
            .with_context(|| format!("invalid platform `{text}` of the worker"))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(worker::Options {
        id: worker_id(&config.root)?,
        labels: labels(&given.labels, refs.snapshots().name(), step_network),
        platforms,
        version: crate::buildkit_version().to_owned(),
        step_network,
        bridge,
        dns: dns(&config.dns)?,
        gc: policies(&given.gc, refs)?,
        state_dir,
        devices: worker::DeviceOptions {
            directories: match config.devices.enabled {
                true => config.devices.directories.clone(),
                false => Vec::new(),
            },
            auto_allowed: config.devices.auto_allowed.clone(),
        },
        trace_socket: None,
        log_limits: log_limits()?,
    })
}

/// What BuildKit's variables say of the output of steps.
fn log_limits() -> anyhow::Result<worker::LogLimits> {
    let [size, speed] = ["BUILDKIT_STEP_LOG_MAX_SIZE", "BUILDKIT_STEP_LOG_MAX_SPEED"]
        .map(|name| std::env::var(name).ok());
    worker::LogLimits::parse(size.as_deref(), speed.as_deref()).map_err(anyhow::Error::msg)
}

/// What else the processor runs: the levels of its architecture, and the older one.
fn also_run_here() -> anyhow::Result<Vec<Platform>> {
    let mut names = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let second = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
        let third = second
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe");
        let fourth = third
            && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl");
        let levels = [
            (second, "linux/amd64/v2"),
            (third, "linux/amd64/v3"),
            (fourth, "linux/amd64/v4"),
            (true, "linux/386"),
        ];
        names.extend(
            levels
                .into_iter()
                .filter(|(has, _)| *has)
                .map(|(_, name)| name),
        );
    }
    let parse = |name: &str| {
        name.parse()
            .with_context(|| format!("invalid platform `{name}`"))
    };
    names.into_iter().map(parse).collect()
}

fn bridge_available() -> bool {
    match executor::bridge_available() {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(error = %rpc::status::chain(&error), "no bridge network");
            false
        }
    }
}

fn labels(
    given: &BTreeMap<String, String>,
    snapshotter: &str,
    network: Network,
) -> BTreeMap<String, String> {
    let network = match network {
        Network::None => "none",
        Network::Host => "host",
        Network::Bridge => "bridge",
    };
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let own = [
        ("executor", "oci"),
        ("hostname", hostname.as_str()),
        ("network", network),
        ("oci.process-mode", "sandbox"),
        ("selinux.enabled", "false"),
        ("snapshotter", snapshotter),
    ];
    let own = own.into_iter().map(|(name, value)| {
        (
            format!("org.mobyproject.buildkit.worker.{name}"),
            value.to_owned(),
        )
    });
    own.chain(given.clone()).collect()
}

fn dns(dns: &Dns) -> anyhow::Result<DnsOptions> {
    let address = |text: &String| {
        text.parse()
            .with_context(|| format!("invalid name server `{text}`: expected an IP address"))
    };
    Ok(DnsOptions {
        nameservers: dns
            .nameservers
            .iter()
            .map(address)
            .collect::<Result<_, _>>()?,
        options: dns.options.clone(),
        search_domains: dns.search_domains.clone(),
    })
}

fn policies(gc: &Gc, refs: &Refs) -> anyhow::Result<Vec<PruneOptions>> {
    if !gc.enabled {
        return Ok(Vec::new());
    }
    let disk = refs
        .snapshots()
        .disk_space()
        .context("failed to look at the room on the disk")?;
    let total = disk.total;
    let bounded = |mut policy: PruneOptions, space: Space| {
        let set = |bytes: &mut u64, to: u64| {
            if to > 0 {
                *bytes = to;
            }
        };
        set(&mut policy.reserved_space, space.reserved.of_disk(total));
        set(&mut policy.max_used_space, space.max_used.of_disk(total));
        set(&mut policy.min_free_space, space.min_free.of_disk(total));
        policy
    };
    if gc.policies.is_empty() {
        let mut defaults = refs::default_policies(disk);
        // The first has bounds of its own: it is for what is easily made again.
        for policy in defaults.iter_mut().skip(1) {
            *policy = bounded(policy.clone(), gc.space);
        }
        return Ok(defaults);
    }
    let given = gc.policies.iter().map(|given| {
        let policy = PruneOptions {
            filter: given.filters.clone(),
            all: given.all,
            keep_duration: given.keep_duration,
            reserved_space: 0,
            max_used_space: 0,
            min_free_space: 0,
        };
        bounded(policy, given.space)
    });
    Ok(given.collect())
}

/// The name that a worker has as long as its directory exists.
fn worker_id(root: &Path) -> anyhow::Result<String> {
    let path = root.join("workerid");
    let failed = || format!("failed to keep the worker's id in `{}`", path.display());
    if let Ok(id) = std::fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return Ok(id.trim().to_owned());
    }
    let mut random = [0u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .with_context(failed)?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&path, &id).with_context(failed)?;
    Ok(id)
}

/// What of the entitlements that the configuration names this daemon knows.
///
/// Devices need no entry of their own where there can be any: each has its own condition.
fn allowed(names: &[String], devices: bool) -> AllowedEntitlements {
    let has = |name: &str| names.iter().any(|given| given == name);
    AllowedEntitlements {
        network_host: has("network.host"),
        security_insecure: has("security.insecure"),
        device: devices || has("device"),
    }
}

/// What keeps traces, and sends them on where the environment says so.
fn recorder() -> anyhow::Result<Recorder> {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default();
    let exporter = spans::Exporter::from_environment().context("failed to set up traces")?;
    Ok(Recorder::new(&program.to_string_lossy(), exporter))
}

/// Serves `worker` in memory, and connects to it as to one on another machine.
async fn connect(worker: &WorkerService, proxy: Proxy) -> anyhow::Result<worker_client::Worker> {
    let (connector, incoming) = rpc::pipe::pipe();
    let server = Server::builder().add_service(worker.server());
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::error!(%error, "the local worker has ended");
        }
    });
    worker_client::Worker::connect(connector.channel(), proxy)
        .await
        .context("failed to reach the local worker")
}
