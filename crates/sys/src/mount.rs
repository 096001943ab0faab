//! Mounts that nobody can see until they are attached.
//!
//! Everything here uses the file-descriptor mount interface (`fsopen`, `fsmount`, `open_tree`): a
//! mount is made *detached*, is usable at once as a directory descriptor, and disappears when the
//! descriptor is closed. A crash therefore leaves no mount behind.
//!
//! Needs Linux 6.7 (`lowerdir+` of overlayfs), and 6.15 to clone parts of a detached mount.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

/// The most lower layers one overlay mount takes (a limit of the kernel).
pub const MAX_LOWER_LAYERS: usize = 500;

/// A mount, usable as a directory descriptor.
///
/// While it is detached, dropping the last descriptor of it unmounts it. Once attached it lives as
/// long as the mount namespace it was attached in, whatever happens to the descriptor.
#[derive(Debug)]
pub struct MountFd(OwnedFd);

impl MountFd {
    /// Wraps a descriptor that came from another process and names the root of a mount.
    pub fn from_fd(fd: OwnedFd) -> MountFd {
        MountFd(fd)
    }

    /// Another descriptor of the same mount; the mount goes when the last of them is dropped.
    pub fn try_clone(&self) -> io::Result<MountFd> {
        self.0.try_clone().map(MountFd)
    }

    /// The descriptor, to be sent to another process.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Attaches the mount at `path` (a trusted path of our own) in the current mount namespace.
    pub fn attach(&self, path: &Path) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(rustix::mount::move_mount(&self.0, "", CWD, path, flags)?)
    }

    /// Attaches the mount on top of the file or directory that `target` is open on.
    pub fn attach_to(&self, target: BorrowedFd<'_>) -> io::Result<()> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(rustix::mount::move_mount(&self.0, "", target, "", flags)?)
    }

    /// Makes this mount (with `recursive`, all mounts below it too) read-only.
    pub fn set_readonly(&self, recursive: bool) -> io::Result<()> {
        set_attributes(
            self.as_fd(),
            Attributes {
                set: Attr::RDONLY,
                clear: 0,
                recursive,
            },
        )
    }
}

impl AsFd for MountFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<MountFd> for OwnedFd {
    fn from(mount: MountFd) -> OwnedFd {
        mount.0
    }
}

/// Mounts an overlay of `lower` (lowest layer first) and, when `writable` gives an upper and a work
/// directory, with that upper on top. All paths are trusted paths of our own.
///
/// Without `writable` the kernel wants at least two layers; use [`bind_clone`] for one.
///
/// The mount writes plain overlay form into the upper: character device 0:0 for a whiteout and
/// `trusted.overlay.opaque=y`. Features that would put more there (redirects, metadata-only copies,
/// index) are off. It is `volatile`: neither `fsync` inside it nor unmounting it waits for the disk,
/// so whoever keeps the upper syncs its filesystem before relying on it.
pub fn overlay<P: AsRef<Path>>(
    lower: &[P],
    writable: Option<(&Path, &Path)>,
) -> io::Result<MountFd> {
    if lower.len() > MAX_LOWER_LAYERS {
        let message = format!("an overlay takes at most {MAX_LOWER_LAYERS} layers");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "source", "overlay")?;
    for (key, value) in [
        ("index", "off"),
        ("metacopy", "off"),
        ("redirect_dir", "off"),
        ("xino", "off"),
    ] {
        rustix::mount::fsconfig_set_string(&fs, key, value)?;
    }
    // Else the first mount marks the upper's root with a `trusted.overlay.uuid`. Linux 6.6.
    let _ = rustix::mount::fsconfig_set_string(&fs, "uuid", "null");
    for layer in lower.iter().rev() {
        set_layer(fs.as_fd(), "lowerdir+", layer.as_ref())?;
    }
    if let Some((upper, work)) = writable {
        forget_volatile(work)?;
        set_layer(fs.as_fd(), "upperdir", upper)?;
        set_layer(fs.as_fd(), "workdir", work)?;
        rustix::mount::fsconfig_set_flag(&fs, "volatile")?;
    }
    finish(fs, 0)
}

/// Names a layer by an open descriptor rather than by its path: `fsconfig` cuts strings at 255
/// bytes. Before Linux 6.13 overlayfs took no descriptors, but it follows their names in `/proc`.
fn set_layer(fs: BorrowedFd<'_>, key: &str, path: &Path) -> io::Result<()> {
    static TAKES_DESCRIPTORS: AtomicBool = AtomicBool::new(true);

    let dir = rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if TAKES_DESCRIPTORS.load(Ordering::Relaxed) {
        match rustix::mount::fsconfig_set_fd(fs, key, &dir) {
            Err(rustix::io::Errno::INVAL) => {}
            done => return Ok(done?),
        }
    }
    let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
    rustix::mount::fsconfig_set_string(fs, key, name)?;
    TAKES_DESCRIPTORS.store(false, Ordering::Relaxed);
    Ok(())
}

