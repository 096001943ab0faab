//! Both roles against each other, and each against one that misbehaves.

mod parts;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fstree::pattern::Matcher;
use fstree::walk::WalkOptions;
use futures::{Stream, StreamExt};
use sys::root::{FileKind, RootDir};
use tempfile::TempDir;
use tonic::Status;

use crate::wire::{Kind, Packet, Stat, go_mode};
use crate::{
    Differ, Packets, ReceiveError, ReceiveOptions, Received, SendError, SendOptions, Tree, receive,
    send,
};

fn open(dir: &TempDir) -> RootDir {
    RootDir::open(dir.path()).unwrap()
}

/// A stream that is filled in later: each role needs the other's packets to begin.
fn later() -> (
    tokio::sync::oneshot::Sender<Packets>,
    impl Stream<Item = Result<Packet, Status>>,
) {
    let (sender, receiver) = tokio::sync::oneshot::channel::<Packets>();
    let stream = futures::stream::once(receiver).filter_map(|packets| async { packets.ok() });
    (sender, stream.flatten().map(Ok))
}

async fn try_sync(
    from: &TempDir,
    to: &TempDir,
    what: SendOptions,
    how: ReceiveOptions,
) -> (Result<(), SendError>, Result<Received, ReceiveError>) {
    let (to_sender, sender_in) = later();
    let (to_receiver, receiver_in) = later();
    let (packets, sending) = send(open(from), what, Box::pin(sender_in));
    to_receiver.send(packets).unwrap();
    let (packets, receiving) = receive(open(to), how, Box::pin(receiver_in));
    to_sender.send(packets).unwrap();
    tokio::join!(sending, receiving)
}

async fn sync(from: &TempDir, to: &TempDir) -> Received {
    let (sent, received) =
        try_sync(from, to, SendOptions::default(), ReceiveOptions::default()).await;
    sent.unwrap();
    received.unwrap()
}

/// Every entry with all that a transfer keeps, and the content of files.
fn picture(dir: &TempDir) -> Vec<String> {
    let root = open(dir);
    let options = WalkOptions {
        xattrs: true,
        ..WalkOptions::default()
    };
    fstree::walk(&root, &options)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let content = match entry.metadata.kind {
                FileKind::File => fs::read(dir.path().join(&entry.path)).unwrap(),
                _ => Vec::new(),
            };
            let stat = Stat::from(entry);
            format!("{stat:?} {}", content.len()) + &String::from_utf8_lossy(&content)
        })
        .collect()
}

fn changed(received: &Received) -> String {
    let mut paths: Vec<_> = received
        .changed
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths.join(" ")
}

fn write(dir: &TempDir, path: &str, content: impl AsRef<[u8]>) {
    let path = dir.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn fixture() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(
        &dir,
        "a/b/large",
        (0..300_000_u32).map(|i| i as u8).collect::<Vec<_>>(),
    );
    write(&dir, "a/b/empty", "");
    write(&dir, "a/small", "small");
    write(&dir, "a.x/y", "y");
    write(&dir, "z", "z");
    fs::create_dir(dir.path().join("nothing")).unwrap();
    symlink("a/../../x", dir.path().join("link")).unwrap();
    fs::hard_link(dir.path().join("a/small"), dir.path().join("same")).unwrap();
    let root = open(&dir);
    root.mknod(Path::new("fifo"), FileKind::Fifo, 0o620, 0)
        .unwrap();
    root.mknod(
        Path::new("null"),
        FileKind::CharDevice,
        0o666,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    root.set_xattr(Path::new("a/small"), "user.color".as_ref(), b"red")
        .unwrap();
    root.chown(Path::new("a/b"), 5, 6, sys::root::Follow::No)
        .unwrap();
    root.chown(Path::new("z"), 7, 8, sys::root::Follow::No)
        .unwrap();
    root.chmod(Path::new("z"), 0o4750).unwrap();
    root.chmod(Path::new("nothing"), 0o1777).unwrap();
    for (path, time) in [
        ("a/small", 1_234_567_890_123_456_789),
        ("link", -5),
        ("a", 42),
    ] {
        root.set_mtime(Path::new(path), time, sys::root::Follow::No)
            .unwrap();
    }
    dir
}

#[tokio::test]
async fn a_tree_arrives_whole() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    let received = sync(&from, &to).await;
    assert_eq!(picture(&to), picture(&from));
    assert_eq!(received.entries, 13);
    let metadata = |name| fs::metadata(to.path().join(name)).unwrap();
    assert_eq!(metadata("same").ino(), metadata("a/small").ino());
}

#[tokio::test]
async fn a_second_transfer_moves_nothing() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    sync(&from, &to).await;
    let received = sync(&from, &to).await;
    assert_eq!(
        (changed(&received).as_str(), received.removed.len()),
        ("", 0)
    );
    assert_eq!(picture(&to), picture(&from));
}

