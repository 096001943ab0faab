//! From a request to a container that is ready to start.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use executor::files::{ResolvMode, file_mount, hosts_file, resolv_conf};
use executor::{MountAt, Network};
use oci::ImageConfig;
use proto::worker as wire;
use refs::Ref;
use snapshot::Active;
use sys::mount::{Bind, MountFd};
use sys::root::RootDir;
use tokio::sync::watch;

use super::log::Log;
use super::record::{Mount, Port, Record, State, is_host_path, is_name};
use super::{Entry, Further, Made, make_dir};
use crate::audience::Rights;
use crate::failure::{Failure, blocking, chain};
use crate::sessions::Sessions;
use crate::state::{Shared, id};

/// Where named volumes are kept, below the worker's state.
const VOLUMES: &str = "volumes";

/// What a container starts with.
pub(super) struct Prepared {
    pub(super) step: executor::spec::StepSpec,
    pub(super) rootfs: MountFd,
    pub(super) mounts: Vec<MountAt>,
    pub(super) network: Network,
}

/// Makes a container for someone with `rights` and answers its id.
pub(crate) async fn create(
    shared: &Arc<Shared>,
    request: wire::CreateContainerRequest,
    rights: Rights,
) -> Result<String, Failure> {
    let (reference, config, image, image_id) = origin(shared, &request)?;
    let config: ImageConfig = match config.is_empty() {
        true => ImageConfig::default(),
        false => serde_json::from_slice(&config).map_err(|error| {
            Failure::user(chain(&error)).context("failed to read the image's config")
        })?,
    };
    let id = random_id()?;
    let name = name(&request, &id)?;
    let args = args(&request, &config)?;
    let network = network(shared, &request.network)?;
    let host_files = request.mounts.iter().any(|m| is_host_path(&m.source));
    rights.check(host_files, network == Network::Host)?;
    let ports = request
        .ports
        .iter()
        .map(Port::parse)
        .collect::<Result<Vec<_>, _>>()?;
    if !ports.is_empty() && network != Network::Bridge {
        return Err(Failure::user(
            "ports can be published only on the bridge network; leave `-p` out on the host network",
        ));
    }
    let dir = shared.containers.dir.join(&id);
    let (active, rootfs) = layer(shared, reference.as_ref()).await?;
    let root = RootDir::from_fd(rootfs.try_clone().map_err(Failure::host)?.into_fd());
    let user = if request.user.is_empty() {
        &config.config.user
    } else {
        &request.user
    };
    let ids = executor::user::lookup(&root, user).map_err(|e| Failure::user(chain(&e)))?;
    drop(root);
    let hostname = match request.hostname.as_str() {
        "" => id[..12].to_owned(),
        name => name.to_owned(),
    };
    let mut mounts = vec![
        text(
            "/etc/resolv.conf",
            &resolv_conf(resolv_mode(network), &shared.options.dns),
        )?,
        text("/etc/hosts", &hosts_file(&hostname, &[]))?,
        text("/etc/hostname", &format!("{hostname}\n"))?,
    ];
    for mount in &request.mounts {
        mounts.push(bind(shared, mount)?);
    }
    let cwd = if request.cwd.is_empty() {
        &config.config.working_dir
    } else {
        &request.cwd
    };
    let further = Further {
        env: env(&request, &config, &hostname),
        cwd: if cwd.is_empty() {
            "/".to_owned()
        } else {
            cwd.clone()
        },
        user: user.clone(),
    };
    let step = executor::spec::StepSpec {
        args: args.clone(),
        env: further.env.clone(),
        cwd: further.cwd.clone(),
        user: ids,
        hostname,
        ulimits: Vec::new(),
        limits: sys::cgroup::Limits::default(),
        security: executor::spec::Security::Sandbox,
        readonly_rootfs: false,
        shm_size_bytes: 0,
        oom_score_adj: None,
    };
    let record = Record {
        id: id.clone(),
        name,
        image,
        image_id,
        command: args,
        created: SystemTime::now(),
        state: State::Created,
        ports,
        mounts: request
            .mounts
            .iter()
            .map(|m| Mount {
                source: m.source.clone(),
                destination: m.destination.clone(),
                readonly: m.readonly,
            })
            .collect(),
        labels: request.labels.clone(),
        network: network_name(network).to_owned(),
        stop_signal: match request.stop_signal.as_str() {
            "" => config.config.stop_signal.clone(),
            signal => signal.to_owned(),
        },
        auto_remove: request.auto_remove,
        tty: request.tty,
        open_stdin: request.open_stdin,
    };
    super::signal_number(&record.stop_signal)?;
    make_dir(&dir)?;
    let log = Log::open(&dir.join("log"), false).map_err(Failure::host)?;
    record.save(&dir)?;
    let prepared = Prepared {
        step,
        rootfs,
        mounts,
        network,
    };
    shared.containers.add(Entry {
        dir,
        record: Mutex::new(record),
        log,
        made: Mutex::new(Some(Made {
            spec: Box::new(prepared),
        })),
        further,
        live: Mutex::new(None),
        stdin: tokio::sync::Mutex::new(None),
        layer: Mutex::new(Some(active)),
        exit: watch::Sender::new(None),
        _image: reference,
    })?;
    Ok(id)
}

type Origin = (Option<Ref>, Vec<u8>, String, String);

