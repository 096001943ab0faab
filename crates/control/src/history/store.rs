//! Records of builds and the small blobs that they name, in the database.
//!
//! What was handed over a moment ago is not in the database yet, so it is also kept in memory until
//! it is. Large blobs (a log of megabytes) and those of images are in the store of blobs instead, held
//! for their record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use oci::Digest;
use prost::Message as _;
use proto::control::BuildHistoryRecord;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use refs::{Db, Refs};

/// A build's name to its record.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("history");
/// Digest of a blob and the name of the build that it belongs to, to its content.
const BLOBS: TableDefinition<'_, (&[u8; 32], &str), &[u8]> = TableDefinition::new("history_blobs");

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the history of builds")]
pub struct HistoryError(#[source] Box<redb::Error>);

impl<E: Into<redb::Error>> From<E> for HistoryError {
    fn from(error: E) -> HistoryError {
        HistoryError(Box::new(error.into()))
    }
}

/// A build's record with the blobs that are kept beside it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) record: BuildHistoryRecord,
    pub(crate) blobs: Vec<(Digest, Bytes)>,
}

/// All records.
pub(crate) struct Store {
    refs: Refs,
    fresh: Mutex<Fresh>,
}

/// What was changed and is not in the database yet.
#[derive(Default)]
struct Fresh {
    changes: HashMap<String, Change>,
    last: u64,
}

struct Change {
    number: u64,
    /// `None`: the record was removed.
    kept: Option<Arc<Kept>>,
}

impl Store {
    pub(crate) fn new(refs: Refs) -> Arc<Store> {
        Arc::new(Store {
            refs,
            fresh: Mutex::default(),
        })
    }

    pub(crate) fn refs(&self) -> &Refs {
        &self.refs
    }

    fn db(&self) -> &Db {
        self.refs.db()
    }

