//! Putting a root filesystem together.
//!
//! The filesystem is somebody else's: it may have a symbolic link wherever a mount is to go. So every
//! path in it is looked up by [`RootDir`], and mounts go on descriptors, never on paths.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode};
use sys::cgroup::Group;
use sys::mount::{Attr, Attributes, Bind, MountFd};
use sys::root::{FileKind, Follow, RootDir};

use super::container::{Failure, step};
use super::world::{EMPTY_DIR, NEW_ROOT, NULL_DEVICE, World};
use crate::plan::{ContainerPlan, DevicePlan, MountPlan, MountSource};

/// The most symbolic links on the way to a mount point, as in the kernel.
const MAX_LINKS: usize = 40;

/// Modes of directories and files made to be mounted on, as runc makes them.
const STUB_MODE: u32 = 0o755;

/// Descriptors of a request, each taken at most once.
pub(super) struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    pub(super) fn new(descriptors: Vec<OwnedFd>) -> Descriptors {
        Descriptors(descriptors.into_iter().map(Some).collect())
    }

    pub(super) fn take(&mut self, position: usize) -> io::Result<OwnedFd> {
        let slot = self.0.get_mut(position).and_then(Option::take);
        slot.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "missing descriptor"))
    }
}

/// Filesystems made ahead, detached, each for the mount it was made for.
#[derive(Default)]
pub(super) struct Ready(Vec<(MountPlan, MountFd)>);

impl Ready {
    /// Makes those of `plans` that are new filesystems.
    pub(super) fn make(plans: &[MountPlan]) -> Result<Ready, Failure> {
        let make = |plan: &MountPlan| {
            let made = filesystem(plan).transpose()?;
            Some(made.map(|mount| (plan.clone(), mount)))
        };
        let made: io::Result<Vec<_>> = plans.iter().filter_map(make).collect();
        step("make filesystems", made).map(Ready)
    }

    fn take(&mut self, plan: &MountPlan) -> Option<MountFd> {
        let at = self.0.iter().position(|(of, _)| of == plan)?;
        Some(self.0.swap_remove(at).1)
    }
}

/// Makes the new filesystem a plan asks for, if it does.
fn filesystem(plan: &MountPlan) -> io::Result<Option<MountFd>> {
    let MountSource::Filesystem {
        kind,
        options,
        flags,
    } = &plan.source
    else {
        return Ok(None);
    };
    let options: Vec<(&str, Option<&str>)> = options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_deref()))
        .collect();
    let mount = sys::mount::filesystem(kind, &options, *flags)?;
    if plan.destination == "/dev" {
        standard_devices(&mount)?;
    }
    Ok(Some(mount))
}

/// Attaches the root filesystem and everything in it; returns its root.
pub(super) fn assemble(
    world: &World,
    plan: &ContainerPlan,
    rootfs: OwnedFd,
    group: Option<&Group>,
    mut ready: Ready,
    descriptors: &mut Descriptors,
) -> Result<RootDir, Failure> {
    let attach = || -> io::Result<RootDir> {
        let rootfs = MountFd::from_fd(rootfs);
        if !world.restricts_devices() {
            // Nothing else keeps a container from making a node of the disk and opening it.
            let change = Attributes {
                set: Attr::NODEV,
                clear: 0,
                recursive: false,
            };
            sys::mount::set_attributes(rootfs.as_fd(), change)?;
        }
        rootfs.attach(Path::new(NEW_ROOT))?;
        RootDir::open(Path::new(NEW_ROOT))
    };
    let root = step("attach the root filesystem", attach())?;
    for mount in &plan.mounts {
        let done = place(world, &root, mount, group, &mut ready, descriptors);
        step(&format!("mount `{}`", mount.destination), done)?;
    }
    for device in &plan.devices {
        step(
            &format!("make the device `{}`", device.path),
            make_device(&root, device),
        )?;
    }
    for (key, value) in &plan.sysctls {
        step(
            &format!("set the sysctl `{key}`"),
            set_sysctl(&root, key, value),
        )?;
    }
    for path in &plan.readonly_paths {
        step(
            &format!("make `{path}` read-only"),
            make_readonly(&root, Path::new(path)),
        )?;
    }
    for path in &plan.masked_paths {
        step(&format!("hide `{path}`"), mask(&root, Path::new(path)))?;
    }
    if plan.readonly_rootfs {
        let change = Attributes {
            set: Attr::RDONLY,
            clear: 0,
            recursive: false,
        };
        step(
            "make the root filesystem read-only",
            sys::mount::set_attributes(root.as_fd(), change),
        )?;
    }
    Ok(root)
}

fn place(
    world: &World,
    root: &RootDir,
    plan: &MountPlan,
    group: Option<&Group>,
    ready: &mut Ready,
    descriptors: &mut Descriptors,
) -> io::Result<()> {
    let path = Path::new(&plan.destination);
    match &plan.source {
        MountSource::Descriptor(position) => {
            let mount = MountFd::from_fd(descriptors.take(*position)?);
            let target = mount_point(root, path, is_directory(&mount)?)?;
            mount.attach_to(target.as_fd())
        }
        MountSource::Filesystem { .. } => {
            let mount = match ready.take(plan) {
                Some(mount) => Some(mount),
                None => filesystem(plan)?,
            };
            let target = mount_point(root, path, true)?;
            mount.map_or(Ok(()), |mount| mount.attach_to(target.as_fd()))
        }
        MountSource::ControlGroups { readonly } => group.map_or(Ok(()), |group| {
            control_groups(world, root, path, group, *readonly)
        }),
    }
}

