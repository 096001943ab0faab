//! Refs on a real filesystem.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Fixture, id, meta, now, pass};
use oci::{Descriptor, Digest, Platform, media_type};
use refs::{BlobError, CommitError, Image, LayerSpec};

fn lazy(name: &str) -> LayerSpec {
    LayerSpec::Lazy {
        descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, id(&format!("{name}.gz")), 10),
        diff_id: id(name),
        provider: "registry/image".to_owned(),
    }
}

fn image(name: &str, ref_id: Digest) -> Image {
    Image {
        name: name.to_owned(),
        platform: Platform::host(),
        id: id("config"),
        config: "{}".to_owned(),
        manifest: None,
        ref_id,
        created: now(),
        blobs: Vec::new(),
    }
}

#[tokio::test]
async fn refs_are_found_at_once_and_after_a_restart() {
    let fixture = Fixture::new();
    let one = fixture.commit(None, "one");
    let two = fixture.commit(Some(&one), "two");
    assert_eq!(
        fixture.refs.exists(&[id("one"), id("three"), id("two")]),
        [true, false, true]
    );
    assert_eq!(fixture.files(&two), ["one", "two"]);
    fixture.refs.alias(id("zwei"), &two);
    fixture.refs.check();
    drop((one, two));
    let fixture = fixture.reopen();
    let two = fixture.refs.get(&id("zwei")).unwrap();
    assert!(two.is_same(&fixture.refs.get(&id("two")).unwrap()));
    assert_eq!(fixture.files(&two), ["one", "two"]);
    assert_eq!(two.meta().unwrap(), meta("two"));
    assert_eq!(fixture.stored(), 2);
    fixture.refs.check();
}

#[tokio::test]
async fn an_id_that_is_made_again_names_the_new_ref_and_the_old_goes_when_unused() {
    let fixture = Fixture::new();
    let old = fixture.commit(None, "one");
    let child = fixture.commit(Some(&old), "child");
    let active = fixture.active(None, "other", 1);
    let new = fixture
        .refs
        .commit(id("one"), None, active, meta("again"))
        .unwrap();
    assert!(!new.is_same(&old));
    assert_eq!(
        fixture.files(&fixture.refs.get(&id("one")).unwrap()),
        ["other"]
    );
    drop(old);
    fixture.refs.flush().await.unwrap();
    // The child still needs the old layer.
    assert_eq!(fixture.files(&child), ["child", "one"]);
    assert_eq!(fixture.stored(), 3);
    drop(child);
    fixture.refs.forget(&id("child"));
    fixture.refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 1);
    fixture.refs.check();
}

#[tokio::test]
async fn leases_keep_refs_and_blobs_until_the_last_of_the_name_is_gone() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    drop(fixture.commit(None, "one"));
    let blob = refs.content().insert(b"blob").unwrap();
    let lease = refs.lease("job");
    assert_eq!(lease.keep(refs, &[id("one"), id("two")]), [true, false]);
    lease.add_blob(fixture.refs.keep_blob(blob).unwrap());
    assert!(fixture.refs.keep_blob(id("missing")).is_none());
    let again = refs.lease("job");
    drop(lease);
    refs.forget(&id("one"));
    refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 1);
    drop(again);
    refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 0);
    assert!(!refs.content().contains(&blob));
}

