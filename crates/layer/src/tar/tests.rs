use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use super::*;

fn header(path: &str, kind: Kind) -> Header {
    Header {
        path: PathBuf::from(path),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        mtime_ns: 1_000_000_000,
        xattrs: BTreeMap::new(),
    }
}

/// Entries with every property that makes a header special.
fn samples() -> Vec<(Header, Vec<u8>)> {
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let longer = "n".repeat(300);
    let mut odd = header("odd", Kind::File);
    odd.mode = 0o6755;
    (odd.uid, odd.gid) = (5_000_000, u32::MAX);
    odd.mtime_ns = -5_000_000_000;
    odd.xattrs.insert(
        "security.capability".into(),
        vec![1, 0, 0, 2, 0, 255, b'\n', b'='],
    );
    odd.xattrs.insert("user.a b".into(), b"text".to_vec());
    let mut late = header("late", Kind::File);
    late.mtime_ns = 9_000_000_000_000_000_000;
    let raw = PathBuf::from(std::ffi::OsStr::from_bytes(b"raw\xff\xfe"));
    vec![
        (header("dir", Kind::Dir), vec![]),
        (header("dir/file", Kind::File), b"content".to_vec()),
        (header("empty", Kind::File), vec![]),
        (header("block", Kind::File), vec![7; 512]),
        (header(&long, Kind::File), b"long".to_vec()),
        (header(&longer, Kind::File), b"longer".to_vec()),
        (header(&format!("{longer}/d"), Kind::Dir), vec![]),
        (header("é", Kind::File), b"utf8".to_vec()),
        (
            Header {
                path: raw,
                ..header("", Kind::File)
            },
            b"raw".to_vec(),
        ),
        (odd, b"odd".to_vec()),
        (late, vec![]),
        (header("link", Kind::Symlink("../away".into())), vec![]),
        (
            header("longlink", Kind::Symlink(longer.clone().into())),
            vec![],
        ),
        (header("hard", Kind::HardLink("dir/file".into())), vec![]),
        (header("hardlong", Kind::HardLink(longer.into())), vec![]),
        (header("char", Kind::CharDevice(1, 3)), vec![]),
        (
            header("blockdev", Kind::BlockDevice(259, 1_048_575)),
            vec![],
        ),
        (header("fifo", Kind::Fifo), vec![]),
    ]
}

fn write(entries: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (header, content) in entries {
        let header = Header {
            size: content.len() as u64,
            ..header.clone()
        };
        writer.append(&header, &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<(Header, Vec<u8>)>, ReadError> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(header) = reader.next()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        assert_eq!(content.len() as u64, header.size);
        entries.push((Header { size: 0, ..header }, content));
    }
    Ok(entries)
}

#[test]
fn what_is_written_is_read() {
    let bytes = write(&samples());
    assert_eq!(bytes.len() % BLOCK, 0);
    let entries = read(&bytes).unwrap();
    assert_eq!(entries.len(), samples().len());
    for (got, want) in entries.iter().zip(samples()) {
        assert_eq!(*got, want);
    }
    // Nobody has to read the contents to get to the next entry.
    let mut reader = Reader::new(&bytes[..]);
    let mut count = 0;
    while reader.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, samples().len());
}

#[test]
fn gnu_tar_and_python_read_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, write(&samples())).unwrap();
    let list = Command::new("tar")
        .arg("tvf")
        .arg(&path)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    assert!(
        list.status.success(),
        "{}",
        String::from_utf8_lossy(&list.stderr)
    );
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert_eq!(list.lines().count(), samples().len(), "{list}");
    for want in [
        "-rwsr-sr-x 5000000/4294967295",
        "link -> ../away",
        "hard link to dir/file",
    ] {
        assert!(list.contains(want), "{want} in {list}");
    }
    let script = "import sys, tarfile\n\
        for m in tarfile.open(sys.argv[1], errors='surrogateescape'):\n\
        \x20   print(ascii((m.name, m.type, m.size, m.uid, int(m.mtime), m.linkname[:9], m.devminor)))";
    let Ok(python) = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .output()
    else {
        return;
    };
    let text = String::from_utf8_lossy(&python.stdout).into_owned();
    assert!(
        python.status.success(),
        "{}",
        String::from_utf8_lossy(&python.stderr)
    );
    assert_eq!(text.lines().count(), samples().len(), "{text}");
    for want in [
        "('odd', b'0', 3, 5000000, -5, '', 0)",
        "('raw\\udcff\\udcfe', b'0', 3, 0, 1, '', 0)",
        "('late', b'0', 0, 0, 9000000000, '', 0)",
        "('blockdev', b'4', 0, 0, 1, '', 1048575)",
    ] {
        assert!(text.contains(want), "{want} in {text}");
    }
}

