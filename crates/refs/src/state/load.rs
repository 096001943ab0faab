//! The index as the database has it, without what is not there any more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use oci::Digest;
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError};
use serde::de::DeserializeOwned;
use snapshot::LayerId;

use super::{
    Dir, Effects, ImageEntry, LayerEntry, MutableEntry, MutableKey, RefEntry, RefKey, State, Use,
};
use crate::image::Image;
use crate::layer::{Layer, LayerKey, LayerSource};
use crate::record::{self, DirRecord, ImageRecord, LayerRecord, MutableRecord, RefRecord};
use crate::refs::{Meta, RecordType};

/// What is on the disk.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) layers: HashSet<LayerId>,
    /// Those of the layers that somebody was at work in.
    pub(crate) busy: HashSet<LayerId>,
    pub(crate) blobs: HashSet<Digest>,
}

impl State {
    /// Reads the records and takes over those whose files were found. The effects bring the records
    /// into line, and remove the files that no record names.
    pub(crate) fn load(
        transaction: &ReadTransaction,
        found: &Found,
    ) -> Result<(State, Effects), redb::Error> {
        let mut state = State::default();
        let mut effects = Effects::default();
        let dropped = state.load_layers(transaction, found)?;
        state.load_refs(transaction, &dropped)?;
        state.load_mutables(transaction, found)?;
        state.load_images(transaction, found)?;
        state.load_holds(transaction, found)?;
        state.settle(transaction, &mut effects)?;
        state.sweep(found, &mut effects);
        Ok((state, effects))
    }

    /// Answers the layers whose files are gone.
    fn load_layers(
        &mut self,
        transaction: &ReadTransaction,
        found: &Found,
    ) -> Result<HashSet<LayerKey>, redb::Error> {
        let mut dropped = HashSet::new();
        for (number, record) in rows::<LayerRecord>(transaction, record::LAYERS)? {
            self.next = self.next.max(number);
            let key = LayerKey(number);
            let snapshot = record
                .snapshot
                .map(LayerId)
                .filter(|layer| found.layers.contains(layer));
            if snapshot.is_none() && record.sources.is_empty() {
                dropped.insert(key);
                continue;
            }
            let source = |source: record::SourceRecord| LayerSource {
                descriptor: source.descriptor,
                provider: source.provider,
            };
            let blobs = record
                .blobs
                .into_iter()
                .filter(|blob| found.blobs.contains(&blob.digest));
            let layer = Layer {
                key,
                snapshot,
                diff_id: record.diff_id,
                blobs: blobs.collect(),
                sources: record.sources.into_iter().map(source).collect(),
                chain_id: record.chain_id,
                family: record.family,
            };
            layer
                .blobs
                .iter()
                .for_each(|blob| self.use_blob(blob.digest));
            self.chains.extend(layer.chain_id.map(|chain| (chain, key)));
            let owner = RefKey(record.owner);
            let entry = LayerEntry {
                layer: Arc::new(layer),
                owner,
                users: 0,
                size: record.size,
            };
            self.layers.insert(key, entry);
        }
        Ok(dropped)
    }

    fn load_refs(
        &mut self,
        transaction: &ReadTransaction,
        dropped: &HashSet<LayerKey>,
    ) -> Result<(), redb::Error> {
        let usage = usage(transaction)?;
        let ids = ids(transaction)?;
        for (number, record) in rows::<RefRecord>(transaction, record::REFS)? {
            self.next = self.next.max(number);
            let key = RefKey(number);
            let layers: Vec<LayerKey> = record.layers.into_iter().map(LayerKey).collect();
            let whole =
                |layer: &LayerKey| !dropped.contains(layer) && self.layers.contains_key(layer);
            if !layers.iter().all(whole) {
                tracing::warn!(name = record.name, "a ref is dropped: its files are gone");
                continue;
            }
            self.use_layers(&layers);
            let owned = |layer: &LayerKey| {
                self.layers
                    .get(layer)
                    .is_some_and(|entry| entry.owner == key)
            };
            let own = layers.iter().copied().filter(owned).collect();
            let (last, count) = usage.get(&number).copied().unwrap_or((0, 0));
            let entry = RefEntry {
                name: record.name,
                layers: layers.into(),
                own,
                ids: ids.get(&number).cloned().unwrap_or_default(),
                meta: meta(record.description, &record.record_type, record.created),
                uses: 0,
                images: 0,
                last_used: (last > 0).then(|| record::from_ns(last)),
                usage_count: count,
            };
            self.ids.extend(entry.ids.iter().map(|id| (*id, key)));
            self.refs.insert(key, entry);
        }
        Ok(())
    }

