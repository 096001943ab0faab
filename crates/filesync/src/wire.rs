//! The messages of `fsutil/types/wire.proto`, with paths as bytes.
//!
//! They are written by hand since file names are bytes: the `string`s of the `.proto` file would
//! refuse names that are not UTF-8, which Go's side sends as they are. On the wire a string and
//! bytes are the same.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use bytes::Bytes;
use fstree::walk::Entry;
use sys::root::FileKind;

/// One message in either direction.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Packet {
    /// What it is.
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    /// In a `Stat`: an entry. Without one the list is complete.
    #[prost(message, optional, tag = "2")]
    pub stat: Option<Stat>,
    /// In a `Request` and `Data`: the position of the entry in the list.
    #[prost(uint32, tag = "3")]
    pub id: u32,
    /// In a `Data`: a piece, or nothing at the end. In an `Error`: the message.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
}

/// What a [`Packet`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// An entry of the list, or its end.
    Stat = 0,
    /// The receiver wants an entry's data.
    Request = 1,
    /// A piece of an entry's data, or its end.
    Data = 2,
    /// All is there; answered with the same.
    Finish = 3,
    /// It has failed.
    Error = 4,
}

/// One entry of a tree.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    /// From the root of the tree, with `/` between names and none at the start.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Kind and permissions as Go's `os.FileMode` has them.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// The owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// The group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// The length of a regular file.
    #[prost(int64, tag = "5")]
    pub size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub mtime_ns: i64,
    /// A symbolic link's target; for anything else the earlier entry that is the same file.
    #[prost(bytes = "vec", tag = "7")]
    pub link: Vec<u8>,
    /// The device that it stands for.
    #[prost(int64, tag = "8")]
    pub device_major: i64,
    /// The device that it stands for.
    #[prost(int64, tag = "9")]
    pub device_minor: i64,
    /// Extended attributes.
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub xattrs: BTreeMap<String, Bytes>,
}

/// Bits of Go's `os.FileMode`.
const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;
const TYPE: u32 = DIR | SYMLINK | DEVICE | FIFO | SOCKET | CHAR_DEVICE | IRREGULAR;

/// Attributes that only mean something to macOS.
const APPLE: &str = "com.apple.";

impl Stat {
    /// Whether the sender has data for this entry, so that it can be asked for.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.mode & TYPE == 0
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The link's target, or the entry that is the same file.
    #[must_use]
    pub fn link(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.link))
    }

    /// What kind of file it is; `None` if Go calls it irregular.
    #[must_use]
    pub fn kind(&self) -> Option<FileKind> {
        match self.mode & TYPE {
            0 => Some(FileKind::File),
            DIR => Some(FileKind::Dir),
            SYMLINK => Some(FileKind::Symlink),
            FIFO => Some(FileKind::Fifo),
            SOCKET => Some(FileKind::Socket),
            DEVICE => Some(FileKind::BlockDevice),
            bits if bits == DEVICE | CHAR_DEVICE => Some(FileKind::CharDevice),
            _ => None,
        }
    }

    /// The permission bits (`0o7777`).
    #[must_use]
    pub fn permissions(&self) -> u32 {
        let special = [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)];
        let special = special.iter().filter(|(bit, _)| self.mode & bit != 0);
        special.fold(self.mode & 0o777, |mode, (_, bit)| mode | bit)
    }

    /// The device that it stands for, as the kernel takes it.
    #[must_use]
    pub fn device(&self) -> Option<u64> {
        let major = u32::try_from(self.device_major).ok()?;
        let minor = u32::try_from(self.device_minor).ok()?;
        Some(rustix::fs::makedev(major, minor))
    }
}

/// Go's `os.FileMode` of a kind and permission bits (`0o7777`).
#[must_use]
pub fn go_mode(kind: FileKind, permissions: u32) -> u32 {
    let kind = match kind {
        FileKind::File => 0,
        FileKind::Dir => DIR,
        FileKind::Symlink => SYMLINK,
        FileKind::CharDevice => DEVICE | CHAR_DEVICE,
        FileKind::BlockDevice => DEVICE,
        FileKind::Fifo => FIFO,
        FileKind::Socket => SOCKET,
    };
    let special = [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)];
    let special = special.iter().filter(|(_, bit)| permissions & bit != 0);
    special.fold(kind | permissions & 0o777, |mode, (bit, _)| mode | bit)
}

