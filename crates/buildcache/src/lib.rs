//! What is remembered of keys from build to build.
//!
//! Owns which id a key stands for and how long an op took, in memory and in the database of
//! records, and the form in which keys and results travel to other daemons. Knows nothing of how
//! keys are made, nor of what an id names. Start at [`LocalIndex`] and [`remote`].

pub mod remote;
mod stacks;

use std::time::Duration;

use dashmap::DashMap;
use oci::Digest;
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition};
use refs::Db;

/// Key to id, 32 bytes each.
const LINKS: TableDefinition<'_, &[u8; 32], &[u8; 32]> = TableDefinition::new("links");
/// Key of an op to the microseconds that it took.
const DURATIONS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("durations");

/// Durations only order what is run first, so they are thrown away when there are so many.
const MAX_DURATIONS: u64 = 200_000;
/// Ids whose existence is asked for at a time.
const BATCH: usize = 1024;

/// Why the index cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the index of keys")]
pub struct OpenError(#[source] Box<redb::Error>);

impl<E: Into<redb::Error>> From<E> for OpenError {
    fn from(error: E) -> OpenError {
        OpenError(Box::new(error.into()))
    }
}

/// The keys whose results are on this machine.
///
/// All of it is in memory: looking something up never waits. A change is on the disk soon after,
/// together with the record of the result; one that is lost in a crash is found out again.
pub struct LocalIndex {
    db: Db,
    links: DashMap<Digest, Digest>,
    /// The other way round, to forget what stood for an id that is gone.
    keys: DashMap<Digest, Vec<Digest>>,
    durations: DashMap<Digest, Duration>,
}

impl LocalIndex {
    /// Reads the index from `db` and forgets keys of ids that `exist` says are gone.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(db: Db, exist: impl Fn(&[Digest]) -> Vec<bool>) -> Result<LocalIndex, OpenError> {
        let index = LocalIndex {
            db,
            links: DashMap::new(),
            keys: DashMap::new(),
            durations: DashMap::new(),
        };
        index.load_links(exist)?;
        index.load_durations()?;
        Ok(index)
    }

    fn load_links(&self, exist: impl Fn(&[Digest]) -> Vec<bool>) -> Result<(), OpenError> {
        let reading = self.db.read()?;
        let table = match reading.open_table(LINKS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table?,
        };
        let mut all = Vec::new();
        for entry in table.iter()? {
            let (key, id) = entry?;
            all.push((
                Digest::from_raw(*key.value()),
                Digest::from_raw(*id.value()),
            ));
        }
        let mut gone = Vec::new();
        for batch in all.chunks(BATCH) {
            let ids: Vec<Digest> = batch.iter().map(|(_, id)| *id).collect();
            for ((key, id), there) in batch.iter().zip(exist(&ids)) {
                if there {
                    self.links.insert(*key, *id);
                    self.keys.entry(*id).or_default().push(*key);
                } else {
                    gone.push(*key);
                }
            }
        }
        self.remove(gone);
        Ok(())
    }

    fn load_durations(&self) -> Result<(), OpenError> {
        let reading = self.db.read()?;
        let table = match reading.open_table(DURATIONS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table?,
        };
        if table.len()? > MAX_DURATIONS {
            self.db.submit_light(|writing| {
                writing.delete_table(DURATIONS)?;
                Ok(())
            });
            return Ok(());
        }
        for entry in table.iter()? {
            let (key, micros) = entry?;
            let duration = Duration::from_micros(micros.value());
            self.durations
                .insert(Digest::from_raw(*key.value()), duration);
        }
        Ok(())
    }

    /// Forgets the keys that stand for `ids`, which are gone.
    pub fn evicted(&self, ids: &[Digest]) {
        let mut gone = Vec::new();
        for id in ids {
            for key in self
                .keys
                .remove(id)
                .map(|(_, keys)| keys)
                .unwrap_or_default()
            {
                // The key may stand for another id by now.
                if self
                    .links
                    .remove_if(&key, |_, current| current == id)
                    .is_some()
                {
                    gone.push(key);
                }
            }
        }
        self.remove(gone);
    }

    fn remove(&self, keys: Vec<Digest>) {
        if keys.is_empty() {
            return;
        }
        self.db.submit_light(move |writing| {
            let mut table = writing.open_table(LINKS)?;
            for key in &keys {
                table.remove(key.as_raw())?;
            }
            Ok(())
        });
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

impl solver::KeyIndex for LocalIndex {
    fn link(&self, key: &Digest) -> Option<Digest> {
        self.links.get(key).map(|id| *id)
    }

    fn set_link(&self, key: Digest, id: Digest) {
        if self.links.insert(key, id) == Some(id) {
            return;
        }
        self.keys.entry(id).or_default().push(key);
        self.db.submit_light(move |writing| {
            let mut table = writing.open_table(LINKS)?;
            table.insert(key.as_raw(), id.as_raw())?;
            Ok(())
        });
    }

    fn keys(&self, id: &Digest) -> Vec<Digest> {
        let keys = self.keys.get(id).map(|keys| keys.clone());
        let mut keys = keys.unwrap_or_default();
        keys.retain(|key| self.link(key).as_ref() == Some(id));
        keys
    }

    fn duration(&self, op: &Digest) -> Option<Duration> {
        self.durations.get(op).map(|duration| *duration)
    }

    fn set_duration(&self, op: Digest, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.durations.insert(op, duration);
        self.db.submit_light(move |writing| {
            writing.open_table(DURATIONS)?.insert(op.as_raw(), micros)?;
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solver::KeyIndex as _;

    fn digest(text: &str) -> Digest {
        Digest::of(text)
    }

    #[test]
    fn what_was_recorded_is_there_again_unless_its_result_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("db");
        let db = Db::open(&file).unwrap();
        let index = LocalIndex::open(db.clone(), |ids| vec![true; ids.len()]).unwrap();
        index.set_link(digest("key"), digest("id"));
        index.set_link(digest("other"), digest("gone"));
        index.set_duration(digest("op"), Duration::from_millis(5));
        db.flush_blocking().unwrap();
        drop((index, db));

        let db = Db::open(&file).unwrap();
        let there = |ids: &[Digest]| ids.iter().map(|id| *id == digest("id")).collect();
        let index = LocalIndex::open(db, there).unwrap();
        assert_eq!(index.link(&digest("key")), Some(digest("id")));
        assert_eq!(index.link(&digest("other")), None);
        assert_eq!(
            index.duration(&digest("op")),
            Some(Duration::from_millis(5))
        );
    }

    #[test]
    fn a_key_goes_with_the_id_that_it_stands_for_and_with_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("db")).unwrap();
        let index = LocalIndex::open(db, |ids| vec![true; ids.len()]).unwrap();
        index.set_link(digest("key"), digest("first"));
        index.set_link(digest("key"), digest("second"));
        index.evicted(&[digest("first")]);
        assert_eq!(index.link(&digest("key")), Some(digest("second")));
        index.evicted(&[digest("second")]);
        assert!(index.is_empty());
    }
}
