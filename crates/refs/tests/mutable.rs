//! Cache mounts and local sources.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::task::{Context, Waker};
use std::time::Duration;

use common::{Fixture, id, inside, meta};
use refs::{Meta, Mutable, MutableOptions, RecordType, Ref, Sharing};
use sys::root::{Follow, RootDir};
use tokio::time::timeout;

fn options(key: &str, sharing: Sharing) -> MutableOptions {
    let record_type = RecordType::CacheMount;
    let meta = Meta {
        record_type,
        ..meta(key)
    };
    MutableOptions {
        key: key.to_owned(),
        base: None,
        sharing,
        fresh: false,
        meta,
    }
}

fn local(key: &str) -> MutableOptions {
    let record_type = RecordType::LocalSource;
    let meta = Meta {
        record_type,
        ..meta(key)
    };
    MutableOptions {
        meta,
        ..options(key, Sharing::Private)
    }
}

fn write(mutable: &Mutable, name: &str, content: &str) {
    let mount = mutable.mount().unwrap();
    let path = inside(&mount);
    fs::write(path.join(format!("{name}.new")), content).unwrap();
    fs::rename(path.join(format!("{name}.new")), path.join(name)).unwrap();
}

fn read(mutable: &Mutable, name: &str) -> Option<String> {
    fs::read_to_string(inside(&mutable.mount().unwrap()).join(name)).ok()
}

fn read_ref(fixture: &Fixture, reference: &Ref, name: &str) -> String {
    let view = fixture
        .refs
        .snapshots()
        .view(&reference.snapshots().unwrap())
        .unwrap();
    fs::read_to_string(inside(&view).join(name)).unwrap()
}

#[tokio::test]
async fn a_cache_mount_is_found_again_also_after_a_restart() {
    let fixture = Fixture::new();
    let first = fixture
        .refs
        .mutable(options("a", Sharing::Shared))
        .await
        .unwrap();
    assert!(first.is_new());
    write(&first, "x", "1");
    drop(first);
    let other = fixture
        .refs
        .mutable(options("b", Sharing::Shared))
        .await
        .unwrap();
    assert!(other.is_new());
    drop(other);
    let fixture = fixture.reopen();
    let again = fixture
        .refs
        .mutable(options("a", Sharing::Locked))
        .await
        .unwrap();
    assert!(!again.is_new());
    assert_eq!(read(&again, "x").unwrap(), "1");
    drop(again);
    let fresh = MutableOptions {
        fresh: true,
        ..options("a", Sharing::Shared)
    };
    let fresh = fixture.refs.mutable(fresh).await.unwrap();
    assert!(fresh.is_new() && read(&fresh, "x").is_none());
    fixture.refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 2);
    fixture.refs.check();
}

#[tokio::test]
async fn shared_users_are_in_one_directory_and_private_ones_are_not() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    let one = refs.mutable(options("a", Sharing::Shared)).await.unwrap();
    let two = refs.mutable(options("a", Sharing::Shared)).await.unwrap();
    write(&one, "x", "1");
    assert_eq!(read(&two, "x").unwrap(), "1");
    let apart = refs.mutable(options("a", Sharing::Private)).await.unwrap();
    assert!(apart.is_new());
    drop((one, apart));
    assert_eq!(read(&two, "x").unwrap(), "1");
    drop(two);
    let again = refs.mutable(options("a", Sharing::Private)).await.unwrap();
    assert!(!again.is_new());
    fixture.refs.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_share_at_once_are_in_one_directory() {
    let fixture = Fixture::new();
    for _ in 0..20 {
        let users: Vec<_> = (0..8)
            .map(|_| {
                let refs = fixture.refs.clone();
                tokio::spawn(
                    async move { refs.mutable(options("a", Sharing::Shared)).await.unwrap() },
                )
            })
            .collect();
        for user in users {
            drop(user.await.unwrap());
        }
    }
    fixture.refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_lock_at_once_wait_for_one_directory() {
    let fixture = Fixture::new();
    for round in 0..20 {
        let key = format!("key {round}");
        let users: Vec<_> = (0..4)
            .map(|_| {
                let refs = fixture.refs.clone();
                let options = options(&key, Sharing::Locked);
                tokio::spawn(async move { drop(refs.mutable(options).await.unwrap()) })
            })
            .collect();
        for user in users {
            timeout(Duration::from_secs(10), user)
                .await
                .unwrap()
                .unwrap();
        }
    }
    fixture.refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 20);
}