#[tokio::test]
async fn only_what_differs_is_asked_for() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    sync(&from, &to).await;
    write(&from, "a/b/new", "new");
    write(&from, "z", "other");
    fs::set_permissions(
        from.path().join("nothing"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    fs::remove_file(from.path().join("a.x/y")).unwrap();
    fs::remove_dir_all(from.path().join("a.x")).unwrap();
    fs::remove_file(from.path().join("null")).unwrap();
    let received = sync(&from, &to).await;
    assert_eq!(changed(&received), "a/b/new nothing z");
    assert_eq!(received.removed, [Path::new("a.x"), Path::new("null")]);
    assert!(received.bytes < 2000, "{}", received.bytes);
    assert_eq!(picture(&to), picture(&from));
}

#[tokio::test]
async fn an_entry_may_become_another_kind() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    sync(&from, &to).await;
    let at = |path: &str| from.path().join(path);
    fs::remove_dir_all(at("a")).unwrap();
    symlink("z", at("a")).unwrap();
    fs::remove_file(at("link")).unwrap();
    write(&from, "link", "file");
    fs::remove_file(at("z")).unwrap();
    write(&from, "z/in/it", "deep");
    fs::remove_dir_all(at("a.x")).unwrap();
    write(&from, "a.x", "file");
    fs::remove_file(at("fifo")).unwrap();
    fs::hard_link(at("a.x"), at("fifo")).unwrap();
    let received = sync(&from, &to).await;
    assert_eq!(picture(&to), picture(&from));
    // What was in them is named nowhere else.
    assert_eq!(received.removed, [Path::new("a"), Path::new("a.x")]);
    fs::remove_dir_all(at("z")).unwrap();
    fs::hard_link(at("a.x"), at("z")).unwrap();
    let received = sync(&from, &to).await;
    assert_eq!(picture(&to), picture(&from));
    assert_eq!(received.removed, [Path::new("z")]);
}

#[tokio::test]
async fn a_hard_link_follows_a_rewritten_file() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    sync(&from, &to).await;
    fs::remove_file(from.path().join("a/small")).unwrap();
    fs::remove_file(from.path().join("same")).unwrap();
    write(&from, "a/small", "SMALL");
    fs::hard_link(from.path().join("a/small"), from.path().join("same")).unwrap();
    sync(&from, &to).await;
    assert_eq!(picture(&to), picture(&from));
}

#[tokio::test]
async fn a_thousand_small_files_arrive() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for i in 0..1000 {
        write(&from, &format!("{}/{}/{i}", i % 7, i % 3), vec![b'x'; i]);
    }
    sync(&from, &to).await;
    assert_eq!(picture(&to), picture(&from));
}

#[tokio::test]
async fn zeros_become_holes() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut content = vec![0_u8; 4 << 20];
    content[100_000] = 1;
    write(&from, "sparse", &content);
    sync(&from, &to).await;
    assert_eq!(fs::read(to.path().join("sparse")).unwrap(), content);
    assert!(fs::metadata(to.path().join("sparse")).unwrap().blocks() < 1000);
}

#[tokio::test]
async fn owners_can_be_replaced_on_both_sides() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    let what = SendOptions {
        owner: Some((11, 12)),
        ..SendOptions::default()
    };
    try_sync(&from, &to, what.clone(), ReceiveOptions::default())
        .await
        .1
        .unwrap();
    let owner = |name| {
        let metadata = fs::symlink_metadata(to.path().join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    for name in ["a", "a/small", "link", "fifo"] {
        assert_eq!(owner(name), (11, 12), "{name}");
    }
    let how = ReceiveOptions {
        owner: Some((0, 0)),
        ..ReceiveOptions::default()
    };
    try_sync(&from, &to, what, how).await.1.unwrap();
    for name in ["a", "a/small", "link", "fifo"] {
        assert_eq!(owner(name), (0, 0), "{name}");
    }
}

#[tokio::test]
async fn what_is_there_can_be_kept() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    write(&to, "a/mine", "mine");
    write(&to, "a/small", "old");
    write(&to, "nothing", "a file in place of a directory");
    let how = ReceiveOptions {
        keep: true,
        ..ReceiveOptions::default()
    };
    for _ in 0..2 {
        let received = try_sync(&from, &to, SendOptions::default(), how.clone())
            .await
            .1
            .unwrap();
        assert!(changed(&received).contains("a/small"));
        assert_eq!(fs::read(to.path().join("a/mine")).unwrap(), b"mine");
        assert_eq!(fs::read(to.path().join("a/small")).unwrap(), b"small");
        assert_eq!(fs::read_dir(to.path().join("a")).unwrap().count(), 3);
    }
}

