//! Mounts of a spec: what is mounted, with which flags, where.

use oci::RootedPath;
use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};
use sys::mount::{Attr, Attributes, Bind, MountFd};

use crate::protocol::Bundle;
use crate::{MountAt, SpecError};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountPlan {
    /// Absolute, and clean of `.` and `..`.
    pub(crate) destination: String,
    pub(crate) source: MountSource,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountSource {
    /// A detached mount, by its position.
    Descriptor(usize),
    /// A new filesystem, with options and flags of [`Attr`].
    Filesystem {
        kind: String,
        options: Vec<(String, Option<String>)>,
        flags: u64,
    },
    /// The container's own control groups.
    ControlGroups { readonly: bool },
}

/// The filesystems that can be made before it is known for whom. That of `sysfs` shows the network
/// of whoever makes it.
pub(crate) fn common(mounts: &[Mount]) -> Result<Vec<MountPlan>, SpecError> {
    let mut plans = lower(mounts, Vec::new(), &mut Bundle::default())?;
    plans.retain(|plan| match &plan.source {
        MountSource::Filesystem { kind, .. } => kind != "sysfs",
        MountSource::Descriptor(_) | MountSource::ControlGroups { .. } => false,
    });
    Ok(plans)
}

/// The mounts of a spec, then those of the request. A mount takes the turn of an earlier one at the
/// same place, as in BuildKit.
pub(super) fn lower(
    mounts: &[Mount],
    extra: Vec<MountAt>,
    bundle: &mut Bundle,
) -> Result<Vec<MountPlan>, SpecError> {
    let mut plans: Vec<MountPlan> = Vec::new();
    for mount in mounts {
        let destination = mount.destination().to_str();
        let destination = clean(destination.ok_or(SpecError::NotUtf8("mounts"))?)?;
        let source = source(mount, &destination, bundle)?;
        put(
            &mut plans,
            MountPlan {
                destination,
                source,
            },
        );
    }
    for mount in extra {
        let destination = mount.destination.to_str();
        let destination = clean(destination.ok_or(SpecError::NotUtf8("mounts"))?)?;
        if mount.readonly {
            mount
                .mount
                .set_readonly(true)
                .map_err(|source| SpecError::Bind {
                    path: destination.clone(),
                    source,
                })?;
        }
        let source = MountSource::Descriptor(bundle.add(mount.mount));
        put(
            &mut plans,
            MountPlan {
                destination,
                source,
            },
        );
    }
    Ok(plans)
}

fn put(plans: &mut Vec<MountPlan>, plan: MountPlan) {
    match plans
        .iter_mut()
        .find(|other| other.destination == plan.destination)
    {
        Some(other) => *other = plan,
        None => plans.push(plan),
    }
}

fn clean(destination: &str) -> Result<String, SpecError> {
    let path = RootedPath::normalize(destination);
    match path.as_str() {
        "/" => Err(SpecError::Unsupported("mount over the root".to_owned())),
        path if path.contains('\0') => Err(SpecError::Nul(path.replace('\0', "\\0"))),
        path => Ok(path.to_owned()),
    }
}

fn source(mount: &Mount, destination: &str, bundle: &mut Bundle) -> Result<MountSource, SpecError> {
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    match mount.typ().as_deref() {
        Some("cgroup" | "cgroup2") => {
            let readonly = options.flags & Attr::RDONLY != 0;
            Ok(MountSource::ControlGroups { readonly })
        }
        Some(kind @ ("proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue")) => {
            let (kind, flags) = (kind.to_owned(), options.flags);
            Ok(MountSource::Filesystem {
                kind,
                options: options.data,
                flags,
            })
        }
        None | Some("bind" | "none" | "") => {
            let path = mount
                .source()
                .as_ref()
                .ok_or(SpecError::Missing("mounts.source"))?;
            let failed = |source| SpecError::Bind {
                path: destination.to_owned(),
                source,
            };
            let clone = || -> std::io::Result<MountFd> {
                let bind = Bind {
                    readonly: false,
                    recursive: options.recursive,
                };
                let clone = sys::mount::bind_clone_path(path, bind)?;
                if options.flags != 0 {
                    let recursive = options.recursive;
                    let change = Attributes {
                        set: options.flags,
                        clear: 0,
                        recursive,
                    };
                    sys::mount::set_attributes(std::os::fd::AsFd::as_fd(&clone), change)?;
                }
                Ok(clone)
            };
            Ok(MountSource::Descriptor(
                bundle.add(clone().map_err(failed)?),
            ))
        }
        Some(kind) => Err(SpecError::Unsupported(format!("mount of type `{kind}`"))),
    }
}

/// Options in the style of fstab, sorted.
struct Options {
    flags: u64,
    recursive: bool,
    data: Vec<(String, Option<String>)>,
}

impl Options {
    fn parse(options: &[String]) -> Options {
        let mut parsed = Options {
            flags: 0,
            recursive: false,
            data: Vec::new(),
        };
        for option in options {
            match option.as_str() {
                "ro" => parsed.flags |= Attr::RDONLY,
                "rw" => parsed.flags &= !Attr::RDONLY,
                "nosuid" => parsed.flags |= Attr::NOSUID,
                "suid" => parsed.flags &= !Attr::NOSUID,
                "nodev" => parsed.flags |= Attr::NODEV,
                "dev" => parsed.flags &= !Attr::NODEV,
                "noexec" => parsed.flags |= Attr::NOEXEC,
                "exec" => parsed.flags &= !Attr::NOEXEC,
                "noatime" => parsed.flags |= Attr::NOATIME,
                "strictatime" => parsed.flags |= Attr::STRICTATIME,
                "nodiratime" => parsed.flags |= Attr::NODIRATIME,
                "nosymfollow" => parsed.flags |= Attr::NOSYMFOLLOW,
                "rbind" => parsed.recursive = true,
                // Defaults; and all mounts of a container are private.
                "bind" | "defaults" | "relatime" | "atime" | "diratime" | "async" | "private"
                | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable"
                | "runbindable" => {}
                other => parsed.data.push(match other.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (other.to_owned(), None),
                }),
            }
        }
        parsed
    }
}