    fn fresh(&self) -> MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a record; blobs that it had before stay.
    pub(crate) fn put(self: &Arc<Store>, kept: Kept) {
        let kept = Arc::new(kept);
        let written = kept.clone();
        self.change(&kept.record.r#ref, Some(kept.clone()), move |writing| {
            let name = written.record.r#ref.as_str();
            let bytes = written.record.encode_to_vec();
            writing.open_table(RECORDS)?.insert(name, &*bytes)?;
            let mut blobs = writing.open_table(BLOBS)?;
            for (digest, content) in &written.blobs {
                blobs.insert((digest.as_raw(), name), &**content)?;
            }
            Ok(())
        });
    }

    /// Removes a record and what is kept for it.
    pub(crate) fn remove(self: &Arc<Store>, record: &BuildHistoryRecord) {
        let name = record.r#ref.clone();
        self.change(&record.r#ref, None, move |writing| {
            writing.open_table(RECORDS)?.remove(name.as_str())?;
            // Not only those that the record names: an index's manifests are kept with it, for example.
            let mut blobs = writing.open_table(BLOBS)?;
            let mut gone = Vec::new();
            for entry in blobs.iter()? {
                let (key, _) = entry?;
                let (digest, of) = key.value();
                if of == name {
                    gone.push(*digest);
                }
            }
            for digest in &gone {
                blobs.remove((digest, name.as_str()))?;
            }
            Ok(())
        });
        // Nothing is missing: an empty list can always be held.
        let _ = self.refs.hold(&owner(&record.r#ref), Vec::new());
    }

    fn change(
        self: &Arc<Store>,
        name: &str,
        kept: Option<Arc<Kept>>,
        write: impl Fn(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    ) {
        let mut fresh = self.fresh();
        fresh.last += 1;
        let number = fresh.last;
        // A record that is changed while it is fresh keeps its blobs at hand.
        let earlier = fresh.changes.remove(name).and_then(|change| change.kept);
        let kept = kept.map(|kept| match earlier {
            Some(earlier) => Arc::new(Kept {
                record: kept.record.clone(),
                blobs: [&earlier.blobs[..], &kept.blobs].concat(),
            }),
            None => kept,
        });
        fresh
            .changes
            .insert(name.to_owned(), Change { number, kept });
        let (store, name) = (Arc::downgrade(self), name.to_owned());
        // Within the lock, so that changes are written in the order in which they show.
        self.db().submit_light_then(write, move || {
            let Some(store) = store.upgrade() else { return };
            let mut fresh = store.fresh();
            if fresh
                .changes
                .get(&name)
                .is_some_and(|change| change.number == number)
            {
                fresh.changes.remove(&name);
            }
        });
    }

    /// The record of a build.
    pub(crate) fn get(&self, name: &str) -> Result<Option<BuildHistoryRecord>, HistoryError> {
        // The database is read within the lock: a change is in one of the two places.
        let fresh = self.fresh();
        if let Some(change) = fresh.changes.get(name) {
            return Ok(change.kept.as_ref().map(|kept| kept.record.clone()));
        }
        let Some(table) = self.table(RECORDS)? else {
            return Ok(None);
        };
        Ok(table
            .get(name)?
            .and_then(|bytes| decode(name, bytes.value())))
    }

    /// All records, by name.
    pub(crate) fn all(&self) -> Result<Vec<BuildHistoryRecord>, HistoryError> {
        let fresh = self.fresh();
        let mut all = Vec::new();
        if let Some(table) = self.table(RECORDS)? {
            for entry in table.iter()? {
                let (name, bytes) = entry?;
                if !fresh.changes.contains_key(name.value()) {
                    all.extend(decode(name.value(), bytes.value()));
                }
            }
        }
        let changes = fresh.changes.values();
        all.extend(changes.filter_map(|change| Some(change.kept.as_ref()?.record.clone())));
        all.sort_by(|a, b| a.r#ref.cmp(&b.r#ref));
        Ok(all)
    }

    /// A blob that is kept beside a record.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Bytes>, HistoryError> {
        let fresh = self.fresh();
        let kept = fresh.changes.values().filter_map(|c| c.kept.as_ref());
        for (candidate, content) in kept.flat_map(|kept| &kept.blobs) {
            if candidate == digest {
                return Ok(Some(content.clone()));
            }
        }
        let Some(table) = self.table(BLOBS)? else {
            return Ok(None);
        };
        let mut found = table.range((digest.as_raw(), "")..)?;
        match found.next().transpose()? {
            Some((key, content)) if key.value().0 == digest.as_raw() => {
                Ok(Some(Bytes::copy_from_slice(content.value())))
            }
            _ => Ok(None),
        }
    }

    /// Digests and sizes of all blobs that are kept beside records.
    pub(crate) fn blobs(&self) -> Result<Vec<(Digest, u64)>, HistoryError> {
        let fresh = self.fresh();
        let mut all = Vec::new();
        if let Some(table) = self.table(BLOBS)? {
            for entry in table.iter()? {
                let (key, content) = entry?;
                let digest = Digest::from_raw(*key.value().0);
                all.push((digest, content.value().len() as u64));
            }
        }
        let kept = fresh.changes.values().filter_map(|c| c.kept.as_ref());
        all.extend(
            kept.flat_map(|kept| &kept.blobs)
                .map(|(digest, content)| (*digest, content.len() as u64)),
        );
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Option<redb::ReadOnlyTable<K, V>>, HistoryError> {
        match self.db().read()?.open_table(definition) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            table => Ok(Some(table?)),
        }
    }
}

fn decode(name: &str, bytes: &[u8]) -> Option<BuildHistoryRecord> {
    match BuildHistoryRecord::decode(bytes) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(build = name, %error, "a record of a build cannot be read");
            None
        }
    }
}

/// For whom the large blobs of a build's record are held.
pub(crate) fn owner(name: &str) -> String {
    format!("history/{name}")
}
