//! What only an insecure container gets.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

use crate::plan::from_bits;

/// Loop devices there are nodes of besides those the host has now.
const MORE_LOOP_DEVICES: i64 = 8;
const LOOP_MAJOR: i64 = 7;

/// The capabilities this process has.
pub(super) fn own_capabilities() -> HashSet<Capability> {
    let sets = rustix::thread::capabilities(None);
    from_bits(sets.map_or(0, |sets| sets.permitted.bits()))
}

/// Nodes that programs who manage disks, machines and networks look for.
pub(super) fn devices() -> Vec<LinuxDevice> {
    let node = |path: &str, typ, major, minor| {
        LinuxDeviceBuilder::default()
            .path(PathBuf::from(path))
            .typ(typ)
            .major(major)
            .minor(minor)
            .file_mode(0o666u32)
            .build()
            .expect("every field of the builder has a default")
    };
    let character = LinuxDeviceType::C;
    let mut devices = vec![
        node("/dev/kmsg", character, 1, 11),
        node("/dev/cuse", character, 10, 203),
        node("/dev/fuse", character, 10, 229),
        node("/dev/kvm", character, 10, 232),
        node("/dev/net/tun", character, 10, 200),
        node("/dev/loop-control", character, 10, 237),
    ];
    for number in 0..host_loop_devices() + MORE_LOOP_DEVICES {
        let path = format!("/dev/loop{number}");
        devices.push(node(&path, LinuxDeviceType::B, LOOP_MAJOR, number));
    }
    devices
}

fn host_loop_devices() -> i64 {
    let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("loop")?.parse().ok();
    let entries = std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| number(entry.file_name()))
        .max()
        .map_or(0, |last: i64| last + 1)
}
