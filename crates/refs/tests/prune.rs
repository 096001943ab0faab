//! What is stored takes what is said, and goes as is said.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{Fixture, id, inside, meta, now, pass};
use oci::{Descriptor, Platform, media_type};
use refs::{Image, KeptBlob, Meta, MutableOptions, PruneOptions, RecordType, Sharing, UsageRecord};

/// What `du` says of all that is stored, in bytes.
fn du(fixture: &Fixture) -> u64 {
    let root = fixture.root.path();
    let mut paths: Vec<PathBuf> = vec![];
    for dir in ["snapshots", "snapshots/merged", "content/sha256"] {
        paths.extend(
            fs::read_dir(root.join(dir))
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
    }
    paths.retain(|path| {
        !["merged", "trash", "empty", "ready"]
            .iter()
            .any(|name| path.ends_with(name))
    });
    if paths.is_empty() {
        return 0;
    }
    let output = Command::new("du")
        .args(["-s", "--block-size=1", "--total"])
        .args(paths)
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    output
        .lines()
        .last()
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

async fn usage(fixture: &Fixture) -> Vec<UsageRecord> {
    fixture.refs.usage(&[], Duration::ZERO).await.unwrap()
}

async fn total(fixture: &Fixture) -> u64 {
    usage(fixture).await.iter().map(|record| record.size).sum()
}

fn descriptions(records: &[UsageRecord]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record.description.as_str())
        .collect()
}

fn cache_mount(key: &str) -> MutableOptions {
    MutableOptions {
        key: key.to_owned(),
        base: None,
        sharing: Sharing::Shared,
        fresh: false,
        meta: Meta {
            record_type: RecordType::CacheMount,
            ..meta(key)
        },
    }
}

#[tokio::test]
async fn usage_agrees_with_the_disk() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    let mut last = fixture.commit_of(None, "base", 100_000);
    for at in 0..70 {
        last = fixture.commit_of(Some(&last), &format!("f{at}"), at * 997);
    }
    let blob = refs.content().insert(&[7; 50_000]).unwrap();
    let tar = Descriptor::new(media_type::OCI_LAYER, blob, 50_000);
    refs.add_blob(last.keys()[0], id("diff"), tar.clone())
        .unwrap();
    refs.add_blob(last.keys()[1], id("diff"), tar).unwrap();
    let mount = refs.mutable(cache_mount("cache")).await.unwrap();
    fs::write(inside(&mount.mount().unwrap()).join("x"), [1; 30_000]).unwrap();
    drop(mount);
    let source = MutableOptions {
        meta: Meta {
            record_type: RecordType::LocalSource,
            ..meta("src")
        },
        sharing: Sharing::Private,
        ..cache_mount("src")
    };
    for round in 0..3u8 {
        let taken = refs.mutable(source.clone()).await.unwrap();
        let view = taken.mount().unwrap();
        for name in 0..10 {
            let path = inside(&view).join(format!("{name}"));
            if round == 0 || name == round {
                let _ = fs::remove_file(&path);
                fs::write(path, vec![round; 20_000]).unwrap();
            }
        }
        drop(view);
        drop(
            taken
                .freeze(id(&format!("src{round}")), source.meta.clone())
                .unwrap(),
        );
    }
    drop(refs.mutable(source).await.unwrap());
    // The whole stack is looked at, so that its lower layers are merged.
    assert_eq!(fixture.files(&last).len(), 71);
    refs.flush().await.unwrap();
    refs.snapshots().wait_removed();
    assert_eq!(total(&fixture).await, du(&fixture));
    drop(last);
    let fixture = fixture.reopen();
    fixture.refs.snapshots().wait_removed();
    assert_eq!(total(&fixture).await, du(&fixture));
}

