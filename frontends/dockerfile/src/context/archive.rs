//! Archives behind URLs.

use std::io::Read as _;

use layer::tar::{Kind, Reader};

/// How much of an unpacked archive is looked at.
const MAX_UNPACKED: u64 = 16 << 30;

/// The newest time, in seconds since 1970, of the regular files of a tar, perhaps compressed.
pub(super) fn newest(data: &[u8]) -> Option<i64> {
    let stream = layer::decompress(data).ok()?.take(MAX_UNPACKED);
    let mut reader = Reader::new(stream);
    let mut newest = None;
    while let Some(header) = reader.next().ok()? {
        if header.kind == Kind::File {
            newest = newest.max(Some(header.mtime_ns.div_euclid(1_000_000_000)));
        }
    }
    newest
}

/// Whether data starts like an archive: bzip2, gzip, xz or a tar header.
pub(super) fn is_archive(head: &[u8]) -> bool {
    let magics: [&[u8]; 3] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0"];
    magics.iter().any(|magic| head.starts_with(magic)) || is_tar_header(head)
}

/// Whether data starts with a tar header, told by its checksum.
fn is_tar_header(head: &[u8]) -> bool {
    const BLOCK: usize = 512;
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(block) = head.get(..BLOCK) else {
        return false;
    };
    let text: String = block[CHECKSUM]
        .iter()
        .map(|byte| char::from(*byte))
        .collect();
    let stated = u32::from_str_radix(text.trim_matches([' ', '\0']), 8);
    let byte = |(at, byte): (usize, &u8)| {
        if CHECKSUM.contains(&at) {
            u32::from(b' ')
        } else {
            u32::from(*byte)
        }
    };
    stated == Ok(block.iter().enumerate().map(byte).sum())
}

#[cfg(test)]
mod tests {
    use layer::tar::Header;

    use super::*;

    #[test]
    fn archives_are_told_by_their_head() {
        let mut tar = vec![0; 512];
        tar[0] = b'x';
        tar[148..156].copy_from_slice(b"000570\0 ");
        assert!(is_archive(&tar) && is_archive(b"\x1f\x8b\x08rest"));
        assert!(!is_archive(b"FROM alpine") && !is_archive(&[0; 512]));
    }

    #[test]
    fn the_newest_file_counts() {
        let header = |kind, seconds: i64| Header {
            path: "x".into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime_ns: seconds * 1_000_000_000,
            xattrs: Default::default(),
        };
        let mut tar = layer::tar::Writer::new(Vec::new());
        for (kind, seconds) in [(Kind::File, 5), (Kind::File, 7), (Kind::Dir, 9)] {
            tar.append(&header(kind, seconds), std::io::empty())
                .unwrap();
        }
        assert_eq!(newest(&tar.finish().unwrap()), Some(7));
        assert_eq!(newest(b"FROM alpine\n"), None);
    }
}
