//! A container as the child that becomes it needs it: an OCI spec with every question answered.
//!
//! [`container`] and [`process`] turn the one into the other in the daemon, where what is not
//! supported or not valid can be told before anything has been made.

mod capabilities;
mod mounts;

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::{
    LinuxDeviceType, LinuxNamespaceType, LinuxSeccomp, PosixRlimit, PosixRlimitType, Process, Spec,
};
use serde::{Deserialize, Serialize};

use crate::protocol::{Bundle, DevicePolicy, DeviceRulePlan, LimitsPlan};
use crate::{MountAt, SpecError};

pub(crate) use capabilities::from_bits;
pub(crate) use mounts::{MountPlan, MountSource, common};

/// A container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerPlan {
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) readonly_rootfs: bool,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) devices: Vec<DevicePlan>,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) readonly_paths: Vec<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) process: ProcessPlan,
}

/// A device node to make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DevicePlan {
    pub(crate) path: String,
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) capabilities: Option<CapabilitiesPlan>,
    /// Number of the limit, soft, hard.
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    /// Rows and columns.
    pub(crate) terminal: Option<(u16, u16)>,
}

/// Capability sets, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapabilitiesPlan {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// The usual mode of files that programs make.
const DEFAULT_UMASK: u32 = 0o022;

/// What a spec asks of the launcher besides the plan.
#[derive(Debug)]
pub(crate) struct Lowered {
    pub(crate) plan: ContainerPlan,
    pub(crate) limits: LimitsPlan,
    pub(crate) devices: DevicePolicy,
    pub(crate) parent: Option<String>,
    pub(crate) seccomp: Option<LinuxSeccomp>,
}

/// Answers every question of `spec`. Descriptors of mounts go into `bundle`.
pub(crate) fn container(
    spec: &Spec,
    extra: Vec<MountAt>,
    terminal: Option<(u16, u16)>,
    bundle: &mut Bundle,
) -> Result<Lowered, SpecError> {
    check_namespaces(spec)?;
    let linux = spec.linux().as_ref();
    let process_spec = spec
        .process()
        .as_ref()
        .ok_or(SpecError::Missing("process"))?;
    let list = |paths: Option<&Option<Vec<String>>>| paths.cloned().flatten().unwrap_or_default();
    let sysctls = linux
        .and_then(|linux| linux.sysctl().clone())
        .unwrap_or_default();
    let plan = ContainerPlan {
        hostname: spec.hostname().clone(),
        domainname: spec.domainname().clone(),
        readonly_rootfs: spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false),
        mounts: mounts::lower(spec.mounts().as_deref().unwrap_or_default(), extra, bundle)?,
        devices: devices(spec)?,
        masked_paths: list(linux.map(|linux| linux.masked_paths())),
        readonly_paths: list(linux.map(|linux| linux.readonly_paths())),
        sysctls: sysctls
            .into_iter()
            .map(checked_sysctl)
            .collect::<Result<_, _>>()?,
        process: process(process_spec, terminal)?,
    };
    Ok(Lowered {
        plan,
        limits: limits(spec),
        devices: device_policy(spec)?,
        parent: cgroup_parent(spec)?,
        seccomp: linux.and_then(|linux| linux.seccomp().clone()),
    })
}

/// Answers every question of one process.
pub(crate) fn process(
    process: &Process,
    terminal: Option<(u16, u16)>,
) -> Result<ProcessPlan, SpecError> {
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(SpecError::Missing("process.args"));
    }
    let env = process.env().clone().unwrap_or_default();
    if let Some(bad) = args.iter().chain(&env).find(|text| text.contains('\0')) {
        return Err(SpecError::Nul(bad.replace('\0', "\\0")));
    }
    let cwd = process
        .cwd()
        .to_str()
        .ok_or(SpecError::NotUtf8("process.cwd"))?;
    if !cwd.starts_with('/') {
        return Err(SpecError::Relative(cwd.to_owned()));
    }
    let user = process.user();
    Ok(ProcessPlan {
        args,
        env: last_of_each(env),
        cwd: cwd.to_owned(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(DEFAULT_UMASK),
        capabilities: process.capabilities().as_ref().map(capabilities::lower),
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default()),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: process.oom_score_adj(),
        terminal,
    })
}

/// Of several values for one variable the last counts; `getenv` would find the first.
fn last_of_each(env: Vec<String>) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut seen = HashSet::new();
    let mut kept: Vec<String> = env
        .into_iter()
        .rev()
        .filter(|entry| seen.insert(name(entry)))
        .collect();
    kept.reverse();
    kept
}

/// The launcher always makes all namespaces but that of users; a spec that wants otherwise wants
/// something else than what it would get.
fn check_namespaces(spec: &Spec) -> Result<(), SpecError> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    for namespace in namespaces.into_iter().flatten() {
        let joined = namespace.path().is_some() && namespace.typ() != LinuxNamespaceType::Network;
        let unsupported = matches!(
            namespace.typ(),
            LinuxNamespaceType::User | LinuxNamespaceType::Time
        );
        if joined || unsupported {
            return Err(SpecError::Unsupported(format!(
                "{} namespace",
                namespace.typ()
            )));
        }
    }
    Ok(())
}