#[tokio::test]
async fn records_tell_what_buildkits_do() {
    let fixture = Fixture::new();
    let base = fixture.commit(None, "base");
    let made = now();
    let step = fixture.commit(Some(&base), "step");
    drop(step);
    pass(Duration::from_secs(60));
    drop(fixture.refs.get(&id("step")).unwrap());
    let mount = fixture.refs.mutable(cache_mount("cache")).await.unwrap();
    let records = usage(&fixture).await;
    let [first, second, third] = &records[..] else {
        panic!("{records:?}")
    };
    assert!(first.in_use && !first.shared && first.parents.is_empty() && first.size > 0);
    assert_eq!(
        (second.parents.as_slice(), second.in_use),
        (&[first.id.clone()][..], false)
    );
    assert_eq!(
        (second.created, second.last_used, second.usage_count),
        (made, Some(now()), 2)
    );
    assert!(third.mutable && third.in_use && third.size == 0);
    assert_eq!(third.record_type.as_str(), "exec.cachemount");
    drop(mount);
    let found = |filter: &str| {
        let filter = [filter.to_owned()];
        let refs = fixture.refs.clone();
        async move { refs.usage(&filter, Duration::ZERO).await.unwrap().len() }
    };
    assert_eq!(found("type==exec.cachemount").await, 1);
    assert_eq!(found("immutable,description~=^s").await, 1);
    assert_eq!(found(&format!("parents=={}", first.id)).await, 1);
    assert_eq!(found("inuse").await, 1);
    assert!(
        fixture
            .refs
            .usage(&["id=".to_owned()], Duration::ZERO)
            .await
            .is_err()
    );
    pass(Duration::from_secs(60));
    let old = fixture
        .refs
        .usage(&[], Duration::from_secs(90))
        .await
        .unwrap();
    assert_eq!(descriptions(&old), ["base"]);
}

#[tokio::test]
async fn pruning_leaves_what_is_used_and_what_that_lies_on() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    let one = fixture.commit(None, "one");
    let two = fixture.commit(Some(&one), "two");
    let three = fixture.commit(Some(&two), "three");
    drop(fixture.commit(Some(&three), "four"));
    drop((one, three));
    let internal = fixture.active(None, "internal", 1);
    let internal_meta = Meta {
        record_type: RecordType::Internal,
        ..meta("internal")
    };
    drop(
        refs.commit(id("internal"), None, internal, internal_meta)
            .unwrap(),
    );
    let removed = refs.prune(&PruneOptions::default()).await.unwrap();
    assert_eq!(descriptions(&removed), ["four", "three"]);
    assert_eq!(fixture.files(&two), ["one", "two"]);
    assert_eq!(
        refs.exists(&[id("one"), id("two"), id("three")]),
        [true, true, false]
    );
    drop(two);
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    let mut removed = refs.prune(&all).await.unwrap();
    removed.sort_by(|a, b| a.description.cmp(&b.description));
    assert_eq!(descriptions(&removed), ["internal", "one", "two"]);
    assert!(usage(&fixture).await.is_empty());
    assert_eq!(fixture.stored(), 0);
    assert_eq!(du(&fixture), 0);
    let fixture = fixture.reopen();
    assert_eq!(fixture.refs.exists(&[id("one")]), [false]);
}

#[tokio::test]
async fn images_are_shared_and_stay() {
    let fixture = Fixture::new();
    let one = fixture.commit(None, "one");
    let image = Image {
        name: "app".to_owned(),
        platform: Platform::host(),
        id: id("config"),
        config: "{}".to_owned(),
        manifest: None,
        ref_id: one.id(),
        created: now(),
        blobs: Vec::new(),
    };
    fixture.refs.set_image(image, &one).unwrap();
    drop(one);
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    assert!(fixture.refs.prune(&all).await.unwrap().is_empty());
    assert!(usage(&fixture).await[0].shared);
    // What is shared does not count.
    let tight = PruneOptions {
        max_used_space: 1,
        ..PruneOptions::default()
    };
    drop(fixture.commit(None, "two"));
    assert_eq!(
        descriptions(&fixture.refs.gc(&[tight]).await.unwrap()),
        ["two"]
    );
}

