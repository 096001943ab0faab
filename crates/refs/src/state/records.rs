//! Usage records, and what is not yet known of sizes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use oci::Digest;
use snapshot::LayerId;

use super::{Dir, MutableEntry, MutableKey, RefEntry, RefKey, State, Use};
use crate::layer::LayerKey;
use crate::refs::RecordType;
use crate::usage::UsageRecord;

/// The name of the record of held blobs.
const HELD: &str = "held-blobs";

/// What a usage record stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    Ref(RefKey),
    Mutable(MutableKey),
    /// All blobs that are held.
    Held,
}

/// Sizes that have to be counted on the disk.
#[derive(Debug, Default)]
pub(crate) struct Unknown {
    pub(crate) layers: Vec<(LayerKey, LayerId)>,
    pub(crate) mutables: Vec<(MutableKey, LayerId)>,
    /// The states of each local source, oldest first, the mutable directory last.
    pub(crate) families: Vec<(String, Vec<LayerId>)>,
}

/// Sizes that are cheap to ask for each time, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    /// Of blobs in the content store.
    pub(crate) blobs: HashMap<Digest, u64>,
    /// Of what was merged from layers, by the topmost of them.
    pub(crate) merged: HashMap<LayerId, u64>,
}

impl State {
    /// What has to be counted.
    pub(crate) fn unknown_sizes(&self) -> Unknown {
        let mut unknown = Unknown::default();
        let mut families: BTreeMap<&str, Vec<LayerId>> = BTreeMap::new();
        for (key, entry) in &self.layers {
            let Some(snapshot) = entry.layer.snapshot else {
                continue;
            };
            match &entry.layer.family {
                Some(family) => families.entry(family).or_default().push(snapshot),
                None if entry.size.is_none() => unknown.layers.push((*key, snapshot)),
                None => {}
            }
        }
        families
            .values_mut()
            .for_each(|layers| layers.sort_unstable());
        for (key, entry) in &self.mutables {
            let Dir::Own(layer) = entry.dir else { continue };
            if !entry.is_idle() {
                continue;
            }
            match families.get_mut(entry.key.as_str()) {
                Some(family) => family.push(layer),
                None if entry.size.is_none() => unknown.mutables.push((*key, layer)),
                None => {}
            }
        }
        let wanted = families
            .into_iter()
            .filter(|(family, _)| !self.families.contains_key(*family));
        unknown.families = wanted
            .map(|(family, layers)| (family.to_owned(), layers))
            .collect();
        unknown
    }

    /// Notes the size of a layer; it is recorded with the next change of the layer at the latest.
    pub(crate) fn set_layer_size(
        &mut self,
        key: LayerKey,
        size: u64,
        effects: &mut super::Effects,
    ) {
        if let Some(entry) = self.layers.get_mut(&key) {
            entry.size = Some(size);
            self.record_layer(key, effects);
        }
    }

    /// Notes the size of a mutable directory, unless it was taken meanwhile.
    pub(crate) fn set_mutable_size(&mut self, key: MutableKey, layer: LayerId, size: u64) {
        if let Some(entry) = self.mutables.get_mut(&key)
            && entry.is_idle()
            && entry.dir == Dir::Own(layer)
        {
            entry.size = Some(size);
        }
    }

    /// Notes the sizes of the states of a local source.
    pub(crate) fn set_family_sizes(&mut self, family: String, sizes: HashMap<LayerId, u64>) {
        self.families.insert(family, sizes);
    }

    /// Everything that is named when asking for [`Sizes`].
    pub(crate) fn wanted_sizes(&self) -> (Vec<Digest>, Vec<LayerId>) {
        let layers = self.layers.values();
        let blobs = layers
            .clone()
            .flat_map(|entry| entry.layer.blobs.iter().map(|blob| blob.digest));
        let held = self.holds.values().flatten().copied();
        (
            blobs.chain(held).collect(),
            layers.filter_map(|entry| entry.layer.snapshot).collect(),
        )
    }

    /// All records.
    pub(crate) fn records(&self, sizes: &Sizes) -> Vec<(Item, UsageRecord)> {
        let in_use = self.refs_in_use();
        let mut counted = HashSet::new();
        let mut keys: Vec<RefKey> = self.refs.keys().copied().collect();
        // The oldest first: a blob that several layers name counts for the first.
        keys.sort_unstable();
        let mut records = Vec::with_capacity(keys.len() + self.mutables.len());
        for key in keys {
            let Some(entry) = self.refs.get(&key) else {
                continue;
            };
            let record = UsageRecord {
                id: entry.name.clone(),
                mutable: false,
                in_use: in_use.contains(&key),
                size: self.ref_size(entry, sizes, &mut counted),
                parents: self.parents(entry),
                created: entry.meta.created,
                last_used: entry.last_used,
                usage_count: entry.usage_count,
                description: entry.meta.description.clone(),
                record_type: entry.meta.record_type,
                shared: entry.images > 0,
            };
            records.push((Item::Ref(key), record));
        }
        let mut mutables: Vec<_> = self.mutables.iter().collect();
        mutables.sort_unstable_by_key(|(key, _)| **key);
        records.extend(
            mutables
                .into_iter()
                .map(|(key, entry)| (Item::Mutable(*key), self.mutable_record(entry))),
        );
        let held = self.held_record(sizes, &mut counted);
        records.extend(held.map(|record| (Item::Held, record)));
        records
    }

