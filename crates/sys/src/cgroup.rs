//! Control groups, version 1, version 2, and both at once ("hybrid").
//!
//! [`Parent::create`] makes one directory for all groups of a program in every hierarchy that
//! matters, [`Parent::child`] makes a [`Group`] below it. A version 1 hierarchy is used for the
//! controllers mounted there, version 2 for the others.

mod devices;
mod hierarchy;
mod limits;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};

pub use devices::{Access, DeviceKind, DeviceRule};
pub use limits::Limits;

use hierarchy::{Hierarchy, Version};

/// The most bytes read of one control file: `cgroup.procs` of a group with 100,000 processes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A directory that holds groups, in every hierarchy in use.
#[derive(Debug)]
pub struct Parent {
    places: Vec<Place>,
    /// Whether opening devices can be restricted here.
    pub restricts_devices: bool,
}

#[derive(Clone, Debug)]
struct Place {
    /// Shared with the groups below, which have no descriptors of their own.
    dir: Arc<OwnedFd>,
    version: Version,
    controllers: Arc<[String]>,
    /// A hierarchy where the groups have nothing of their own: all their processes are in the
    /// parent. So it is with `devices`, where one rule holds for all.
    shared: bool,
    /// A hierarchy a group enters only for a limit it has: `cpuset`, which is costly to enter.
    on_demand: bool,
}

impl Parent {
    /// Makes the directory `path` (relative, of our own) in every hierarchy, and lets its groups open
    /// only the devices of `devices`, or all where that is `None`.
    ///
    /// # Errors
    /// Any that keep groups from being made at all: no hierarchy mounted, mounted read-only.
    pub fn create(path: &Path, devices: Option<&[DeviceRule]>) -> io::Result<Parent> {
        let mut places = Vec::new();
        let mut restricts_devices = false;
        for hierarchy in hierarchy::in_use()? {
            let dir = Arc::new(hierarchy.make(path)?);
            let Hierarchy {
                version,
                controllers,
                ..
            } = hierarchy;
            let controllers: Arc<[String]> = controllers.into();
            let only = |name: &str| version == Version::One && *controllers == [name];
            let (shared, on_demand) = (only("devices"), only("cpuset"));
            let place = Place {
                dir,
                version,
                controllers,
                shared,
                on_demand,
            };
            if let Some(rules) = devices {
                restricts_devices |= devices::restrict_place(place.dir.as_fd(), &place, rules);
            }
            places.push(place);
        }
        if places.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "no control groups are mounted",
            ));
        }
        Ok(Parent {
            places,
            restricts_devices,
        })
    }

    /// The directory of each hierarchy that holds groups of their own, with its controllers (none
    /// named: version 2). Every directory of a group is in one of them, under the group's name.
    pub fn directories(&self) -> impl Iterator<Item = (BorrowedFd<'_>, &[String])> {
        let holding = self.places.iter().filter(|place| !place.shared);
        holding.map(|place| (place.dir.as_fd(), named(place.version, &place.controllers)))
    }

    /// Makes the group `name`, a single component, with `limits`. On failure nothing is left of it.
    ///
    /// # Errors
    /// `Unsupported` when a limit is asked for whose controller is not available.
    pub fn child(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let mut group = Group {
            name: name.to_owned(),
            parts: Vec::new(),
        };
        let made = self.places.iter().try_for_each(|place| {
            if place.on_demand && !limits.uses_cpuset() {
                return Ok(());
            }
            group.parts.push(place.part(name)?);
            Ok(())
        });
        match made.and_then(|()| group.set_limits(limits)) {
            Ok(()) => Ok(group),
            Err(error) => {
                // Best effort: the next start sweeps what cannot be removed now.
                let _ = group.remove();
                Err(error)
            }
        }
    }

    /// Makes a directory of groups inside this one, `name`, a single component. Its groups may open
    /// only the devices of `devices`.
    pub fn nested(&self, name: &str, devices: &[DeviceRule]) -> io::Result<Parent> {
        let mut places = Vec::with_capacity(self.places.len());
        let mut restricts_devices = false;
        for place in &self.places {
            // In a shared directory, too: the restriction is on the directory.
            let dir = Arc::new(place.make(name)?);
            restricts_devices |= devices::restrict_place(dir.as_fd(), place, devices);
            places.push(Place {
                dir,
                ..place.clone()
            });
        }
        Ok(Parent {
            places,
            restricts_devices,
        })
    }

    /// Removes the directory `name` that [`Parent::nested`] made and that has no groups any more.
    pub fn remove_nested(&self, name: &str) -> io::Result<()> {
        for place in &self.places {
            match rustix::fs::unlinkat(&place.dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Kills everything in and below the directory `path` of every hierarchy and removes it, for
    /// what a program that died left behind. What is not there is not an error; returns whether
    /// nothing is left.
    pub fn sweep(path: &Path) -> io::Result<bool> {
        let mut clean = true;
        for hierarchy in hierarchy::in_use()? {
            clean &= hierarchy.sweep(path)?;
        }
        Ok(clean)
    }
}

impl Place {
    /// Makes and opens the directory `name`.
    fn make(&self, name: &str) -> io::Result<OwnedFd> {
        rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755))?;
        let dir = open_dir(self.dir.as_fd(), name)?;
        if self.version == Version::One && self.controllers.iter().any(|name| name == "cpuset") {
            hierarchy::inherit_cpuset(self.dir.as_fd(), dir.as_fd())?;
        }
        Ok(dir)
    }

    fn part(&self, name: &str) -> io::Result<Part> {
        if !self.shared {
            self.make(name)?;
        }
        Ok(Part {
            parent: Arc::clone(&self.dir),
            name: (!self.shared).then(|| name.to_owned()),
            version: self.version,
            controllers: Arc::clone(&self.controllers),
        })
    }
}