#[tokio::test]
async fn lazy_layers_of_one_image_are_shared_and_become_real() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    let base = refs
        .put_layers(id("base"), vec![lazy("a"), lazy("b")], meta("base"))
        .unwrap();
    assert_eq!(base.snapshots(), None);
    let more = refs
        .put_layers(
            id("more"),
            vec![lazy("a"), lazy("b"), lazy("c")],
            meta("more"),
        )
        .unwrap();
    assert_eq!(more.keys()[..2], base.keys());
    // The same tar on top of something else is another layer.
    let other = refs
        .put_layers(id("other"), vec![lazy("b")], meta("other"))
        .unwrap();
    assert_ne!(other.keys()[0], base.keys()[1]);
    let layer = refs.layer(base.keys()[0]).unwrap();
    assert_eq!((layer.diff_id, layer.sources.len()), (Some(id("a")), 1));

    for name in ["a", "late"] {
        refs.materialized(base.keys()[0], fixture.active(None, name, 1))
            .unwrap();
    }
    refs.materialized(base.keys()[1], fixture.active(None, "b", 1))
        .unwrap();
    assert_eq!(fixture.files(&base), ["a", "b"]);
    let blob = refs.content().insert(b"tar").unwrap();
    let descriptor = Descriptor::new(media_type::OCI_LAYER, blob, 3);
    refs.add_blob(base.keys()[0], id("a"), descriptor.clone())
        .unwrap();
    let missing = Descriptor::new(media_type::OCI_LAYER, id("no"), 3);
    let error = refs.add_blob(base.keys()[0], id("a"), missing).unwrap_err();
    assert!(matches!(error, BlobError::Missing(_)));
    drop((base, more, other));
    let fixture = fixture.reopen();
    let base = fixture.refs.get(&id("base")).unwrap();
    assert_eq!(fixture.files(&base), ["a", "b"]);
    assert_eq!(base.layers()[0].blobs, [descriptor]);
    assert_eq!(fixture.stored(), 2);
    fixture.refs.check();
    // And shared with what comes later.
    let later = fixture
        .refs
        .put_layers(id("later"), vec![lazy("a"), lazy("d")], meta("later"));
    assert_eq!(later.unwrap().keys()[0], base.keys()[0]);
}

#[tokio::test]
async fn a_layer_that_comes_twice_counts_where_it_is_topmost() {
    let fixture = Fixture::new();
    let base = fixture.commit(None, "base");
    let one = fixture.commit(Some(&base), "one");
    let two = fixture.commit(Some(&base), "two");
    let stack = one
        .keys()
        .into_iter()
        .chain(two.keys())
        .map(LayerSpec::Existing)
        .collect();
    let merged = fixture
        .refs
        .put_layers(id("merged"), stack, meta("merged"))
        .unwrap();
    assert_eq!(
        merged.keys(),
        [one.keys()[1], base.keys()[0], two.keys()[1]]
    );
    assert_eq!(fixture.files(&merged), ["base", "one", "two"]);
    let empty = fixture
        .refs
        .put_layers(id("empty"), Vec::new(), meta("empty"))
        .unwrap();
    assert!(fixture.files(&empty).is_empty());
    fixture.refs.check();
}

#[tokio::test]
async fn a_ref_of_layers_that_are_gone_is_refused_and_leaves_nothing() {
    let fixture = Fixture::new();
    let one = fixture.commit(None, "one");
    let key = one.keys()[0];
    drop(one);
    fixture.refs.forget(&id("one"));
    let layers = vec![
        LayerSpec::Existing(key),
        LayerSpec::New(fixture.active(None, "new", 1)),
    ];
    let error = fixture
        .refs
        .put_layers(id("two"), layers, meta("two"))
        .unwrap_err();
    assert!(matches!(error, CommitError::Missing { layer, .. } if layer == key));
    fixture.refs.flush().await.unwrap();
    assert_eq!(fixture.stored(), 0);
    fixture.refs.check();
}

#[tokio::test]
async fn images_keep_their_ref_whatever_its_id_comes_to_name() {
    let fixture = Fixture::new();
    let one = fixture.commit(None, "one");
    let mut made = image("app:latest", id("one"));
    made.blobs = vec![id("manifest")];
    assert!(fixture.refs.set_image(made.clone(), &one).is_err());
    made.blobs = vec![fixture.refs.content().insert(b"manifest").unwrap()];
    fixture.refs.set_image(made.clone(), &one).unwrap();
    drop(one);
    drop(
        fixture
            .refs
            .commit(id("one"), None, fixture.active(None, "other", 1), meta("x"))
            .unwrap(),
    );
    let fixture = fixture.reopen();
    assert_eq!(fixture.refs.images(), [made.clone()]);
    let (found, reference) = fixture.refs.image("app:latest").remove(0);
    assert_eq!(
        (&found, fixture.files(&reference)),
        (&made, vec!["one".to_owned()])
    );
    drop(reference);
    assert!(fixture.refs.content().contains(&made.blobs[0]));
    fixture.refs.check();
    assert_eq!(fixture.refs.remove_image("app:latest").len(), 1);
    fixture.refs.flush().await.unwrap();
    assert!(!fixture.refs.content().contains(&made.blobs[0]));
    assert_eq!(fixture.stored(), 1);
    fixture.refs.check();
}

