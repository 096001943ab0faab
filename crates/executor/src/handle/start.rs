//! Starting the launcher, after whatever an earlier one may have left.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use sys::cgroup::Parent;
use sys::fdpass::{Channel, Wait};
use sys::mount::Bind;
use sys::process::Program;
use tokio::sync::watch;

use super::{Inner, Launcher, LauncherOptions, Live, events};
use crate::LAUNCHER_NAME;
use crate::error::StartError;
use crate::network::{self, Pool};
use crate::plan;
use crate::protocol::{Configuration, Request, encode};
use crate::spec;

/// How long the launcher of a daemon that died may take to clean up.
const LOCK_LIMIT: Duration = Duration::from_secs(20);

/// In the state directory: directories for control groups that are not the daemon's, a line each.
const PARENTS: &str = "cgroup-parents";

/// Where programs for the network are looked for, if this process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Launcher {
    /// Removes what a crash left, starts a launcher process and waits until it is ready. Must be
    /// called inside a runtime, on which the launcher is listened to.
    ///
    /// # Errors
    /// Without the privileges to make namespaces and mounts, for example.
    pub async fn start(options: LauncherOptions) -> Result<Launcher, StartError> {
        let (channel, process) = spawned(&options, Sweep::All).await?;
        let owner = network::owner(&options.state_dir);
        let network = options.network.clone();
        let network = network
            .enabled
            .then(|| Pool::start(owner, network).map(Arc::new))
            .transpose()
            .map_err(failed("start a thread for the network"))?;
        let live = listen(channel, process, network.clone()).await?;
        Ok(Launcher {
            options,
            network,
            live: Mutex::new(live),
            starting: tokio::sync::Mutex::new(()),
        })
    }
}

/// Starts another process after one that has died. The network is there still.
pub(super) async fn again(
    options: &LauncherOptions,
    network: Option<Arc<Pool>>,
) -> Result<Live, StartError> {
    let (channel, process) = spawned(options, Sweep::Groups).await?;
    listen(channel, process, network).await
}

/// What is cleared away before a process is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sweep {
    Groups,
    All,
}

async fn spawned(
    options: &LauncherOptions,
    sweep: Sweep,
) -> Result<(Channel, OwnedFd), StartError> {
    let options = options.clone();
    let spawned = tokio::task::spawn_blocking(move || spawn(&options, sweep)).await;
    spawned.map_err(|error| failed("prepare")(io::Error::other(error)))?
}

/// Waits until a process is ready, and listens to it from then on.
async fn listen(
    channel: Channel,
    process: OwnedFd,
    network: Option<Arc<Pool>>,
) -> Result<Live, StartError> {
    let listening = channel.try_clone().and_then(crate::watch::watch);
    let listening = listening.map_err(failed("watch its channel"))?;
    let process = crate::watch::watch(process).map_err(failed("watch it"))?;
    let ready = events::ready(&listening).await;
    ready.map_err(failed("wait for it"))?;
    let inner = Arc::new(Inner::new(channel, network));
    let (sender, ended) = watch::channel(false);
    tokio::spawn(events::listen(
        Arc::clone(&inner),
        listening,
        process,
        sender,
    ));
    Ok(Live { inner, ended })
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError { what, source }
}

fn spawn(options: &LauncherOptions, sweep: Sweep) -> Result<(Channel, OwnedFd), StartError> {
    let mount_point = options.state_dir.join("launcher");
    std::fs::create_dir_all(&mount_point).map_err(failed("make its directory"))?;
    let lock = lock(&options.state_dir).map_err(failed("wait for an earlier one"))?;
    let swept = match sweep {
        Sweep::Groups => sweep_groups(&options.state_dir, &options.cgroup_parent),
        Sweep::All => self::sweep(&options.state_dir, &options.cgroup_parent),
    };
    swept.map_err(failed("clean up after an earlier one"))?;

    let (ours, theirs) = Channel::pair().map_err(failed("make a channel"))?;
    // A process of a container can come to hold the launcher's executable, by `/proc/self/exe` for
    // example. Through this mount it cannot be written, not even by root.
    let readonly = Bind {
        readonly: true,
        recursive: false,
    };
    let executable = sys::mount::bind_clone_path(&options.program, readonly)
        .map_err(failed("open the program"))?;
    let text = |text: &str| CString::new(text).map_err(io::Error::from);
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    let program = || -> io::Result<Program<'_>> {
        Ok(Program {
            executable: executable.as_fd(),
            arguments: [LAUNCHER_NAME]
                .into_iter()
                .chain(options.arguments.iter().map(String::as_str))
                .map(text)
                .collect::<io::Result<_>>()?,
            environment: vec![text(&format!("PATH={path}"))?],
            // It holds the lock as long as it lives, also if this process dies.
            descriptors: vec![theirs.as_fd(), lock.as_fd()],
        })
    };
    let program = program().map_err(failed("prepare its arguments"))?;
    let launcher = sys::process::spawn_in_pid_namespace(&program).map_err(failed("spawn it"))?;
    let configuration = Configuration {
        cgroup: group_path(&options.state_dir, &options.cgroup_parent)
            .display()
            .to_string(),
        mount_point: mount_point.display().to_string(),
        parents: options.state_dir.join(PARENTS).display().to_string(),
        // It cannot fail; if it does, containers make their filesystems themselves.
        mounts: plan::common(&spec::default_mounts(0, false)).unwrap_or_default(),
        owner: network::owner(&options.state_dir),
    };
    let message = encode(&Request::Configure(configuration), &()).map_err(io::Error::from);
    let message = message.map_err(failed("write its configuration"))?;
    ours.send(&message, &[], Wait::Yes)
        .map_err(failed("send its configuration"))?;
    Ok((ours, launcher))
}

/// Takes the lock that a live launcher of this directory holds.
fn lock(state_dir: &Path) -> io::Result<File> {
    let file = File::create(state_dir.join("launcher.lock"))?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes the control groups, with all processes in them, and the networks that a daemon with this
/// state directory and control group left when it died. [`Launcher::start`] does so itself.
///
/// # Errors
/// When something can be neither killed nor removed.
pub fn sweep(state_dir: &Path, cgroup_parent: &str) -> io::Result<()> {
    sweep_groups(state_dir, cgroup_parent)?;
    network::remove(&network::owner(state_dir))
}

fn sweep_groups(state_dir: &Path, cgroup_parent: &str) -> io::Result<()> {
    let mut paths = vec![group_path(state_dir, cgroup_parent)];
    let others = state_dir.join(PARENTS);
    match std::fs::read_to_string(&others) {
        Ok(text) => paths.extend(text.lines().map(PathBuf::from)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for path in &paths {
        if !Parent::sweep(path)? {
            let message = format!(
                "processes in the control group `{}` do not end",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
    }
    match std::fs::remove_file(&others) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where the control groups of a daemon are, relative to the hierarchies' roots.
fn group_path(state_dir: &Path, parent: &str) -> PathBuf {
    let parent = plan::cgroup_path(parent);
    let parent = if parent.as_os_str().is_empty() {
        PathBuf::from("drydock")
    } else {
        parent
    };
    parent.join(network::owner(state_dir))
}