#[tokio::test]
async fn who_stops_waiting_for_a_clone_gives_it_back() {
    let fixture = Fixture::new();
    let first = fixture.refs.mutable(local("a")).await.unwrap();
    write(&first, "x", "1");
    let _used = first.freeze(id("frozen"), meta("frozen")).unwrap();
    // Looked at once and dropped: the clone is being made.
    let mut taking = Box::pin(fixture.refs.mutable(local("a")));
    drop(
        taking
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop())),
    );
    drop(taking);
    let locked = MutableOptions {
        sharing: Sharing::Locked,
        ..local("a")
    };
    let second = timeout(Duration::from_secs(10), fixture.refs.mutable(locked)).await;
    let second = second.unwrap().unwrap();
    assert!(!second.is_new());
    assert_eq!(read(&second, "x").unwrap(), "1");
}

#[tokio::test]
async fn a_locked_directory_is_waited_for() {
    let fixture = Fixture::new();
    let first = fixture
        .refs
        .mutable(options("a", Sharing::Locked))
        .await
        .unwrap();
    let refs = fixture.refs.clone();
    let waiting =
        tokio::spawn(async move { refs.mutable(options("a", Sharing::Locked)).await.unwrap() });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    write(&first, "x", "1");
    drop(first);
    let second = timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read(&second, "x").unwrap(), "1");
    // Whoever stops waiting is in nobody's way.
    let mut gives_up = Box::pin(fixture.refs.mutable(options("a", Sharing::Locked)));
    assert!(
        timeout(Duration::from_millis(20), &mut gives_up)
            .await
            .is_err()
    );
    drop(gives_up);
    drop(second);
    drop(
        fixture
            .refs
            .mutable(options("a", Sharing::Locked))
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn a_cache_mount_starts_with_its_base_and_keeps_it() {
    let fixture = Fixture::new();
    let base = fixture.commit(None, "base");
    let with_base = |sharing| MutableOptions {
        base: Some(base.clone()),
        ..options("a", sharing)
    };
    let one = fixture
        .refs
        .mutable(with_base(Sharing::Shared))
        .await
        .unwrap();
    let two = fixture
        .refs
        .mutable(with_base(Sharing::Shared))
        .await
        .unwrap();
    let (first, second) = (one.mount().unwrap(), two.mount().unwrap());
    fs::write(inside(&first).join("x"), "1").unwrap();
    assert_eq!(fs::read_to_string(inside(&second).join("x")).unwrap(), "1");
    assert!(inside(&second).join("base").exists());
    drop((first, second, one, two));
    let empty = fixture
        .refs
        .mutable(options("a", Sharing::Shared))
        .await
        .unwrap();
    assert!(empty.is_new());
    drop((empty, base));
    fixture.refs.forget(&id("base"));
    let fixture = fixture.reopen();
    assert_eq!(fixture.stored(), 3);
    fixture.refs.check();
    fixture
        .refs
        .prune(&refs::PruneOptions::default())
        .await
        .unwrap();
    assert_eq!(fixture.stored(), 0);
    fixture.refs.check();
}

#[tokio::test]
async fn what_is_discarded_is_gone_when_the_last_user_is() {
    let fixture = Fixture::new();
    let one = fixture
        .refs
        .mutable(options("a", Sharing::Shared))
        .await
        .unwrap();
    let two = fixture
        .refs
        .mutable(options("a", Sharing::Shared))
        .await
        .unwrap();
    write(&one, "x", "1");
    one.discard();
    assert_eq!(read(&two, "x").unwrap(), "1");
    let new = fixture
        .refs
        .mutable(options("a", Sharing::Shared))
        .await
        .unwrap();
    assert!(new.is_new());
    drop((two, new));
    fixture.refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 1);
}

