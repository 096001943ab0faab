//! What `ADD` makes of archives and of other files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use fstree::copy::CopyOptions;
use layer::{AddError, Compression, add, compress, is_archive};
use sys::root::RootDir;

/// `src` with `a.tar` and its compressed forms; `dst` empty.
fn fixture() -> (tempfile::TempDir, RootDir, RootDir) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["src", "dst", "content/sub"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("content/sub/file"), "in the archive").unwrap();
    fs::write(dir.path().join("content/.wh.x"), "").unwrap();
    std::os::unix::fs::symlink("sub/file", dir.path().join("content/link")).unwrap();
    let status = Command::new("tar")
        .args([
            "--owner=5",
            "--group=6",
            "--mtime=@1000",
            "-C",
            "content",
            "-cf",
            "src/a.tar",
        ])
        .args([".wh.x", "link", "sub"])
        .current_dir(dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    let tar = fs::read(dir.path().join("src/a.tar")).unwrap();
    for (name, compression) in [("a.tgz", Compression::GZIP), ("a.tzst", Compression::ZSTD)] {
        let mut encoder = compress(compression, Vec::new()).unwrap();
        std::io::Write::write_all(&mut encoder, &tar).unwrap();
        fs::write(dir.path().join("src").join(name), encoder.finish().unwrap()).unwrap();
    }
    let src = RootDir::open(&dir.path().join("src")).unwrap();
    let dst = RootDir::open(&dir.path().join("dst")).unwrap();
    (dir, src, dst)
}

fn options() -> CopyOptions {
    CopyOptions {
        create_dest_path: true,
        allow_wildcard: true,
        copy_dir_contents: true,
        follow_symlinks: true,
        ..CopyOptions::default()
    }
}

#[test]
fn archives_are_unpacked_whatever_their_compression() {
    let (dir, src, dst) = fixture();
    for name in ["a.tar", "a.tgz", "a.tzst"] {
        let summary = add(&src, name, &dst, &format!("/new/{name}"), &options()).unwrap();
        assert_eq!(summary.files, 4, "{name}");
        let at = |path: &str| dir.path().join("dst/new").join(name).join(path);
        assert_eq!(fs::read_to_string(at("link")).unwrap(), "in the archive");
        let file = fs::metadata(at("sub/file")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mtime()), (5, 6, 1000));
        assert_eq!(fs::metadata(at("sub")).unwrap().mtime(), 1000);
        assert!(at(".wh.x").exists());
    }
    let owned = CopyOptions {
        owner: Some((8, 9)),
        ..options()
    };
    add(&src, "a.tar", &dst, "/owned", &owned).unwrap();
    for path in ["owned", "owned/sub", "owned/sub/file"] {
        let metadata = fs::metadata(dir.path().join("dst").join(path)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (8, 9), "{path}");
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    let (dir, src, dst) = fixture();
    let host = |path: &str| dir.path().join(path);
    fs::write(host("src/plain"), "text").unwrap();
    fs::write(host("src/empty.tar"), "").unwrap();
    fs::write(host("src/zeros.tar"), vec![0; 10240]).unwrap();
    let mut encoder = compress(Compression::GZIP, Vec::new()).unwrap();
    std::io::Write::write_all(&mut encoder, b"text").unwrap();
    fs::write(host("src/plain.gz"), encoder.finish().unwrap()).unwrap();
    for name in ["plain", "empty.tar", "zeros.tar", "plain.gz"] {
        add(&src, name, &dst, "/", &options()).unwrap();
        assert_eq!(
            fs::read(host("dst").join(name)).unwrap(),
            fs::read(host("src").join(name)).unwrap()
        );
    }
    // A directory that holds an archive is copied with it.
    fs::create_dir(host("src/d")).unwrap();
    fs::copy(host("src/a.tar"), host("src/d/a.tar")).unwrap();
    add(&src, "d", &dst, "/d", &options()).unwrap();
    assert!(host("dst/d/a.tar").exists());
    assert!(!is_archive(&b"text"[..]));
    assert!(is_archive(fs::File::open(host("src/a.tgz")).unwrap()));
}

#[test]
fn what_is_there_is_merged_or_replaced_and_links_lead_nowhere_else() {
    let (dir, src, dst) = fixture();
    let host = |path: &str| dir.path().join(path);
    fs::create_dir_all(host("dst/to/sub/file/x")).unwrap();
    fs::write(host("dst/to/sub/kept"), "").unwrap();
    fs::create_dir(host("dst/to/link")).unwrap();
    add(&src, "a.tar", &dst, "/to", &options()).unwrap();
    assert!(host("dst/to/sub/kept").exists());
    assert!(host("dst/to/sub/file").is_file());
    assert!(host("dst/to/link").is_symlink());
    // The destination may be a link inside the root, and the archive's links stay below it.
    std::os::unix::fs::symlink("/to", host("dst/l")).unwrap();
    std::os::unix::fs::symlink("/", host("dst/to/sub2")).unwrap();
    add(&src, "a.tar", &dst, "/l", &options()).unwrap();
    assert!(!dst.exists(Path::new("sub")).unwrap());
}

#[test]
fn a_damaged_archive_is_an_error_that_names_it() {
    let (dir, src, dst) = fixture();
    let path = dir.path().join("src/a.tar");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..2000]).unwrap();
    let error = add(&src, "/a.tar", &dst, "/", &options()).unwrap_err();
    assert!(matches!(error, AddError::Unpack { path, .. } if path == Path::new("/a.tar")));
}
