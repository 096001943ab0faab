//! From a child inside its namespaces to the program: user, capabilities, terminal, exec.

mod credentials;
mod lookup;

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use sys::cgroup::Group;
use sys::fdpass::{Channel, Wait};
use sys::mount::Bind;
use sys::process::BpfInstruction;
use sys::pty::Pty;
use sys::root::{Follow, RootDir};

use super::container::{Failure, describe, step, tell};
use super::mounts::Descriptors;
use crate::plan::ProcessPlan;
use crate::protocol::{Report, Slots};

/// Whether a terminal also becomes the container's console.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Console {
    AtDevConsole,
    No,
}

/// Standard input, output and error; none: the terminal or `/dev/null`.
pub(super) type Stdio = [Option<OwnedFd>; 3];

pub(super) fn take_stdio(slots: &Slots, descriptors: &mut Descriptors) -> Result<Stdio, Failure> {
    let mut take = |slot: Option<usize>| {
        step(
            "find the standard streams",
            slot.map(|at| descriptors.take(at)).transpose(),
        )
    };
    let [input, output, error] = slots.stdio;
    Ok([take(input)?, take(output)?, take(error)?])
}

/// Reads the seccomp program, eight bytes an instruction.
pub(super) fn take_filter(
    slots: &Slots,
    descriptors: &mut Descriptors,
) -> Result<Option<Vec<BpfInstruction>>, Failure> {
    let Some(position) = slots.seccomp else {
        return Ok(None);
    };
    let read = || -> io::Result<Vec<BpfInstruction>> {
        let file = descriptors.take(position)?;
        let size = usize::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let mut bytes = vec![0; size];
        // The description is shared with other children: no common position.
        let length = rustix::io::pread(&file, &mut bytes, 0)?;
        Ok(crate::seccomp::decode(&bytes[..length]))
    };
    // The closure borrows the descriptors mutably once.
    let mut read = read;
    step("read the system call filter", read()).map(Some)
}

/// Joins the running container of `pidfd` and becomes the process of `plan` there.
pub(super) fn join_container(
    pidfd: &OwnedFd,
    group: Option<&Group>,
    slots: &Slots,
    plan: &[u8],
    descriptors: Vec<OwnedFd>,
) -> ! {
    let mut descriptors = Descriptors::new(descriptors);
    let Ok(report) = descriptors.take(slots.report).map(Channel::from_fd) else {
        std::process::exit(127)
    };
    let failure = match join(pidfd, group, slots, plan, descriptors, &report) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    tell(&report, failure)
}

fn join(
    pidfd: &OwnedFd,
    group: Option<&Group>,
    slots: &Slots,
    plan: &[u8],
    mut descriptors: Descriptors,
    report: &Channel,
) -> Result<Infallible, Failure> {
    let plan: ProcessPlan = step(
        "read the plan",
        serde_json::from_slice(plan).map_err(io::Error::from),
    )?;
    if let Some(group) = group {
        step("join the control group", group.join_v1())?;
    }
    if let Some(score) = plan.oom_score_adj {
        step(
            "set the OOM score",
            std::fs::write("/proc/self/oom_score_adj", score.to_string()),
        )?;
    }
    let stdio = take_stdio(slots, &mut descriptors)?;
    let filter = take_filter(slots, &mut descriptors)?;
    step("begin a keyring", sys::process::join_new_session_keyring())?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    let joined = nix::sched::setns(pidfd, namespaces).map_err(io::Error::from);
    step("join the container", joined)?;
    execute(plan, stdio, Console::No, filter.as_deref(), report)
}

/// Becomes the program. The root directory is the container's.
pub(super) fn execute(
    plan: ProcessPlan,
    stdio: Stdio,
    console: Console,
    filter: Option<&[BpfInstruction]>,
    report: &Channel,
) -> Result<Infallible, Failure> {
    step(
        "begin a session",
        rustix::process::setsid().map_err(io::Error::from),
    )?;
    let stdio = match plan.terminal {
        Some(size) => open_terminal(size, console, plan.uid, report)?,
        None => stdio,
    };
    step("connect the standard streams", connect(stdio, plan.uid))?;
    for limit in &plan.rlimits {
        credentials::set_limit(*limit)?;
    }
    let env = with_home(plan.env.clone(), plan.uid);
    rustix::process::umask(Mode::from_raw_mode(plan.umask));
    if plan.no_new_privileges {
        let set = rustix::thread::set_no_new_privs(true).map_err(io::Error::from);
        step("give up new privileges", set)?;
    }
    if let Some(filter) = filter {
        // Before the capabilities go: installing a filter without "no new privileges" needs one.
        step(
            "filter system calls",
            sys::process::install_seccomp_filter(filter),
        )?;
    }
    credentials::become_user(&plan)?;
    enter_cwd(&plan.cwd)?;
    let path = lookup::program(&plan.args[0], &env)?;
    sys::process::reset_signals();
    step(
        "close the launcher's descriptors",
        sys::process::close_on_exec_from(3),
    )?;
    let (arguments, env) = (c_strings(&plan.args)?, c_strings(&env)?);
    let path_text = path.to_string_lossy().into_owned();
    let error = sys::process::execute(&path, &arguments, &env);
    let message = format!("exec {path_text}: {}", describe(&error));
    Err(Failure::Exec {
        message,
        missing: error.kind() == io::ErrorKind::NotFound,
    })
}

