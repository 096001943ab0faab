use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};

use super::*;
use crate::walk::{WalkOptions, walk};

/// A source and a destination.
struct Fixture {
    dir: tempfile::TempDir,
    src: RootDir,
    dst: RootDir,
}

const TIME: i64 = 1_234_567_890_123_456_789;

impl Fixture {
    /// `src` and `dst` are made of words: `dir/`, `file`, `link>target`; a file holds its own name.
    fn new(src: &str, dst: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        for (name, words) in [("src", src), ("dst", dst)] {
            let root = dir.path().join(name);
            fs::create_dir(&root).unwrap();
            for word in words.split_whitespace() {
                let (path, target) = word.split_once('>').unwrap_or((word, ""));
                let at = root.join(path);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                if !target.is_empty() {
                    symlink(target, at).unwrap();
                } else if path.ends_with('/') {
                    fs::create_dir_all(at).unwrap();
                } else {
                    fs::write(at, format!("{name}:{path}")).unwrap();
                }
            }
        }
        let src = RootDir::open(&dir.path().join("src")).unwrap();
        let dst = RootDir::open(&dir.path().join("dst")).unwrap();
        Fixture { dir, src, dst }
    }

    fn copy(&self, from: &str, to: &str, options: &CopyOptions) -> Result<CopySummary, CopyError> {
        copy(&self.src, from, &self.dst, to, options)
    }

    fn host(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The destination in the words of [`Fixture::new`], files with `=` what they hold if that is
    /// not from the source under the same path.
    fn result(&self) -> String {
        let mut words = Vec::new();
        for entry in walk(&self.dst, &WalkOptions::default()).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path.display().to_string();
            words.push(match entry.metadata.kind {
                FileKind::Dir => format!("{path}/"),
                FileKind::Symlink => format!("{path}>{}", entry.link.unwrap().display()),
                _ => {
                    let text = fs::read_to_string(self.host("dst").join(&path)).unwrap();
                    match text.strip_prefix("src:") {
                        Some(from) if from == path => path,
                        Some(from) => format!("{path}={from}"),
                        None => format!("{path}=={text}"),
                    }
                }
            });
        }
        words.join(" ")
    }
}

fn options(text: &str) -> CopyOptions {
    let mut options = CopyOptions::default();
    for word in text.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("contents", _) => options.copy_dir_contents = true,
            ("create", _) => options.create_dest_path = true,
            ("follow", _) => options.follow_symlinks = true,
            ("wild", _) => options.allow_wildcard = true,
            ("empty", _) => options.allow_empty_wildcard = true,
            ("replace", _) => options.always_replace = true,
            ("include", pattern) => options.include.push(pattern.to_owned()),
            ("exclude", pattern) => options.exclude.push(pattern.to_owned()),
            ("require", path) => options.required.push(path.to_owned()),
            ("mode", mode) => options.mode = ModeChange::parse(mode).unwrap(),
            _ => panic!("unknown option {word}"),
        }
    }
    options
}

/// Copies and compares what is then in the destination, or the error.
fn check(src: &str, dst: &str, from: &str, to: &str, with: &str, want: &str) {
    let fixture = Fixture::new(src, dst);
    let got = match fixture.copy(from, to, &options(with)) {
        Ok(_) => fixture.result(),
        Err(error) => format!("error: {error}"),
    };
    assert_eq!(got, want, "{src} | {dst} | {from} {to} {with}");
}

#[test]
fn where_a_file_lands() {
    check("a", "", "/a", "/b", "", "b=a");
    check("a", "d/", "/a", "/d", "", "d/ d/a=a");
    check("a", "", "/a", "/d/", "create", "d/ d/a=a");
    check("a", "", "/a", "/x/y/b", "create", "x/ x/y/ x/y/b=a");
    check("a", "", "/a", "/x/y/b", "", "error: lstat /x/y");
    check("a", "a", "/a", "/a", "", "a");
    check("a", "b>/d/e d/", "/a", "/b", "", "b>/d/e d/ d/e=a");
    check("a", "b>../d d/", "/a", "/b", "", "b>../d d/ d/a=a");
    check(
        "a",
        "b/a/",
        "/a",
        "/b",
        "",
        "error: cannot replace to directory /b/a with file",
    );
    check("a", "b/a/", "/a", "/b", "replace", "b/ b/a=a");
    check("a", "", "/b", "/", "", "error: `/b` not found");
}

