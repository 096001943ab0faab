//! What the child does between being cloned and being the container's first process.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::CloneFlags;
use sys::cgroup::Group;
use sys::fdpass::{Channel, Wait};
use sys::netlink::Route;
use sys::root::RootDir;

use super::mounts::{self, Descriptors, Ready};
use super::process::{self, Console};
use super::world::World;
use crate::plan::{ContainerPlan, ProcessPlan};
use crate::protocol::{NetworkPlan, Report, Slots};

/// Why a container did not come to be.
pub(super) enum Failure {
    /// A step of setting it up failed.
    Setup(String),
    /// Its program cannot be executed; it may be missing.
    Exec { message: String, missing: bool },
}

/// Names the step that failed.
pub(super) fn step<T>(what: &str, result: io::Result<T>) -> Result<T, Failure> {
    result.map_err(|error| Failure::Setup(format!("failed to {what}: {}", describe(&error))))
}

/// The text of a system error as C and Go programs print it, without its number.
pub(super) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

/// What a child is told of its container.
pub(super) struct Job<'plan> {
    pub(super) network: NetworkPlan,
    pub(super) slots: Slots,
    pub(super) plan: &'plan [u8],
    pub(super) descriptors: Vec<OwnedFd>,
}

/// What a container begins with whatever it is.
pub(super) fn begin(group: Option<&Group>) -> Result<(), Failure> {
    rustix::process::umask(rustix::fs::Mode::empty());
    enter_group(group)?;
    step("begin a keyring", sys::process::join_new_session_keyring())
}

/// Becomes the container of `job`, after [`begin`], or reports why not and ends.
pub(super) fn become_container(
    world: &World,
    group: Option<&Group>,
    ready: Result<Ready, Failure>,
    mut job: Job<'_>,
) -> ! {
    let mut descriptors = Descriptors::new(std::mem::take(&mut job.descriptors));
    let Ok(report) = descriptors.take(job.slots.report).map(Channel::from_fd) else {
        end()
    };
    let run = |ready| run(world, group, ready, &job, descriptors, &report);
    let failure = match ready.and_then(run) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    tell(&report, failure)
}

/// Reports a failure and ends the process.
pub(super) fn tell(report: &Channel, failure: Failure) -> ! {
    let report_of = match failure {
        Failure::Setup(message) => Report::Setup { message },
        Failure::Exec { message, missing } => Report::Exec { message, missing },
    };
    if let Ok(message) = serde_json::to_vec(&report_of) {
        // If nobody listens the exit code has to do.
        let _ = report.send(&message, &[], Wait::Yes);
    }
    end()
}

/// The exit code of a process that never became its program. Nobody sees it: the report came first.
fn end() -> ! {
    std::process::exit(127)
}

fn run(
    world: &World,
    group: Option<&Group>,
    ready: Ready,
    job: &Job<'_>,
    mut descriptors: Descriptors,
    report: &Channel,
) -> Result<Infallible, Failure> {
    let slots = &job.slots;
    let plan: ContainerPlan = step(
        "read the plan",
        serde_json::from_slice(job.plan).map_err(io::Error::from),
    )?;
    enter_network(job.network, &mut descriptors)?;
    if let Some(name) = &plan.hostname {
        step(
            "set the host name",
            nix::unistd::sethostname(name).map_err(io::Error::from),
        )?;
    }
    if let Some(name) = &plan.domainname {
        step(
            "set the domain name",
            rustix::system::setdomainname(name.as_bytes()).map_err(io::Error::from),
        )?;
    }
    if let Some(score) = plan.process.oom_score_adj {
        let written = std::fs::write("/proc/self/oom_score_adj", score.to_string());
        step("set the OOM score", written)?;
    }
    let stdio = process::take_stdio(slots, &mut descriptors)?;
    let filter = process::take_filter(slots, &mut descriptors)?;

    let position = slots.rootfs.unwrap_or(usize::MAX);
    let rootfs = step("find the root filesystem", descriptors.take(position))?;
    let root = mounts::assemble(world, &plan, rootfs, group, ready, &mut descriptors)?;
    make_cwd(&root, &plan.process)?;
    step("enter the root filesystem", enter(&root))?;
    process::execute(
        plan.process,
        stdio,
        Console::AtDevConsole,
        filter.as_deref(),
        report,
    )
}

/// Joins the control group before anything of note is allocated, and then a namespace in which the
/// group is the root.
pub(super) fn enter_group(group: Option<&Group>) -> Result<(), Failure> {
    if let Some(group) = group {
        step("join the control group", group.join_v1())?;
    }
    let unshared = nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).map_err(io::Error::from);
    step("make a control group namespace", unshared)
}

fn enter_network(network: NetworkPlan, descriptors: &mut Descriptors) -> Result<(), Failure> {
    match network {
        NetworkPlan::Host => Ok(()),
        NetworkPlan::Fresh => {
            let unshared = nix::sched::unshare(CloneFlags::CLONE_NEWNET);
            step("make a network", unshared.map_err(io::Error::from))?;
            step(
                "switch on the loopback device",
                Route::open().and_then(|route| route.set_up(LOOPBACK)),
            )
        }
        NetworkPlan::Namespace(position) => {
            let namespace = step("find the network", descriptors.take(position))?;
            let joined = nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET);
            step("join the network", joined.map_err(io::Error::from))
        }
    }
}

/// Index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// A missing working directory is made, for the user that will work there.
fn make_cwd(root: &RootDir, process: &ProcessPlan) -> Result<(), Failure> {
    let make = || -> io::Result<()> {
        let path = Path::new(&process.cwd);
        if root.exists(path)? {
            return Ok(());
        }
        for made in root.mkdir_all(path, 0o755)? {
            root.chown(&made, process.uid, process.gid, sys::root::Follow::No)?;
        }
        Ok(())
    };
    // The words of runc.
    let fail = |error: io::Error| {
        let message = format!("mkdir {}: {}", process.cwd, describe(&error));
        Failure::Exec {
            message,
            missing: false,
        }
    };
    make().map_err(fail)
}

/// Makes `root` the root and drops all other mounts.
fn enter(root: &RootDir) -> io::Result<()> {
    rustix::process::fchdir(root.as_fd())?;
    rustix::process::pivot_root(".", ".")?;
    // The old root is now on top of the new one; below it is what stays.
    sys::mount::unmount(Path::new("."))?;
    Ok(rustix::process::chdir("/")?)
}