/// Opens a terminal of the container's own `devpts` and sends its other end to the daemon.
fn open_terminal(
    (rows, columns): (u16, u16),
    console: Console,
    uid: u32,
    report: &Channel,
) -> Result<Stdio, Failure> {
    let open = || -> io::Result<Stdio> {
        let Pty { master, slave } = sys::pty::open(Path::new("/dev/pts/ptmx"))?;
        if rows > 0 && columns > 0 {
            sys::pty::resize(&master, rows, columns)?;
        }
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(uid)), None)?;
        sys::pty::control(&slave)?;
        if console == Console::AtDevConsole {
            let root = RootDir::open(Path::new("/"))?;
            let place = Path::new("/dev/console");
            if !root.exists(place)? {
                root.create(place, 0o600, true)?;
            }
            let target = root.resolve(place, Follow::No)?;
            let bind = Bind {
                readonly: false,
                recursive: false,
            };
            sys::mount::bind_clone(&slave, bind)?.attach_to(target.as_fd())?;
        }
        report.send(
            &serde_json::to_vec(&Report::Terminal)?,
            &[master.as_fd()],
            Wait::Yes,
        )?;
        Ok([
            Some(slave.try_clone()?),
            Some(slave.try_clone()?),
            Some(slave),
        ])
    };
    step("open a terminal", open())
}

fn connect(stdio: Stdio, uid: u32) -> io::Result<()> {
    let mut targets = stdio.into_iter();
    let mut next = || match targets.next().flatten() {
        Some(stream) => {
            // Else a user other than root could not open `/dev/stdout`.
            if uid != 0 && !is_null_device(&stream)? {
                let owner = Some(rustix::fs::Uid::from_raw(uid));
                match rustix::fs::fchown(&stream, owner, None) {
                    // Some kinds of files have no owner to change.
                    Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => {}
                    Err(error) => return Err(io::Error::from(error)),
                }
            }
            Ok(stream)
        }
        None => {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            Ok(rustix::fs::open("/dev/null", flags, Mode::empty())?)
        }
    };
    let (input, output, error) = (next()?, next()?, next()?);
    rustix::stdio::dup2_stdin(&input)?;
    rustix::stdio::dup2_stdout(&output)?;
    Ok(rustix::stdio::dup2_stderr(&error)?)
}

fn is_null_device(stream: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(stream)?;
    Ok(stat.st_rdev == rustix::fs::makedev(1, 3))
}

/// Enters the working directory by a lookup that follows no magic links: `/proc/self/fd/…` would
/// lead out, through a descriptor of the launcher.
fn enter_cwd(cwd: &str) -> Result<(), Failure> {
    let enter = || -> io::Result<()> {
        let root = RootDir::open(Path::new("/"))?;
        let dir = root.resolve(Path::new(cwd), Follow::Yes)?;
        Ok(rustix::process::fchdir(dir)?)
    };
    enter().map_err(|error| {
        let message = format!(
            "chdir to cwd (\"{cwd}\") set in config.json failed: {}",
            describe(&error)
        );
        Failure::Exec {
            message,
            missing: false,
        }
    })
}

/// Adds the home directory that the container's `/etc/passwd` says, where none is set.
fn with_home(mut env: Vec<String>, uid: u32) -> Vec<String> {
    let set = |entry: &String| {
        entry
            .strip_prefix("HOME=")
            .is_some_and(|home| !home.is_empty())
    };
    if !env.iter().any(set) {
        env.retain(|entry| !entry.starts_with("HOME="));
        let home = RootDir::open(Path::new("/"))
            .ok()
            .and_then(|root| crate::user::home(&root, uid));
        env.push(format!("HOME={}", home.unwrap_or_else(|| "/".to_owned())));
    }
    env
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>, Failure> {
    let strings = texts.iter().map(|text| CString::new(text.as_str()));
    let strings: Result<Vec<CString>, _> = strings.collect();
    step("read the arguments", strings.map_err(io::Error::from))
}
