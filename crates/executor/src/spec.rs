//! The OCI runtime spec of a build step and of a container that a user runs.
//!
//! Both begin as what BuildKit gives a step: Docker's capabilities and system call filter, the usual
//! mounts, hidden and read-only paths in `/proc` and `/sys`.

mod insecure;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxCpuBuilder,
    LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use sys::cgroup::Limits;

use crate::SpecError;
use crate::user::UserIds;

/// The name of the host a step runs on, unless the step names it.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// What root in a container may do: Docker's choice.
pub const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Paths that tell of the host or let one act on it.
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Size of `/dev/shm` unless a step asks for another.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// Permission to run a container that can do to the host whatever the daemon can.
///
/// Made where the daemon's and the client's entitlements have been checked, and nowhere else.
#[derive(Debug)]
pub struct Entitlement(());

impl Entitlement {
    /// The caller says that both the daemon's configuration and the client allow
    /// `security.insecure`.
    pub fn insecure_was_granted() -> Entitlement {
        Entitlement(())
    }
}

/// How far a container is kept from the host.
#[derive(Debug, Default)]
pub enum Security {
    /// As far as Docker keeps one.
    #[default]
    Sandbox,
    /// Not at all: all capabilities and devices, no filter, nothing hidden.
    Insecure(Entitlement),
}

/// One limit of `setrlimit(2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// Name in lower case without prefix, like `nofile`.
    pub name: String,
    /// What programs start with; `u64::MAX` for no limit.
    pub soft: u64,
    /// What they can raise it to; `u64::MAX` for no limit.
    pub hard: u64,
}

/// A process and what it may do, for [`step`].
#[derive(Debug)]
pub struct StepSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment, `NAME=value` each.
    pub env: Vec<String>,
    /// Working directory, absolute; made if it is missing.
    pub cwd: String,
    /// User and groups, by [`crate::user::lookup`].
    pub user: UserIds,
    /// Host name; [`DEFAULT_HOSTNAME`] when empty.
    pub hostname: String,
    /// Process limits; without any the daemon's own apply.
    pub ulimits: Vec<Ulimit>,
    /// Limits of the control group.
    pub limits: Limits,
    /// Distance from the host.
    pub security: Security,
    /// Whether the root filesystem is read-only.
    pub readonly_rootfs: bool,
    /// Size of `/dev/shm`, bytes; 0 for 64 MiB.
    pub shm_size_bytes: u64,
    /// How readily the kernel kills this when memory runs out, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

/// What a container that a user runs has on top of a step.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// Capabilities besides the default ones.
    pub add_capabilities: HashSet<Capability>,
    /// Capabilities taken away; with `add_capabilities` this one wins.
    pub drop_capabilities: HashSet<Capability>,
    /// Kernel settings of the container's namespaces.
    pub sysctls: HashMap<String, String>,
    /// New filesystems in memory: place and options.
    pub tmpfs: Vec<(PathBuf, Vec<String>)>,
    /// Whether set-user-id programs have no effect.
    pub no_new_privileges: bool,
}

/// The spec of a build step.
///
/// # Errors
/// [`SpecError::Ulimit`] for a limit there is none of that name.
pub fn step(step: StepSpec) -> Result<Spec, SpecError> {
    container(step, RunOptions::default())
}

/// The spec of a container that a user runs.
///
/// # Errors
/// [`SpecError::Ulimit`] for a limit there is none of that name.
pub fn container(step: StepSpec, options: RunOptions) -> Result<Spec, SpecError> {
    let insecure = matches!(step.security, Security::Insecure(_));
    let held: HashSet<Capability> = if insecure {
        insecure::own_capabilities()
    } else {
        let default = DEFAULT_CAPABILITIES
            .into_iter()
            .chain(options.add_capabilities.iter().copied());
        default
            .filter(|capability| !options.drop_capabilities.contains(capability))
            .collect()
    };
    let mut mounts = default_mounts(step.shm_size_bytes, insecure);
    for (place, options) in options.tmpfs {
        mounts.push(mount_at(place, "tmpfs", options));
    }
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces())
        .resources(resources(&step.limits, insecure))
        .sysctl(options.sysctls)
        .devices(if insecure {
            insecure::devices()
        } else {
            Vec::<LinuxDevice>::new()
        })
        .masked_paths(if insecure {
            Vec::new()
        } else {
            MASKED_PATHS.map(str::to_owned).to_vec()
        })
        .readonly_paths(if insecure {
            Vec::new()
        } else {
            READONLY_PATHS.map(str::to_owned).to_vec()
        })
        .build()?;
    let filter = (!insecure).then(|| crate::seccomp::default_profile(&held));
    linux.set_seccomp(filter);

    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(step.readonly_rootfs)
        .build()?;
    let hostname = match step.hostname.as_str() {
        "" => DEFAULT_HOSTNAME,
        name => name,
    }
    .to_owned();
    let process = process(step, held, insecure, options.no_new_privileges)?;
    let spec = SpecBuilder::default()
        .root(root)
        .process(process)
        .hostname(hostname)
        .mounts(mounts)
        .linux(linux);
    Ok(spec.build()?)
}