fn is_directory(mount: &MountFd) -> io::Result<bool> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode);
    Ok(kind == FileType::Directory)
}

/// Opens what a mount goes on, and makes it where it is missing.
fn mount_point(root: &RootDir, path: &Path, directory: bool) -> io::Result<OwnedFd> {
    find_or_make(root, path, directory, MAX_LINKS)
}

/// A link that leads nowhere is followed, and what it leads to is made: `/etc/resolv.conf` of many
/// images is such a link into `/run`.
fn find_or_make(root: &RootDir, path: &Path, directory: bool, links: usize) -> io::Result<OwnedFd> {
    match root.resolve(path, Follow::Yes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let (Some(parent), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    if links == 0 {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    find_or_make(root, parent, true, links - 1)?;
    match root.read_link(path) {
        Ok(target) if target.is_absolute() => find_or_make(root, &target, directory, links - 1),
        Ok(target) => find_or_make(root, &parent.join(target), directory, links - 1),
        Err(_) => {
            if directory {
                root.mkdir(path, STUB_MODE)?;
            } else {
                root.create(path, STUB_MODE, true)?;
            }
            root.resolve(path, Follow::No)
        }
    }
}

/// Version 2 is one tree at `path`; version 1 one directory a hierarchy below a tmpfs there.
fn control_groups(
    world: &World,
    root: &RootDir,
    path: &Path,
    group: &Group,
    readonly: bool,
) -> io::Result<()> {
    let directories = world.group_directories(group);
    if directories.is_empty() {
        return Ok(());
    }
    let flags = Attr::NOSUID | Attr::NODEV | Attr::NOEXEC;
    let clone = |source: &Path| -> io::Result<MountFd> {
        let bind = Bind {
            readonly,
            recursive: false,
        };
        let clone = sys::mount::bind_clone_path(source, bind)?;
        let change = Attributes {
            set: flags,
            clear: 0,
            recursive: false,
        };
        sys::mount::set_attributes(clone.as_fd(), change)?;
        Ok(clone)
    };
    if let [(name, source)] = directories.as_slice()
        && name.is_empty()
    {
        return clone(source)?.attach_to(mount_point(root, path, true)?.as_fd());
    }
    let tree = sys::mount::filesystem("tmpfs", &[("mode", Some("755"))], flags)?;
    tree.attach_to(mount_point(root, path, true)?.as_fd())?;
    for (name, source) in &directories {
        let name = if name.is_empty() { "unified" } else { name };
        let place = path.join(name);
        root.mkdir(&place, 0o755)?;
        clone(source)?.attach_to(root.resolve(&place, Follow::No)?.as_fd())?;
        // Programs look for each controller under its own name.
        for controller in name.split(',').filter(|controller| *controller != name) {
            root.symlink(Path::new(name), &path.join(controller))?;
        }
    }
    if readonly {
        let top = root.resolve(path, Follow::Yes)?;
        let change = Attributes {
            set: Attr::RDONLY,
            clear: 0,
            recursive: false,
        };
        sys::mount::set_attributes(top.as_fd(), change)?;
    }
    Ok(())
}

/// The nodes and links every container has in its `/dev`, made before anybody else sees it: no name
/// in it leads anywhere yet.
fn standard_devices(dev: &MountFd) -> io::Result<()> {
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ] {
        // There is no mask on modes here, see `container::run`.
        let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
        rustix::fs::mknodat(dev, name, kind, mode, rustix::fs::makedev(major, minor))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        rustix::fs::symlinkat(target, dev, name)?;
    }
    Ok(())
}

fn make_device(root: &RootDir, device: &DevicePlan) -> io::Result<()> {
    let path = Path::new(&device.path);
    if let Some(parent) = path.parent() {
        root.mkdir_all(parent, 0o755)?;
    }
    let kind = if device.block {
        FileKind::BlockDevice
    } else {
        FileKind::CharDevice
    };
    let number = rustix::fs::makedev(device.major, device.minor);
    match root.mknod(path, kind, device.mode, number) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    // The first mode was subject to the umask.
    root.chmod(path, device.mode)?;
    root.chown(path, device.uid, device.gid, Follow::No)
}

fn set_sysctl(root: &RootDir, key: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
    let file = root.resolve(&path, Follow::No)?;
    // The descriptor says where, but only opening it again lets one write.
    std::fs::write(format!("/proc/self/fd/{}", file.as_raw_fd()), value)
}

fn make_readonly(root: &RootDir, path: &Path) -> io::Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let bind = Bind {
        readonly: true,
        recursive: true,
    };
    sys::mount::bind_clone(&target, bind)?.attach_to(target.as_fd())
}

/// Hides a file behind the null device, and a directory behind an empty one.
fn mask(root: &RootDir, path: &Path) -> io::Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode);
    let directory = kind == FileType::Directory;
    let cover = if directory { EMPTY_DIR } else { NULL_DEVICE };
    let bind = Bind {
        readonly: true,
        recursive: false,
    };
    sys::mount::bind_clone_path(Path::new(cover), bind)?.attach_to(target.as_fd())
}

fn existing(root: &RootDir, path: &Path) -> io::Result<Option<OwnedFd>> {
    match root.resolve(path, Follow::No) {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
