//! The launcher's loop: requests from the daemon, processes that have ended, groups to remove.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus};
use rustix::event::{PollFd, PollFlags, Timespec};
use sys::cgroup::{Group, Limits};
use sys::fdpass::{Channel, Wait};
use sys::process::Fork;

use super::ahead::{self, Ahead};
use super::container::Job;
use super::mounts::Ready;
use super::world::World;
use super::{container, process};
use crate::plan::MountPlan;
use crate::protocol::{
    Configuration, Event, ExitPlan, GroupPlan, LimitsPlan, Request, Slots, decode,
};

/// After how long without anything to do the launcher does what can wait: removing control groups
/// of containers that have ended, making children ahead.
const IDLE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

pub(super) struct Server {
    channel: Channel,
    world: World,
    signals: SignalFd,
    /// The launcher's own pid namespace, to come back to.
    own_pid_namespace: OwnedFd,
    /// Processes that have not ended, by their number here.
    running: BTreeMap<i32, Running>,
    /// Groups of containers that have ended.
    leaving: Vec<Group>,
    /// Children that are no container yet; also in `running`, with the key [`NOBODY`].
    ahead: Vec<Ahead>,
    /// How many of those there are to be.
    stock: usize,
    made_ahead: u64,
    /// What they have ready.
    mounts: Vec<MountPlan>,
}

/// The key of no request.
const NOBODY: u64 = 0;

/// So many groups to remove are too many to wait until there is nothing else to do.
const MANY_LEAVING: usize = 64;

struct Running {
    key: u64,
    kind: Kind,
}

enum Kind {
    Container {
        pidfd: OwnedFd,
        group: Option<Group>,
    },
    Process,
}

/// What a new child does.
enum Task<'plan> {
    Container(Job<'plan>),
    /// Waits for a container to become, told through the channel.
    Wait(Channel),
}

