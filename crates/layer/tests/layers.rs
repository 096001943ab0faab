//! Layers written, unpacked and mounted for real.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fstree::checksum::{Selector, Tree};
use layer::tar::{Header, Kind, Reader, Writer};
use layer::{
    Limits, UnpackError, UnpackOptions, UnpackSummary, WriteOptions, tar_tree, unpack, write_layer,
};
use sys::root::{FileKind, Follow, RootDir};

const OPAQUE: &str = "trusted.overlay.opaque";

/// A directory for each name that is asked for.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Fixture {
        Fixture(tempfile::tempdir().unwrap())
    }

    fn host(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn dir(&self, name: &str) -> RootDir {
        fs::create_dir_all(self.host(name)).unwrap();
        RootDir::open(&self.host(name)).unwrap()
    }
}

/// A layer with everything that a layer can have.
fn full_layer(root: &RootDir, host: &Path) {
    let at = |path: &str| host.join(path);
    for dir in ["etc", "etc/old", "srv"] {
        root.mkdir(Path::new(dir), 0o755).unwrap();
    }
    fs::write(at("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::hard_link(at("etc/passwd"), at("zz-hard")).unwrap();
    fs::write(at("srv").join("n".repeat(200)), "long name").unwrap();
    fs::write(at("srv").join(OsStr::from_bytes(b"\xff\xfe")), "odd name").unwrap();
    symlink("/absolute/../target", at("srv/link")).unwrap();
    fs::write(at("setuid"), "#!").unwrap();
    root.chown(Path::new("setuid"), 1000, 1001, Follow::No)
        .unwrap();
    root.chmod(Path::new("setuid"), 0o4755).unwrap();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    root.set_xattr(
        Path::new("setuid"),
        OsStr::new("security.capability"),
        capability,
    )
    .unwrap();
    root.set_xattr(Path::new("srv"), OsStr::new("user.note"), b"x")
        .unwrap();
    root.mknod(Path::new("null"), FileKind::CharDevice, 0o666, 0x103)
        .unwrap();
    root.mknod(Path::new("pipe"), FileKind::Fifo, 0o600, 0)
        .unwrap();
    root.mknod(Path::new("socket"), FileKind::Socket, 0o600, 0)
        .unwrap();
    root.mknod(Path::new("etc/gone"), FileKind::CharDevice, 0, 0)
        .unwrap();
    root.set_xattr(Path::new("etc/old"), OsStr::new(OPAQUE), b"y")
        .unwrap();
    root.set_xattr(Path::new("etc"), OsStr::new("trusted.overlay.origin"), b"")
        .unwrap();
    for path in ["etc/passwd", "setuid", "srv/link", "srv", "etc/old", "etc"] {
        root.set_mtime(Path::new(path), 1_500_000_000_700_000_000, Follow::No)
            .unwrap();
    }
}

fn write(root: &RootDir) -> (Vec<u8>, layer::LayerSummary) {
    let mut tar = Vec::new();
    let summary = write_layer(root, &mut tar, &WriteOptions::default()).unwrap();
    assert_eq!(summary.size, tar.len() as u64);
    assert_eq!(summary.diff_id, oci::Digest::of(&tar));
    (tar, summary)
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(tar);
    let mut names = Vec::new();
    while let Some(header) = reader.next().unwrap() {
        names.push(header.path.to_string_lossy().into_owned());
    }
    names
}

fn digest(root: &RootDir) -> oci::Digest {
    Tree::new().select(root, &Selector::default()).unwrap()
}

#[test]
fn a_layer_comes_back_as_it_was() {
    let f = Fixture::new();
    let root = f.dir("layer");
    full_layer(&root, &f.host("layer"));
    let (tar, summary) = write(&root);
    let long = format!("srv/{}", "n".repeat(200));
    let want = [
        "etc",
        "etc/.wh.gone",
        "etc/old",
        "etc/old/.wh..wh..opq",
        "etc/passwd",
        "null",
        "pipe",
        "setuid",
        "srv",
        "srv/link",
        &long,
        "srv/\u{fffd}\u{fffd}",
        "zz-hard",
    ];
    assert_eq!(names(&tar), want);
    assert_eq!(summary.entries, want.len() as u64);

    let copy = f.dir("copy");
    let unpacked = unpack(&tar[..], &copy, &UnpackOptions::default()).unwrap();
    assert_eq!(unpacked.diff_id, summary.diff_id);
    assert_eq!(
        (unpacked.size, unpacked.entries),
        (summary.size, summary.entries)
    );
    assert!(unpacked.implied_dirs.is_empty());
    assert_eq!(write(&copy).1, summary);
    root.unlink(Path::new("socket")).unwrap();
    assert_eq!(digest(&copy), digest(&root));
    let stat = |path: &str| copy.stat(Path::new(path), Follow::No).unwrap();
    assert!(stat("etc/gone").is_whiteout());
    assert_eq!(stat("etc/passwd").ino, stat("zz-hard").ino);
    assert_eq!(stat("etc").mtime_ns, 1_500_000_000_000_000_000);
    assert_eq!(
        copy.get_xattr(Path::new("etc/old"), OsStr::new(OPAQUE))
            .unwrap()
            .unwrap(),
        b"y"
    );
    let origin = copy
        .get_xattr(Path::new("etc"), OsStr::new("trusted.overlay.origin"))
        .unwrap();
    assert_eq!(origin.unwrap(), b"");
}

#[test]
fn gnu_tar_extracts_the_same_files() {
    let f = Fixture::new();
    let root = f.dir("plain");
    full_layer(&root, &f.host("plain"));
    for path in ["etc/gone", "socket"] {
        root.unlink(Path::new(path)).unwrap();
    }
    root.remove_xattr(Path::new("etc/old"), OsStr::new(OPAQUE))
        .unwrap();
    let tar = tar_tree(&root, Writer::new(Vec::new()), &Default::default());
    let tar = tar.unwrap().finish().unwrap();
    let theirs = f.dir("theirs");
    let mut child = Command::new("tar")
        .args(["-x", "-p", "--xattrs", "--xattrs-include=*", "-C"])
        .arg(f.host("theirs"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(digest(&theirs), digest(&root));
    let stat = |path: &str| theirs.stat(Path::new(path), Follow::No).unwrap();
    assert_eq!(stat("etc/passwd").mtime_ns, 1_500_000_000_000_000_000);
    assert_eq!(stat("etc/passwd").ino, stat("zz-hard").ino);

    // And the other way round; only its PAX format has attributes.
    for arguments in [
        &["--format=pax", "--xattrs", "--xattrs-include=*"][..],
        &["--format=gnu"],
    ] {
        let output = Command::new("tar")
            .args(["-c", "--sort=name", "-C"])
            .arg(f.host("plain"))
            .args(arguments)
            .arg(".")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let ours = f.dir(arguments[0]);
        unpack(&output.stdout[..], &ours, &UnpackOptions::default()).unwrap();
        if arguments.len() == 1 {
            root.remove_xattr(Path::new("srv"), OsStr::new("user.note"))
                .unwrap();
            root.remove_xattr(Path::new("setuid"), OsStr::new("security.capability"))
                .unwrap();
        }
        assert_eq!(digest(&ours), digest(&root), "{arguments:?}");
        let mtime_ns = ours.stat(Path::new("srv"), Follow::No).unwrap().mtime_ns;
        assert_eq!(mtime_ns / 1_000_000_000, 1_500_000_000);
    }
}

#[test]
fn a_mounted_stack_shows_what_the_layers_say() {
    let f = Fixture::new();
    let (base, upper) = (f.dir("base"), f.dir("upper"));
    for dir in ["a", "a/deep", "b", "c"] {
        base.mkdir(Path::new(dir), 0o755).unwrap();
        fs::write(f.host("base").join(dir).join("file"), dir).unwrap();
    }
    fs::create_dir(f.host("work")).unwrap();
    let merged = sys::mount::overlay(&[f.host("base")], Some((&f.host("upper"), &f.host("work"))));
    let Ok(merged) = merged else {
        panic!("overlay cannot be mounted: {merged:?}")
    };
    let root = RootDir::from_fd(merged.into_fd());
    root.unlink(Path::new("a/file")).unwrap();
    root.remove_all(Path::new("b")).unwrap();
    root.mkdir(Path::new("b"), 0o700).unwrap();
    root.create(Path::new("b/new"), 0o600, true)
        .unwrap()
        .write_all(b"new")
        .unwrap();
    root.remove_all(Path::new("c")).unwrap();
    root.create(Path::new("c"), 0o644, true).unwrap();
    root.chmod(Path::new("a/deep/file"), 0o600).unwrap();
    let want = digest(&root);
    drop(root);

    let (tar, summary) = write(&upper);
    let entries = names(&tar);
    for entry in ["a/.wh.file", "b/.wh..wh..opq", "b/new", "c", "a/deep/file"] {
        assert!(
            entries.iter().any(|name| name == entry),
            "{entry} in {entries:?}"
        );
    }
    let copy = f.dir("copy");
    assert_eq!(
        unpack(&tar[..], &copy, &Default::default())
            .unwrap()
            .diff_id,
        summary.diff_id
    );
    let again = sys::mount::overlay(&[f.host("base"), f.host("copy")], None).unwrap();
    assert_eq!(digest(&RootDir::from_fd(again.into_fd())), want);
}

#[test]
fn times_are_clamped_and_sockets_and_redirects_kept_out() {
    let f = Fixture::new();
    let root = f.dir("layer");
    full_layer(&root, &f.host("layer"));
    let clamp = WriteOptions {
        mtime_clamp_ns: Some(1_400_000_000_000_000_000),
    };
    let mut tar = Vec::new();
    write_layer(&root, &mut tar, &clamp).unwrap();
    let mut reader = Reader::new(&tar[..]);
    while let Some(header) = reader.next().unwrap() {
        assert!(header.mtime_ns <= 1_400_000_000_000_000_000, "{header:?}");
        assert!(
            !header
                .xattrs
                .keys()
                .any(|name| name.as_bytes().starts_with(b"trusted.overlay"))
        );
    }
    root.set_xattr(
        Path::new("srv"),
        OsStr::new("trusted.overlay.redirect"),
        b"/x",
    )
    .unwrap();
    assert!(write_layer(&root, Vec::new(), &WriteOptions::default()).is_err());
}

/// Builds a tar of entries: `dir/`, `file=content`, `link>target`, `hard~target`.
fn tar(words: &str) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for word in words.split_whitespace() {
        let (path, kind, content) = if let Some((path, target)) = word.split_once('>') {
            (path, Kind::Symlink(target.into()), "")
        } else if let Some((path, target)) = word.split_once('~') {
            (path, Kind::HardLink(target.into()), "")
        } else if let Some((path, content)) = word.split_once('=') {
            (path, Kind::File, content)
        } else {
            (word.strip_suffix('/').unwrap(), Kind::Dir, "")
        };
        let mode = if kind == Kind::Dir { 0o711 } else { 0o640 };
        let header = Header {
            path: path.into(),
            kind,
            mode,
            uid: 1,
            gid: 2,
            size: content.len() as u64,
            mtime_ns: 0,
            xattrs: Default::default(),
        };
        writer.append(&header, content.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

/// Unpacks beside a secret, which must stay as it is; gives the files or the error.
fn unpacked(words: &str) -> Result<(Fixture, UnpackSummary), UnpackError> {
    let f = Fixture::new();
    fs::write(f.host("secret"), "secret").unwrap();
    let into = f.dir("in");
    let result = unpack(&tar(words)[..], &into, &UnpackOptions::default());
    assert_eq!(
        fs::read_to_string(f.host("secret")).unwrap(),
        "secret",
        "{words}"
    );
    let beside: Vec<_> = fs::read_dir(f.host(""))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(beside.len(), 2, "{words} made {beside:?}");
    result.map(|summary| (f, summary))
}

#[test]
fn no_entry_reaches_outside() {
    for words in [
        "../secret=evil",
        "a/../../secret=evil",
        "hard~../secret",
        "hard~a/../../secret",
        "x~nothing",
        ".wh...=",
        ".wh..=",
        ".wh.=",
        "a/.wh...=",
        "f=x f/g=y",
        "dir/ hard~dir",
    ] {
        assert!(unpacked(words).is_err(), "{words}");
    }
    for (words, path, want) in [
        ("/secret=inside", "secret", "inside"),
        ("up>.. up/secret=inside", "secret", "inside"),
        ("up>../../.. up/new=inside", "new", "inside"),
        ("abs>/ abs/etc/passwd=inside", "etc/passwd", "inside"),
        ("a/../b=inside", "b", "inside"),
        ("l>../secret l=inside", "l", "inside"),
        ("d/ d/x=1 d>.. d/secret=inside", "secret", "inside"),
        ("d>.. d/ d/secret=inside", "d/secret", "inside"),
        ("f=inside hard~/f", "hard", "inside"),
        ("up>.. f=inside up/hard~up/f", "hard", "inside"),
        ("a=1 a=inside", "a", "inside"),
        ("a=inside a~a", "a", "inside"),
    ] {
        let (f, _) = unpacked(words).unwrap_or_else(|error| panic!("{words}: {error:?}"));
        assert_eq!(
            fs::read_to_string(f.host("in").join(path)).unwrap(),
            want,
            "{words}"
        );
    }
    // A hard link to a link that leads outside links the link.
    let (f, _) = unpacked("l>../secret hard~l").unwrap();
    assert_eq!(
        fs::read_link(f.host("in/hard")).unwrap(),
        Path::new("../secret")
    );
}

#[test]
fn deletions_are_of_what_is_below_whatever_their_order() {
    let stat = |f: &Fixture, path: &str| {
        let root = f.dir("in");
        let opaque = root
            .get_xattr(Path::new(path), OsStr::new(OPAQUE))
            .unwrap()
            .is_some();
        (root.stat(Path::new(path), Follow::No).unwrap(), opaque)
    };
    for words in ["d/ .wh.d=", ".wh.d= d/", ".wh.d= d/x=1", "d/x=1 .wh.d="] {
        let (f, _) = unpacked(words).unwrap();
        let (metadata, opaque) = stat(&f, "d");
        assert_eq!((metadata.kind, opaque), (FileKind::Dir, true), "{words}");
    }
    for words in ["f=1 .wh.f=", ".wh.f= f=1"] {
        let (f, _) = unpacked(words).unwrap();
        assert_eq!(stat(&f, "f").0.kind, FileKind::File, "{words}");
    }
    let (f, summary) = unpacked("a/.wh..wh..opq= b/.wh.c= .wh..wh.plnk/x=1 .wh..wh.aufs=").unwrap();
    assert!(stat(&f, "a").1);
    assert!(stat(&f, "b/c").0.is_whiteout());
    assert_eq!(fs::read_dir(f.host("in")).unwrap().count(), 2);
    assert_eq!(summary.implied_dirs, [Path::new("a"), Path::new("b")]);
    // A whiteout is no file that a link could name.
    assert!(unpacked(".wh.f= hard~f").is_err());
}

#[test]
fn implied_directories_are_as_below() {
    let f = Fixture::new();
    let lower = f.dir("lower");
    lower.mkdir_all(Path::new("a/b"), 0o2750).unwrap();
    lower.chown(Path::new("a/b"), 7, 8, Follow::No).unwrap();
    lower.chmod(Path::new("a/b"), 0o2750).unwrap();
    lower
        .set_xattr(Path::new("a/b"), OsStr::new("user.x"), b"1")
        .unwrap();
    lower
        .set_mtime(Path::new("a/b"), 12_345, Follow::No)
        .unwrap();
    let into = f.dir("into");
    let options = UnpackOptions {
        lower: Some(&lower),
        ..Default::default()
    };
    unpack(&tar("a/b/c/file=1")[..], &into, &options).unwrap();
    let stat = |path: &str| into.stat(Path::new(path), Follow::No).unwrap();
    let metadata = stat("a/b");
    assert_eq!((metadata.mode, metadata.uid, metadata.gid), (0o2750, 7, 8));
    assert_eq!(metadata.mtime_ns, 12_345);
    assert_eq!(into.xattrs(Path::new("a/b")).unwrap().len(), 1);
    assert_eq!((stat("a/b/c").mode, stat("a/b/c").uid), (0o755, 0));
}

#[test]
fn limits_hold_and_overlay_attributes_are_not_taken() {
    let f = Fixture::new();
    let into = f.dir("into");
    let run = |words: &str, max_entries, max_size| {
        let limits = Limits {
            max_entries,
            max_size,
        };
        unpack(
            &tar(words)[..],
            &into,
            &UnpackOptions {
                limits,
                lower: None,
            },
        )
    };
    assert!(matches!(
        run("a=1 b=2", 1, 1 << 20),
        Err(UnpackError::TooManyEntries(1))
    ));
    assert!(run("a=123456789", 10, 3000).is_ok());
    assert!(matches!(
        run("a=123456789", 10, 8),
        Err(UnpackError::Tar(_))
    ));
    let mut header = Header {
        path: "d".into(),
        kind: Kind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime_ns: 0,
        xattrs: Default::default(),
    };
    header.xattrs.insert(OPAQUE.into(), b"y".to_vec());
    header
        .xattrs
        .insert("trusted.overlay.redirect".into(), b"/etc".to_vec());
    let mut writer = Writer::new(Vec::new());
    writer.append(&header, std::io::empty()).unwrap();
    unpack(
        &writer.finish().unwrap()[..],
        &into,
        &UnpackOptions::default(),
    )
    .unwrap();
    assert!(into.xattrs(Path::new("d")).unwrap().is_empty());
}

#[test]
fn large_and_sparse_content_survives_compression_and_the_way_back() {
    let f = Fixture::new();
    let root = f.dir("layer");
    let file = fs::File::create(f.host("layer/large")).unwrap();
    for at in 0..7u8 {
        file.write_all_at(&[at + 1; 100_000], u64::from(at) * 777_777)
            .unwrap();
    }
    let mut encoder = layer::compress(layer::Compression::default(), Vec::new()).unwrap();
    let summary = write_layer(&root, &mut encoder, &WriteOptions::default()).unwrap();
    let blob = encoder.finish().unwrap();
    assert!(blob.len() < 100_000);
    let stream = layer::decompress(std::io::Cursor::new(blob)).unwrap();
    let stream = layer::compression::read_ahead(stream).unwrap();
    let copy = f.dir("copy");
    assert_eq!(
        unpack(stream, &copy, &Default::default()).unwrap().diff_id,
        summary.diff_id
    );
    let mut content = Vec::new();
    copy.open_file(Path::new("large"))
        .unwrap()
        .read_to_end(&mut content)
        .unwrap();
    assert!(content == fs::read(f.host("layer/large")).unwrap());
}