fn checked_sysctl((key, value): (String, String)) -> Result<(String, String), SpecError> {
    let word = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
    match key.split(['.', '/']).all(word) {
        true => Ok((key, value)),
        false => Err(SpecError::Sysctl(key)),
    }
}

fn devices(spec: &Spec) -> Result<Vec<DevicePlan>, SpecError> {
    let devices = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().as_ref());
    let number = |value: i64| {
        u32::try_from(value).map_err(|_| SpecError::Unsupported(format!("device number {value}")))
    };
    let mut plans = Vec::new();
    for device in devices.into_iter().flatten() {
        let block = match device.typ() {
            LinuxDeviceType::B => true,
            LinuxDeviceType::C | LinuxDeviceType::U => false,
            LinuxDeviceType::P | LinuxDeviceType::A => {
                return Err(SpecError::Unsupported("device of this type".to_owned()));
            }
        };
        let path = device
            .path()
            .to_str()
            .ok_or(SpecError::NotUtf8("linux.devices"))?;
        plans.push(DevicePlan {
            path: path.to_owned(),
            block,
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        });
    }
    Ok(plans)
}

/// Which devices may be opened. The standard ones always may; a rule without numbers allows all.
fn device_policy(spec: &Spec) -> Result<DevicePolicy, SpecError> {
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_ref());
    let mut listed = Vec::new();
    for rule in rules.into_iter().flatten().filter(|rule| rule.allow()) {
        if rule.major().is_none() && rule.minor().is_none() {
            return Ok(DevicePolicy::All);
        }
        let number = |value: Option<i64>| value.map(u32::try_from).transpose();
        let (Ok(major), Ok(minor)) = (number(rule.major()), number(rule.minor())) else {
            return Err(SpecError::Unsupported(
                "device rule with such a number".to_owned(),
            ));
        };
        let access = rule.access().clone().unwrap_or_default();
        listed.push(DeviceRulePlan {
            block: rule.typ() == Some(LinuxDeviceType::B),
            major,
            minor,
            read: access.contains('r'),
            write: access.contains('w'),
            make: access.contains('m'),
        });
    }
    if listed.is_empty() {
        Ok(DevicePolicy::Standard)
    } else {
        Ok(DevicePolicy::Listed(listed))
    }
}

/// The spec's path is taken as that of a directory in which the group is made: with a name of its
/// own, two containers never share one.
fn cgroup_parent(spec: &Spec) -> Result<Option<String>, SpecError> {
    let linux = spec.linux().as_ref();
    let Some(path) = linux.and_then(|linux| linux.cgroups_path().as_ref()) else {
        return Ok(None);
    };
    let path = path
        .to_str()
        .ok_or(SpecError::NotUtf8("linux.cgroupsPath"))?;
    let path = cgroup_path(path);
    Ok((!path.as_os_str().is_empty()).then(|| path.display().to_string()))
}

/// A configured directory of control groups, relative to the hierarchies' roots. Of systemd's
/// notation, `slice:prefix:name`, only the slice counts here.
pub(crate) fn cgroup_path(text: &str) -> PathBuf {
    let path = Path::new(text.split(':').next().unwrap_or_default());
    let normal = |component: &Component<'_>| matches!(component, Component::Normal(_));
    path.components().filter(normal).collect()
}

fn limits(spec: &Spec) -> LimitsPlan {
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let Some(resources) = resources else {
        return LimitsPlan::default();
    };
    let (memory, cpu) = (resources.memory().as_ref(), resources.cpu().as_ref());
    LimitsPlan {
        memory_bytes: memory.and_then(|memory| memory.limit()),
        memory_swap_bytes: memory.and_then(|memory| memory.swap()),
        cpu_shares: cpu.and_then(|cpu| cpu.shares()),
        cpu_quota_us: cpu.and_then(|cpu| cpu.quota()),
        cpu_period_us: cpu.and_then(|cpu| cpu.period()),
        cpuset_cpus: cpu.and_then(|cpu| cpu.cpus().clone()),
        cpuset_mems: cpu.and_then(|cpu| cpu.mems().clone()),
        pids: resources.pids().as_ref().map(|pids| pids.limit()),
    }
}

/// The limits asked for. The launcher has raised its own limit of descriptors, so that one is always
/// set, by default to the daemon's.
fn rlimits(limits: &[PosixRlimit]) -> Vec<(u32, u64, u64)> {
    let mut plans: Vec<_> = limits.iter().map(rlimit).collect();
    let descriptors = libc::RLIMIT_NOFILE;
    if !plans.iter().any(|(number, _, _)| *number == descriptors)
        && let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
    {
        plans.push((descriptors, soft, hard));
    }
    plans
}

fn rlimit(limit: &PosixRlimit) -> (u32, u64, u64) {
    let number = match limit.typ() {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    (number, limit.soft(), limit.hard())
}