/// What is sent of an entry. A socket is sent as a regular file, which is then found empty.
impl From<Entry> for Stat {
    fn from(entry: Entry) -> Stat {
        let Entry {
            path,
            metadata,
            link,
            hardlink_to,
            xattrs,
        } = entry;
        let link = link.or(hardlink_to.clone()).unwrap_or_default();
        let (device_major, device_minor) = match metadata.kind {
            FileKind::CharDevice | FileKind::BlockDevice => metadata.device(),
            _ => (0, 0),
        };
        let size = match metadata.kind {
            FileKind::Dir => 0,
            _ if hardlink_to.is_some() => 0,
            _ => i64::try_from(metadata.size).unwrap_or(i64::MAX),
        };
        let sendable = |(name, value): (OsString, Vec<u8>)| {
            let name = name
                .into_string()
                .ok()
                .filter(|name| !name.starts_with(APPLE))?;
            Some((name, Bytes::from(value)))
        };
        Stat {
            path: path.into_os_string().into_vec(),
            mode: go_mode(metadata.kind, metadata.mode) & !SOCKET,
            uid: metadata.uid,
            gid: metadata.gid,
            size,
            mtime_ns: metadata.mtime_ns,
            link: link.into_os_string().into_vec(),
            device_major: device_major.into(),
            device_minor: device_minor.into(),
            xattrs: xattrs.into_iter().filter_map(sendable).collect(),
        }
    }
}

impl Packet {
    /// An entry of the list.
    #[must_use]
    pub fn entry(stat: Stat) -> Packet {
        Packet {
            stat: Some(stat),
            ..Packet::of(Kind::Stat)
        }
    }

    /// A piece of an entry's data; empty at its end.
    #[must_use]
    pub fn data(id: u32, data: Bytes) -> Packet {
        Packet {
            id,
            data,
            ..Packet::of(Kind::Data)
        }
    }

    /// Asks for an entry's data.
    #[must_use]
    pub fn request(id: u32) -> Packet {
        Packet {
            id,
            ..Packet::of(Kind::Request)
        }
    }

    /// Tells the other side why it has failed.
    #[must_use]
    pub fn error(message: String) -> Packet {
        Packet {
            data: message.into(),
            ..Packet::of(Kind::Error)
        }
    }

    /// One without content: the end of the list, or of all.
    #[must_use]
    pub fn of(kind: Kind) -> Packet {
        Packet {
            kind: kind.into(),
            stat: None,
            id: 0,
            data: Bytes::new(),
        }
    }

    /// The text of an error, cut to what is sensible to print.
    pub(crate) fn message(&self) -> String {
        const MOST: usize = 16 << 10;
        String::from_utf8_lossy(&self.data[..self.data.len().min(MOST)]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn modes_survive_a_round_trip() {
        for kind in [
            FileKind::File,
            FileKind::Dir,
            FileKind::Symlink,
            FileKind::CharDevice,
            FileKind::BlockDevice,
            FileKind::Fifo,
            FileKind::Socket,
        ] {
            for permissions in [0, 0o644, 0o4755, 0o2755, 0o1777, 0o7777] {
                let stat = Stat {
                    mode: go_mode(kind, permissions),
                    ..Stat::default()
                };
                assert_eq!((stat.kind(), stat.permissions()), (Some(kind), permissions));
            }
        }
    }

    #[test]
    fn the_encoding_is_that_of_the_proto_file() {
        let stat = Stat {
            path: b"a/b".to_vec(),
            mode: go_mode(FileKind::Symlink, 0o777),
            uid: 1,
            gid: 2,
            size: 3,
            mtime_ns: -4,
            link: b"c".to_vec(),
            device_major: 5,
            device_minor: 6,
            xattrs: [("user.x".to_owned(), Bytes::from("y"))].into(),
        };
        let packet = Packet {
            id: 9,
            data: "z".into(),
            ..Packet::entry(stat)
        };
        let generated = proto::fsutil::Packet::decode(&packet.encode_to_vec()[..]).unwrap();
        let stat = generated.stat.clone().unwrap();
        assert_eq!(
            (stat.path.as_str(), stat.linkname.as_str(), stat.mod_time),
            ("a/b", "c", -4)
        );
        assert_eq!((stat.devmajor, stat.devminor, stat.size), (5, 6, 3));
        assert_eq!(generated.encode_to_vec(), packet.encode_to_vec());
    }
}
