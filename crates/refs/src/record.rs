//! What is in the database. `docs/format-database.md` says the same for people.
//!
//! Values are JSON, so that a later version can add to them; keys and short values are plain numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::{Descriptor, Digest, Platform};
use redb::{TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of this format.
pub(crate) const FORMAT: u64 = 2;

/// `format` to [`FORMAT`].
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("refs-meta");
/// Layer to [`LayerRecord`].
pub(crate) const LAYERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("layers");
/// Ref to [`RefRecord`].
pub(crate) const REFS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("refs");
/// The raw digest of an id to its ref.
pub(crate) const IDS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("ids");
/// Ref to when it was last used, in nanoseconds since 1970, and how often it was.
pub(crate) const USAGE: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("usage");
/// Name and platform to [`ImageRecord`].
pub(crate) const IMAGES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("images");
/// Mutable directory to [`MutableRecord`].
pub(crate) const MUTABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("mutable");
/// Owner to the digests of the blobs that are kept for it.
pub(crate) const HOLDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("holds");

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// The directory that holds it; none while it is lazy.
    pub(crate) snapshot: Option<u64>,
    /// The digest of its uncompressed tar, once known.
    pub(crate) diff_id: Option<Digest>,
    /// The digest of the stack of tars from the bottom up to it, for layers of images.
    pub(crate) chain_id: Option<Digest>,
    /// Its tars that are in the content store.
    pub(crate) blobs: Vec<Descriptor>,
    /// Where its tar can be had.
    pub(crate) sources: Vec<SourceRecord>,
    /// The ref that brought it in.
    pub(crate) owner: u64,
    /// What its directory takes on the disk, in bytes, once counted.
    pub(crate) size: Option<u64>,
    /// The local source that it is a state of: its files are shared with other states.
    pub(crate) family: Option<String>,
}

/// A place that has a layer's tar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceRecord {
    pub(crate) descriptor: Descriptor,
    pub(crate) provider: String,
}

/// A ref.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    /// Its name in listings.
    pub(crate) name: String,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<u64>,
    pub(crate) description: String,
    pub(crate) record_type: String,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: Digest,
    pub(crate) config: String,
    pub(crate) manifest: Option<Descriptor>,
    pub(crate) ref_id: Digest,
    /// The ref itself: its id may come to name another.
    pub(crate) reference: u64,
    pub(crate) platform: Platform,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    pub(crate) blobs: Vec<Digest>,
}

/// A directory that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MutableRecord {
    pub(crate) key: String,
    pub(crate) name: String,
    /// The layers that it lies on.
    pub(crate) base: Vec<u64>,
    pub(crate) dir: DirRecord,
    pub(crate) description: String,
    pub(crate) record_type: String,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    pub(crate) last_used: u64,
    pub(crate) usage_count: u64,
}

/// Where the files of a mutable directory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DirRecord {
    /// In a directory of its own.
    Own(u64),
    /// They are those of a layer, until they are next changed.
    Frozen(u64),
}

/// One change of the database.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    PutLayer(u64, Box<LayerRecord>),
    DeleteLayer(u64),
    PutRef(u64, RefRecord),
    DeleteRef(u64),
    PutId(Digest, u64),
    DeleteId(Digest),
    PutUsage(u64, u64, u64),
    PutImage(String, String, Box<ImageRecord>),
    DeleteImage(String, String),
    PutMutable(u64, Box<MutableRecord>),
    DeleteMutable(u64),
    PutHold(String, Vec<Digest>),
    DeleteHold(String),
}

impl Change {
    /// Whether files must be on the disk before this is.
    pub(crate) fn names_files(&self) -> bool {
        match self {
            Change::PutLayer(..)
            | Change::PutImage(..)
            | Change::PutMutable(..)
            | Change::PutHold(..) => true,
            Change::DeleteLayer(_)
            | Change::PutRef(..)
            | Change::DeleteRef(_)
            | Change::PutId(..)
            | Change::DeleteId(_)
            | Change::PutUsage(..)
            | Change::DeleteImage(..)
            | Change::DeleteMutable(_)
            | Change::DeleteHold(_) => false,
        }
    }
}

/// Carries out `changes` in order.
pub(crate) fn write(transaction: &WriteTransaction, changes: &[Change]) -> Result<(), redb::Error> {
    let mut layers = transaction.open_table(LAYERS)?;
    let mut refs = transaction.open_table(REFS)?;
    let mut ids = transaction.open_table(IDS)?;
    let mut usage = transaction.open_table(USAGE)?;
    let mut images = transaction.open_table(IMAGES)?;
    let mut mutable = transaction.open_table(MUTABLE)?;
    let mut holds = transaction.open_table(HOLDS)?;
    for change in changes {
        match change {
            Change::PutLayer(key, record) => drop(layers.insert(*key, &*encode(record)?)?),
            Change::DeleteLayer(key) => drop(layers.remove(*key)?),
            Change::PutRef(key, record) => drop(refs.insert(*key, &*encode(record)?)?),
            Change::DeleteRef(key) => {
                refs.remove(*key)?;
                usage.remove(*key)?;
            }
            Change::PutId(id, key) => drop(ids.insert(id.as_raw(), *key)?),
            Change::DeleteId(id) => drop(ids.remove(id.as_raw())?),
            Change::PutUsage(key, last, count) => drop(usage.insert(*key, (*last, *count))?),
            Change::PutImage(name, platform, record) => {
                images.insert((&**name, &**platform), &*encode(record)?)?;
            }
            Change::DeleteImage(name, platform) => drop(images.remove((&**name, &**platform))?),
            Change::PutMutable(key, record) => drop(mutable.insert(*key, &*encode(record)?)?),
            Change::DeleteMutable(key) => drop(mutable.remove(*key)?),
            Change::PutHold(owner, blobs) => drop(holds.insert(&**owner, &*encode(blobs)?)?),
            Change::DeleteHold(owner) => drop(holds.remove(&**owner)?),
        }
    }
    Ok(())
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(record).map_err(|error| redb::Error::Io(error.into()))
}

/// Reads a value; `None` if it is not one of this format.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// `time` as records have it.
pub(crate) fn to_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The time that a record has.
pub(crate) fn from_ns(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}