#[test]
fn where_a_directory_lands() {
    check("d/a", "", "/d", "/e", "", "e/ e/a=d/a");
    check("d/a", "e/", "/d", "/e", "", "e/ e/d/ e/d/a=d/a");
    check("d/a", "e/", "/d/.", "/e", "", "e/ e/a=d/a");
    check(
        "d/a",
        "e/b",
        "/d",
        "/e",
        "contents",
        "e/ e/a=d/a e/b==dst:e/b",
    );
    check(
        "d/a",
        "",
        "/d",
        "/x/e",
        "contents create",
        "x/ x/e/ x/e/a=d/a",
    );
    check(
        "d/a",
        "d/a/",
        "/d",
        "/",
        "",
        "error: cannot replace to directory /d/a with file",
    );
    check(
        "d/a",
        "e",
        "/d",
        "/e",
        "contents",
        "error: cannot copy to non-directory: /e",
    );
    check(
        "d/a/b",
        "e/a",
        "/d",
        "/e",
        "contents",
        "error: cannot copy to non-directory: /e/a",
    );
    check(
        "d/a/b",
        "e/a",
        "/d",
        "/e",
        "contents replace",
        "e/ e/a/ e/a/b=d/a/b",
    );
    check(
        "d/a/b",
        "e/a>/x x/",
        "/d",
        "/e",
        "contents replace",
        "e/ e/a/ e/a/b=d/a/b x/",
    );
    check("a d/b", "", "/", "/", "contents", "a d/ d/b");
}

#[test]
fn links_and_wildcards() {
    check("l>/d/a d/a", "", "/l", "/m", "", "m>/d/a");
    check("l>/d/a d/a", "", "/l", "/m", "follow", "m=d/a");
    check("l>/d d/a d/m>a", "", "/l/m", "/x", "", "x>a");
    check("l>/d d/a", "x/", "/l", "/x", "follow", "x/ x/l/ x/l/a=d/a");
    check("a1 a2 b", "", "/a*", "/", "wild", "a1 a2");
    check(
        "a1 d/a2",
        "x/",
        "/*",
        "/x",
        "wild contents",
        "x/ x/a1=a1 x/a2=d/a2",
    );
    check("a", "", "/x*", "/", "wild", "error: `/x*` not found");
    check("a", "", "/x*", "/", "wild empty", "");
    check(
        "a",
        "",
        "/x/*",
        "/",
        "wild empty",
        "error: `/x/*` not found",
    );
    check("a", "", "/b", "/", "wild empty", "error: `/b` not found");
    check(
        "d/a",
        "",
        "/",
        "/",
        "contents require=/d/b",
        "error: `/d/b` not found",
    );
    check("d/a", "", "/", "/", "contents require=/d/a", "d/ d/a");
}

#[test]
fn includes_make_only_the_directories_they_need() {
    check(
        "a/b/c a/d e/f",
        "",
        "/",
        "/",
        "contents include=a/b",
        "a/ a/b/ a/b/c",
    );
    check(
        "a/b/c a/d e/f",
        "",
        "/",
        "/",
        "contents include=**/f",
        "e/ e/f",
    );
    check(
        "a/b/c a/d e/f",
        "",
        "/",
        "/",
        "contents exclude=a",
        "e/ e/f",
    );
    check(
        "a/b/c a/d e/f",
        "",
        "/",
        "/",
        "contents exclude=a exclude=!a/d",
        "a/ a/d e/ e/f",
    );
    check("a/b", "", "/", "/", "contents include=none", "");
    check(
        "a",
        "",
        "/a",
        "/",
        "include=[",
        "error: invalid include or exclude patterns",
    );
}