#[tokio::test]
async fn held_blobs_survive_a_restart_and_others_do_not() {
    let fixture = Fixture::new();
    let content = fixture.refs.content();
    let (held, loose) = (
        content.insert(b"held").unwrap(),
        content.insert(b"loose").unwrap(),
    );
    fixture.refs.hold("history/1", vec![held]).unwrap();
    assert!(fixture.refs.hold("history/2", vec![id("missing")]).is_err());
    let fixture = fixture.reopen();
    let content = fixture.refs.content();
    assert!(content.contains(&held) && !content.contains(&loose));
    assert_eq!(fixture.refs.held("history/1"), [held]);
    fixture.refs.hold("history/1", Vec::new()).unwrap();
    fixture.refs.flush().await.unwrap();
    assert!(!fixture.refs.content().contains(&held));
}

#[tokio::test]
async fn a_blob_that_is_named_again_in_time_stays() {
    let fixture = Fixture::new();
    let blob = fixture.refs.content().insert(b"blob").unwrap();
    fixture.refs.hold("a", vec![blob]).unwrap();
    fixture.refs.hold("a", Vec::new()).unwrap();
    fixture.refs.hold("b", vec![blob]).unwrap();
    fixture.refs.flush().await.unwrap();
    assert!(fixture.refs.content().contains(&blob));
}

#[tokio::test]
async fn a_blob_that_comes_in_stays_whoever_lets_go_of_it() {
    let fixture = Fixture::new();
    let refs = &fixture.refs;
    let before = refs.insert_blob(b"blob").unwrap();
    let blob = before.digest();
    refs.hold("a", vec![blob]).unwrap();
    drop(before);
    // Found to be there, and written once more: both before somebody lets go of it, and named after.
    for way in ["found", "written"] {
        let coming = match way {
            "found" => refs.insert_blob(b"blob").unwrap(),
            _ => {
                let mut writer = refs.content().begin().unwrap();
                writer.write_all(b"blob").unwrap();
                refs.place_blob(writer.finish(Some(blob)).unwrap()).unwrap()
            }
        };
        refs.hold("a", Vec::new()).unwrap();
        refs.flush().await.unwrap();
        assert!(refs.content().contains(&blob), "{way}");
        refs.hold("a", vec![coming.digest()]).unwrap();
    }
    refs.hold("a", Vec::new()).unwrap();
    refs.flush().await.unwrap();
    assert!(!refs.content().contains(&blob));
    assert!(refs.keep_blob(blob).is_none());
}

#[tokio::test]
async fn blobs_come_and_go_at_once() {
    let fixture = Fixture::new();
    let refs = fixture.refs.clone();
    let users: Vec<_> = (0..4)
        .map(|user| {
            let refs = refs.clone();
            std::thread::spawn(move || {
                let owner = format!("user {user}");
                for _ in 0..200 {
                    let kept = refs.insert_blob(b"the same blob").unwrap();
                    refs.hold(&owner, vec![kept.digest()]).unwrap();
                    drop(kept);
                    refs.hold(&owner, Vec::new()).unwrap();
                }
            })
        })
        .collect();
    users.into_iter().for_each(|user| user.join().unwrap());
    refs.flush().await.unwrap();
    assert!(refs.content().list().unwrap().is_empty());
}