    /// The record of what is held for others, such as the logs of the history. It is on the disk like
    /// all else, and so counts for the caps; only its owners let go of it.
    fn held_record(&self, sizes: &Sizes, counted: &mut HashSet<Digest>) -> Option<UsageRecord> {
        let held = self.holds.values().flatten();
        let own: Vec<&Digest> = held.filter(|blob| counted.insert(**blob)).collect();
        let size = |blob: &&Digest| sizes.blobs.get(blob).copied();
        (!own.is_empty()).then(|| UsageRecord {
            id: HELD.to_owned(),
            mutable: false,
            in_use: true,
            size: own.iter().filter_map(size).sum(),
            parents: Vec::new(),
            created: SystemTime::UNIX_EPOCH,
            last_used: None,
            usage_count: 0,
            description: format!(
                "logs and traces of builds in the history ({})",
                self.holds.len()
            ),
            record_type: RecordType::Internal,
            shared: false,
        })
    }

    fn mutable_record(&self, entry: &MutableEntry) -> UsageRecord {
        UsageRecord {
            id: entry.name.clone(),
            mutable: true,
            in_use: !entry.is_idle(),
            size: self.mutable_size(entry),
            parents: self.owners_from_top(&entry.layers(), &[]),
            created: entry.meta.created,
            last_used: entry.last_used,
            usage_count: entry.usage_count,
            description: entry.meta.description.clone(),
            record_type: entry.meta.record_type,
            shared: false,
        }
    }

    /// The record of one item, or `None` if it is gone.
    pub(crate) fn record(&self, item: Item, sizes: &Sizes) -> Option<UsageRecord> {
        match item {
            Item::Ref(key) => {
                let entry = self.refs.get(&key)?;
                Some(UsageRecord {
                    id: entry.name.clone(),
                    mutable: false,
                    in_use: entry.uses > 0,
                    size: self.ref_size(entry, sizes, &mut HashSet::new()),
                    parents: self.parents(entry),
                    created: entry.meta.created,
                    last_used: entry.last_used,
                    usage_count: entry.usage_count,
                    description: entry.meta.description.clone(),
                    record_type: entry.meta.record_type,
                    shared: entry.images > 0,
                })
            }
            Item::Mutable(key) => self
                .mutables
                .get(&key)
                .map(|entry| self.mutable_record(entry)),
            Item::Held => None,
        }
    }

    /// What may be removed now.
    pub(crate) fn removable(&self, with_internal: bool) -> Vec<Item> {
        let hidden = |kind| matches!(kind, RecordType::Internal | RecordType::Frontend);
        let refs = self.refs.iter().filter(|(_, entry)| {
            self.is_idle(entry) && (with_internal || !hidden(entry.meta.record_type))
        });
        let mutables = self.mutables.iter().filter(|(_, entry)| {
            entry.is_idle() && (with_internal || !hidden(entry.meta.record_type))
        });
        refs.map(|(key, _)| Item::Ref(*key))
            .chain(mutables.map(|(key, _)| Item::Mutable(*key)))
            .collect()
    }

    fn mutable_size(&self, entry: &MutableEntry) -> u64 {
        let Dir::Own(layer) = entry.dir else { return 0 };
        match entry.in_use {
            Use::Exclusive | Use::Opening | Use::Shared(_) => 0,
            Use::Idle => {
                let family = self
                    .families
                    .get(&entry.key)
                    .and_then(|sizes| sizes.get(&layer));
                family.copied().or(entry.size).unwrap_or(0)
            }
        }
    }

    fn ref_size(&self, entry: &RefEntry, sizes: &Sizes, counted: &mut HashSet<Digest>) -> u64 {
        let mut total = 0;
        for layer in entry.own.iter().filter_map(|key| self.layers.get(key)) {
            if let Some(snapshot) = layer.layer.snapshot {
                let family = layer
                    .layer
                    .family
                    .as_ref()
                    .and_then(|family| self.families.get(family));
                let family = family.and_then(|sizes| sizes.get(&snapshot));
                total += family.copied().or(layer.size).unwrap_or(0);
                total += sizes.merged.get(&snapshot).copied().unwrap_or(0);
            }
            for blob in layer
                .layer
                .blobs
                .iter()
                .filter(|blob| counted.insert(blob.digest))
            {
                total += sizes.blobs.get(&blob.digest).copied().unwrap_or(0);
            }
        }
        total
    }

    /// The refs with handles, and those that they lie on.
    fn refs_in_use(&self) -> HashSet<RefKey> {
        let refs = self.refs.iter().filter(|(_, entry)| entry.uses > 0);
        let mut in_use: HashSet<RefKey> = refs.clone().map(|(key, _)| *key).collect();
        let stacks = refs.map(|(_, entry)| entry.layers.to_vec());
        let mutables = self.mutables.values().filter(|entry| !entry.is_idle());
        for layer in stacks.chain(mutables.map(MutableEntry::layers)).flatten() {
            in_use.extend(self.layers.get(&layer).map(|entry| entry.owner));
        }
        in_use
    }

    fn parents(&self, entry: &RefEntry) -> Vec<String> {
        self.owners_from_top(&entry.layers, &entry.own)
    }

    /// The names of the refs whose stacks make up `stack` without the layers `own`, topmost last.
    fn owners_from_top(&self, stack: &[LayerKey], own: &[LayerKey]) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut rest = stack;
        while let Some((top, below)) = rest.split_last() {
            rest = below;
            if own.contains(top) {
                continue;
            }
            let owner = self
                .layers
                .get(top)
                .and_then(|layer| self.refs.get(&layer.owner));
            let Some(owner) = owner else { continue };
            if !names.contains(&owner.name) {
                names.push(owner.name.clone());
            }
            // What is below a layer is mostly what was below it when it was made.
            let covered = [below, &[*top]].concat().ends_with(&owner.layers);
            if covered {
                rest = &stack[..below.len() + 1 - owner.layers.len()];
            }
        }
        names.reverse();
        names
    }
}