/// What GNU tar makes of a few files, in one of its formats.
fn gnu_tar(arguments: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(150);
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d").join(&long), "long").unwrap();
    std::os::unix::fs::symlink(&long, dir.path().join("d/s")).unwrap();
    let sparse = std::fs::File::create(dir.path().join("sparse")).unwrap();
    for at in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at << 20).unwrap();
    }
    sparse.set_len(100 << 20).unwrap();
    let output = Command::new("tar")
        .args(["--sort=name", "-S", "-c"])
        .args(arguments)
        .args(["d", "sparse"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn gnu_formats_long_names_and_sparse_files_are_read() {
    for format in ["--format=gnu", "--format=pax", "--format=posix"] {
        let bytes = gnu_tar(&[format]);
        assert!(bytes.len() < 2 << 20, "{format} stores the holes");
        let entries = read(&bytes).unwrap();
        let paths: Vec<_> = entries
            .iter()
            .map(|(h, _)| h.path.to_str().unwrap())
            .collect();
        let long = "x".repeat(150);
        assert_eq!(
            paths,
            ["d", "d/s", &format!("d/{long}"), "sparse"],
            "{format}"
        );
        assert_eq!(entries[1].0.kind, Kind::Symlink(long.into()));
        assert_eq!(entries[2].1, b"long");
        let sparse = &entries[3].1;
        assert_eq!(sparse.len(), 100 << 20);
        for (at, chunk) in sparse.chunks(1 << 20).enumerate() {
            let data = if at < 40 { &b"data"[..] } else { b"\0\0\0\0" };
            assert!(chunk.starts_with(data), "{format} {at}");
            assert!(chunk[4096..].iter().all(|byte| *byte == 0), "{format} {at}");
        }
    }
    for form in ["0.0", "0.1"] {
        let bytes = gnu_tar(&["--format=pax", &format!("--sparse-version={form}")]);
        assert!(matches!(read(&bytes), Err(ReadError::Header(_))), "{form}");
    }
}

#[test]
fn sizes_beyond_eight_gib_are_in_a_record() {
    let size = (8 << 30) + 5;
    let mut header = header("large", Kind::File);
    header.size = size;
    let mut head = Head {
        bytes: Vec::new(),
        written: 0,
    };
    let mut writer = Writer::new(&mut head);
    writer.append(&header, io::repeat(0)).unwrap();
    writer.finish().unwrap();
    assert_eq!(head.written, 3 * 512 + (size + 507) + 1024);
    let mut reader = Reader::new(&head.bytes[..]);
    assert_eq!(reader.next().unwrap().unwrap(), header);
}

/// Keeps the start of what is written.
struct Head {
    bytes: Vec<u8>,
    written: u64,
}

impl io::Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() < 4096 {
            self.bytes.extend_from_slice(bytes);
        }
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A header block as given, with its checksum right.
fn raw(name: &str, code: u8, size: &[u8; 12], content: &[u8]) -> Vec<u8> {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[field::SIZE].copy_from_slice(size);
    block[field::TYPE] = code;
    let (sum, _) = checksums(&block);
    block[field::CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn octal(size: usize) -> [u8; 12] {
    format!("{size:011o}\0").into_bytes().try_into().unwrap()
}

#[test]
fn a_size_in_a_record_counts_also_for_what_follows() {
    // A reader that skipped by the header's size would see an entry inside of the content.
    let inner = raw("evil", b'0', &octal(0), b"");
    let record = b"13 size=1024\n";
    let bytes = [
        raw("pax", b'x', &octal(record.len()), record),
        raw("outer", b'0', &octal(0), &[inner, vec![0; 512]].concat()),
        raw("after", b'0', &octal(0), b""),
    ]
    .concat();
    let names: Vec<_> = read(&bytes)
        .unwrap()
        .into_iter()
        .map(|(h, _)| h.path)
        .collect();
    assert_eq!(names, [Path::new("outer"), Path::new("after")]);
}

#[test]
fn what_is_not_well_formed_is_refused() {
    let file = raw("file", b'0', &octal(5), b"12345");
    assert_eq!(read(&file).unwrap().len(), 1);
    assert_eq!(read(b"").unwrap().len(), 0);
    assert_eq!(read(&[0; 512]).unwrap().len(), 0);
    let mut wrong_sum = file.clone();
    wrong_sum[0] = b'x';
    let huge = 20_000_000;
    for (what, bytes) in [
        ("text", b"not a tar at all".repeat(64)),
        ("checksum", wrong_sum),
        ("short content", file[..514].to_vec()),
        ("short header", file[..100].to_vec()),
        ("one empty block", [vec![0; 512], file.clone()].concat()),
        (
            "negative size",
            raw(
                "f",
                b'0',
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                b"",
            ),
        ),
        (
            "size that is no number",
            raw("f", b'0', b"zzzzzzzzzzz\0", b""),
        ),
        ("huge record", raw("p", b'x', &octal(huge), b"")),
        ("huge name", raw("p", b'L', &octal(huge), b"")),
        ("bad record", raw("p", b'x', &octal(6), b"9 a=b\n")),
        ("unknown type", raw("f", b'Z', &octal(0), b"")),
        (
            "headers without end",
            raw("p", b'x', &octal(6), b"6 a=b\n").repeat(100),
        ),
    ] {
        assert!(read(&bytes).is_err(), "{what}");
    }
}

#[test]
fn damaged_archives_never_panic() {
    let bytes = [
        write(&samples()),
        gnu_tar(&["--format=gnu"]),
        gnu_tar(&["--format=pax"]),
    ];
    let mut state = 7u64;
    for original in &bytes {
        let original = &original[..original.len().min(40_000)];
        for _ in 0..300 {
            let mut damaged = original.to_vec();
            for _ in 0..4 {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let at = usize::try_from(state >> 33).unwrap() % damaged.len();
                damaged[at] = state.to_le_bytes()[3];
                // Keep headers acceptable, so that what is behind the checksum is reached too.
                let block = at / BLOCK * BLOCK;
                if let Some(block) = damaged.get_mut(block..block + BLOCK) {
                    let block: &mut [u8; BLOCK] = block.try_into().unwrap();
                    let (sum, _) = checksums(block);
                    block[field::CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
            let mut reader = Reader::new(&damaged[..]);
            while let Ok(Some(_)) = reader.next() {
                let mut limited = (&mut reader).take(1 << 20);
                let _ = io::copy(&mut limited, &mut io::sink());
            }
        }
    }
}
