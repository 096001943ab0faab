//! Trees that several calls list.

use std::os::unix::fs::symlink;

use futures::future::join_all;
use futures::stream;
use oci::Digest;
use sys::root::Follow;

use super::*;
use crate::{Split, receive_parts};

const DIRS: usize = 8;
const FILES: usize = 40;

/// Files in directories of `below`, each with a time of its own.
fn large(below: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "first", "f");
    symlink("first", dir.path().join("zlink")).unwrap();
    for number in 0..DIRS * FILES {
        put(&dir, &file(below, number), number);
    }
    dir
}

fn file(below: &str, number: usize) -> String {
    format!("{below}dir{}/file{}", number / FILES, number % FILES)
}

fn put(dir: &TempDir, path: &str, number: usize) {
    write(dir, path, number.to_string());
    let time = 1_000_000_000 * number as i64;
    open(dir)
        .set_mtime(Path::new(path), time, Follow::No)
        .unwrap();
}

fn surveying() -> ReceiveOptions {
    ReceiveOptions {
        survey: Some(DIRS * FILES),
        ..ReceiveOptions::default()
    }
}

async fn whole(from: &TempDir, to: &TempDir) -> Received {
    let (sent, received) = try_sync(from, to, SendOptions::default(), surveying()).await;
    sent.unwrap();
    received.unwrap()
}

/// Lists `from` by the calls of `split`, each of which sees what `seen` makes of its patterns.
async fn by_parts(
    from: &TempDir,
    to: &TempDir,
    split: &Split,
    seen: impl Fn((Vec<String>, Vec<String>)) -> (Vec<String>, Vec<String>),
) -> Received {
    let (answers, incoming): (Vec<_>, Vec<_>) = (0..split.calls())
        .map(|_| {
            let (answer, incoming) = later();
            (answer, Box::pin(incoming))
        })
        .unzip();
    let (packets, receiving) = receive_parts(open(to), surveying(), split.clone(), incoming);
    let mut sending = Vec::new();
    for (call, (packets, answer)) in packets.into_iter().zip(answers).enumerate() {
        let (include, exclude) = seen(split.patterns(call));
        let what = SendOptions {
            walk: WalkOptions {
                include,
                exclude,
                ..WalkOptions::default()
            },
            ..SendOptions::default()
        };
        let (to_sender, sender_in) = later();
        to_sender.send(packets).unwrap();
        let (packets, work) = send(open(from), what, Box::pin(sender_in));
        answer.send(packets).unwrap();
        sending.push(work);
    }
    let (sent, received) = tokio::join!(join_all(sending), receiving);
    for sent in sent {
        sent.unwrap();
    }
    received.unwrap()
}

fn as_told(patterns: (Vec<String>, Vec<String>)) -> (Vec<String>, Vec<String>) {
    patterns
}

#[tokio::test]
async fn parts_arrive_as_the_whole_does() {
    for below in ["", "deep/down/"] {
        let (from, to) = (large(below), tempfile::tempdir().unwrap());
        let split = whole(&from, &to).await.split.unwrap();
        assert_eq!(split.calls(), 3);
        for call in 0..3 {
            let (include, exclude) = split.patterns(call);
            let names = include.len() + exclude.len();
            assert!((2..DIRS).contains(&names), "{include:?} {exclude:?}");
        }

        let same = by_parts(&from, &to, &split, as_told).await;
        assert_eq!((changed(&same).as_str(), same.misfit), ("", false));
        assert_eq!(
            same.entries,
            (DIRS * FILES + DIRS + 2 + below.matches('/').count()) as u64
        );
        assert_eq!(same.split, Some(split.clone()));

        // Something in each part, and beside them.
        let mut expected = Vec::new();
        for dir in 0..DIRS {
            let path = file(below, dir * FILES + 7);
            put(&from, &path, 1_000_000 + dir);
            expected.push(path);
        }
        put(&from, "middle", 2_000_000);
        expected.push("middle".to_owned());
        let new = format!("{below}zdir/new");
        put(&from, &new, 2_000_001);
        expected.extend([new.clone(), new.replace("/new", "")]);
        let gone = file(below, 2 * FILES);
        fs::remove_file(from.path().join(&gone)).unwrap();
        fs::remove_dir_all(from.path().join(format!("{below}dir5"))).unwrap();
        let (one, other) = (file(below, 3), file(below, 4));
        fs::remove_file(from.path().join(&other)).unwrap();
        fs::hard_link(from.path().join(&one), from.path().join(&other)).unwrap();
        expected.push(other);
        expected.retain(|path| !path.contains("dir5"));
        expected.sort();
        let received = by_parts(&from, &to, &split, as_told).await;
        assert_eq!(changed(&received), expected.join(" "));
        let removed = [PathBuf::from(gone), PathBuf::from(format!("{below}dir5"))];
        assert_eq!(received.removed, removed);
        assert!(!received.misfit);
        assert_eq!(picture(&to), picture(&from));
    }
}

#[tokio::test]
async fn names_of_one_file_in_two_parts_are_a_misfit_and_then_in_one_part() {
    let (from, to) = (large(""), tempfile::tempdir().unwrap());
    let split = whole(&from, &to).await.split.unwrap();
    let own = |dir: usize| split.owner(Path::new(&format!("dir{dir}")));
    let other = (1..DIRS).find(|dir| own(*dir) != own(0)).unwrap();
    let link = file("", other * FILES + 5);
    fs::remove_file(from.path().join(&link)).unwrap();
    fs::hard_link(from.path().join(file("", 5)), from.path().join(&link)).unwrap();

    let received = by_parts(&from, &to, &split, as_told).await;
    assert!(received.misfit);
    let received = received.then(whole(&from, &to).await);
    assert!(received.misfit);
    assert_eq!(picture(&to), picture(&from));

    let split = received.split.unwrap();
    assert_eq!(
        split.owner(Path::new("dir0")),
        split.owner(Path::new(&link))
    );
    let received = by_parts(&from, &to, &split, as_told).await;
    assert_eq!((changed(&received).as_str(), received.misfit), ("", false));
    assert_eq!(picture(&to), picture(&from));
}

