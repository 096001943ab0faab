use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A directory with a secret beside the root that must stay out of reach.
struct Fixture {
    outer: tempfile::TempDir,
    root: RootDir,
}

impl Fixture {
    fn new() -> Fixture {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("secret"), "outside").unwrap();
        fs::create_dir(outer.path().join("root")).unwrap();
        let root = RootDir::open(&outer.path().join("root")).unwrap();
        Fixture { outer, root }
    }

    fn host(&self, path: &str) -> PathBuf {
        self.outer.path().join("root").join(path)
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        self.root
            .open_file(Path::new(path))?
            .read_to_string(&mut text)?;
        Ok(text)
    }
}

#[test]
fn dot_dot_and_absolute_links_stay_inside() {
    let f = Fixture::new();
    fs::create_dir(f.host("etc")).unwrap();
    fs::write(f.host("etc/passwd"), "inside").unwrap();
    fs::write(f.host("secret"), "inside").unwrap();
    symlink("/etc/passwd", f.host("absolute")).unwrap();
    symlink("../../../../../secret", f.host("etc/up")).unwrap();
    symlink("/", f.host("slash")).unwrap();
    for path in [
        "/etc/passwd",
        "absolute",
        "etc/up",
        "../../secret",
        "slash/../etc/passwd",
    ] {
        assert_eq!(f.read(path).unwrap(), "inside", "{path}");
    }
    assert!(f.root.stat(Path::new("/.."), Follow::Yes).unwrap().ino == fs_ino(&f.host("")));
}