/// A volatile mount leaves a mark in its work directory, and the kernel refuses to mount that
/// directory again while the mark is there, since a crash may have come in between. Here the records
/// decide what survived a crash, so the mark says nothing.
fn forget_volatile(work: &Path) -> io::Result<()> {
    let incompat = work.join("work/incompat");
    let volatile = incompat.join("volatile");
    for removed in [
        fs::remove_file(volatile.join("dirty")),
        fs::remove_dir(&volatile),
        fs::remove_dir(&incompat),
    ] {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// What [`bind_clone`] makes of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Nothing can be written through the clone.
    pub readonly: bool,
    /// Mounts below the source are cloned with it.
    pub recursive: bool,
}

/// A detached clone of the file or directory that `source` is open on, private to its holder:
/// mounts made or undone at the source later do not appear in it.
pub fn bind_clone(source: impl AsFd, options: Bind) -> io::Result<MountFd> {
    clone_at(source.as_fd(), Path::new(""), options)
}

/// Like [`bind_clone`], of a trusted path of our own.
pub fn bind_clone_path(source: &Path, options: Bind) -> io::Result<MountFd> {
    clone_at(CWD, source, options)
}

fn clone_at(dir: BorrowedFd<'_>, path: &Path, options: Bind) -> io::Result<MountFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if options.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let mount = MountFd(rustix::mount::open_tree(dir, path, flags)?);
    let set = if options.readonly { Attr::RDONLY } else { 0 };
    set_attributes(
        mount.as_fd(),
        Attributes {
            set,
            clear: 0,
            recursive: options.recursive,
        },
    )?;
    Ok(mount)
}

/// A detached, empty tmpfs of at most `size_bytes` (0: the kernel's default, half of the memory)
/// whose root has permissions `mode`. Programs, devices and set-user-id files are allowed in it.
pub fn tmpfs(size_bytes: u64, mode: u32) -> io::Result<MountFd> {
    let (mode, size) = (format!("{mode:o}"), size_bytes.to_string());
    let options = [("mode", Some(mode.as_str())), ("size", Some(size.as_str()))];
    let used = if size_bytes > 0 {
        &options[..]
    } else {
        &options[..1]
    };
    filesystem("tmpfs", used, 0)
}

/// A detached instance of a filesystem without a device (`proc`, `sysfs`, `devpts`, `mqueue`, …),
/// with string options (an option without a value is a flag) and mount flags of [`Attr`].
pub fn filesystem(kind: &str, options: &[(&str, Option<&str>)], flags: u64) -> io::Result<MountFd> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Options may say which name is shown for it.
    if options.iter().all(|(key, _)| *key != "source") {
        rustix::mount::fsconfig_set_string(&fs, "source", kind)?;
    }
    for (key, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&fs, *key, *value)?,
            None => rustix::mount::fsconfig_set_flag(&fs, *key)?,
        }
    }
    finish(fs, flags)
}

fn finish(fs: OwnedFd, flags: u64) -> io::Result<MountFd> {
    let flags = u32::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    rustix::mount::fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::from_bits_retain(flags);
    Ok(MountFd(rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?))
}

/// Unmounts what is mounted at `path`, at once from the tree and in the end from the kernel when
/// its last user is gone. Symbolic links are not followed.
pub fn unmount(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(
        path,
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    )?)
}

/// Flags of [`Attributes`]: the `MOUNT_ATTR_*` of `mount_setattr(2)`.
#[expect(non_snake_case, reason = "a namespace for constants")]
pub mod Attr {
    /// Read-only.
    pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    /// Set-user-id bits and file capabilities have no effect.
    pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    /// Access times are not kept.
    pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
    /// Access times are always kept; without this, about once a day.
    pub const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
    /// Access times of directories are not kept.
    pub const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
}

/// A change of mount flags; the mount also becomes private.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Flags of [`Attr`] to set.
    pub set: u64,
    /// Flags of [`Attr`] to clear.
    pub clear: u64,
    /// All mounts below are changed too.
    pub recursive: bool,
}

/// Changes the flags of the mount whose root `mount` is open on, and cuts it from its peers.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    let request = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if attributes.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: mount_setattr(2) reads the empty C string literal and `size_of::<mount_attr>()` bytes
    // of `request`, a live local of that type, and writes no memory. `mount` is borrowed, so its
    // descriptor is open throughout the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Closes a descriptor on a thread of its own.