#[tokio::test]
async fn who_asked_hears_of_ids_that_are_gone() {
    let fixture = Fixture::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    fixture
        .refs
        .on_evicted(move |ids| ear.lock().unwrap().extend_from_slice(ids));
    let one = fixture.commit(None, "one");
    fixture.refs.alias(id("eins"), &one);
    drop(one);
    fixture
        .refs
        .prune(&refs::PruneOptions::default())
        .await
        .unwrap();
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    let mut expected = [id("one"), id("eins")];
    expected.sort();
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn others_share_the_database_and_its_order() {
    use redb::TableDefinition;
    const KEYS: TableDefinition<'_, u64, u64> = TableDefinition::new("keys");
    let fixture = Fixture::new();
    let db = fixture.refs.db().clone();
    for at in 0..100u64 {
        db.submit(move |transaction| {
            transaction.open_table(KEYS)?.insert(at % 10, at)?;
            Ok(())
        });
    }
    db.flush().await.unwrap();
    let table = db.read().unwrap().open_table(KEYS).unwrap();
    assert_eq!(
        redb::ReadableTable::get(&table, 3)
            .unwrap()
            .unwrap()
            .value(),
        93
    );
    let error = refs::Db::open(&fixture.root.path().join("drydock.db")).unwrap_err();
    assert!(matches!(error, refs::OpenDbError::InUse(_)));
    drop(table);
}

#[tokio::test]
async fn a_ref_whose_files_are_gone_is_dropped_at_the_start() {
    let fixture = Fixture::new();
    let one = fixture.commit(None, "one");
    let two = fixture.commit(Some(&one), "two");
    let lost = one.snapshots().unwrap()[0];
    let apart = fixture.commit(None, "apart");
    drop((one, two, apart));
    let Fixture { root, refs } = fixture;
    drop(refs);
    std::fs::remove_dir_all(root.path().join(format!("snapshots/{lost}"))).unwrap();
    let fixture = Fixture {
        refs: common::open(root.path()),
        root,
    };
    assert_eq!(
        fixture.refs.exists(&[id("one"), id("two"), id("apart")]),
        [false, false, true]
    );
    fixture.refs.check();
    assert_eq!(fixture.stored(), 1);
    // And it stays so.
    let fixture = fixture.reopen();
    assert_eq!(
        fixture.refs.exists(&[id("one"), id("two"), id("apart")]),
        [false, false, true]
    );
    fixture.refs.check();
}

#[tokio::test]
async fn asking_for_a_ref_counts_as_using_it() {
    let fixture = Fixture::new();
    drop(fixture.commit(None, "one"));
    pass(Duration::from_secs(100));
    assert_eq!(fixture.refs.exists(&[id("one")]), [true]);
    let usage = fixture.refs.usage(&[], Duration::ZERO).await.unwrap();
    assert_eq!((usage[0].last_used, usage[0].usage_count), (Some(now()), 1));
    let fixture = fixture.reopen();
    let usage = fixture.refs.usage(&[], Duration::ZERO).await.unwrap();
    assert_eq!((usage[0].last_used, usage[0].usage_count), (Some(now()), 1));
}

#[tokio::test]
async fn a_chain_of_500_refs_is_quick() {
    let fixture = Fixture::new();
    let mut last = fixture.commit(None, "0");
    let mut took = Vec::new();
    for at in 1..500 {
        let active = fixture
            .refs
            .snapshots()
            .prepare(&last.snapshots().unwrap())
            .unwrap();
        let start = Instant::now();
        let name = at.to_string();
        last = fixture
            .refs
            .commit(id(&name), Some(&last), active, meta(&name))
            .unwrap();
        took.push(start.elapsed());
    }
    took.sort_unstable();
    eprintln!("median {:?}, slowest {:?}", took[250], took[498]);
    assert_eq!(last.keys().len(), 500);
    fixture.refs.check();
    let start = Instant::now();
    let fixture = {
        drop(last);
        fixture.reopen()
    };
    eprintln!("closed and opened in {:?}", start.elapsed());
    assert_eq!(fixture.refs.get(&id("499")).unwrap().keys().len(), 500);
    fixture.refs.check();
}