    fn load_mutables(
        &mut self,
        transaction: &ReadTransaction,
        found: &Found,
    ) -> Result<(), redb::Error> {
        for (number, record) in rows::<MutableRecord>(transaction, record::MUTABLE)? {
            self.next = self.next.max(number);
            let dir = match record.dir {
                DirRecord::Own(layer) => Dir::Own(LayerId(layer)),
                DirRecord::Frozen(layer) => Dir::Frozen(LayerKey(layer)),
            };
            let entry = MutableEntry {
                key: record.key,
                name: record.name,
                base: record.base.into_iter().map(LayerKey).collect(),
                dir,
                meta: meta(record.description, &record.record_type, record.created),
                last_used: (record.last_used > 0).then(|| record::from_ns(record.last_used)),
                usage_count: record.usage_count,
                in_use: Use::Idle,
                size: None,
                detached: false,
            };
            // Somebody was changing it when the process ended: what is in it is anything.
            let whole = match dir {
                Dir::Own(layer) => found.layers.contains(&layer) && !found.busy.contains(&layer),
                Dir::Frozen(_) => true,
            };
            if !whole
                || !entry
                    .layers()
                    .iter()
                    .all(|layer| self.layers.contains_key(layer))
            {
                continue;
            }
            self.use_layers(&entry.layers());
            let key = MutableKey(number);
            self.by_key.entry(entry.key.clone()).or_default().push(key);
            self.mutables.insert(key, entry);
        }
        Ok(())
    }

    fn load_images(
        &mut self,
        transaction: &ReadTransaction,
        found: &Found,
    ) -> Result<(), redb::Error> {
        let Some(table) = opened(transaction.open_table(record::IMAGES))? else {
            return Ok(());
        };
        for row in table.iter()? {
            let (key, value) = row?;
            let (name, platform) = key.value();
            let Some(record) = record::decode::<ImageRecord>(value.value()) else {
                continue;
            };
            let reference = RefKey(record.reference);
            let Some(entry) = self.refs.get_mut(&reference) else {
                tracing::warn!(name, "an image is dropped: its files are gone");
                continue;
            };
            entry.images += 1;
            let blobs: Vec<Digest> = record
                .blobs
                .into_iter()
                .filter(|blob| found.blobs.contains(blob))
                .collect();
            blobs.iter().for_each(|blob| self.use_blob(*blob));
            let image = Image {
                name: name.to_owned(),
                platform: record.platform,
                id: record.id,
                config: record.config,
                manifest: record.manifest,
                ref_id: record.ref_id,
                created: record::from_ns(record.created),
                blobs,
            };
            let key = (name.to_owned(), platform.to_owned());
            self.images.insert(key, ImageEntry { image, reference });
        }
        Ok(())
    }

    fn load_holds(
        &mut self,
        transaction: &ReadTransaction,
        found: &Found,
    ) -> Result<(), redb::Error> {
        let Some(table) = opened(transaction.open_table(record::HOLDS))? else {
            return Ok(());
        };
        for row in table.iter()? {
            let (owner, value) = row?;
            let blobs = record::decode::<Vec<Digest>>(value.value()).unwrap_or_default();
            let blobs: Vec<Digest> = blobs
                .into_iter()
                .filter(|blob| found.blobs.contains(blob))
                .collect();
            blobs.iter().for_each(|blob| self.use_blob(*blob));
            self.holds.insert(owner.value().to_owned(), blobs);
        }
        Ok(())
    }

