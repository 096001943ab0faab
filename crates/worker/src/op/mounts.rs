//! What is mounted in a step's container.

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use executor::files::{ResolvMode, file_mount, hosts_file, resolv_conf};
use executor::{MountAt, Network};
use llb::{CacheSharing, Mount, MountKind};
use refs::{Meta, Mutable, MutableOptions, RecordType, Sharing};
use snapshot::{Active, LayerId, Snapshots};
use sys::mount::{Bind, MountFd};
use sys::root::RootDir;

use super::Made;
use super::exec::Step;
use super::secret::{self, Secret};
use super::ssh::{self, Agent};
use super::untouched;
use crate::events::Events;
use crate::failure::{Failure, blocking};
use crate::sessions::Sessions;
use crate::state::Shared;

/// Where an ssh agent's socket is put when the step does not say.
const SSH_DIR: &str = "/run/buildkit";

/// The permissions of a directory in memory where none was before.
const TMPFS_MODE: u32 = 0o1777;

/// The mounts of a step, and what keeps them alive while it runs.
pub(crate) struct Mounts {
    /// The root filesystem; taken for the container.
    pub(crate) root: Option<MountFd>,
    pub(crate) readonly_root: bool,
    /// All others, parents before children; taken for the container.
    pub(crate) others: Vec<MountAt>,
    /// Where the first ssh agent is.
    pub(crate) ssh_socket: Option<String>,
    /// Each mount by its place in the op, where somebody may look into them.
    pub(crate) views: Vec<Option<RootDir>>,
    outputs: Vec<Option<Made>>,
    _agents: Vec<Agent>,
    _caches: Vec<Mutable>,
    /// Changes that are thrown away with the step.
    _discarded: Vec<Active>,
    snapshots: Snapshots,
}

impl Mounts {
    /// The mounts, for the container.
    pub(crate) fn take(&mut self) -> Vec<MountAt> {
        std::mem::take(&mut self.others)
    }

    /// What the mounts hold once the container is gone.
    pub(crate) fn outputs(self) -> Result<Vec<Made>, Failure> {
        for made in self.outputs.iter().flatten() {
            if let Made::New(active) = made {
                untouched::forget(active, &self.snapshots).map_err(Failure::host)?;
            }
        }
        Ok(self.outputs.into_iter().flatten().collect())
    }

    /// What each mount of `op` holds that could have been an output, once the container is gone.
    pub(crate) fn left(mut self, op: &llb::ExecOp) -> Vec<Option<Made>> {
        let outputs = op.mounts.iter().map(|mount| mount.output);
        let mut take = |output: u32| self.outputs.get_mut(output as usize)?.take();
        outputs.map(|output| output.and_then(&mut take)).collect()
    }
}