#[test]
fn metadata_is_the_sources_unless_told_otherwise() {
    let fixture = Fixture::new("d/f d/l>f", "");
    fixture.src.chmod(Path::new("d"), 0o2750).unwrap();
    fixture.src.chmod(Path::new("d/f"), 0o4711).unwrap();
    for path in ["d/f", "d/l", "d"] {
        fixture
            .src
            .chown(Path::new(path), 10, 20, Follow::No)
            .unwrap();
        fixture
            .src
            .set_mtime(Path::new(path), TIME, Follow::No)
            .unwrap();
    }
    fixture.src.chmod(Path::new("d/f"), 0o4711).unwrap();
    fixture.src.chmod(Path::new("d"), 0o2750).unwrap();
    fixture
        .src
        .set_xattr(Path::new("d/f"), OsStr::new("user.x"), b"1")
        .unwrap();
    fixture
        .src
        .set_xattr(Path::new("d"), OsStr::new("trusted.y"), b"2")
        .unwrap();
    fixture
        .src
        .set_xattr(Path::new("d"), OsStr::new("trusted.overlay.opaque"), b"y")
        .unwrap();
    let stat = |path: &str| {
        let m = fixture.dst.stat(Path::new(path), Follow::No).unwrap();
        (m.mode, m.uid, m.gid, m.mtime_ns)
    };
    fixture
        .copy("/d", "/keep", &CopyOptions::default())
        .unwrap();
    assert_eq!(stat("keep"), (0o2750, 10, 20, TIME));
    assert_eq!(stat("keep/f"), (0o4711, 10, 20, TIME));
    assert_eq!(stat("keep/l"), (0o777, 10, 20, TIME));
    assert_eq!(fixture.dst.xattrs(Path::new("keep/f")).unwrap().len(), 1);
    assert_eq!(fixture.dst.xattrs(Path::new("keep")).unwrap().len(), 1);

    let changed = CopyOptions {
        owner: Some((1, 2)),
        timestamp_ns: Some(5),
        create_dest_path: true,
        ..options("mode=0640")
    };
    fixture.copy("/d", "/new/change", &changed).unwrap();
    for path in ["new", "new/change", "new/change/f"] {
        assert_eq!(stat(path), (0o640, 1, 2, 5), "{path}");
    }
    assert_eq!(stat("new/change/l"), (0o777, 1, 2, 5));
    fixture
        .copy("/d", "/sym", &options("mode=go=u,go-w"))
        .unwrap();
    assert_eq!(stat("sym").0, 0o755);
}

#[test]
fn an_existing_directory_keeps_its_metadata_only_at_the_top() {
    let fixture = Fixture::new("top/sub/", "top/sub/");
    for path in ["top", "top/sub"] {
        fixture.src.chmod(Path::new(path), 0o700).unwrap();
        fixture
            .src
            .set_mtime(Path::new(path), TIME, Follow::No)
            .unwrap();
    }
    fixture.copy("/top", "/top", &options("contents")).unwrap();
    let top = fixture.dst.stat(Path::new("top"), Follow::No).unwrap();
    let sub = fixture.dst.stat(Path::new("top/sub"), Follow::No).unwrap();
    assert_eq!((top.mode, top.mtime_ns), (0o755, TIME));
    assert_eq!((sub.mode, sub.mtime_ns), (0o700, TIME));
}

#[test]
fn hard_links_devices_and_sockets() {
    let fixture = Fixture::new("a/x", "");
    fs::hard_link(fixture.host("src/a/x"), fixture.host("src/y")).unwrap();
    fixture
        .src
        .mknod(Path::new("null"), FileKind::CharDevice, 0o622, 0x103)
        .unwrap();
    fixture
        .src
        .mknod(Path::new("pipe"), FileKind::Fifo, 0o600, 0)
        .unwrap();
    fixture
        .src
        .mknod(Path::new("sock"), FileKind::Socket, 0o600, 0)
        .unwrap();
    fixture
        .src
        .mknod(Path::new("gone"), FileKind::CharDevice, 0, 0)
        .unwrap();
    fixture.copy("/", "/", &options("contents")).unwrap();
    let stat = |path: &str| fixture.dst.stat(Path::new(path), Follow::No).unwrap();
    assert_eq!(stat("a/x").ino, stat("y").ino);
    assert_ne!(
        stat("y").ino,
        fs::metadata(fixture.host("src/y")).unwrap().ino()
    );
    assert_eq!(
        (stat("null").kind, stat("null").device()),
        (FileKind::CharDevice, (1, 3))
    );
    assert_eq!(stat("null").mode, 0o622);
    assert_eq!(stat("pipe").kind, FileKind::Fifo);
    assert_eq!((stat("sock").kind, stat("sock").size), (FileKind::File, 0));
    assert!(!fixture.dst.exists(Path::new("gone")).unwrap());
    // Once more over the first: every kind replaces what is there.
    let summary = fixture.copy("/", "/", &options("contents")).unwrap();
    assert_eq!(summary, CopySummary { files: 5, bytes: 7 });
}