///
/// With the last descriptor of a detached mount the mount goes, and the kernel then waits until every
/// processor has passed a quiet point: up to several milliseconds, in which the caller has better
/// things to do. If the thread cannot be had the descriptor is closed at once.
pub fn close_later(fd: OwnedFd) {
    static CLOSER: LazyLock<Option<mpsc::Sender<OwnedFd>>> = LazyLock::new(|| {
        let (sender, receiver) = mpsc::channel::<OwnedFd>();
        let close = move || receiver.into_iter().for_each(drop);
        let thread = std::thread::Builder::new().name("close".to_owned());
        thread.spawn(close).ok().map(|_| sender)
    });
    match &*CLOSER {
        // The thread ends with the process.
        Some(closer) => drop(closer.send(fd)),
        None => drop(fd),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::path::PathBuf;

    use super::*;

    /// A path through the mount, for the standard library.
    fn inside(mount: &MountFd, path: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/{path}",
            mount.as_fd().as_raw_fd()
        ))
    }

    fn dirs<const N: usize>(root: &Path, names: [&str; N]) -> [PathBuf; N] {
        names.map(|name| {
            let dir = root.join(name);
            fs::create_dir_all(&dir).unwrap();
            dir
        })
    }

    #[test]
    fn an_overlay_writes_whiteouts_into_the_upper_only() {
        let tmp = tempfile::tempdir().unwrap();
        let [low, high, upper, work] = dirs(tmp.path(), ["low", "high", "upper", "work"]);
        fs::write(low.join("a"), "low").unwrap();
        fs::write(high.join("a"), "high").unwrap();
        fs::write(low.join("b"), "b").unwrap();
        let mount = overlay(&[&low, &high], Some((&upper, &work))).unwrap();
        assert_eq!(fs::read_to_string(inside(&mount, "a")).unwrap(), "high");
        fs::remove_file(inside(&mount, "b")).unwrap();
        fs::write(inside(&mount, "c"), "c").unwrap();
        drop(mount);
        let whiteout = fs::symlink_metadata(upper.join("b")).unwrap();
        assert!(whiteout.file_type().is_char_device());
        assert_eq!(whiteout.rdev(), 0);
        assert_eq!(fs::read_to_string(upper.join("c")).unwrap(), "c");
        assert_eq!(fs::read_to_string(low.join("b")).unwrap(), "b");
    }

    #[test]
    fn an_overlay_can_be_mounted_again_on_the_same_upper() {
        let tmp = tempfile::tempdir().unwrap();
        let [low, upper, work] = dirs(tmp.path(), ["low", "upper", "work"]);
        for name in ["1", "2"] {
            let mount = overlay(&[&low], Some((&upper, &work))).unwrap();
            fs::write(inside(&mount, name), name).unwrap();
        }
        assert!(upper.join("1").exists() && upper.join("2").exists());
    }

    #[test]
    fn an_overlay_takes_500_long_paths() {
        let tmp = tempfile::tempdir().unwrap();
        let long = "x".repeat(240);
        let layers: Vec<PathBuf> = (0..MAX_LOWER_LAYERS)
            .map(|index| {
                let dir = tmp.path().join(&long).join(index.to_string());
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(index.to_string()), "").unwrap();
                dir
            })
            .collect();
        let mount = overlay(&layers, None).unwrap();
        assert_eq!(
            fs::read_dir(inside(&mount, "")).unwrap().count(),
            MAX_LOWER_LAYERS
        );
        let too_many = vec![tmp.path(); MAX_LOWER_LAYERS + 1];
        assert_eq!(
            overlay(&too_many, None).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_readonly_clone_refuses_writes_and_its_source_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let mount = bind_clone_path(
            tmp.path(),
            Bind {
                readonly: true,
                recursive: false,
            },
        )
        .unwrap();
        let error = fs::write(inside(&mount, "a"), "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        fs::write(tmp.path().join("a"), "").unwrap();
        assert!(inside(&mount, "a").exists());
    }

    #[test]
    fn a_part_of_a_detached_mount_can_be_cloned() {
        let whole = tmpfs(1 << 20, 0o755).unwrap();
        fs::create_dir(inside(&whole, "sub")).unwrap();
        fs::write(inside(&whole, "sub/file"), "x").unwrap();
        let sub = fs::File::open(inside(&whole, "sub")).unwrap();
        let part = bind_clone(
            &sub,
            Bind {
                readonly: true,
                recursive: false,
            },
        )
        .unwrap();
        drop((whole, sub));
        assert_eq!(fs::read_to_string(inside(&part, "file")).unwrap(), "x");
    }

    #[test]
    fn a_tmpfs_keeps_its_size_and_mode() {
        let mount = tmpfs(64 << 10, 0o1777).unwrap();
        assert_eq!(
            fs::metadata(inside(&mount, ".")).unwrap().mode() & 0o7777,
            0o1777
        );
        let error = fs::write(inside(&mount, "big"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn attached_mounts_are_seen_until_unmounted() {
        let tmp = tempfile::tempdir().unwrap();
        let mount = tmpfs(0, 0o755).unwrap();
        mount.attach(tmp.path()).unwrap();
        fs::write(inside(&mount, "a"), "").unwrap();
        assert!(tmp.path().join("a").exists());
        unmount(tmp.path()).unwrap();
        assert!(!tmp.path().join("a").exists());
    }
}