/// The files and the config that a container is made of, and the name and id of its image.
fn origin(shared: &Shared, request: &wire::CreateContainerRequest) -> Result<Origin, Failure> {
    if !request.r#ref.is_empty() {
        let digest = id(&request.r#ref)?;
        let found = shared.refs.get(&digest).ok_or_else(|| {
            Failure::not_found(format!(
                "build result {digest} is not there any more; build it again"
            ))
        })?;
        return Ok((
            Some(found),
            request.config.to_vec(),
            String::new(),
            digest.to_string(),
        ));
    }
    let (image, found) = crate::store::find(shared, &request.image)?;
    Ok((
        Some(found),
        image.config.clone().into_bytes(),
        request.image.clone(),
        image.id.to_string(),
    ))
}

async fn layer(
    shared: &Arc<Shared>,
    reference: Option<&Ref>,
) -> Result<(Active, MountFd), Failure> {
    let stack = match reference {
        Some(found) => {
            shared
                .stack(found, &Sessions::none(&shared.tunnel), None)
                .await?
        }
        None => Vec::new(),
    };
    let snapshots = shared.refs.snapshots().clone();
    blocking(move || {
        let active = snapshots.prepare(&stack).map_err(Failure::host)?;
        let mount = active.mount().map_err(Failure::host)?;
        Ok((active, mount))
    })
    .await
}

/// What is run: the entry point and what follows it, as Docker puts them together.
fn args(
    request: &wire::CreateContainerRequest,
    config: &ImageConfig,
) -> Result<Vec<String>, Failure> {
    let entrypoint = match &request.entrypoint {
        Some(given) if given.is_empty() => Vec::new(),
        Some(given) => vec![given.clone()],
        None => config.config.entrypoint.clone().unwrap_or_default(),
    };
    let rest = if request.args.is_empty() && request.entrypoint.is_none() {
        config.config.cmd.clone().unwrap_or_default()
    } else {
        request.args.clone()
    };
    let args: Vec<String> = entrypoint.into_iter().chain(rest).collect();
    if args.is_empty() {
        return Err(Failure::user(
            "no command: the image has neither an entry point nor a command; give one after the \
             image's name",
        ));
    }
    Ok(args)
}

/// Sets a variable, which may have been set before.
pub(super) fn set_env(env: &mut Vec<String>, entry: String) {
    let name = entry.split('=').next().unwrap_or_default().to_owned();
    env.retain(|known| known.split('=').next() != Some(name.as_str()));
    env.push(entry);
}

fn env(
    request: &wire::CreateContainerRequest,
    config: &ImageConfig,
    hostname: &str,
) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry| set_env(&mut env, entry);
    set("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    set(format!("HOSTNAME={hostname}"));
    if request.tty {
        set("TERM=xterm".to_owned());
    }
    config.config.env.iter().cloned().for_each(&mut set);
    request.env.iter().cloned().for_each(&mut set);
    env
}

fn name(request: &wire::CreateContainerRequest, id: &str) -> Result<String, Failure> {
    match request.name.as_str() {
        "" => {
            let image = request.image.rsplit('/').next().unwrap_or_default();
            let stem: String = image
                .split([':', '@'])
                .next()
                .unwrap_or_default()
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
                .collect();
            let stem = if is_name(&stem) {
                stem
            } else {
                "container".to_owned()
            };
            Ok(format!("{stem}-{}", &id[..6]))
        }
        given if is_name(given) => Ok(given.to_owned()),
        given => Err(Failure::user(format!(
            "invalid container name `{given}`: only letters, digits, `_`, `.` and `-` are allowed"
        ))),
    }
}

fn network(shared: &Shared, name: &str) -> Result<Network, Failure> {
    match name {
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        "bridge" => Ok(Network::Bridge),
        "" | "default" => Ok(if shared.options.bridge {
            Network::Bridge
        } else {
            Network::Host
        }),
        other => Err(Failure::user(format!(
            "unknown network `{other}`: expected bridge, host or none"
        ))),
    }
}

fn network_name(network: Network) -> &'static str {
    match network {
        Network::None => "none",
        Network::Host => "host",
        Network::Bridge => "bridge",
    }
}

fn resolv_mode(network: Network) -> ResolvMode {
    match network {
        Network::Host => ResolvMode::Host,
        Network::None | Network::Bridge => ResolvMode::Isolated,
    }
}

fn text(path: &str, text: &str) -> Result<MountAt, Failure> {
    let mount = file_mount(text.as_bytes(), 0o644, 0, 0).map_err(Failure::host)?;
    Ok(MountAt {
        mount,
        destination: PathBuf::from(path),
        readonly: false,
    })
}

/// A path of the host, or a volume that is made when it is first named.
fn bind(shared: &Shared, mount: &wire::BindMount) -> Result<MountAt, Failure> {
    if !mount.destination.starts_with('/') {
        return Err(Failure::user(format!(
            "invalid mount `{}:{}`: the path in the container must be absolute",
            mount.source, mount.destination
        )));
    }
    let path = if is_host_path(&mount.source) {
        PathBuf::from(&mount.source)
    } else if is_name(&mount.source) {
        let path = shared.options.state_dir.join(VOLUMES).join(&mount.source);
        make_dir(&path)?;
        path
    } else {
        return Err(Failure::user(format!(
            "invalid mount source `{}`: expected an absolute path or a volume's name",
            mount.source
        )));
    };
    let open = || -> std::io::Result<MountFd> {
        let root = RootDir::open(Path::new("/"))?;
        let source = root.resolve(&path, sys::root::Follow::Yes)?;
        sys::mount::bind_clone(
            source.as_fd(),
            Bind {
                readonly: mount.readonly,
                recursive: true,
            },
        )
    };
    let fd = open()
        .map_err(|error| Failure::user(format!("failed to mount `{}`: {error}", path.display())))?;
    Ok(MountAt {
        mount: fd,
        destination: PathBuf::from(&mount.destination),
        readonly: mount.readonly,
    })
}

fn random_id() -> Result<String, Failure> {
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Failure::host)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
