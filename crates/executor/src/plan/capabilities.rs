//! Capabilities by number.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::CapabilitiesPlan;

/// All capabilities; the position is the kernel's number.
pub(crate) const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The sets of `capabilities` as bits.
pub(super) fn lower(capabilities: &LinuxCapabilities) -> CapabilitiesPlan {
    let bits = |set: &Option<HashSet<Capability>>| {
        let held = |(_, capability): &(usize, &Capability)| {
            set.as_ref().is_some_and(|set| set.contains(capability))
        };
        let held = BY_NUMBER.iter().enumerate().filter(held);
        held.fold(0, |bits, (number, _)| bits | 1 << number)
    };
    CapabilitiesPlan {
        bounding: bits(capabilities.bounding()),
        effective: bits(capabilities.effective()),
        permitted: bits(capabilities.permitted()),
        inheritable: bits(capabilities.inheritable()),
        ambient: bits(capabilities.ambient()),
    }
}

/// The capabilities whose bits are set.
pub(crate) fn from_bits(bits: u64) -> HashSet<Capability> {
    let held = BY_NUMBER
        .iter()
        .enumerate()
        .filter(|(number, _)| bits & 1 << number != 0);
    held.map(|(_, capability)| *capability).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        // As a step's `/proc/self/status` shows them under BuildKit.
        let docker = crate::spec::DEFAULT_CAPABILITIES
            .into_iter()
            .collect::<HashSet<_>>();
        assert_eq!(from_bits(0xa804_25fb), docker);
    }
}
