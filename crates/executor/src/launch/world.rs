//! The little the launcher sees of the machine, and what it has made there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use sys::cgroup::{Access, DeviceKind, DeviceRule, Group, Limits, Parent};
use sys::mount::{Attr, Bind};

use crate::network;
use crate::protocol::{Configuration, DevicePolicy, DeviceRulePlan, GroupPlan};

/// Where a root filesystem is attached while it is put together.
pub(super) const NEW_ROOT: &str = "/rootfs";
/// An empty directory and a null device, to hide things behind.
pub(super) const EMPTY_DIR: &str = "/masks/empty";
pub(super) const NULL_DEVICE: &str = "/masks/null";
/// The hierarchies of control groups, by policy and controllers.
const GROUPS: &str = "/groups";

/// Character devices every container may open: null, zero, full, random, urandom, tty, console,
/// ptmx.
const STANDARD_DEVICES: [(u32, u32); 8] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];
/// Major number of pseudo terminals.
const PTS_MAJOR: u32 = 136;

pub(super) struct World {
    base: PathBuf,
    owner: String,
    host_mounts: File,
    own_mounts: File,
    /// The file that lists what is `elsewhere`.
    parents: PathBuf,
    /// Directories that hold groups of containers whose parent is not the daemon's.
    elsewhere: BTreeSet<PathBuf>,
    standard: Option<Parent>,
    all: Option<Parent>,
    /// Holds a directory for each container with a list of devices of its own.
    listed: Option<Parent>,
}

impl World {
    /// Makes the control groups of this daemon and leaves the host's mounts.
    pub(super) fn build(configuration: &Configuration) -> io::Result<World> {
        let base = PathBuf::from(&configuration.cgroup);
        // Without control groups containers run without limits; what needs one fails then.
        let standard = Parent::create(&base.join("standard"), Some(&standard_rules())).ok();
        let all = Parent::create(&base.join("all"), None).ok();
        let listed = Parent::create(&base.join("listed"), None).ok();
        let own_mounts = || File::open("/proc/self/ns/mnt");
        let mut world = World {
            base,
            owner: configuration.owner.clone(),
            host_mounts: own_mounts()?,
            own_mounts: own_mounts()?,
            parents: PathBuf::from(&configuration.parents),
            elsewhere: BTreeSet::new(),
            standard,
            all,
            listed,
        };
        world.leave_host(Path::new(&configuration.mount_point))?;
        world.own_mounts = own_mounts()?;
        Ok(world)
    }