#[tokio::test]
async fn nothing_is_trusted_if_everything_differs() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    sync(&from, &to).await;
    let how = ReceiveOptions {
        differ: Differ::None,
        ..ReceiveOptions::default()
    };
    let received = try_sync(&from, &to, SendOptions::default(), how)
        .await
        .1
        .unwrap();
    assert!(received.bytes > 300_000);
    assert_eq!(picture(&to), picture(&from));
}

#[tokio::test]
async fn filters_pick_what_is_sent() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    let walk = WalkOptions {
        include: vec!["a".into(), "z".into()],
        exclude: vec!["**/large".into()],
        ..WalkOptions::default()
    };
    let what = SendOptions {
        walk,
        ..SendOptions::default()
    };
    let received = try_sync(&from, &to, what, ReceiveOptions::default())
        .await
        .1
        .unwrap();
    assert_eq!(changed(&received), "a a/b a/b/empty a/small z");
}

#[tokio::test]
async fn several_trees_arrive_as_one() {
    let (one, two, to) = (fixture(), fixture(), tempfile::tempdir().unwrap());
    write(&two, "a/more", "more");
    write(&two, "a-", "between");
    let tree = |at: &str, dir: &TempDir, mtime_ns| Tree {
        at: at.into(),
        root: open(dir),
        mtime_ns,
    };
    let trees = vec![
        tree("", &one, None),
        tree("", &two, Some(5)),
        tree("p/q", &one, Some(7)),
    ];
    try_sync_trees(trees, &to).await;
    let time = |path: &str| {
        let found = open(&to).stat(Path::new(path), sys::root::Follow::No);
        found.unwrap().mtime_ns
    };
    // The first tree's, where both have it.
    assert_eq!(time("link"), -5);
    assert_eq!(time("a/small"), 1_234_567_890_123_456_789);
    assert_eq!(fs::read(to.path().join("a-")).unwrap(), b"between");
    assert_eq!((time("a-"), time("a/more")), (5, 5));
    for path in ["p", "p/q", "p/q/a", "p/q/a/small", "p/q/link", "p/q/fifo"] {
        assert_eq!(time(path), 7, "{path}");
    }
    let metadata = |name| fs::metadata(to.path().join(name)).unwrap();
    assert_eq!(metadata("p/q/same").ino(), metadata("p/q/a/small").ino());
    assert_ne!(metadata("same").ino(), metadata("p/q/same").ino());
    assert_eq!(metadata("p/q").mode() & 0o7777, 0o755);
}

async fn try_sync_trees(trees: Vec<Tree>, to: &TempDir) {
    let (to_sender, sender_in) = later();
    let (to_receiver, receiver_in) = later();
    let (packets, sending) = send(trees, SendOptions::default(), Box::pin(sender_in));
    to_receiver.send(packets).unwrap();
    let (packets, receiving) = receive(open(to), ReceiveOptions::default(), Box::pin(receiver_in));
    to_sender.send(packets).unwrap();
    let (sent, received) = tokio::join!(sending, receiving);
    sent.unwrap();
    received.unwrap();
}

#[tokio::test]
async fn metadata_alone_can_be_transferred() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    let how = ReceiveOptions {
        metadata_only: Some(Arc::new(Matcher::new(&["a/b/empty"]).unwrap())),
        ..ReceiveOptions::default()
    };
    for _ in 0..2 {
        let received = try_sync(&from, &to, SendOptions::default(), how.clone())
            .await
            .1
            .unwrap();
        assert_eq!((received.entries, received.removed.len()), (13, 0));
        assert!(received.bytes < 3000);
        assert!(to.path().join("a/b/empty").exists() && !to.path().join("z").exists());
    }
    let mut frames = &fs::read(to.path().join(crate::METADATA_FILE)).unwrap()[..];
    let mut paths = Vec::new();
    while let Some((length, rest)) = frames.split_first_chunk::<4>() {
        let (stat, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        let stat: Stat = prost::Message::decode(stat).unwrap();
        paths.push(String::from_utf8(stat.path).unwrap());
        frames = rest;
    }
    assert_eq!(paths.len(), 13);
    assert_eq!(paths[..3], ["a", "a/b", "a/b/empty"]);
}

#[tokio::test]
async fn names_that_are_not_text_arrive() {
    use std::os::unix::ffi::OsStrExt;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    fs::write(from.path().join(name), "x").unwrap();
    sync(&from, &to).await;
    assert_eq!(fs::read(to.path().join(name)).unwrap(), b"x");
}

