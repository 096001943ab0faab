//! What the daemon and its launcher say to each other, and a new process to the daemon.
//!
//! The launcher is the same build of the same program, so there are no versions: messages are JSON of
//! the types here. Descriptors go along and are named by their position, see [`Bundle`].
//!
//! ```text
//! daemon ──Request──▶ launcher ──clone3──▶ child
//!        ◀──Event────                        │
//!        ◀──────────────────────Report───────┘  until it executes the program
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use sys::cgroup::Limits;

use crate::plan::MountPlan;

/// From the daemon to the launcher. `key` is the daemon's name for a process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The first message, once.
    Configure(Configuration),
    /// Make a container. The plan of it follows in the message.
    Create {
        key: u64,
        group: Box<GroupPlan>,
        network: NetworkPlan,
        slots: Slots,
    },
    /// Run another process in the container `container`. The plan of it follows in the message.
    Exec {
        key: u64,
        container: u64,
        slots: Slots,
    },
}

/// What the launcher has to know from the start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Configuration {
    /// Directory for control groups, relative to each hierarchy.
    pub(crate) cgroup: String,
    /// A directory of our own that can be mounted on.
    pub(crate) mount_point: String,
    /// A file that lists directories for control groups that are not the daemon's.
    pub(crate) parents: String,
    /// Filesystems that most containers have, to be made ahead.
    pub(crate) mounts: Vec<MountPlan>,
    /// What marks bridges and packet filters as this daemon's.
    pub(crate) owner: String,
}

/// A control group to be made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GroupPlan {
    pub(crate) name: String,
    /// The directory it is made in, if not the daemon's.
    pub(crate) parent: Option<String>,
    pub(crate) limits: LimitsPlan,
    pub(crate) devices: DevicePolicy,
}

/// Which devices a container may open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DevicePolicy {
    /// The harmless ones every container has.
    Standard,
    /// These besides them.
    Listed(Vec<DeviceRulePlan>),
    /// All.
    All,
}

/// Allows some uses of one device or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceRulePlan {
    pub(crate) block: bool,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) make: bool,
}

/// The network namespace of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NetworkPlan {
    /// The launcher's, which is the host's.
    Host,
    /// A new one with only a loopback device.
    Fresh,
    /// The descriptor at this position.
    Namespace(usize),
}

/// Positions of descriptors in a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slots {
    /// Where the child reports to, a channel.
    pub(crate) report: usize,
    /// Standard input, output, error; none for a terminal, and none for `/dev/null`.
    pub(crate) stdio: [Option<usize>; 3],
    /// A file that holds the seccomp program.
    pub(crate) seccomp: Option<usize>,
    /// The root filesystem; none for a process in a running container.
    pub(crate) rootfs: Option<usize>,
}

/// From the launcher to the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The launcher has settled in.
    Ready,
    /// The process is there; its pidfd comes along.
    Started { key: u64 },
    /// It could not be made.
    Failed { key: u64, message: String },
    /// It has ended.
    Exited { key: u64, exit: ExitPlan },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ExitPlan {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_kills: u64,
}

/// From a new process to the daemon. The channel closes when the program is executed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The master of the process's terminal comes along.
    Terminal,
    /// The container could not be set up.
    Setup { message: String },
    /// The program could not be executed.
    Exec { message: String, missing: bool },
}

/// Descriptors being collected for one message.
#[derive(Debug, Default)]
pub(crate) struct Bundle(Vec<OwnedFd>);

impl Bundle {
    /// Adds a descriptor and returns its position.
    pub(crate) fn add(&mut self, fd: impl Into<OwnedFd>) -> usize {
        self.0.push(fd.into());
        self.0.len() - 1
    }

    pub(crate) fn borrow(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }
}

/// The limits of [`Limits`], to be sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LimitsPlan {
    pub(crate) memory_bytes: Option<i64>,
    pub(crate) memory_swap_bytes: Option<i64>,
    pub(crate) cpu_shares: Option<u64>,
    pub(crate) cpu_quota_us: Option<i64>,
    pub(crate) cpu_period_us: Option<u64>,
    pub(crate) cpuset_cpus: Option<String>,
    pub(crate) cpuset_mems: Option<String>,
    pub(crate) pids: Option<i64>,
}

impl From<LimitsPlan> for Limits {
    fn from(plan: LimitsPlan) -> Limits {
        Limits {
            memory_bytes: plan.memory_bytes,
            memory_swap_bytes: plan.memory_swap_bytes,
            cpu_shares: plan.cpu_shares,
            cpu_quota_us: plan.cpu_quota_us,
            cpu_period_us: plan.cpu_period_us,
            cpuset_cpus: plan.cpuset_cpus,
            cpuset_mems: plan.cpuset_mems,
            pids: plan.pids,
        }
    }
}

/// A request and its plan as one message: the length of the request in four bytes, the request, the
/// plan. The launcher reads the request; only the child reads the plan.
pub(crate) fn encode(request: &Request, plan: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut message = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut message, request)?;
    let length = (message.len() - HEADER_BYTES) as u32;
    message[..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    serde_json::to_writer(&mut message, plan)?;
    Ok(message)
}

/// Splits a message of [`encode`] into request and plan.
pub(crate) fn decode(message: &[u8]) -> Option<(Request, &[u8])> {
    let length = u32::from_le_bytes(*message.first_chunk()?) as usize;
    let (request, plan) = message[HEADER_BYTES..].split_at_checked(length)?;
    Some((serde_json::from_slice(request).ok()?, plan))
}

const HEADER_BYTES: usize = 4;