    /// Removes what nothing reaches, in the index and, where the index has not taken it over, in the
    /// records.
    fn settle(
        &mut self,
        transaction: &ReadTransaction,
        effects: &mut Effects,
    ) -> Result<(), redb::Error> {
        // A layer outlives its owner only if the owner's other layers were lost.
        let orphans: Vec<LayerKey> = self
            .layers
            .iter()
            .filter(|(_, entry)| entry.users == 0 || !self.refs.contains_key(&entry.owner))
            .map(|(key, _)| *key)
            .collect();
        for orphan in orphans {
            self.adopt(orphan, effects);
        }
        let all: Vec<RefKey> = self.refs.keys().copied().collect();
        all.into_iter().for_each(|key| self.collect(key, effects));
        for (number, _) in rows::<LayerRecord>(transaction, record::LAYERS)? {
            if !self.layers.contains_key(&LayerKey(number)) {
                effects.changes.push(record::Change::DeleteLayer(number));
            }
        }
        for (number, _) in rows::<RefRecord>(transaction, record::REFS)? {
            if !self.refs.contains_key(&RefKey(number)) {
                effects.changes.push(record::Change::DeleteRef(number));
            }
        }
        for (number, _) in rows::<MutableRecord>(transaction, record::MUTABLE)? {
            if !self.mutables.contains_key(&MutableKey(number)) {
                effects.changes.push(record::Change::DeleteMutable(number));
            }
        }
        for id in ids(transaction)?.into_values().flatten() {
            if !self.ids.contains_key(&id) {
                effects.changes.push(record::Change::DeleteId(id));
            }
        }
        if let Some(table) = opened(transaction.open_table(record::IMAGES))? {
            for row in table.iter()? {
                let key = row?.0;
                let (name, platform) = key.value();
                let key = (name.to_owned(), platform.to_owned());
                if !self.images.contains_key(&key) {
                    effects
                        .changes
                        .push(record::Change::DeleteImage(key.0, key.1));
                }
            }
        }
        Ok(())
    }

    /// Finds a layer without an owner a new one among the refs that have it, or removes it.
    fn adopt(&mut self, orphan: LayerKey, effects: &mut Effects) {
        let heir = self
            .refs
            .iter_mut()
            .filter(|(_, entry)| entry.layers.contains(&orphan))
            .min_by_key(|(key, _)| **key);
        let Some((key, entry)) = heir else {
            if let Some(entry) = self.layers.remove(&orphan) {
                self.drop_orphan(&entry.layer, effects);
            }
            return;
        };
        entry.own.push(orphan);
        let key = *key;
        if let Some(entry) = self.layers.get_mut(&orphan) {
            entry.owner = key;
        }
        self.record_layer(orphan, effects);
    }

    fn drop_orphan(&mut self, layer: &Layer, effects: &mut Effects) {
        for blob in &layer.blobs {
            self.leave_blob(blob.digest, effects);
        }
        if let Some(chain) = layer.chain_id {
            self.chains.remove(&chain);
        }
    }

    /// Removes the files that nothing names.
    fn sweep(&self, found: &Found, effects: &mut Effects) {
        let mut named: HashSet<LayerId> = self
            .layers
            .values()
            .filter_map(|entry| entry.layer.snapshot)
            .collect();
        named.extend(self.mutables.values().filter_map(|entry| match entry.dir {
            Dir::Own(layer) => Some(layer),
            Dir::Frozen(_) => None,
        }));
        effects.layers = found.layers.difference(&named).copied().collect();
        effects.blobs = found
            .blobs
            .iter()
            .filter(|blob| !self.has_blob(blob))
            .copied()
            .collect();
    }
}

fn meta(description: String, record_type: &str, created: u64) -> Meta {
    Meta {
        description,
        record_type: RecordType::parse(record_type),
        created: record::from_ns(created),
    }
}

/// All rows of a table; none if it was never made.
fn rows<T: DeserializeOwned>(
    transaction: &ReadTransaction,
    table: TableDefinition<'_, u64, &'static [u8]>,
) -> Result<Vec<(u64, T)>, redb::Error> {
    let Some(table) = opened(transaction.open_table(table))? else {
        return Ok(Vec::new());
    };
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.extend(record::decode(value.value()).map(|record| (key.value(), record)));
    }
    Ok(rows)
}

fn usage(transaction: &ReadTransaction) -> Result<HashMap<u64, (u64, u64)>, redb::Error> {
    let Some(table) = opened(transaction.open_table(record::USAGE))? else {
        return Ok(HashMap::new());
    };
    table
        .iter()?
        .map(|row| {
            row.map(|(key, value)| (key.value(), value.value()))
                .map_err(Into::into)
        })
        .collect()
}

/// The ids of each ref.
fn ids(transaction: &ReadTransaction) -> Result<HashMap<u64, BTreeSet<Digest>>, redb::Error> {
    let mut ids: HashMap<u64, BTreeSet<Digest>> = HashMap::new();
    let Some(table) = opened(transaction.open_table(record::IDS))? else {
        return Ok(ids);
    };
    for row in table.iter()? {
        let (id, key) = row?;
        ids.entry(key.value())
            .or_default()
            .insert(Digest::from_raw(*id.value()));
    }
    Ok(ids)
}

fn opened<T>(table: Result<T, TableError>) -> Result<Option<T>, redb::Error> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