#[tokio::test]
async fn a_client_that_lists_everything_each_time_is_a_misfit() {
    for below in ["", "deep/"] {
        let (from, to) = (large(below), tempfile::tempdir().unwrap());
        let split = whole(&from, &to).await.split.unwrap();
        put(&from, &file(below, 1), 1_000_000);
        let nothing = |_| (Vec::new(), Vec::new());
        let received = by_parts(&from, &to, &split, nothing).await;
        assert!(received.misfit);
        assert_eq!(picture(&to), picture(&from));
        // Only what it was asked for, and less of it than there is.
        let swapped = |(include, exclude)| (exclude, include);
        let received = by_parts(&from, &to, &split, swapped).await;
        assert!(received.misfit);
        whole(&from, &to).await;
        assert_eq!(picture(&to), picture(&from));
    }
}

#[tokio::test]
async fn what_lies_below_no_directory_is_left_out() {
    let (from, to) = (large("deep/"), tempfile::tempdir().unwrap());
    let split = whole(&from, &to).await.split.unwrap();
    let mut packets = Vec::new();
    for call in 0..split.calls() {
        let (include, _) = split.patterns(call);
        let mut list = Vec::new();
        for name in include {
            list.push(Packet::entry(entry(&name, FileKind::Dir)));
        }
        if call + 1 == split.calls() {
            list.push(Packet::entry(entry("deep", FileKind::Symlink)));
        }
        list.push(Packet::of(Kind::Stat));
        list.push(Packet::of(Kind::Finish));
        packets.push(stream::iter(list.into_iter().map(Ok)));
    }
    let (_answers, receiving) = receive_parts(open(&to), surveying(), split, packets);
    let received = receiving.await.unwrap();
    assert!(received.misfit);
    assert_eq!(received.entries, 1);
    assert_eq!(changed(&received), "deep");
}

#[tokio::test]
async fn an_entry_after_the_list_is_refused_and_an_end_before_it_is_told() {
    let (from, to) = (large(""), tempfile::tempdir().unwrap());
    let split = whole(&from, &to).await.split.unwrap();
    let (last, end) = (entry("a", FileKind::Fifo), Packet::of(Kind::Stat));
    let lists = [
        vec![end.clone(), Packet::entry(last)],
        vec![],
        vec![end, Packet::error("no more".into())],
    ];
    for (list, text) in lists
        .into_iter()
        .zip(["after the end", "went away", "no more"])
    {
        let packets = (0..split.calls()).map(|_| stream::iter(list.clone().into_iter().map(Ok)));
        let to = tempfile::tempdir().unwrap();
        let (_answers, receiving) =
            receive_parts(open(&to), surveying(), split.clone(), packets.collect());
        let error = receiving.await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

fn entry(path: &str, kind: FileKind) -> Stat {
    Stat {
        path: path.into(),
        mode: go_mode(kind, 0o755),
        link: if kind == FileKind::Symlink {
            b"x".to_vec()
        } else {
            Vec::new()
        },
        ..Stat::default()
    }
}

#[tokio::test]
async fn changes_at_random_arrive_whatever_they_are() {
    let (from, to) = (large(""), tempfile::tempdir().unwrap());
    let mut split = whole(&from, &to).await.split;
    let mut state = Digest::of("seed");
    let mut next = |below: usize| {
        state = Digest::of(state.to_string());
        let number = &state.to_string()["sha256:".len()..][..8];
        usize::from_str_radix(number, 16).unwrap() % below
    };
    let mut parts = 0;
    for round in 0..12 {
        for change in 0..6 {
            let path = from.path().join(file("", next(DIRS * FILES)));
            let other = from.path().join(file("", next(DIRS * FILES)));
            let time = 3_000_000 + round * 10 + change;
            let (path, other) = match path.exists() && other.exists() {
                true => (path, other),
                false => continue,
            };
            match next(6) {
                0 => fs::remove_file(&path).unwrap(),
                1 => fs::rename(&path, &other).unwrap(),
                2 => {
                    fs::remove_file(&other).unwrap();
                    fs::hard_link(&path, &other).unwrap();
                }
                3 => {
                    fs::remove_file(&path).unwrap();
                    put(&from, &format!("{}/in/it", relative(&from, &path)), time);
                }
                4 => {
                    let dir = path.parent().unwrap();
                    fs::remove_dir_all(dir).unwrap();
                    put(&from, &relative(&from, dir), time);
                    fs::remove_file(dir).unwrap();
                    for number in 0..FILES {
                        put(
                            &from,
                            &format!("{}/file{number}", relative(&from, dir)),
                            time * FILES + number,
                        );
                    }
                }
                _ => put(&from, &relative(&from, &path), time),
            }
        }
        let received = match &split {
            Some(split) => by_parts(&from, &to, split, as_told).await,
            None => whole(&from, &to).await,
        };
        parts += usize::from(split.is_some());
        split = match received.misfit {
            true => received.then(whole(&from, &to).await).split,
            false => received.split,
        };
        assert_eq!(picture(&to), picture(&from), "round {round}");
    }
    assert!(parts > 6, "{parts}");
}

fn relative(dir: &TempDir, path: &Path) -> String {
    path.strip_prefix(dir.path())
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}
