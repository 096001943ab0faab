//! System call filters: Docker's default profile, and any OCI profile to BPF.
//!
//! The profile is kept as the list of calls that are *not* let through, with the capability that
//! unlocks each; all others the table of `numbers` knows are allowed. What the table does not know
//! is younger than it and answers `ENOSYS`, so that programs fall back to an older call, which they
//! do not do after `EPERM`.

mod compile;
mod numbers;

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use sys::process::BpfInstruction;

pub(crate) use compile::{CompileError, compile};

/// A program as bytes, eight an instruction.
pub(crate) fn encode(program: &[BpfInstruction]) -> Vec<u8> {
    let bytes = |instruction: &BpfInstruction| {
        let BpfInstruction {
            code,
            if_true,
            if_false,
            operand,
        } = *instruction;
        let ([c0, c1], [o0, o1, o2, o3]) = (code.to_le_bytes(), operand.to_le_bytes());
        [c0, c1, if_true, if_false, o0, o1, o2, o3]
    };
    program.iter().flat_map(bytes).collect()
}

/// A program from the bytes of [`encode`].
pub(crate) fn decode(bytes: &[u8]) -> Vec<BpfInstruction> {
    let (instructions, _) = bytes.as_chunks::<8>();
    let instruction = |bytes: &[u8; 8]| {
        let [c0, c1, if_true, if_false, o0, o1, o2, o3] = *bytes;
        let (code, operand) = (
            u16::from_le_bytes([c0, c1]),
            u32::from_le_bytes([o0, o1, o2, o3]),
        );
        BpfInstruction {
            code,
            if_true,
            if_false,
            operand,
        }
    };
    instructions.iter().map(instruction).collect()
}

/// Calls no container gets: obsolete, or acting on the kernel as a whole.
const NEVER: &[&str] = &[
    "_sysctl",
    "add_key",
    "afs_syscall",
    "bdflush",
    "break",
    "create_module",
    "ftime",
    "get_kernel_syms",
    "getpmsg",
    "gtty",
    "idle",
    // Faults in io_uring have let containers out too often.
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    // Keyrings know nothing of namespaces.
    "keyctl",
    "request_key",
    "lock",
    "migrate_pages",
    "move_pages",
    "mpx",
    "nfsservctl",
    "nice",
    "oldfstat",
    "oldlstat",
    "oldolduname",
    "oldstat",
    "olduname",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "pivot_root",
    "prof",
    "profil",
    "putpmsg",
    "query_module",
    "readdir",
    "security",
    "sgetmask",
    "sigaction",
    "signal",
    "sigpending",
    "sigsuspend",
    "ssetmask",
    "stty",
    "swapoff",
    "swapon",
    "sysfs",
    "tuxcall",
    "ulimit",
    "uselib",
    // Lets a thread halt the kernel inside a page fault at will.
    "userfaultfd",
    "ustat",
    "vm86",
    "vm86old",
    "vserver",
];

/// Calls that come with a capability. A call listed twice is unlocked by either.
const UNLOCKED: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (
        Capability::SysAdmin,
        &[
            "bpf",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (
        Capability::SysModule,
        &["delete_module", "finit_module", "init_module"],
    ),
    (Capability::SysPacct, &["acct"]),
    (
        Capability::SysPtrace,
        &["kcmp", "pidfd_getfd", "process_madvise"],
    ),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (
        Capability::SysTime,
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    (Capability::SysTtyConfig, &["vhangup"]),
    (
        Capability::SysNice,
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Calls allowed only with certain arguments; see [`conditional`].
const CONDITIONAL: &[&str] = &["clone", "personality", "socket"];

/// The flags of `clone` that make namespaces.
const CLONE_NEW_NAMESPACES: u64 = 0x7e02_0000;
/// `personality` domains that only change what a program sees of the system: Linux, Linux of 32
/// bits, both with the version of old, and "only ask".
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Address families: `AF_ALG` and `AF_VSOCK` reach past the network namespace.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// Docker's default profile for a container with the capabilities `held`.
pub fn default_profile(held: &HashSet<Capability>) -> LinuxSeccomp {
    let unlocked: HashSet<&str> = UNLOCKED
        .iter()
        .filter(|(capability, _)| held.contains(capability))
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    let locked: HashSet<&str> = UNLOCKED
        .iter()
        .flat_map(|(_, names)| names.iter().copied())
        .filter(|name| !unlocked.contains(name))
        .chain(NEVER.iter().copied())
        .chain(CONDITIONAL.iter().copied())
        .collect();
    let allowed = numbers::NUMBERS.iter().map(|(name, _)| *name);
    let allowed: Vec<&str> = allowed.filter(|name| !locked.contains(name)).collect();

    let allow = LinuxSeccompAction::ScmpActAllow;
    let mut syscalls = vec![syscall(&allowed, allow, None, None)];
    syscalls.extend(conditional(held.contains(&Capability::SysAdmin)));
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM.unsigned_abs())
        .architectures(architectures())
        .syscalls(syscalls)
        .build()
        .expect("every field of the builder has a default")
}

fn conditional(admin: bool) -> Vec<LinuxSyscall> {
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpGt, ScmpCmpLt, ScmpCmpMaskedEq};

    let allow = LinuxSeccompAction::ScmpActAllow;
    let mut calls = Vec::new();
    for (operator, value) in [(ScmpCmpLt, AF_ALG), (ScmpCmpEq, 39), (ScmpCmpGt, AF_VSOCK)] {
        calls.push(syscall(
            &["socket"],
            allow,
            None,
            Some(argument(value, None, operator)),
        ));
    }
    for value in PERSONALITIES {
        calls.push(syscall(
            &["personality"],
            allow,
            None,
            Some(argument(value, None, ScmpCmpEq)),
        ));
    }
    if admin {
        calls.push(syscall(&["clone"], allow, None, None));
    } else {
        let none = argument(CLONE_NEW_NAMESPACES, Some(0), ScmpCmpMaskedEq);
        calls.push(syscall(&["clone"], allow, None, Some(none)));
        // Its flags are in memory, where a filter cannot look; without it libc takes `clone`.
        let enosys = Some(libc::ENOSYS.unsigned_abs());
        calls.push(syscall(
            &["clone3"],
            LinuxSeccompAction::ScmpActErrno,
            enosys,
            None,
        ));
    }
    calls
}

fn argument(value: u64, two: Option<u64>, op: LinuxSeccompOperator) -> LinuxSeccompArg {
    let mut builder = LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(value)
        .op(op);
    if let Some(two) = two {
        builder = builder.value_two(two);
    }
    builder
        .build()
        .expect("every field of the builder has a default")
}

fn syscall(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    argument: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    if let Some(argument) = argument {
        builder = builder.args(vec![argument]);
    }
    builder
        .build()
        .expect("every field of the builder has a default")
}

/// The architectures whose programs this machine runs.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => Vec::new(),
    }
}
