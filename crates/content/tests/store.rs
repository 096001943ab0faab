//! The store of blobs on a real filesystem.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::thread;

use content::{CommitError, Content, ReadError};
use oci::Digest;

fn open(root: &Path) -> Content {
    Content::open(root).unwrap()
}

#[test]
fn a_blob_is_visible_only_when_it_is_whole_and_right() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let digest = Digest::of("hello");
    let mut writer = store.begin().unwrap();
    writer.write_all(b"hel").unwrap();
    assert!(!store.contains(&digest));
    writer.write_all(b"lo").unwrap();
    assert_eq!(writer.size(), 5);
    assert_eq!(writer.commit(Some(digest)).unwrap(), digest);
    assert_eq!(store.size(&digest), Some(5));
    assert_eq!(store.read(&digest, 5).unwrap(), b"hello");
    assert!(matches!(
        store.read(&digest, 4),
        Err(ReadError::TooLarge { size: 5, .. })
    ));
}

#[test]
fn another_blob_than_expected_is_refused_and_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let mut writer = store.begin().unwrap();
    writer.write_all(b"other").unwrap();
    let expected = Digest::of("hello");
    let error = writer.commit(Some(expected)).unwrap_err();
    assert!(matches!(error, CommitError::Mismatch { size: 5, .. }));
    assert_eq!(fs::read_dir(tmp.path().join("ingest")).unwrap().count(), 0);
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(
        store.open_blob(&expected),
        Err(ReadError::Missing(_))
    ));
}

#[test]
fn many_writers_of_one_blob_all_succeed_and_readers_keep_theirs() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let bytes = vec![7u8; 1 << 20];
    let digests: Vec<Digest> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut writer = store.begin().unwrap();
                    bytes
                        .chunks(1000)
                        .for_each(|chunk| writer.write_all(chunk).unwrap());
                    writer.commit(None).unwrap()
                })
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    assert!(digests.iter().all(|digest| *digest == Digest::of(&bytes)));
    let blobs = store.list().unwrap();
    assert_eq!(blobs.len(), 1);
    assert!(blobs[0].allocated >= 1 << 20);
    let mut reader = store.open_blob(&digests[0]).unwrap();
    assert!(store.remove(&digests[0]).unwrap());
    assert!(!store.remove(&digests[0]).unwrap());
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes);
    assert_eq!(fs::read_dir(tmp.path().join("ingest")).unwrap().count(), 0);
}

#[test]
fn opening_sweeps_unfinished_writes_and_keeps_the_rest() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let kept = store.insert(b"kept").unwrap();
    assert_eq!(store.insert(b"kept").unwrap(), kept);
    let mut writer = store.begin().unwrap();
    writer.write_all(b"half").unwrap();
    // As a killed process would leave it.
    std::mem::forget(writer);
    fs::write(tmp.path().join("sha256/not-a-digest"), "").unwrap();
    assert_eq!(fs::read_dir(tmp.path().join("ingest")).unwrap().count(), 1);
    let store = open(tmp.path());
    assert_eq!(fs::read_dir(tmp.path().join("ingest")).unwrap().count(), 0);
    assert_eq!(
        store
            .list()
            .unwrap()
            .iter()
            .map(|blob| blob.digest)
            .collect::<Vec<_>>(),
        [kept]
    );
    store.sync().unwrap();
}
