//! What a file is.

use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp};

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device; 0:0 is an overlay whiteout.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
}

/// What a file is, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Its kind.
    pub kind: FileKind,
    /// Its permission bits with set-user-id, set-group-id and sticky (`0o7777`).
    pub mode: u32,
    /// The user who owns it.
    pub uid: u32,
    /// The group that owns it.
    pub gid: u32,
    /// The length of its content in bytes.
    pub size: u64,
    /// When its content was last changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// When its inode was last changed, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// When its inode was made, in nanoseconds since 1970, if the filesystem knows.
    pub born_ns: Option<i64>,
    /// The device that it stands for, if it is one; see [`Metadata::device`].
    pub rdev: u64,
    /// How many names it has.
    pub nlink: u64,
    /// Its inode number.
    pub ino: u64,
    /// The device of the filesystem that holds it.
    pub dev: u64,
    /// How many bytes it takes on the disk.
    pub allocated: u64,
}

impl Metadata {
    /// The major and minor number of the device that this stands for.
    pub fn device(&self) -> (u32, u32) {
        (rustix::fs::major(self.rdev), rustix::fs::minor(self.rdev))
    }

    /// Whether this is an overlay whiteout: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharDevice && self.rdev == 0
    }

    /// The kind and the permission bits as `st_mode` has them.
    pub fn st_mode(&self) -> u32 {
        self.kind.to_rustix().as_raw_mode() | self.mode
    }
}

impl From<&Statx> for Metadata {
    fn from(stat: &Statx) -> Metadata {
        let mode = u32::from(stat.stx_mode);
        let born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Metadata {
            kind: FileKind::of_mode(mode),
            mode: mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            mtime_ns: nanoseconds(&stat.stx_mtime),
            ctime_ns: nanoseconds(&stat.stx_ctime),
            born_ns: born.then(|| nanoseconds(&stat.stx_btime)),
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            nlink: stat.stx_nlink.into(),
            ino: stat.stx_ino,
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            allocated: stat.stx_blocks.saturating_mul(512),
        }
    }
}

/// Times outside of what 64 bits of nanoseconds hold (the years 1677 to 2262) stop at the end.
fn nanoseconds(time: &StatxTimestamp) -> i64 {
    let all = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    i64::try_from(all).unwrap_or(if all < 0 { i64::MIN } else { i64::MAX })
}

impl FileKind {
    pub(super) fn of_mode(st_mode: u32) -> FileKind {
        FileKind::of(FileType::from_raw_mode(st_mode)).unwrap_or(FileKind::File)
    }

    /// `None` if the filesystem did not say.
    pub(super) fn of(kind: FileType) -> Option<FileKind> {
        match kind {
            FileType::RegularFile => Some(FileKind::File),
            FileType::Directory => Some(FileKind::Dir),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::CharacterDevice => Some(FileKind::CharDevice),
            FileType::BlockDevice => Some(FileKind::BlockDevice),
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            FileType::Unknown => None,
        }
    }

    pub(super) fn to_rustix(self) -> FileType {
        match self {
            FileKind::File => FileType::RegularFile,
            FileKind::Dir => FileType::Directory,
            FileKind::Symlink => FileType::Symlink,
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
        }
    }
}