/// Makes the container's control group below `parent`, a directory relative to the hierarchies'
/// roots, whose limits then hold for it. Without one, or if `parent` is empty, it is below the
/// daemon's.
pub fn set_cgroup_parent(spec: &mut Spec, parent: &str) {
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path((!parent.is_empty()).then(|| PathBuf::from(parent)));
    }
}

fn process(
    step: StepSpec,
    held: HashSet<Capability>,
    insecure: bool,
    no_new_privileges: bool,
) -> Result<Process, SpecError> {
    let user = UserBuilder::default()
        .uid(step.user.uid)
        .gid(step.user.gid)
        .additional_gids(step.user.groups)
        .build()?;
    let rlimits: Vec<PosixRlimit> = step.ulimits.iter().map(rlimit).collect::<Result<_, _>>()?;
    let mut process = ProcessBuilder::default()
        .user(user)
        .args(step.args)
        .env(step.env)
        .cwd(step.cwd)
        .capabilities(capabilities(held, insecure)?)
        .rlimits(rlimits)
        .no_new_privileges(no_new_privileges)
        .terminal(false)
        .build()?;
    process.set_oom_score_adj(step.oom_score_adj);
    Ok(process)
}

fn capabilities(held: HashSet<Capability>, insecure: bool) -> Result<LinuxCapabilities, SpecError> {
    let further = if insecure {
        held.clone()
    } else {
        HashSet::new()
    };
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(held.clone())
        .permitted(held.clone())
        .effective(held)
        .inheritable(further.clone())
        .ambient(further);
    Ok(sets.build()?)
}

fn rlimit(limit: &Ulimit) -> Result<PosixRlimit, SpecError> {
    let name = format!("RLIMIT_{}", limit.name.to_uppercase());
    let typ: PosixRlimitType = serde_json::from_value(serde_json::Value::String(name))
        .map_err(|_| SpecError::Ulimit(limit.name.clone()))?;
    Ok(PosixRlimitBuilder::default()
        .typ(typ)
        .soft(limit.soft)
        .hard(limit.hard)
        .build()?)
}

fn namespaces() -> Vec<LinuxNamespace> {
    let make = |typ| {
        let namespace = LinuxNamespaceBuilder::default().typ(typ).build();
        namespace.expect("a type is all a namespace needs")
    };
    [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Cgroup,
    ]
    .map(make)
    .to_vec()
}

/// The mounts of every container, in this order.
pub(crate) fn default_mounts(shm_bytes: u64, insecure: bool) -> Vec<Mount> {
    let shm_bytes = if shm_bytes == 0 {
        DEFAULT_SHM_BYTES
    } else {
        shm_bytes
    };
    let shm = format!("size={}k", shm_bytes.div_ceil(1024));
    let access = if insecure { "rw" } else { "ro" };
    let kernel = ["nosuid", "noexec", "nodev"];
    let with = |options: &[&str], more: &[&str]| {
        options
            .iter()
            .chain(more)
            .map(|option| (*option).to_owned())
            .collect::<Vec<_>>()
    };
    let mount = |place: &str, kind, options| mount_at(PathBuf::from(place), kind, options);
    vec![
        mount("/proc", "proc", with(&kernel, &[])),
        mount(
            "/dev",
            "tmpfs",
            with(&["nosuid", "strictatime", "mode=755", "size=65536k"], &[]),
        ),
        mount(
            "/dev/pts",
            "devpts",
            with(
                &[
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                    "gid=5",
                ],
                &[],
            ),
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            with(&kernel, &["source=shm", "mode=1777", &shm]),
        ),
        mount("/dev/mqueue", "mqueue", with(&kernel, &[])),
        mount("/sys", "sysfs", with(&kernel, &[access])),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            with(&kernel, &["relatime", access]),
        ),
    ]
}

fn mount_at(place: PathBuf, kind: &str, options: Vec<String>) -> Mount {
    MountBuilder::default()
        .destination(place)
        .typ(kind)
        .source(kind)
        .options(options)
        .build()
        .expect("every field of the builder has a default")
}

fn resources(limits: &Limits, insecure: bool) -> LinuxResources {
    let mut memory = LinuxMemoryBuilder::default()
        .build()
        .expect("all fields have a default");
    memory.set_limit(limits.memory_bytes);
    memory.set_swap(limits.memory_swap_bytes);
    let mut cpu = LinuxCpuBuilder::default()
        .build()
        .expect("all fields have a default");
    cpu.set_shares(limits.cpu_shares);
    cpu.set_quota(limits.cpu_quota_us);
    cpu.set_period(limits.cpu_period_us);
    cpu.set_cpus(limits.cpuset_cpus.clone());
    cpu.set_mems(limits.cpuset_mems.clone());
    let pids = limits.pids.map(|limit| {
        LinuxPidsBuilder::default()
            .limit(limit)
            .build()
            .expect("a limit is all it needs")
    });
    let mut resources = LinuxResourcesBuilder::default()
        .devices(device_rules(insecure))
        .memory(memory)
        .cpu(cpu)
        .build()
        .expect("all fields have a default");
    resources.set_pids(pids);
    resources
}

/// "None" stands for the standard devices, which every container may open.
fn device_rules(insecure: bool) -> Vec<LinuxDeviceCgroup> {
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(insecure)
        .access("rwm");
    vec![rule.build().expect("all fields have a default")]
}