#[test]
fn holes_stay_holes() {
    let fixture = Fixture::new("", "");
    let file = fs::File::create(fixture.host("src/sparse")).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"middle", 4 << 20).unwrap();
    file.set_len(64 << 20).unwrap();
    fixture
        .copy("/sparse", "/", &CopyOptions::default())
        .unwrap();
    let (from, to) = (fixture.host("src/sparse"), fixture.host("dst/sparse"));
    assert!(fs::read(from).unwrap() == fs::read(&to).unwrap());
    assert!(fs::metadata(to).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn deep_trees_need_neither_stack_nor_descriptors() {
    let path = "d/".repeat(300);
    let fixture = Fixture::new("", "");
    fixture.src.mkdir_all(Path::new(&path), 0o755).unwrap();
    fixture.copy("/", "/", &options("contents")).unwrap();
    assert!(fixture.dst.exists(Path::new(&path)).unwrap());
}

#[test]
fn many_files_are_copied_whole_and_a_failure_among_them_is_told() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for i in 0..3000_usize {
        let dir = from.path().join(format!("{}/{}", i % 10, i % 70));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(i.to_string()), vec![b'x'; i]).unwrap();
    }
    fs::hard_link(from.path().join("3/3/3"), from.path().join("9/linked")).unwrap();
    let (src, dst) = (
        RootDir::open(from.path()).unwrap(),
        RootDir::open(to.path()).unwrap(),
    );
    for (path, ns) in [("3/3", 5), ("3", 6), ("", 7)] {
        src.set_mtime(Path::new(path), ns, Follow::No).unwrap();
    }
    let options = CopyOptions {
        copy_dir_contents: true,
        create_dest_path: true,
        ..CopyOptions::default()
    };
    let summary = copy(&src, "/", &dst, "/", &options).unwrap();
    assert_eq!((summary.files, summary.bytes), (3001, 2999 * 3000 / 2));
    let picture = |root: &RootDir| -> Vec<String> {
        let entries = walk(root, &<_>::default()).unwrap();
        entries
            .map(Result::unwrap)
            .map(|e| {
                let m = &e.metadata;
                let (size, hard) = match m.kind {
                    FileKind::File => (m.size, e.hardlink_to),
                    _ => (0, None),
                };
                format!("{:?} {:o} {size} {} {hard:?}", e.path, m.mode, m.mtime_ns)
            })
            .collect()
    };
    assert_eq!(picture(&dst), picture(&src));

    let blocked = to.path().join("5/35/2905");
    fs::remove_file(&blocked).unwrap();
    fs::create_dir(&blocked).unwrap();
    let error = copy(&src, "/", &dst, "/", &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot replace to directory /5/35/2905 with file"
    );
}

/// A copy of `src` in `dst`, then `change` in the source, then what is `changed` brought up to date;
/// answers the destination and that of a whole copy, or nothing when it was not brought up to date.
fn update(
    words: (&str, &str),
    paths: (&str, &str),
    with: &str,
    change: impl Fn(&Path),
    changed: &[&str],
) -> Option<(String, String)> {
    let (src, dst) = words;
    let (from, to) = paths;
    let fixture = Fixture::new(src, dst);
    let options = options(with);
    fixture.copy(from, to, &options).unwrap();
    change(&fixture.host("src"));
    let changed: Changed = changed.iter().map(PathBuf::from).collect();
    let updated = copy_changed(&fixture.src, from, &fixture.dst, to, &options, &changed);
    updated.unwrap()?;
    let whole = Fixture::new("", dst);
    copy(&fixture.src, from, &whole.dst, to, &options).unwrap();
    Some((every(&fixture.dst), every(&whole.dst)))
}