impl Server {
    /// Receives the configuration and settles in.
    pub(super) fn start(channel: Channel) -> io::Result<Server> {
        // Nobody in a container that shares a pid namespace with a child of this process, before
        // that has executed its program, may look into it.
        let not_dumpable = rustix::process::DumpableBehavior::NotDumpable;
        rustix::process::set_dumpable_behavior(not_dumpable)?;
        allow_many_descriptors();
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

        let closed = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (message, _) = channel.receive(Wait::Yes)?.ok_or_else(closed)?;
        let Some((Request::Configure(configuration), _)) = decode(&message) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no configuration",
            ));
        };
        let world = World::build(&configuration)?;
        let own_pid_namespace = std::fs::File::open("/proc/self/ns/pid")?.into();
        let server = Server {
            channel,
            world,
            signals,
            own_pid_namespace,
            running: BTreeMap::new(),
            leaving: Vec::new(),
            ahead: Vec::new(),
            stock: ahead::STOCK,
            made_ahead: 0,
            mounts: configuration.mounts,
        };
        server.tell(&Event::Ready, None)?;
        Ok(server)
    }

    /// Works until the daemon closes the channel, then ends everything.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            let to_do = !self.leaving.is_empty() || self.ahead.len() < self.stock;
            let timeout = to_do.then_some(&IDLE);
            let mut ready = [
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&self.channel, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, timeout))?;
            let [ended, asked] = ready.map(|fd| !fd.revents().is_empty());
            if ended {
                self.reap()?;
            }
            if asked {
                match self.channel.receive(Wait::No) {
                    Ok(Some((message, descriptors))) => self.handle(&message, descriptors)?,
                    // An error, too, means that nobody is there any more.
                    Ok(None) | Err(_) => return self.end(),
                }
            }
            let idle = !ended && !asked;
            if idle || self.leaving.len() > MANY_LEAVING {
                self.leaving.retain(|group| !self.world.remove_group(group));
            }
            if idle && self.ahead.len() < self.stock && self.make_ahead().is_err() {
                // What is wrong will be told to whoever asks for a container.
                self.stock = 0;
            }
        }
    }

    fn handle(&mut self, message: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let Some((request, plan)) = decode(message) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "unknown request",
            ));
        };
        let (key, made) = match request {
            Request::Configure(Configuration { .. }) => return Ok(()),
            Request::Create {
                key,
                group,
                network,
                slots,
            } => {
                let job = Job {
                    network,
                    slots,
                    plan,
                    descriptors,
                };
                (key, self.create(key, *group, job, message))
            }
            Request::Exec {
                key,
                container,
                slots,
            } => (key, self.exec(key, container, slots, plan, descriptors)),
        };
        match made {
            Ok(pidfd) => self.tell(&Event::Started { key }, Some(pidfd)),
            Err(error) => self.tell(
                &Event::Failed {
                    key,
                    message: error.to_string(),
                },
                None,
            ),
        }
    }

    fn create(
        &mut self,
        key: u64,
        group: GroupPlan,
        job: Job<'_>,
        message: &[u8],
    ) -> io::Result<OwnedFd> {
        if ahead::fits(&group) {
            while let Some(ahead) = self.ahead.pop() {
                let (limits, descriptors) = (group.limits.clone(), &job.descriptors);
                let assigned = self.assign(&ahead, key, limits, descriptors, message)?;
                if let Some(pidfd) = assigned {
                    return Ok(pidfd);
                }
            }
        }
        let group = self.world.group(group)?;
        let (_, pidfd) = self.fork_first(key, group, Task::Container(job))?;
        Ok(pidfd)
    }

    /// Makes the child `ahead` the container of a request; none if that child has ended.
    fn assign(
        &mut self,
        ahead: &Ahead,
        key: u64,
        limits: LimitsPlan,
        descriptors: &[OwnedFd],
        message: &[u8],
    ) -> io::Result<Option<OwnedFd>> {
        let Some(running) = self.running.get_mut(&ahead.pid) else {
            return Ok(None);
        };
        let Kind::Container { pidfd, group } = &running.kind else {
            return Ok(None);
        };
        let limits = Limits::from(limits);
        let limited = match group {
            Some(group) => group.set_limits(&limits),
            None if limits == Limits::default() => Ok(()),
            // The ordinary way knows the words for this.
            None => return Ok(None),
        };
        let assigned = limited
            .and_then(|()| pidfd.try_clone())
            .map(|copy| ahead.assign(message, descriptors).then_some(copy));
        if !matches!(assigned, Ok(Some(_))) {
            kill(pidfd);
        } else {
            running.key = key;
        }
        assigned
    }

    fn make_ahead(&mut self) -> io::Result<()> {
        let (ours, theirs) = Channel::pair()?;
        self.made_ahead += 1;
        let group = self.world.group(ahead::group_plan(self.made_ahead))?;
        let (pid, _) = self.fork_first(NOBODY, group, Task::Wait(theirs))?;
        self.ahead.push(Ahead::new(pid, ours));
        Ok(())
    }

    /// Forks a container's first process, which does `task` and never returns from it.
    fn fork_first(
        &mut self,
        key: u64,
        group: Option<Group>,
        task: Task<'_>,
    ) -> io::Result<(i32, OwnedFd)> {
        let flags =
            libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        let forked = fork(flags, group.as_ref());
        let (pid, pidfd) = match forked {
            Ok(Fork::Parent { pid, pidfd }) => (pid, pidfd),
            Ok(Fork::Child) => {
                let (world, group) = (&self.world, group.as_ref());
                match task {
                    Task::Container(job) => {
                        let begun = container::begin(group).map(|()| Ready::default());
                        container::become_container(world, group, begun, job)
                    }
                    Task::Wait(channel) => ahead::wait(world, group, &channel, &self.mounts),
                }
            }
            Err(error) => {
                self.leaving.extend(group);
                return Err(error);
            }
        };
        let copy = pidfd.try_clone();
        if copy.is_err() {
            kill(&pidfd);
        }
        let kind = Kind::Container { pidfd, group };
        self.running.insert(pid, Running { key, kind });
        Ok((pid, copy?))
    }

    fn exec(
        &mut self,
        key: u64,
        container: u64,
        slots: Slots,
        plan: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<OwnedFd> {
        let kind = self
            .running
            .values()
            .find(|running| running.key == container);
        let Some(Running {
            kind: Kind::Container { pidfd, group },
            ..
        }) = kind
        else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the container has ended",
            ));
        };
        // Makes children of this process, not itself, be born in the container's pid namespace.
        nix::sched::setns(pidfd, CloneFlags::CLONE_NEWPID)?;
        let forked = fork(0, group.as_ref());
        if let Ok(Fork::Child) = forked {
            process::join_container(pidfd, group.as_ref(), &slots, plan, descriptors);
        }
        nix::sched::setns(&self.own_pid_namespace, CloneFlags::CLONE_NEWPID)?;
        let Fork::Parent { pid, pidfd } = forked? else {
            return Err(io::ErrorKind::Other.into());
        };
        self.running.insert(
            pid,
            Running {
                key,
                kind: Kind::Process,
            },
        );
        Ok(pidfd)
    }

    /// Collects all processes that have ended.
    fn reap(&mut self) -> io::Result<()> {
        while self.signals.read_signal()?.is_some() {}
        loop {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            let (pid, code, signal) = match nix::sys::wait::waitid(Id::All, flags) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Some(code), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal as i32)),
                Ok(_) | Err(nix::Error::ECHILD) => return Ok(()),
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Others were orphaned by a container's process that was not its first.
            let Some(Running { key, kind }) = self.running.remove(&pid.as_raw()) else {
                continue;
            };
            let mut oom_kills = 0;
            if let Kind::Container {
                group: Some(group), ..
            } = kind
            {
                oom_kills = group.oom_kills().unwrap_or(0);
                self.leaving.push(group);
            }
            if key == NOBODY {
                let before = self.ahead.len();
                self.ahead.retain(|ahead| ahead.pid != pid.as_raw());
                if self.ahead.len() < before {
                    // What ended it would end the next, too.
                    self.stock = 0;
                }
                continue;
            }
            let exit = ExitPlan {
                code,
                signal,
                oom_kills,
            };
            self.tell(&Event::Exited { key, exit }, None)?;
        }
    }

    fn tell(&self, event: &Event, descriptor: Option<OwnedFd>) -> io::Result<()> {
        let message = serde_json::to_vec(event)?;
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        // A daemon that is gone hears nothing; the loop notices by the channel.
        let _ = self.channel.send(&message, &descriptors, Wait::Yes);
        Ok(())
    }

    /// Kills what still runs and leaves nothing behind. Killing happens by the end of this process,
    /// too; here it comes first so that the control groups are empty and can go.
    fn end(mut self) -> io::Result<()> {
        for running in self.running.values() {
            if let Kind::Container { pidfd, .. } = &running.kind {
                kill(pidfd);
            }
        }
        while !self.running.is_empty() {
            let ended = PollFd::new(&self.signals, PollFlags::IN);
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut [ended.clone()], None))?;
            self.reap()?;
        }
        self.world.end()
    }
}

/// Forks, straight into the group where that is possible.
fn fork(flags: i32, group: Option<&Group>) -> io::Result<Fork> {
    let dir = group.map(Group::v2).transpose()?.flatten();
    sys::process::fork(flags, dir.as_ref().map(AsFd::as_fd))
}

/// Descriptors are what runs out first: each container costs one here for as long as it runs. The
/// limits of containers come with their plans.
fn allow_many_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it is refused there will be fewer containers.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn kill(pidfd: &OwnedFd) {
    // It fails for a process that has ended, and then there is nothing to kill.
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
}