/// A control group; it stays when dropped, see [`Group::remove`].
#[derive(Debug)]
pub struct Group {
    name: String,
    parts: Vec<Part>,
}

/// A group's directory in one hierarchy. It is found by its name and not held open: whoever runs a
/// thousand containers would need thousands of descriptors.
#[derive(Debug)]
struct Part {
    parent: Arc<OwnedFd>,
    /// Name below `parent`; `None` where the group has only what `parent` has.
    name: Option<String>,
    version: Version,
    controllers: Arc<[String]>,
}

impl Part {
    fn read(&self, file: &str) -> io::Result<String> {
        read(self.parent.as_fd(), &self.path(file))
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        write(self.parent.as_fd(), &self.path(file), value)
    }

    fn path(&self, file: &str) -> String {
        match &self.name {
            Some(name) => format!("{name}/{file}"),
            None => file.to_owned(),
        }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        open_dir(
            self.parent.as_fd(),
            Path::new(self.name.as_deref().unwrap_or(".")),
        )
    }
}

impl Group {
    /// The version 2 directory, if there is one, which a process can be cloned into.
    pub fn v2(&self) -> io::Result<Option<OwnedFd>> {
        let mut parts = self.parts.iter();
        let part = parts.find(|part| part.version == Version::Two);
        part.map(Part::open).transpose()
    }

    /// Puts the calling process into the group's version 1 directories. It must have one thread.
    ///
    /// Writing 0 to `tasks` moves just the caller, which the kernel does without the lock that keeps
    /// all of the system's processes from forking; for that lock one may wait milliseconds.
    pub fn join_v1(&self) -> io::Result<()> {
        for part in self
            .parts
            .iter()
            .filter(|part| part.version == Version::One)
        {
            part.write("tasks", "0")?;
        }
        Ok(())
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The controllers of each hierarchy where the group is alone (none named: version 2).
    pub fn hierarchies(&self) -> impl Iterator<Item = &[String]> {
        let own = self.parts.iter().filter(|part| part.name.is_some());
        own.map(|part| named(part.version, &part.controllers))
    }

    fn with(&self, controller: &str) -> Option<&Part> {
        self.parts
            .iter()
            .find(|part| part.controllers.iter().any(|name| name == controller))
    }

    /// How many processes of the group the kernel has killed because memory ran out.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let Some(part) = self.with("memory") else {
            return Ok(0);
        };
        let file = match part.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = part.read(file)?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(count
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0))
    }

    /// Kills every process in the group.
    pub fn kill(&self) -> io::Result<()> {
        for part in self.parts.iter().filter(|part| part.name.is_some()) {
            hierarchy::kill_all(part.open()?.as_fd())?;
        }
        Ok(())
    }

    /// Removes the group. `false` means that a process is still in it; then ask again later.
    pub fn remove(&self) -> io::Result<bool> {
        let mut gone = true;
        for part in &self.parts {
            let Some(name) = &part.name else { continue };
            match rustix::fs::unlinkat(&part.parent, name.as_str(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(rustix::io::Errno::BUSY) => gone = false,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(gone)
    }
}

/// Version 1 hierarchies are known by their controllers, the one of version 2 by having no name.
fn named(version: Version, controllers: &[String]) -> &[String] {
    match version {
        Version::One => controllers,
        Version::Two => &[],
    }
}

fn open_dir(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

fn write(dir: BorrowedFd<'_>, file: &str, value: &str) -> io::Result<()> {
    let fd = rustix::fs::openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(fd).write_all(value.as_bytes())
}

fn read(dir: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let fd = rustix::fs::openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(fd)
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(group: &Group) -> Child {
        let child = Command::new("/bin/busybox")
            .args(["sleep", "60"])
            .spawn()
            .unwrap();
        for part in &group.parts {
            part.write("cgroup.procs", &child.id().to_string()).unwrap();
        }
        child
    }

    #[test]
    fn a_group_limits_kills_and_goes() {
        let path = Path::new("drydock-test-sys/one");
        let parent = Parent::create(path, None).unwrap();
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            memory_swap_bytes: Some(64 << 20),
            pids: Some(10),
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            cpuset_cpus: Some("0".to_owned()),
            ..Limits::default()
        };
        let group = parent.child("a", &limits).unwrap();
        let memory = group.with("memory").unwrap();
        let file = match memory.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        assert_eq!(memory.read(file).unwrap().trim(), (64 << 20).to_string());
        let mut child = sleeper(&group);
        assert!(!group.remove().unwrap());
        group.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(group.remove().unwrap());
        assert_eq!(group.oom_kills().ok(), None);
        assert!(Parent::sweep(path).unwrap());
    }

    #[test]
    fn a_sweep_kills_and_removes_whole_trees() {
        let path = Path::new("drydock-test-sys/two");
        let inner = Parent::create(&path.join("inner"), None).unwrap();
        let group = inner.child("a", &Limits::default()).unwrap();
        let mut child = sleeper(&group);
        // The killed process must be waited for before its group can go.
        let waiter = std::thread::spawn(move || child.wait().unwrap().signal());
        assert!(Parent::sweep(path).unwrap());
        assert_eq!(waiter.join().unwrap(), Some(9));
        assert!(Parent::sweep(path).unwrap());
    }
}