#[tokio::test]
async fn a_frozen_source_stays_as_it_was_while_its_directory_changes() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    let source = refs.mutable(local("src")).await.unwrap();
    write(&source, "a", "1");
    write(&source, "b", "1");
    source
        .notes()
        .unwrap()
        .create(Path::new("list"), 0o600, true)
        .unwrap();
    let first = source.freeze(id("1"), local("src").meta).unwrap();

    let source = refs.mutable(local("src")).await.unwrap();
    assert!(!source.is_new());
    assert_eq!(read(&source, "a").unwrap(), "1");
    source
        .notes()
        .unwrap()
        .stat(Path::new("list"), Follow::No)
        .unwrap();
    write(&source, "a", "2");
    let second = source.freeze(id("2"), local("src").meta).unwrap();
    assert_eq!(read_ref(&fixture, &first, "a"), "1");
    assert_eq!(read_ref(&fixture, &second, "a"), "2");
    assert_eq!(read_ref(&fixture, &second, "b"), "1");

    // Nothing changed: the ref that is there is the answer.
    let source = refs.mutable(local("src")).await.unwrap();
    let same = source.freeze(id("2"), local("src").meta).unwrap();
    assert!(same.is_same(&second));
    drop((first, second, same));
    fixture.refs.check();

    let fixture = fixture.reopen();
    let source = fixture.refs.mutable(local("src")).await.unwrap();
    assert_eq!(read(&source, "a").unwrap(), "2");
    write(&source, "a", "3");
    drop(source.freeze(id("3"), local("src").meta).unwrap());
    // Nobody had the others any more.
    assert_eq!(
        fixture.refs.exists(&[id("1"), id("2"), id("3")]),
        [false, false, true]
    );
    fixture.refs.check();
}

#[tokio::test]
async fn a_state_in_use_is_found_however_many_follow() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    let states = ["1", "2", "3", "4", "5"];
    let mut used = Vec::new();
    for state in states {
        let source = refs.mutable(local("src")).await.unwrap();
        write(&source, "a", state);
        used.push(source.freeze(id(state), local("src").meta).unwrap());
    }
    assert_eq!(refs.exists(&states.map(id)), [true; 5]);
    for (state, used) in states.iter().zip(&used) {
        assert!(refs.get(&id(state)).unwrap().is_same(used));
    }
    drop(used);
    let source = refs.mutable(local("src")).await.unwrap();
    write(&source, "a", "6");
    drop(source.freeze(id("6"), local("src").meta).unwrap());
    assert_eq!(refs.exists(&states.map(id)), [false; 5]);
    refs.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_content_of_several_directories_is_one_ref() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    for round in 0..20 {
        let id = id(&format!("round {round}"));
        let mut sources = Vec::new();
        for number in 0..4 {
            let source = refs.mutable(local(&format!("src{number}"))).await.unwrap();
            write(&source, "a", &round.to_string());
            sources.push(source);
        }
        let frozen: Vec<_> = std::thread::scope(|scope| {
            let freeze = |source: Mutable| {
                scope.spawn(move || source.freeze(id, local("src").meta).unwrap())
            };
            let threads: Vec<_> = sources.into_iter().map(freeze).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(frozen.iter().all(|same| same.is_same(&frozen[0])));
    }
    refs.check();
}

#[tokio::test]
async fn a_frozen_source_that_nobody_has_is_taken_back() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    let node = |source: &Mutable| {
        let files = source.fs().unwrap();
        files.stat(Path::new("a"), Follow::No).unwrap().ino
    };
    let source = refs.mutable(local("src")).await.unwrap();
    write(&source, "a", "1");
    let written = node(&source);
    let first = source.freeze(id("1"), local("src").meta).unwrap();
    let layer = first.snapshots().unwrap()[0];
    drop(first);

    let source = refs.mutable(local("src")).await.unwrap();
    assert!(!source.is_new());
    assert_eq!(node(&source), written, "the very file");
    assert_eq!(refs.exists(&[id("1")]), [false]);
    assert!(!refs.snapshots().contains(layer), "it has another number");
    refs.check();
    write(&source, "b", "2");
    drop(source.freeze(id("2"), local("src").meta).unwrap());
    refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 1);

    let fixture = fixture.reopen();
    let second = fixture.refs.get(&id("2")).unwrap();
    assert_eq!(read_ref(&fixture, &second, "a"), "1");
    assert_eq!(read_ref(&fixture, &second, "b"), "2");
    // While somebody has it, it stays as it is.
    let source = fixture.refs.mutable(local("src")).await.unwrap();
    write(&source, "b", "3");
    assert_eq!(read_ref(&fixture, &second, "b"), "2");
    drop((source, second));
    fixture.refs.check();
}

