//! What a file is.

use rustix::fs::{FileType, Stat};

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

impl From<&Stat> for Metadata {
    fn from(stat: &Stat) -> Metadata {
        Metadata {
            kind: FileKind::of_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanoseconds(stat.st_mtime, i128::from(stat.st_mtime_nsec)),
            ctime_ns: nanoseconds(stat.st_ctime, i128::from(stat.st_ctime_nsec)),
            rdev: stat.st_rdev,
            #[allow(
                clippy::useless_conversion,
                reason = "the link count is 32 bits wide on some architectures"
            )]
            nlink: stat.st_nlink.into(),
            ino: stat.st_ino,
            dev: stat.st_dev,
            allocated: u64::try_from(stat.st_blocks)
                .unwrap_or(0)
                .saturating_mul(512),
        }
    }
}

/// Times outside of what 64 bits of nanoseconds hold (the years 1677 to 2262) stop at the end.
fn nanoseconds(seconds: impl Into<i128>, rest: i128) -> i64 {
    let all = seconds.into() * 1_000_000_000 + rest;
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
