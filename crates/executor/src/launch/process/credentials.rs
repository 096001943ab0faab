//! Limits, user, groups and capabilities.

use std::io;

use nix::sys::resource::Resource;
use nix::unistd::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::launch::container::{Failure, step};
use crate::plan::{CapabilitiesPlan, ProcessPlan};

/// Sets one limit, of its number, soft and hard.
pub(super) fn set_limit((number, soft, hard): (u32, u64, u64)) -> Result<(), Failure> {
    let known = RESOURCES.iter().find(|(raw, _)| *raw == number);
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "unknown resource");
    let (_, resource) = step("set a limit", known.ok_or_else(unknown))?;
    let set = nix::sys::resource::setrlimit(*resource, soft, hard).map_err(io::Error::from);
    step(
        &format!("set the limit `{resource:?}` to {soft}:{hard}"),
        set,
    )
}

const RESOURCES: [(u32, Resource); 16] = [
    (libc::RLIMIT_CPU, Resource::RLIMIT_CPU),
    (libc::RLIMIT_FSIZE, Resource::RLIMIT_FSIZE),
    (libc::RLIMIT_DATA, Resource::RLIMIT_DATA),
    (libc::RLIMIT_STACK, Resource::RLIMIT_STACK),
    (libc::RLIMIT_CORE, Resource::RLIMIT_CORE),
    (libc::RLIMIT_RSS, Resource::RLIMIT_RSS),
    (libc::RLIMIT_NPROC, Resource::RLIMIT_NPROC),
    (libc::RLIMIT_NOFILE, Resource::RLIMIT_NOFILE),
    (libc::RLIMIT_MEMLOCK, Resource::RLIMIT_MEMLOCK),
    (libc::RLIMIT_AS, Resource::RLIMIT_AS),
    (libc::RLIMIT_LOCKS, Resource::RLIMIT_LOCKS),
    (libc::RLIMIT_SIGPENDING, Resource::RLIMIT_SIGPENDING),
    (libc::RLIMIT_MSGQUEUE, Resource::RLIMIT_MSGQUEUE),
    (libc::RLIMIT_NICE, Resource::RLIMIT_NICE),
    (libc::RLIMIT_RTPRIO, Resource::RLIMIT_RTPRIO),
    (libc::RLIMIT_RTTIME, Resource::RLIMIT_RTTIME),
];

/// Becomes the user of `plan`, with its capabilities and no others.
pub(super) fn become_user(plan: &ProcessPlan) -> Result<(), Failure> {
    if let Some(sets) = &plan.capabilities {
        step("drop capabilities", drop_bounding(sets.bounding))?;
    }
    // Else leaving user 0 would empty the permitted set, before it is set below.
    step(
        "keep capabilities",
        rustix::thread::set_keep_capabilities(true).map_err(io::Error::from),
    )?;
    let groups: Vec<Gid> = plan.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    step(
        "set the groups",
        nix::unistd::setgroups(&groups).map_err(io::Error::from),
    )?;
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    step(
        "set the group",
        nix::unistd::setresgid(gid, gid, gid).map_err(io::Error::from),
    )?;
    step(
        "set the user",
        nix::unistd::setresuid(uid, uid, uid).map_err(io::Error::from),
    )?;
    step(
        "forget the user",
        rustix::thread::set_keep_capabilities(false).map_err(io::Error::from),
    )?;
    match &plan.capabilities {
        Some(sets) => step("set capabilities", set_capabilities(sets)),
        None => Ok(()),
    }
}

fn drop_bounding(kept: u64) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // The first number the kernel does not know ends the list.
        let Ok(held) = rustix::thread::capability_is_in_bounding_set(capability) else {
            break;
        };
        if held && kept & 1 << number == 0 {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

fn set_capabilities(plan: &CapabilitiesPlan) -> io::Result<()> {
    // A capability this process does not have cannot be given, and asking for it would be an error.
    let own = rustix::thread::capabilities(None)?.permitted.bits();
    let set = |bits: u64| CapabilitySet::from_bits_retain(bits & own);
    let sets = CapabilitySets {
        effective: set(plan.effective),
        permitted: set(plan.permitted),
        inheritable: set(plan.inheritable),
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::clear_ambient_capability_set()?;
    for number in (0..u64::BITS).filter(|number| plan.ambient & own & 1 << number != 0) {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}