fn fs_ino(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn writing_through_a_link_parent_stays_inside() {
    let f = Fixture::new();
    symlink("../..", f.host("out")).unwrap();
    f.root
        .create(Path::new("out/new"), 0o600, true)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    assert!(f.host("new").exists());
    assert!(!f.outer.path().join("new").exists());
    f.root.mkdir(Path::new("out/../dir"), 0o700).unwrap();
    assert!(f.host("dir").is_dir());
}

#[test]
fn the_last_component_is_never_followed_by_what_changes_it() {
    let f = Fixture::new();
    symlink(f.outer.path().join("secret"), f.host("link")).unwrap();
    fs::write(f.host("file"), "").unwrap();
    symlink("file", f.host("inner")).unwrap();
    let inner = Path::new("inner");
    assert_eq!(
        f.root
            .create(Path::new("link"), 0o644, false)
            .unwrap_err()
            .raw_os_error(),
        Some(rustix::io::Errno::LOOP.raw_os_error())
    );
    f.root.chmod(inner, 0o111).unwrap();
    f.root.chown(inner, 7, 8, Follow::No).unwrap();
    f.root.set_mtime(inner, 5_000_000_001, Follow::No).unwrap();
    let file = fs::metadata(f.host("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (0, 0));
    assert_ne!(file.permissions().mode() & 0o777, 0o111);
    let link = f.root.stat(inner, Follow::No).unwrap();
    assert_eq!((link.kind, link.uid, link.gid), (FileKind::Symlink, 7, 8));
    assert_eq!(link.mtime_ns, 5_000_000_001);
    f.root.chown(inner, 9, 9, Follow::Yes).unwrap();
    f.root.set_mtime(inner, -1, Follow::Yes).unwrap();
    let file = f.root.stat(inner, Follow::Yes).unwrap();
    assert_eq!((file.uid, file.mtime_ns), (9, -1));
    f.root.remove_all(inner).unwrap();
    assert!(f.host("file").exists() && !f.host("inner").exists());
}

#[test]
fn loops_end() {
    let f = Fixture::new();
    symlink("b", f.host("a")).unwrap();
    symlink("a", f.host("b")).unwrap();
    let error = f.root.open_file(Path::new("a")).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::LOOP.raw_os_error())
    );
    assert!(f.root.mkdir_all(Path::new("a/c"), 0o755).is_err());
    assert_eq!(f.root.read_link(Path::new("a")).unwrap(), Path::new("b"));
}

#[test]
fn magic_links_are_refused() {
    let proc = RootDir::open(Path::new("/proc")).unwrap();
    assert!(proc.open_dir(Path::new("self/root")).is_err());
    assert!(proc.open_dir(Path::new("self/cwd")).is_err());
}

#[test]
fn only_regular_files_are_opened() {
    let f = Fixture::new();
    f.root
        .mknod(Path::new("pipe"), FileKind::Fifo, 0o644, 0)
        .unwrap();
    f.root.mkdir(Path::new("dir"), 0o755).unwrap();
    for name in ["pipe", "dir"] {
        assert!(f.root.open_file(Path::new(name)).is_err());
        assert!(f.root.create(Path::new(name), 0o644, false).is_err());
    }
}

#[test]
fn modes_are_exact_whatever_the_umask() {
    let f = Fixture::new();
    f.root.mkdir(Path::new("d"), 0o1777).unwrap();
    f.root.create(Path::new("f"), 0o4777, true).unwrap();
    f.root
        .mknod(Path::new("n"), FileKind::Fifo, 0o666, 0)
        .unwrap();
    for (name, mode) in [("d", 0o1777), ("f", 0o4777), ("n", 0o666)] {
        assert_eq!(
            f.root.stat(Path::new(name), Follow::No).unwrap().mode,
            mode,
            "{name}"
        );
    }
    f.root.create(Path::new("f"), 0o600, false).unwrap();
    let error = f.root.create(Path::new("f"), 0o600, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn names_need_not_be_utf8_and_come_sorted_by_bytes() {
    let f = Fixture::new();
    let odd = OsString::from_vec(vec![b'n', 0xff, b'\n']);
    f.root.create(Path::new(&odd), 0o644, true).unwrap();
    f.root.mkdir(Path::new("a-"), 0o755).unwrap();
    f.root.symlink(Path::new("x"), Path::new("a")).unwrap();
    let names: Vec<_> = f
        .root
        .read_dir(Path::new("/"))
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.kind))
        .collect();
    let want = [
        ("a".into(), FileKind::Symlink),
        ("a-".into(), FileKind::Dir),
        (odd.clone(), FileKind::File),
    ];
    assert_eq!(names, want);
    assert!(f.root.exists(Path::new(&odd)).unwrap());
    assert!(!f.root.exists(Path::new("a-/b/c")).unwrap());
    assert!(f.root.create(Path::new("nul\0"), 0o644, true).is_err());
}

#[test]
fn mkdir_all_tells_what_it_made() {
    let f = Fixture::new();
    f.root.mkdir(Path::new("a"), 0o755).unwrap();
    f.root.symlink(Path::new("/a"), Path::new("l")).unwrap();
    let made = f.root.mkdir_all(Path::new("/l/b/c"), 0o700).unwrap();
    assert_eq!(made, [Path::new("/l/b"), Path::new("/l/b/c")]);
    assert!(f.host("a/b/c").is_dir());
    assert!(
        f.root
            .mkdir_all(Path::new("/l/b/c"), 0o700)
            .unwrap()
            .is_empty()
    );
    assert!(f.root.mkdir_all(Path::new("/"), 0o700).unwrap().is_empty());
    f.root.create(Path::new("file"), 0o644, true).unwrap();
    assert!(f.root.mkdir_all(Path::new("file/x"), 0o700).is_err());
}

#[test]
fn xattrs_of_files_directories_and_the_root() {
    let f = Fixture::new();
    f.root.create(Path::new("file"), 0o644, true).unwrap();
    let name = OsStr::new("trusted.test");
    let large = vec![7u8; 3000];
    for path in ["file", "/", "."] {
        f.root.set_xattr(Path::new(path), name, &large).unwrap();
        assert_eq!(
            f.root.get_xattr(Path::new(path), name).unwrap(),
            Some(large.clone())
        );
    }
    f.root
        .symlink(Path::new("file"), Path::new("link"))
        .unwrap();
    assert!(!f.root.xattrs(Path::new("link")).unwrap().contains_key(name));
    f.root.set_xattr(Path::new("link"), name, b"own").unwrap();
    assert_eq!(
        f.root.get_xattr(Path::new("link"), name).unwrap(),
        Some(b"own".to_vec())
    );
    assert_eq!(
        f.root.xattrs(Path::new("file")).unwrap().get(name),
        Some(&large)
    );
    f.root.remove_xattr(Path::new("file"), name).unwrap();
    f.root.remove_xattr(Path::new("file"), name).unwrap();
    assert_eq!(f.root.get_xattr(Path::new("file"), name).unwrap(), None);
}

#[test]
fn hard_links_renames_and_devices() {
    let f = Fixture::new();
    f.root
        .mknod(Path::new("w"), FileKind::CharDevice, 0, 0)
        .unwrap();
    assert!(
        f.root
            .stat(Path::new("w"), Follow::No)
            .unwrap()
            .is_whiteout()
    );
    f.root.create(Path::new("a"), 0o644, true).unwrap();
    f.root.hard_link(Path::new("a"), Path::new("b")).unwrap();
    assert_eq!(f.root.stat(Path::new("b"), Follow::No).unwrap().nlink, 2);
    f.root.rename(Path::new("b"), Path::new("w")).unwrap();
    f.root.unlink(Path::new("a")).unwrap();
    assert_eq!(f.root.stat(Path::new("w"), Follow::No).unwrap().nlink, 1);
    f.root.mkdir(Path::new("d"), 0o755).unwrap();
    f.root.rmdir(Path::new("d")).unwrap();
}

#[test]
fn trees_of_any_depth_are_removed() {
    let f = Fixture::new();
    // Deeper than PATH_MAX and than the usual limit of open files.
    let mut dir = f.root.try_clone().unwrap();
    for _ in 0..1200 {
        dir.mkdir(Path::new("deep"), 0o755).unwrap();
        dir.create(Path::new("file"), 0o644, true).unwrap();
        dir = dir.open_dir(Path::new("deep")).unwrap();
    }
    f.root
        .symlink(Path::new("../secret"), Path::new("deep/link"))
        .unwrap();
    f.root.remove_all(Path::new("deep")).unwrap();
    f.root.remove_all(Path::new("deep")).unwrap();
    assert!(!f.host("deep").exists());
    f.root.mkdir_all(Path::new("x/y"), 0o755).unwrap();
    f.root.remove_all(Path::new("/")).unwrap();
    assert!(f.root.read_dir(Path::new("")).unwrap().is_empty());
    assert!(f.outer.path().join("secret").exists());
}

#[test]
fn a_race_between_directory_and_link_never_leads_out() {
    let f = Fixture::new();
    fs::create_dir(f.host("real")).unwrap();
    fs::write(f.host("real/secret"), "inside").unwrap();
    fs::write(f.host("secret"), "inside").unwrap();
    symlink("../..", f.host("evil")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    f.host("real"),
                    rustix::fs::CWD,
                    f.host("evil"),
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        });
        let mut seen = BTreeSet::new();
        for _ in 0..5000 {
            match f.read("real/../real/secret") {
                Ok(text) => drop(seen.insert(text)),
                Err(error) => assert_ne!(error.kind(), ErrorKind::PermissionDenied, "{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(seen, BTreeSet::from(["inside".to_owned()]));
    });
}

#[test]
fn the_highest_number_leaves_an_owner_as_it_is() {
    let f = Fixture::new();
    let file = f.root.create(Path::new("file"), 0o644, true).unwrap();
    chown_file(&file, 5, 6).unwrap();
    chown_file(&file, u32::MAX, 7).unwrap();
    let path = Path::new("file");
    f.root.chown(path, 8, u32::MAX, Follow::No).unwrap();
    let metadata = f.root.stat(path, Follow::No).unwrap();
    assert_eq!((metadata.uid, metadata.gid), (8, 7));
}