/// Everything that can be seen of a tree, but for the times of what was not copied.
fn every(root: &RootDir) -> String {
    let mut lines = String::new();
    for entry in walk(root, &WalkOptions::default()).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata;
        let text = match metadata.kind {
            FileKind::File => io::read_to_string(root.open_file(&entry.path).unwrap()).unwrap(),
            _ => format!("{:?}", entry.link),
        };
        let (path, mode) = (entry.path.display(), metadata.mode);
        // Not of what was there before, or made on the way.
        let copied = [
            "a", "f", "g", "h", "i", "l", "other", "y", "e", "new", "deep", "z",
        ];
        let is_named = |name: &&str| entry.path.ends_with(name);
        let was_copied = copied.iter().any(is_named) && !text.starts_with("dst:");
        let time = if was_copied { metadata.mtime_ns } else { 0 };
        let nlink = match metadata.kind {
            FileKind::Dir => 0,
            _ => metadata.nlink,
        };
        lines += &format!(
            "{path} {:?} {mode:o} {time} {nlink} {text}\n",
            metadata.kind
        );
    }
    lines
}

#[test]
fn what_has_changed_is_copied_as_all_would_be() {
    let edit = |root: &Path| {
        fs::write(root.join("d/e/f"), "new").unwrap();
        fs::write(root.join("d/g"), "more").unwrap();
        fs::create_dir_all(root.join("new/deep")).unwrap();
        fs::write(root.join("new/deep/h"), "h").unwrap();
        fs::remove_file(root.join("l")).unwrap();
        symlink("elsewhere", root.join("l")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(root.join("z"), mode).unwrap();
    };
    let changed = ["d/e/f", "d/g", "new", "new/deep", "new/deep/h", "l", "z"];
    let tree = "a d/e/f d/e/other d/i l>d z/ z/y";
    for (dst, to, with) in [
        ("", "/", "contents create"),
        ("", "/x/y/", "contents create"),
        ("d/kept x/d/kept", "/x/", "contents create wild follow"),
        ("x/", "/x/", "contents create mode=u+x,o-r"),
        ("", "/x/", "contents create exclude=d/e exclude=**/h"),
        ("", "/x/", "contents create include=d"),
    ] {
        let (updated, whole) = update((tree, dst), ("/", to), with, edit, &changed).unwrap();
        assert_eq!(updated, whole, "{dst} | {to} {with}");
    }
    // Of a directory in the source, what is beside it does not count.
    let (updated, whole) = update(
        (tree, ""),
        ("/d", "/x"),
        "contents create",
        |root| {
            fs::write(root.join("d/e/f"), "new").unwrap();
            fs::write(root.join("a"), "new").unwrap();
        },
        &["a", "d/e/f"],
    )
    .unwrap();
    assert_eq!(updated, whole);
}

#[test]
fn what_is_not_named_is_not_looked_at() {
    let edit = |root: &Path| fs::write(root.join("d/b"), "new").unwrap();
    let (updated, whole) =
        update(("a d/b", ""), ("/", "/"), "contents create", edit, &["a"]).unwrap();
    assert_ne!(updated, whole);
}

#[test]
fn what_something_may_have_to_go_for_is_copied_whole() {
    let nothing = |_: &Path| {};
    let none = |words, paths, with, change: &dyn Fn(&Path), changed: &[&str]| {
        assert_eq!(update(words, paths, with, change, changed), None);
    };
    let tree = ("a d/b l>d", "");
    // Another kind.
    let to_dir = |root: &Path| {
        fs::remove_file(root.join("a")).unwrap();
        fs::create_dir(root.join("a")).unwrap();
    };
    none(tree, ("/", "/"), "contents", &to_dir, &["a"]);
    // Gone.
    let remove = |root: &Path| fs::remove_file(root.join("a")).unwrap();
    none(tree, ("/", "/"), "contents", &remove, &["a"]);
    // A file with several names.
    let link = |root: &Path| fs::hard_link(root.join("a"), root.join("d/c")).unwrap();
    none(tree, ("/", "/"), "contents", &link, &["d/c"]);
    // Not a directory, or not the directory itself, or not only one.
    none(tree, ("/a", "/x"), "contents", &nothing, &["a"]);
    none(tree, ("/d", "/x/"), "create", &nothing, &["d/b"]);
    none(tree, ("/l", "/x"), "contents follow", &nothing, &["d/b"]);
    none(tree, ("/d*", "/x"), "contents wild", &nothing, &["d/b"]);
    // The link may be one that was copied there.
    let through = (tree.0, "real/ x>real");
    none(through, ("/", "/x"), "contents", &nothing, &["a"]);
    // The directory was changed: it may have been a link before.
    none(tree, ("/d", "/x"), "contents", &nothing, &["d"]);
}
