//! Which hierarchies are mounted, and making and clearing directories in them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode};

use super::{open_dir, read, write};
use crate::pidfd::Process;

/// The controllers a group is made for.
const WANTED: [&str; 5] = ["memory", "pids", "cpu", "cpuset", "devices"];
/// How long a sweep waits for killed processes to be gone. Exiting takes milliseconds, unless the
/// process is in a call to a dead disk or server, and then waiting does not help.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// One mounted hierarchy that carries a wanted controller.
#[derive(Debug)]
pub(super) struct Hierarchy {
    mount: PathBuf,
    pub(super) version: Version,
    pub(super) controllers: Vec<String>,
}

/// The hierarchies groups are made in. Version 2 counts only where it has a controller that
/// version 1 does not have, or nothing else restricts devices.
pub(super) fn in_use() -> io::Result<Vec<Hierarchy>> {
    let mut found = parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?);
    for hierarchy in found
        .iter_mut()
        .filter(|found| found.version == Version::Two)
    {
        let file = hierarchy.mount.join("cgroup.controllers");
        let text = fs::read_to_string(file).unwrap_or_default();
        hierarchy.controllers = wanted(text.split_whitespace());
    }
    let v1_devices = found
        .iter()
        .any(|found| found.controllers.iter().any(|c| c == "devices"));
    found.retain(|found| match found.version {
        Version::One => true,
        Version::Two => !found.controllers.is_empty() || !v1_devices,
    });
    Ok(found)
}

fn wanted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names
        .filter(|name| WANTED.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Reads `/proc/self/mountinfo`: `id parent dev root mount-point options [tag…] - type source super`.
fn parse_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((head, tail)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount) = head.split(' ').nth(4) else {
            continue;
        };
        let mut tail = tail.split(' ');
        let (kind, _source, options) = (tail.next(), tail.next(), tail.next().unwrap_or(""));
        let (version, controllers) = match kind {
            // A version 1 hierarchy that has none of the wanted controllers is left alone.
            Some("cgroup") => (Version::One, wanted(options.split(','))),
            Some("cgroup2") => (Version::Two, Vec::new()),
            _ => continue,
        };
        let skip = version == Version::One && controllers.is_empty();
        if skip
            || found
                .iter()
                .any(|other| other.same_as(version, &controllers))
        {
            continue;
        }
        found.push(Hierarchy {
            mount: PathBuf::from(mount),
            version,
            controllers,
        });
    }
    found
}

impl Hierarchy {
    /// A hierarchy can be mounted at several places.
    fn same_as(&self, version: Version, controllers: &[String]) -> bool {
        self.version == version && (version == Version::Two || self.controllers == controllers)
    }

    /// Makes the directory `path` with its controllers on, and opens it.
    pub(super) fn make(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut dir = open_dir(rustix::fs::CWD, &self.mount)?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            if self.version == Version::Two {
                self.enable_controllers(dir.as_fd());
            }
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let child = open_dir(dir.as_fd(), name)?;
            if self.version == Version::One && self.controllers.iter().any(|name| name == "cpuset")
            {
                inherit_cpuset(dir.as_fd(), child.as_fd())?;
            }
            dir = child;
        }
        if self.version == Version::Two {
            self.enable_controllers(dir.as_fd());
        }
        Ok(dir)
    }

    /// Hands the controllers on to the groups below `dir`. One that cannot be handed on is missed
    /// when a limit needs it, not here.
    fn enable_controllers(&self, dir: BorrowedFd<'_>) {
        let enable = |name: &str| write(dir, "cgroup.subtree_control", &format!("+{name}"));
        for name in &self.controllers {
            let Err(error) = enable(name) else { continue };
            // A group with processes of its own hands nothing on. In a container this daemon is
            // usually alone in the root it sees; then it makes room there.
            if error.raw_os_error() == Some(libc::EBUSY) && make_room(dir).is_ok() {
                let _ = enable(name);
            }
        }
    }

    /// Kills what is in the directory `path` and below, and removes it all.
    pub(super) fn sweep(&self, path: &Path) -> io::Result<bool> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let parent = match open_dir(rustix::fs::CWD, self.mount.join(parent)) {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let deadline = Instant::now() + SWEEP_LIMIT;
        while !clear(parent.as_fd(), Path::new(name))? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            // There is no event for "the last zombie is gone" in version 1.
            thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }
}

/// Gives a new version 1 `cpuset` group what its parent has: it begins with no processors and no
/// memory, and then no process can enter it.
pub(super) fn inherit_cpuset(parent: BorrowedFd<'_>, child: BorrowedFd<'_>) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(child, file)?.trim().is_empty() {
            write(child, file, read(parent, file)?.trim())?;
        }
    }
    Ok(())
}

/// One pass of killing and removing, depth first; true when nothing is left.
fn clear(parent: BorrowedFd<'_>, name: &Path) -> io::Result<bool> {
    let dir = match open_dir(parent, name) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    kill_all(dir.as_fd())?;
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if entry.file_type() == rustix::fs::FileType::Directory && child != b"." && child != b".." {
            use std::os::unix::ffi::OsStrExt;
            clear(dir.as_fd(), Path::new(std::ffi::OsStr::from_bytes(child)))?;
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(true),
        Err(rustix::io::Errno::BUSY) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Kills all processes in the group `dir` (not those of groups below it).
pub(super) fn kill_all(dir: BorrowedFd<'_>) -> io::Result<()> {
    if write(dir, "cgroup.kill", "1").is_ok() {
        return Ok(());
    }
    for pid in read(dir, "cgroup.procs")?.lines() {
        // 0 stands for a process outside this pid namespace, which cannot be named from here.
        let Some(pid) = pid.parse().ok().filter(|pid| *pid > 0) else {
            continue;
        };
        // By descriptor, and only if it is still in the group: the number may have changed hands
        // since the file was read.
        let Ok(process) = Process::open(pid) else {
            continue;
        };
        if read(dir, "cgroup.procs")?
            .lines()
            .any(|line| line == pid.to_string())
        {
            process.kill()?;
        }
    }
    Ok(())
}

/// Moves the processes of the group `dir` to a group below it.
fn make_room(dir: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::mkdirat(dir, "init", Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let init = open_dir(dir, "init")?;
    for pid in read(dir, "cgroup.procs")?.lines() {
        // A process that has ended since needs no room.
        let _ = write(init.as_fd(), "cgroup.procs", pid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_once_with_the_wanted_controllers() {
        let text = "\
30 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 23 0:27 / /elsewhere rw - cgroup cgroup rw,memory
33 23 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 23 0:30 / / rw - ext4 /dev/vda rw
";
        let found = parse_mounts(text);
        let summary: Vec<_> = found
            .iter()
            .map(|h| (h.mount.to_str().unwrap(), h.controllers.join(",")))
            .collect();
        assert_eq!(
            summary,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu".to_owned()),
                ("/sys/fs/cgroup/memory", "memory".to_owned()),
                ("/sys/fs/cgroup/unified", String::new()),
            ]
        );
    }
}