/// Prepares all mounts of a step.
pub(crate) async fn prepare(
    shared: &Shared,
    step: &Step<'_>,
    network: Network,
    sessions: &Sessions,
    events: &Events,
) -> Result<Mounts, Failure> {
    let mut mounts = Mounts {
        root: None,
        readonly_root: false,
        others: vec![etc_resolv_conf(shared, network)?, etc_hosts(step)?],
        ssh_socket: None,
        views: Vec::new(),
        outputs: (0..step.op.outputs()).map(|_| None).collect(),
        _agents: Vec::new(),
        _caches: Vec::new(),
        _discarded: Vec::new(),
        snapshots: shared.refs.snapshots().clone(),
    };
    let mut sorted: Vec<(usize, &Mount)> = step.op.mounts.iter().enumerate().collect();
    // A mount must not hide one below it.
    sorted
        .sort_by_key(|(_, mount)| mount.dest.matches('/').count() - usize::from(mount.dest == "/"));
    if step.browsed {
        mounts.views.resize_with(step.op.mounts.len(), || None);
    }
    for (index, mount) in sorted {
        let fd = match &mount.kind {
            MountKind::Bind => {
                Some(bind(shared, step, mount, &mut mounts, sessions, events).await?)
            }
            MountKind::Cache(cache) => {
                let (fd, dir) = cache_mount(shared, step, mount, cache, sessions, events).await?;
                mounts._caches.push(dir);
                Some(fd)
            }
            MountKind::Tmpfs { size } => {
                let size = u64::try_from(size.unwrap_or(0)).unwrap_or(0);
                let mode = tmpfs_mode(mounts.root.as_ref(), &destination(step.op, mount, index))
                    .map_err(Failure::host)?;
                Some(memory(size, mode, sys::mount::Attr::NOSUID).map_err(Failure::host)?)
            }
            MountKind::Secret(wanted) => match Secret::fetch(sessions, &wanted.id).await? {
                Some(value) => Some(value.into_file(wanted)?),
                None if wanted.optional => None,
                None => return Err(secret::missing(&wanted.id)),
            },
            MountKind::Ssh(wanted) => {
                match Agent::forward(sessions, wanted, &shared.scratch).await? {
                    Some(agent) => {
                        let fd = agent.mount.try_clone().map_err(Failure::host)?;
                        mounts._agents.push(agent);
                        mounts
                            .ssh_socket
                            .get_or_insert_with(|| destination(step.op, mount, index));
                        Some(fd)
                    }
                    None if wanted.optional => None,
                    None => return Err(ssh::missing(&wanted.id)),
                }
            }
        };
        if let (Some(view), Some(fd)) = (mounts.views.get_mut(index), &fd) {
            let clone = fd.try_clone().map_err(Failure::host)?;
            *view = Some(RootDir::from_fd(clone.into_fd()));
        }
        match fd {
            Some(fd) if mount.dest == "/" => {
                mounts.readonly_root = mount.readonly;
                mounts.root = Some(fd);
            }
            Some(fd) => mounts.others.push(MountAt {
                mount: fd,
                destination: PathBuf::from(destination(step.op, mount, index)),
                readonly: mount.readonly,
            }),
            None => {}
        }
    }
    Ok(mounts)
}

/// Where a mount is; what is not absolute is in the step's directory.
fn destination(op: &llb::ExecOp, mount: &Mount, index: usize) -> String {
    match mount.kind {
        MountKind::Ssh(_) if mount.dest.is_empty() => format!("{SSH_DIR}/ssh_agent.{index}"),
        _ if mount.dest.starts_with('/') => mount.dest.clone(),
        _ => {
            let directory = op.meta.cwd.trim_matches('/');
            let path = Path::new("/").join(directory).join(&mount.dest);
            path.to_string_lossy().into_owned()
        }
    }
}

/// An empty directory in memory; `size` 0 is the kernel's default.
pub(super) fn memory(size: u64, mode: u32, flags: u64) -> std::io::Result<MountFd> {
    let (mode, bytes) = (format!("{mode:o}"), size.to_string());
    let options = [
        ("mode", Some(mode.as_str())),
        ("size", Some(bytes.as_str())),
    ];
    let used = if size > 0 {
        &options[..]
    } else {
        &options[..1]
    };
    sys::mount::filesystem("tmpfs", used, flags)
}

/// The permissions of a directory in memory: those of the directory that it hides, as runc has it.
fn tmpfs_mode(root: Option<&MountFd>, dest: &str) -> std::io::Result<u32> {
    let Some(root) = root else {
        return Ok(TMPFS_MODE);
    };
    let root = RootDir::from_fd(root.try_clone()?.into_fd());
    match root.stat(Path::new(dest), sys::root::Follow::Yes) {
        Ok(hidden) if hidden.kind == sys::root::FileKind::Dir => Ok(hidden.mode & 0o7777),
        Ok(_) | Err(_) => Ok(TMPFS_MODE),
    }
}

fn etc_resolv_conf(shared: &Shared, network: Network) -> Result<MountAt, Failure> {
    let mode = match network {
        Network::Host => ResolvMode::Host,
        Network::None | Network::Bridge => ResolvMode::Isolated,
    };
    generated("/etc/resolv.conf", &resolv_conf(mode, &shared.options.dns))
}

fn etc_hosts(step: &Step<'_>) -> Result<MountAt, Failure> {
    let meta = &step.op.meta;
    let extra = meta.extra_hosts.iter().map(|host| {
        let address: IpAddr = host.ip.parse().map_err(|_| {
            Failure::user(format!(
                "host {} has the invalid address {}",
                host.host, host.ip
            ))
        })?;
        Ok((host.host.clone(), address))
    });
    let extra = extra.collect::<Result<Vec<_>, Failure>>()?;
    generated("/etc/hosts", &hosts_file(&meta.hostname, &extra))
}