#[tokio::test]
async fn progress_is_told() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    let told = Arc::new(AtomicU64::new(0));
    let telling = told.clone();
    let how = ReceiveOptions {
        progress: Some(Arc::new(move |bytes| {
            telling.store(bytes, Ordering::Relaxed)
        })),
        ..ReceiveOptions::default()
    };
    let received = try_sync(&from, &to, SendOptions::default(), how)
        .await
        .1
        .unwrap();
    assert_eq!(told.load(Ordering::Relaxed), received.bytes);
    assert!(received.bytes > 300_000);
}

/// What a receiver makes of these packets, and what it answers.
async fn feed(packets: Vec<Packet>) -> (ReceiveError, Vec<Packet>) {
    let to = tempfile::tempdir().unwrap();
    let incoming = futures::stream::iter(packets.into_iter().map(Ok));
    let incoming = incoming.chain(futures::stream::pending());
    let (answers, receiving) = receive(open(&to), ReceiveOptions::default(), incoming);
    let error = receiving.await.unwrap_err();
    (error, answers.collect().await)
}

fn entry(path: &str, kind: FileKind, link: &str) -> Packet {
    Packet::entry(Stat {
        path: path.into(),
        mode: go_mode(kind, 0o755),
        link: link.into(),
        ..Stat::default()
    })
}

#[tokio::test]
async fn a_misbehaving_sender_is_refused_and_told_why() {
    let link = entry("a", FileKind::Symlink, "/etc");
    let cases = [
        (vec![entry("../a", FileKind::File, "")], "absolute"),
        (
            vec![link, entry("a/passwd", FileKind::File, "")],
            "out of order",
        ),
        (
            vec![
                entry("b", FileKind::File, ""),
                entry("a", FileKind::File, ""),
            ],
            "out of order",
        ),
        (vec![entry("b", FileKind::File, "c")], "not listed before"),
        (
            vec![entry("b", FileKind::File, "a"), Packet::of(Kind::Stat)],
            "unknown path",
        ),
        (
            vec![entry("b", FileKind::File, "../a")],
            "not listed before",
        ),
        (vec![Packet::data(7, "x".into())], "invalid file request 7"),
        (
            vec![Packet::of(Kind::Stat), entry("b", FileKind::File, "")],
            "out of order",
        ),
    ];
    for (packets, reason) in cases {
        let (error, answers) = feed(packets).await;
        assert!(error.to_string().contains(reason), "{error}");
        let told = answers.last().unwrap();
        assert_eq!(told.kind(), Kind::Error);
        assert!(told.message().contains(reason));
    }
}

#[tokio::test]
async fn the_ends_of_the_sender_are_told_apart() {
    let (error, _) = feed(vec![Packet::error("no such dir".into())]).await;
    assert_eq!(error.to_string(), "error from sender: no such dir");
    let to = tempfile::tempdir().unwrap();
    let incoming = futures::stream::iter([Ok(entry("a", FileKind::File, ""))]);
    let (_answers, receiving) = receive(open(&to), ReceiveOptions::default(), incoming);
    assert!(matches!(receiving.await, Err(ReceiveError::Ended)));
}

#[tokio::test]
async fn an_overlay_attribute_is_not_taken() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("d")).unwrap();
    let root = open(&from);
    root.set_xattr(Path::new("d"), "trusted.overlay.opaque".as_ref(), b"y")
        .unwrap();
    root.set_xattr(Path::new("d"), "user.kept".as_ref(), b"y")
        .unwrap();
    sync(&from, &to).await;
    let names: Vec<_> = open(&to)
        .xattrs(Path::new("d"))
        .unwrap()
        .into_keys()
        .collect();
    assert_eq!(names, ["user.kept"]);
}

#[tokio::test]
async fn a_misbehaving_receiver_is_refused() {
    let from = fixture();
    let check = async |packets: Vec<Packet>| {
        let incoming = futures::stream::iter(packets.into_iter().map(Ok));
        let (out, sending) = send(open(&from), SendOptions::default(), incoming);
        let (result, _) = tokio::join!(sending, out.collect::<Vec<_>>());
        result.unwrap_err()
    };
    assert!(matches!(
        check(vec![Packet::request(99)]).await,
        SendError::InvalidId(99)
    ));
    assert!(matches!(check(vec![]).await, SendError::Ended));
    let error = check(vec![Packet::error("disk full".into())]).await;
    assert_eq!(error.to_string(), "error from receiver: disk full");
}

#[tokio::test]
async fn a_tree_that_cannot_be_listed_is_told_to_the_receiver() {
    let (from, to) = (fixture(), tempfile::tempdir().unwrap());
    let walk = WalkOptions {
        include: vec!["[".into()],
        ..WalkOptions::default()
    };
    let what = SendOptions {
        walk,
        ..SendOptions::default()
    };
    let (sent, received) = try_sync(&from, &to, what, ReceiveOptions::default()).await;
    assert!(matches!(sent, Err(SendError::Walk(_))));
    assert!(matches!(received, Err(ReceiveError::Sender(_))));
}
