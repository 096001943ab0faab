//! What a device changes in the description of a container.

use std::path::PathBuf;

use nix::sys::stat::{SFlag, lstat, major, minor};
use oci_spec::runtime::{
    LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, MountBuilder, Spec,
};

use super::file::{Edits, Node};
use crate::failure::Failure;

/// Carries out `edits` on `spec`.
pub(super) fn apply(spec: &mut Spec, edits: &Edits) -> Result<(), Failure> {
    refuse(edits)?;
    for node in &edits.device_nodes {
        add_node(spec, node)?;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in &edits.mounts {
        mounts.retain(|other| other.destination().as_os_str() != mount.container_path.as_str());
        let kind = match mount.kind.as_str() {
            "" => "bind",
            kind => kind,
        };
        let built = MountBuilder::default()
            .destination(&mount.container_path)
            .typ(kind)
            .source(&mount.host_path)
            .options(mount.options.clone())
            .build();
        mounts.push(built.map_err(Failure::host)?);
    }
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        // Of several values the last counts.
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(edits.env.iter().cloned());
        process.set_env(Some(env));
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        for group in &edits.additional_gids {
            if *group != 0 && !groups.contains(group) {
                groups.push(*group);
            }
        }
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
    Ok(())
}

/// What the launcher cannot do is told, instead of a device that half works.
fn refuse(edits: &Edits) -> Result<(), Failure> {
    let asked = [
        ("hooks", !edits.hooks.is_empty()),
        ("network interfaces", !edits.net_devices.is_empty()),
        ("cache allocation", edits.intel_rdt.is_some()),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(Failure::user(format!(
            "failed to inject devices: {what} of devices cannot be set up by this daemon; \
             describe the device without them"
        ))),
        None => Ok(()),
    }
}

fn add_node(spec: &mut Spec, node: &Node) -> Result<(), Failure> {
    let (kind, major, minor, mode) = facts(node)?;
    let user = spec
        .process()
        .as_ref()
        .map(|process| process.user().clone());
    let not_root = |id: Option<u32>| id.filter(|id| *id > 0);
    let uid = node.uid.or(not_root(user.as_ref().map(|user| user.uid())));
    let gid = node.gid.or(not_root(user.as_ref().map(|user| user.gid())));
    let mut device = LinuxDeviceBuilder::default()
        .path(&node.path)
        .typ(kind)
        .major(major)
        .minor(minor)
        .file_mode(mode);
    if let Some(uid) = uid {
        device = device.uid(uid);
    }
    if let Some(gid) = gid {
        device = device.gid(gid);
    }
    let device = device.build().map_err(Failure::host)?;
    let access = match node.permissions.as_str() {
        "" => "rwm",
        given => given,
    };
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(kind)
        .major(major)
        .minor(minor)
        .access(access)
        .build()
        .map_err(Failure::host)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|other| other.path().as_os_str() != node.path.as_str());
    devices.push(device);
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(())
}

/// Type, numbers and mode of a node; what the description leaves open is that of the machine's.
fn facts(node: &Node) -> Result<(LinuxDeviceType, i64, i64, u32), Failure> {
    let path = match node.host_path.as_str() {
        "" => &node.path,
        path => path,
    };
    let wrong = |what: &str| Failure::user(format!("failed to inject devices: {what}"));
    let given = match node.kind.as_str() {
        "" => None,
        "b" => Some(LinuxDeviceType::B),
        "c" | "u" => Some(LinuxDeviceType::C),
        other => {
            let path = &node.path;
            return Err(wrong(&format!("device {path} of type `{other}`")));
        }
    };
    let there = lstat(&PathBuf::from(path));
    if let (Some(kind), true) = (given, node.major != 0) {
        let mode = there.map_or(0o666, |stat| stat.st_mode & 0o7777);
        return Ok((kind, node.major, node.minor, node.file_mode.unwrap_or(mode)));
    }
    let there = there.map_err(|error| {
        wrong(&format!(
            "failed to stat CDI host device \"{path}\": {error}"
        ))
    })?;
    let format = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
    let kind = match format {
        SFlag::S_IFCHR => LinuxDeviceType::C,
        SFlag::S_IFBLK => LinuxDeviceType::B,
        _ => return Err(wrong(&format!("\"{path}\" is not a device node"))),
    };
    if given.is_some_and(|given| given != kind) {
        return Err(wrong(&format!("\"{path}\" is a device of another type")));
    }
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mode = node.file_mode.unwrap_or(there.st_mode & 0o7777);
    let (high, low) = (major(there.st_rdev), minor(there.st_rdev));
    Ok((kind, number(high), number(low), mode))
}