fn generated(path: &str, text: &str) -> Result<MountAt, Failure> {
    let mount = file_mount(text.as_bytes(), 0o644, 0, 0).map_err(Failure::host)?;
    Ok(MountAt {
        mount,
        destination: PathBuf::from(path),
        readonly: true,
    })
}

/// The layers of the mount's input, here.
async fn stack(
    shared: &Shared,
    step: &Step<'_>,
    mount: &Mount,
    sessions: &Sessions,
    events: &Events,
) -> Result<Vec<LayerId>, Failure> {
    let Some(n) = mount.input else {
        return Ok(Vec::new());
    };
    match step.inputs.get(n as usize) {
        Some(Some(input)) => shared.stack(input, sessions, Some(events)).await,
        Some(None) | None => Ok(Vec::new()),
    }
}

async fn bind(
    shared: &Shared,
    step: &Step<'_>,
    mount: &Mount,
    mounts: &mut Mounts,
    sessions: &Sessions,
    events: &Events,
) -> Result<MountFd, Failure> {
    let layers = stack(shared, step, mount, sessions, events).await?;
    let snapshots = shared.refs.snapshots().clone();
    // Mount points are made in the root; it is made read-only after that, by the container's spec.
    let readonly = mount.readonly && mount.dest != "/";
    let (fd, made) = blocking(move || {
        if readonly {
            let view = snapshots.view(&layers).map_err(Failure::host)?;
            return Ok((view, Made::Same(layers)));
        }
        let active = snapshots.prepare(&layers).map_err(Failure::host)?;
        Ok((active.mount().map_err(Failure::host)?, Made::New(active)))
    })
    .await?;
    match (mount.output, made) {
        (Some(output), made) => mounts.outputs[output as usize] = Some(made),
        (None, Made::New(active)) => mounts._discarded.push(active),
        (None, Made::Same(_)) => {}
    }
    select(fd, &mount.selector, readonly)
}

/// The part of a mount that `selector` names.
fn select(mount: MountFd, selector: &str, readonly: bool) -> Result<MountFd, Failure> {
    if selector.trim_matches('/').is_empty() {
        return Ok(mount);
    }
    let root = RootDir::from_fd(mount.try_clone().map_err(Failure::host)?.into_fd());
    let part = root
        .resolve(Path::new(selector), sys::root::Follow::Yes)
        .map_err(|error| Failure::user(format!("failed to mount {selector}: {error}")))?;
    sys::mount::bind_clone(
        part.as_fd(),
        Bind {
            readonly,
            recursive: false,
        },
    )
    .map_err(Failure::host)
}

async fn cache_mount(
    shared: &Shared,
    step: &Step<'_>,
    mount: &Mount,
    cache: &llb::CacheMount,
    sessions: &Sessions,
    events: &Events,
) -> Result<(MountFd, Mutable), Failure> {
    // Its first content must be here to be mounted.
    stack(shared, step, mount, sessions, events).await?;
    let base = mount
        .input
        .and_then(|n| step.inputs.get(n as usize)?.clone());
    let id = if cache.id.is_empty() {
        &mount.dest
    } else {
        &cache.id
    };
    let key = format!("cache mount {id}");
    // Steps of one build that share it see what the others did.
    let fresh = step.ignore_cache && shared.is_first_use(step.job, &key);
    let options = MutableOptions {
        key,
        base,
        sharing: match cache.sharing {
            CacheSharing::Shared => Sharing::Shared,
            CacheSharing::Private => Sharing::Private,
            CacheSharing::Locked => Sharing::Locked,
        },
        fresh,
        meta: Meta {
            description: format!(
                "cached mount {} from exec {} with id {}",
                mount.dest,
                oci::redact_text(&step.op.meta.args.join(" ")),
                crate::quote::quote(id)
            ),
            record_type: RecordType::CacheMount,
            created: SystemTime::now(),
        },
    };
    let dir = shared.refs.mutable(options).await.map_err(Failure::host)?;
    let whole = dir.mount().map_err(Failure::host)?;
    if dir.is_new() && mount.input.is_none() {
        let root = RootDir::from_fd(whole.try_clone().map_err(Failure::host)?.into_fd());
        root.chmod(Path::new(""), 0o755).map_err(Failure::host)?;
    }
    Ok((select(whole, &mount.selector, mount.readonly)?, dir))
}