#[tokio::test]
async fn held_blobs_count_and_stay() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    drop(fixture.commit_of(None, "a", 100_000));
    let before = total(&fixture).await;
    let kept = [vec![1; 300_000], vec![2; 300_000]].map(|log| refs.insert_blob(&log).unwrap());
    let [first, second] = kept.each_ref().map(KeptBlob::digest);
    refs.hold("history/1", vec![first]).unwrap();
    refs.hold("history/2", vec![first, second]).unwrap();
    drop(kept);
    let records = usage(&fixture).await;
    let held = records.last().unwrap();
    assert!(held.size >= 600_000 && held.in_use, "{held:?}");
    assert_eq!(held.record_type, RecordType::Internal);
    assert_eq!(total(&fixture).await, before + held.size);
    assert_eq!(total(&fixture).await, du(&fixture));

    // They take the room that something else would have had, and do not go themselves.
    let cap = PruneOptions {
        all: true,
        max_used_space: 500_000,
        ..PruneOptions::default()
    };
    assert_eq!(descriptions(&refs.gc(&[cap]).await.unwrap()), ["a"]);
    assert!(refs.content().contains(&first) && refs.content().contains(&second));
    refs.hold("history/2", Vec::new()).unwrap();
    refs.flush().await.unwrap();
    assert!(refs.content().contains(&first) && !refs.content().contains(&second));
    refs.hold("history/1", Vec::new()).unwrap();
    assert!(usage(&fixture).await.is_empty());
}

#[tokio::test]
async fn a_cap_removes_the_oldest_until_the_rest_fits() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c", "d"] {
        drop(fixture.commit_of(None, name, 100_000));
        pass(Duration::from_secs(100));
    }
    let each = usage(&fixture).await[0].size;
    let cap = PruneOptions {
        max_used_space: each * 2,
        ..PruneOptions::default()
    };
    let reserve = PruneOptions {
        reserved_space: each * 3,
        ..cap.clone()
    };
    assert_eq!(
        descriptions(&fixture.refs.gc(&[reserve]).await.unwrap()),
        ["a"]
    );
    let young = PruneOptions {
        keep_duration: Duration::from_secs(250),
        ..cap.clone()
    };
    assert_eq!(
        descriptions(&fixture.refs.gc(&[young]).await.unwrap()),
        ["b"]
    );
    assert!(
        fixture
            .refs
            .gc(std::slice::from_ref(&cap))
            .await
            .unwrap()
            .is_empty()
    );
    let plenty = PruneOptions {
        min_free_space: 1,
        ..PruneOptions::default()
    };
    assert!(fixture.refs.gc(&[plenty]).await.unwrap().is_empty());
    let none = PruneOptions {
        filter: vec!["type==source.local".to_owned()],
        ..cap
    };
    assert!(fixture.refs.prune(&none).await.unwrap().is_empty());
    assert_eq!(fixture.stored(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_use_goes_under_constant_pruning() {
    let fixture = Fixture::new();
    let refs = fixture.refs.clone();
    let builds: Vec<_> = (0..4)
        .map(|build| {
            let refs = refs.clone();
            tokio::task::spawn_blocking(move || {
                for round in 0..20 {
                    let lease = refs.lease(&format!("job {build}"));
                    let mut last: Option<refs::Ref> = None;
                    for step in 0..5 {
                        let id = id(&format!("{} {step}", round / 2));
                        let reference = refs.get(&id).unwrap_or_else(|| {
                            let lower = last.as_ref().map(|last| last.snapshots().unwrap());
                            let lower = lower.unwrap_or_default();
                            let active = refs.snapshots().prepare(&lower).unwrap();
                            let mount = active.mount().unwrap();
                            fs::write(inside(&mount).join(step.to_string()), "x").unwrap();
                            drop(mount);
                            refs.commit(id, last.as_ref(), active, meta("step"))
                                .unwrap()
                        });
                        lease.add(&reference);
                        let view = refs
                            .snapshots()
                            .view(&reference.snapshots().unwrap())
                            .unwrap();
                        assert_eq!(fs::read_dir(inside(&view)).unwrap().count(), step + 1);
                        last = Some(reference);
                    }
                    lease.release();
                }
            })
        })
        .collect();
    let pruner = tokio::spawn({
        let refs = refs.clone();
        async move {
            loop {
                refs.prune(&PruneOptions::default()).await.unwrap();
                refs.check();
            }
        }
    });
    for build in builds {
        build.await.unwrap();
    }
    pruner.abort();
    let _ = pruner.await;
    refs.prune(&PruneOptions::default()).await.unwrap();
    assert_eq!(fixture.stored(), 0);
}