    /// Replaces the mount namespace by one with nothing of the host but the control groups.
    fn leave_host(&self, mount_point: &Path) -> io::Result<()> {
        // Cloned here: in the new namespace these directories would be those of another one.
        let mut groups = Vec::new();
        for (policy, parent) in [("standard", &self.standard), ("all", &self.all)] {
            for (dir, controllers) in parent.iter().flat_map(Parent::directories) {
                let bind = Bind {
                    readonly: false,
                    recursive: false,
                };
                let place = Path::new(policy).join(label(controllers));
                groups.push((place, sys::mount::bind_clone(dir, bind)?));
            }
        }
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        let private = rustix::mount::MountPropagationFlags::PRIVATE
            | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;

        sys::mount::tmpfs(1 << 20, 0o755)?.attach(mount_point)?;
        let inside = |path: &str| mount_point.join(path.trim_start_matches('/'));
        for dir in ["/proc", NEW_ROOT, EMPTY_DIR] {
            fs::create_dir_all(inside(dir))?;
        }
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let null = rustix::fs::makedev(1, 3);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, inside(NULL_DEVICE), kind, mode, null)?;
        fs::set_permissions(
            inside(NULL_DEVICE),
            std::os::unix::fs::PermissionsExt::from_mode(0o666),
        )?;
        let flags = Attr::NOSUID | Attr::NODEV | Attr::NOEXEC;
        sys::mount::filesystem("proc", &[], flags)?.attach(&inside("/proc"))?;
        for (place, mount) in groups {
            let place = inside(GROUPS).join(place);
            fs::create_dir_all(&place)?;
            mount.attach(&place)?;
        }
        rustix::process::chdir(mount_point)?;
        rustix::process::pivot_root(".", ".")?;
        sys::mount::unmount(Path::new("."))?;
        Ok(rustix::process::chdir("/")?)
    }

    /// Whether what a container opens is restricted by its group.
    pub(super) fn restricts_devices(&self) -> bool {
        self.standard
            .as_ref()
            .is_some_and(|parent| parent.restricts_devices)
    }

    /// Makes the control group of a container. Without control groups there is none.
    pub(super) fn group(&mut self, plan: GroupPlan) -> io::Result<Option<Group>> {
        let GroupPlan {
            name,
            parent,
            limits,
            devices,
        } = plan;
        let limits = Limits::from(limits);
        if let Some(parent) = parent {
            let base = Path::new(&parent).join(&self.owner);
            let make = |world: &mut World| world.elsewhere(&base, &name, &limits, &devices);
            return self.at_host(make).map(Some);
        }
        let nested;
        let parent = match &devices {
            DevicePolicy::Standard => self.standard.as_ref(),
            DevicePolicy::All => self.all.as_ref(),
            DevicePolicy::Listed(rules) => {
                let listed = self.listed.as_ref();
                nested = listed
                    .map(|listed| listed.nested(&name, &with_standard(rules)))
                    .transpose()?;
                nested.as_ref()
            }
        };
        match parent {
            Some(parent) => parent.child(&name, &limits).map(Some),
            None if limits == Limits::default() => Ok(None),
            None => {
                let message = "limits were asked for, but there are no control groups here";
                Err(io::Error::new(io::ErrorKind::Unsupported, message))
            }
        }
    }

    /// Makes a group below `base`, in a directory that is not the daemon's. What is made there is
    /// noted first, for whoever cleans up.
    fn elsewhere(
        &mut self,
        base: &Path,
        name: &str,
        limits: &Limits,
        devices: &DevicePolicy,
    ) -> io::Result<Group> {
        if !self.elsewhere.contains(base) {
            let mut file = File::options()
                .create(true)
                .append(true)
                .open(&self.parents)?;
            writeln!(file, "{}", base.display())?;
            self.elsewhere.insert(base.to_owned());
        }
        let (policy, rules) = match devices {
            DevicePolicy::Standard => ("standard", Some(standard_rules())),
            DevicePolicy::All => ("all", None),
            DevicePolicy::Listed(rules) => (name, Some(with_standard(rules))),
        };
        Parent::create(&base.join(policy), rules.as_deref())?.child(name, limits)
    }

    /// Does something in the host's mount namespace.
    fn at_host<T>(&mut self, work: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        nix::sched::setns(&self.host_mounts, CloneFlags::CLONE_NEWNS)?;
        let result = work(self);
        // Else the next container would begin with all mounts of the host.
        let back = nix::sched::setns(&self.own_mounts, CloneFlags::CLONE_NEWNS);
        back.map_err(io::Error::from).and(result)
    }

    /// Removes the group of a container that has ended; `false` means not yet.
    pub(super) fn remove_group(&self, group: &Group) -> bool {
        if !matches!(group.remove(), Ok(true)) {
            return false;
        }
        let listed = self.listed.as_ref();
        // Most groups are not there, which is no error; what cannot be removed goes at the end.
        let _ = listed.map(|listed| listed.remove_nested(group.name()));
        true
    }

    /// The directories of a container's group in this mount namespace, with the name each has in the
    /// container below `/sys/fs/cgroup` (empty: the whole of it).
    pub(super) fn group_directories(&self, group: &Group) -> Vec<(String, PathBuf)> {
        // A group below `listed` is not mounted here; its container sees no control groups.
        let policies = ["standard", "all"];
        let candidates = group.hierarchies().flat_map(|controllers| {
            let label = label(controllers);
            policies.map(|policy| {
                let path = Path::new(GROUPS)
                    .join(policy)
                    .join(&label)
                    .join(group.name());
                (
                    if controllers.is_empty() {
                        String::new()
                    } else {
                        label.clone()
                    },
                    path,
                )
            })
        });
        candidates.filter(|(_, path)| path.exists()).collect()
    }

    /// Removes everything the launcher has made on the host. All containers have ended.
    pub(super) fn end(self) -> io::Result<()> {
        nix::sched::setns(&self.host_mounts, CloneFlags::CLONE_NEWNS)?;
        for path in self.elsewhere.iter().chain([&self.base]) {
            Parent::sweep(path)?;
        }
        network::remove(&self.owner)
    }
}

fn label(controllers: &[String]) -> String {
    if controllers.is_empty() {
        "v2".to_owned()
    } else {
        controllers.join(",")
    }
}

fn standard_rules() -> Vec<DeviceRule> {
    let all = Access {
        read: true,
        write: true,
        make: true,
    };
    let char = |major, minor, access| DeviceRule {
        kind: DeviceKind::Char,
        major,
        minor,
        access,
    };
    let mut rules: Vec<DeviceRule> = STANDARD_DEVICES
        .iter()
        .map(|(major, minor)| char(Some(*major), Some(*minor), all))
        .collect();
    rules.push(char(Some(PTS_MAJOR), None, all));
    // Nodes may be made (tar, debootstrap do); opening them is another matter.
    let make = Access {
        read: false,
        write: false,
        make: true,
    };
    rules.push(char(None, None, make));
    rules.push(DeviceRule {
        kind: DeviceKind::Block,
        major: None,
        minor: None,
        access: make,
    });
    rules
}

fn with_standard(rules: &[DeviceRulePlan]) -> Vec<DeviceRule> {
    let rules = rules.iter().map(rule);
    standard_rules().into_iter().chain(rules).collect()
}

fn rule(plan: &DeviceRulePlan) -> DeviceRule {
    DeviceRule {
        kind: if plan.block {
            DeviceKind::Block
        } else {
            DeviceKind::Char
        },
        major: plan.major,
        minor: plan.minor,
        access: Access {
            read: plan.read,
            write: plan.write,
            make: plan.make,
        },
    }
}