#[tokio::test]
async fn a_source_that_was_taken_back_at_the_end_is_of_no_use() {
    let fixture = Fixture::new();
    let source = fixture.refs.mutable(local("src")).await.unwrap();
    write(&source, "a", "1");
    drop(source.freeze(id("1"), local("src").meta).unwrap());
    fixture.refs.flush().await.unwrap();
    // The records as they were before, and as they are after: files are changed in between.
    let before = common::copy(fixture.root.path());
    let source = fixture.refs.mutable(local("src")).await.unwrap();
    write(&source, "a", "2");
    fixture.refs.flush().await.unwrap();
    let after = common::copy(fixture.root.path());
    let files = before.path().join("snapshots");
    fs::remove_dir_all(&files).unwrap();
    let renamed = std::process::Command::new("cp")
        .arg("-a")
        .arg(after.path().join("snapshots"))
        .arg(&files)
        .status()
        .unwrap();
    assert!(renamed.success());
    for root in [before, after] {
        let crashed = Fixture {
            refs: common::open(root.path()),
            root,
        };
        assert_eq!(crashed.refs.exists(&[id("1")]), [false]);
        assert!(crashed.refs.mutable(local("src")).await.unwrap().is_new());
        crashed.refs.check();
    }
    drop(source);
}

#[tokio::test]
async fn what_was_being_changed_at_the_end_is_not_trusted() {
    let repository = || MutableOptions {
        meta: Meta {
            record_type: RecordType::GitCheckout,
            ..meta("repository")
        },
        ..options("repository", Sharing::Locked)
    };
    let fixture = Fixture::new();
    let source = fixture.refs.mutable(local("src")).await.unwrap();
    let objects = fixture.refs.mutable(repository()).await.unwrap();
    write(&source, "a", "1");
    write(&objects, "HEAD", "");
    drop((source, objects));
    let source = fixture.refs.mutable(local("src")).await.unwrap();
    let objects = fixture.refs.mutable(repository()).await.unwrap();
    fixture.refs.flush().await.unwrap();
    // As a killed process leaves it.
    let copy = common::copy(fixture.root.path());
    drop((source, objects));
    let crashed = Fixture {
        refs: common::open(copy.path()),
        root: copy,
    };
    let source = crashed.refs.mutable(local("src")).await.unwrap();
    let objects = crashed.refs.mutable(repository()).await.unwrap();
    assert!(source.is_new() && objects.is_new());
    drop((source, objects));
    let fixture = fixture.reopen();
    assert!(!fixture.refs.mutable(local("src")).await.unwrap().is_new());
    assert!(!fixture.refs.mutable(repository()).await.unwrap().is_new());
}

#[tokio::test]
async fn freezing_copies_nothing() {
    let fixture = Fixture::new();
    let source = fixture.refs.mutable(local("src")).await.unwrap();
    let mount = source.mount().unwrap();
    for dir in 0..40 {
        let path: PathBuf = inside(&mount).join(format!("d{dir}"));
        fs::create_dir(&path).unwrap();
        for file in 0..50 {
            // Empty, so that removing them all takes no time either.
            fs::File::create(path.join(format!("f{file}"))).unwrap();
        }
    }
    drop(mount);
    let node = |root: &RootDir| root.stat(Path::new("d39"), Follow::No).unwrap().ino;
    let written = node(&source.fs().unwrap());
    let frozen = source.freeze(id("1"), local("src").meta).unwrap();
    let layer = frozen.snapshots().unwrap()[0];
    let layer = fixture.refs.snapshots().layer(layer).unwrap();
    assert_eq!(node(&layer), written, "the directory itself is the layer");
    let source = fixture.refs.mutable(local("src")).await.unwrap();
    assert_eq!(read(&source, "d39/f49").unwrap(), "");
}

#[tokio::test]
async fn a_directory_that_cannot_be_marked_is_given_back() {
    let fixture = Fixture::new();
    drop(fixture.refs.mutable(local("src")).await.unwrap());
    let layers = fixture.refs.snapshots().list().unwrap();
    // The mark is a file of this name.
    let mark = fixture
        .root
        .path()
        .join(format!("snapshots/{}/busy", layers[0].0));
    fs::create_dir(&mark).unwrap();
    let error = fixture.refs.mutable(local("src")).await.unwrap_err();
    assert!(matches!(error, refs::MutableError::Take { .. }), "{error}");
    fs::remove_dir(&mark).unwrap();
    let again = fixture.refs.mutable(local("src")).await.unwrap();
    assert!(!again.is_new());
    drop(again);
    fixture.refs.check();
}
