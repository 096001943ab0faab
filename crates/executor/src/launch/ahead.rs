//! Children made ahead.
//!
//! Much of a container is the same whoever asks for it: namespaces, a control group, `/proc`, a
//! `/dev` with its devices. So the launcher, when it has nothing else to do, makes children that have
//! all that and wait to be told the rest. Each becomes one container or none: nothing that a
//! container has touched ever meets another one.

use std::os::fd::{AsFd, OwnedFd};

use sys::cgroup::Group;
use sys::fdpass::{Channel, Wait};

use super::container::{self, Job};
use super::mounts::Ready;
use super::world::World;
use crate::plan::MountPlan;
use crate::protocol::{DevicePolicy, GroupPlan, LimitsPlan, Request, decode};

/// How many are kept. A build's steps come one after another, a few at once.
pub(super) const STOCK: usize = 2;

/// A child that waits.
pub(super) struct Ahead {
    pub(super) pid: i32,
    channel: Channel,
}

impl Ahead {
    pub(super) fn new(pid: i32, channel: Channel) -> Ahead {
        Ahead { pid, channel }
    }

    /// Makes it the container of a request; false if it has ended.
    pub(super) fn assign(&self, message: &[u8], descriptors: &[OwnedFd]) -> bool {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let sent = self.channel.send(message, &descriptors, Wait::Yes);
        sent.is_ok()
    }
}

/// The control group of a child made ahead.
pub(super) fn group_plan(number: u64) -> GroupPlan {
    GroupPlan {
        name: format!("ahead-{number}"),
        parent: None,
        limits: LimitsPlan::default(),
        devices: DevicePolicy::Standard,
    }
}

/// Whether a child made ahead can become a container with this group; its limits can be set later.
pub(super) fn fits(group: &GroupPlan) -> bool {
    let own_processors = group.limits.cpuset_cpus.is_some() || group.limits.cpuset_mems.is_some();
    group.parent.is_none() && group.devices == DevicePolicy::Standard && !own_processors
}

/// What the child does: prepares, waits for its request, and becomes the container of that. It ends
/// when there is none to come, or if anything fails: then the container is made the ordinary way,
/// which tells of the failure.
pub(super) fn wait(
    world: &World,
    group: Option<&Group>,
    channel: &Channel,
    mounts: &[MountPlan],
) -> ! {
    let ready = container::begin(group).and_then(|()| Ready::make(mounts));
    let request = ready.and_then(|ready| {
        let received = container::step("wait for a request", channel.receive(Wait::Yes))?;
        Ok((ready, received))
    });
    let Ok((ready, Some((message, descriptors)))) = request else {
        std::process::exit(1)
    };
    let Some((Request::Create { network, slots, .. }, plan)) = decode(&message) else {
        std::process::exit(1)
    };
    let job = Job {
        network,
        slots,
        plan,
        descriptors,
    };
    container::become_container(world, group, Ok(ready), job)
}
