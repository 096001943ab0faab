//! A disk that is full for a while.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use redb::{ReadableTable as _, TableDefinition};
use refs::{Db, WriteDbError};

const KEYS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("keys");

/// A filesystem of a few megabytes.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Small {
        let dir = tempfile::tempdir().unwrap();
        let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
        mount(kind, dir.path(), kind, flags, Some("size=8m")).unwrap();
        Small(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(self.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

fn submit(db: &Db, key: u64) {
    let value = vec![1u8; 100_000];
    db.submit(move |transaction| {
        transaction.open_table(KEYS)?.insert(key, &*value)?;
        Ok(())
    });
}

#[test]
fn records_wait_until_there_is_room_again() {
    let disk = Small::new();
    let file = disk.path().join("db");
    let db = Db::open(&file).unwrap();
    submit(&db, 1);
    db.flush_blocking().unwrap();

    let filler = disk.path().join("filler");
    // As much as there is room for.
    fs::write(&filler, vec![0u8; 8 << 20]).unwrap_err();
    let mut last = 1;
    let failure = loop {
        last += 1;
        submit(&db, last);
        match db.flush_blocking() {
            Ok(()) => assert!(last < 100, "the disk does not fill up"),
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure, WriteDbError::Commit(_)), "{failure:?}");
    assert!(db.failure().is_some());

    fs::remove_file(&filler).unwrap();
    let begun = Instant::now();
    while let Err(failure) = db.flush_blocking() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{failure:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(db.failure().is_none());
    let count = |db: &Db| {
        let table = db.read().unwrap().open_table(KEYS).unwrap();
        table.iter().unwrap().count() as u64
    };
    assert_eq!(count(&db), last);
    drop(db);
    let db = Db::open(&file).unwrap();
    assert_eq!(count(&db), last);
}
