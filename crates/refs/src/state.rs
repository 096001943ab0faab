//! The index of everything that is stored, in memory. It decides; it never acts.
//!
//! Invariants, checked by [`State::check`]:
//! * a layer is there exactly as long as the ref that brought it in, its owner;
//! * `LayerEntry::users` is the number of refs and mutable directories that have the layer;
//! * `State::blobs` counts the layers, images, holds and [`crate::KeptBlob`]s that name a blob;
//! * a ref without ids, users, images and children is gone.

mod images;
mod layers;
mod load;
mod mutable;
mod records;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use oci::Digest;
use snapshot::LayerId;

use crate::layer::{Layer, LayerKey};
use crate::record::{self, Change};
use crate::refs::{Meta, RecordType};

pub(crate) use images::ImageEntry;
pub(crate) use layers::NewLayer;
pub(crate) use load::Found;
pub(crate) use mutable::{Acquired, Dir, MutableEntry, MutableKey, Use};
pub(crate) use records::{Item, Sizes};

/// Names a ref in the index and the database. Several ids may name one, and an id may come to name
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RefKey(pub(crate) u64);

impl fmt::Display for RefKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) layers: HashMap<LayerKey, LayerEntry>,
    pub(crate) refs: HashMap<RefKey, RefEntry>,
    ids: HashMap<Digest, RefKey>,
    chains: HashMap<Digest, LayerKey>,
    images: BTreeMap<(String, String), ImageEntry>,
    pub(crate) mutables: HashMap<MutableKey, MutableEntry>,
    by_key: HashMap<String, Vec<MutableKey>>,
    holds: BTreeMap<String, Vec<Digest>>,
    blobs: HashMap<Digest, usize>,
    /// What the states of a local source take on the disk, as far as it is known.
    families: HashMap<String, HashMap<LayerId, u64>>,
    next: u64,
}

#[derive(Debug)]
pub(crate) struct LayerEntry {
    /// Replaced as a whole when something of it changes.
    pub(crate) layer: Arc<Layer>,
    pub(crate) owner: RefKey,
    pub(crate) users: usize,
    /// What its directory takes on the disk, once counted.
    pub(crate) size: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct RefEntry {
    pub(crate) name: String,
    pub(crate) layers: Arc<[LayerKey]>,
    /// The layers that it brought in.
    pub(crate) own: Vec<LayerKey>,
    pub(crate) ids: BTreeSet<Digest>,
    pub(crate) meta: Meta,
    /// How many handles of it there are.
    pub(crate) uses: usize,
    /// How many images are made of it.
    pub(crate) images: usize,
    pub(crate) last_used: Option<SystemTime>,
    pub(crate) usage_count: u64,
}

/// What follows from a change: to be carried out by whoever made it.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// To be recorded, in this order.
    pub(crate) changes: Vec<Change>,
    /// To be removed when the changes are durable.
    pub(crate) layers: Vec<LayerId>,
    /// To be removed when the changes are durable, unless somebody names them again by then.
    pub(crate) blobs: Vec<Digest>,
    /// Ids that no longer name anything.
    pub(crate) evicted: Vec<Digest>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The ref that `id` names.
    pub(crate) fn find(&self, id: &Digest) -> Option<RefKey> {
        self.ids.get(id).copied()
    }

    /// Adds a ref of `layers` (lowest first), of which `own` are new with it, under `id`.
    fn add_ref(
        &mut self,
        id: Digest,
        layers: Vec<LayerKey>,
        own: Vec<LayerKey>,
        meta: Meta,
        effects: &mut Effects,
    ) -> RefKey {
        let key = RefKey(self.number());
        let name = listing_name(&id, key.0);
        for layer in &own {
            if let Some(entry) = self.layers.get_mut(layer) {
                entry.owner = key;
            }
            self.record_layer(*layer, effects);
        }
        self.use_layers(&layers);
        let created = record::to_ns(meta.created);
        effects.changes.push(Change::PutRef(
            key.0,
            record::RefRecord {
                name: name.clone(),
                layers: layers.iter().map(|layer| layer.0).collect(),
                description: meta.description.clone(),
                record_type: meta.record_type.as_str().to_owned(),
                created,
            },
        ));
        self.refs.insert(
            key,
            RefEntry {
                name,
                layers: layers.into(),
                own,
                ids: BTreeSet::new(),
                meta,
                uses: 0,
                images: 0,
                last_used: None,
                usage_count: 0,
            },
        );
        // In use until the caller is done with it, so that naming it collects nothing of it.
        self.acquire(key);
        self.name(id, key, effects);
        key
    }

    /// Lets `id` name `key`, whatever it named before.
    pub(crate) fn name(&mut self, id: Digest, key: RefKey, effects: &mut Effects) {
        let Some(entry) = self.refs.get_mut(&key) else {
            return;
        };
        entry.ids.insert(id);
        effects.changes.push(Change::PutId(id, key.0));
        if let Some(before) = self.ids.insert(id, key).filter(|before| *before != key) {
            if let Some(entry) = self.refs.get_mut(&before) {
                entry.ids.remove(&id);
            }
            self.collect(before, effects);
        }
    }

    /// Lets nothing name `key` any more.
    pub(crate) fn unname(&mut self, key: RefKey, effects: &mut Effects) {
        let Some(entry) = self.refs.get_mut(&key) else {
            return;
        };
        for id in std::mem::take(&mut entry.ids) {
            self.ids.remove(&id);
            effects.changes.push(Change::DeleteId(id));
            effects.evicted.push(id);
        }
        self.collect(key, effects);
    }

    /// Lets `id` name nothing.
    pub(crate) fn forget(&mut self, id: &Digest, effects: &mut Effects) {
        let Some(key) = self.ids.remove(id) else {
            return;
        };
        if let Some(entry) = self.refs.get_mut(&key) {
            entry.ids.remove(id);
        }
        effects.changes.push(Change::DeleteId(*id));
        effects.evicted.push(*id);
        self.collect(key, effects);
    }

    /// One more handle.
    pub(crate) fn acquire(&mut self, key: RefKey) {
        if let Some(entry) = self.refs.get_mut(&key) {
            entry.uses += 1;
        }
    }

    /// One handle less.
    pub(crate) fn release(&mut self, key: RefKey, now: SystemTime, effects: &mut Effects) {
        let Some(entry) = self.refs.get_mut(&key) else {
            return;
        };
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        entry.usage_count += 1;
        entry.last_used = Some(now);
        effects.changes.push(Change::PutUsage(
            key.0,
            record::to_ns(now),
            entry.usage_count,
        ));
        self.collect(key, effects);
    }

    /// Whether something else has layers that `entry` brought in.
    pub(crate) fn has_children(&self, entry: &RefEntry) -> bool {
        let users = |layer| {
            self.layers
                .get(layer)
                .map_or(0, |layer: &LayerEntry| layer.users)
        };
        entry.own.iter().any(|layer| users(layer) > 1)
    }

    /// Whether a ref may be removed, if somebody wants it to be.
    pub(crate) fn is_idle(&self, entry: &RefEntry) -> bool {
        entry.uses == 0 && entry.images == 0 && !self.has_children(entry)
    }

    /// Removes `key` if nothing reaches it, and then whatever only it reached.
    fn collect(&mut self, key: RefKey, effects: &mut Effects) {
        let mut suspects = vec![key];
        while let Some(key) = suspects.pop() {
            let garbage = self
                .refs
                .get(&key)
                .is_some_and(|entry| entry.ids.is_empty() && self.is_idle(entry));
            if garbage {
                suspects.extend(self.remove_entry(key, effects));
            }
        }
    }

    /// Removes a ref that is idle, and then whatever only it reached.
    pub(crate) fn remove_ref(&mut self, key: RefKey, effects: &mut Effects) {
        for suspect in self.remove_entry(key, effects) {
            self.collect(suspect, effects);
        }
    }

    /// Removes a ref and the layers that only it has. Answers the refs that own the others.
    fn remove_entry(&mut self, key: RefKey, effects: &mut Effects) -> BTreeSet<RefKey> {
        let Some(entry) = self.refs.remove(&key) else {
            return BTreeSet::new();
        };
        for id in entry.ids {
            self.ids.remove(&id);
            effects.changes.push(Change::DeleteId(id));
            effects.evicted.push(id);
        }
        effects.changes.push(Change::DeleteRef(key.0));
        self.leave_layers(&entry.layers, effects)
    }

    /// Notes that ids were asked for.
    pub(crate) fn touch(&mut self, key: RefKey, now: SystemTime, effects: &mut Effects) {
        let Some(entry) = self.refs.get_mut(&key) else {
            return;
        };
        let fresh = |last: SystemTime| {
            now.duration_since(last)
                .is_ok_and(|since| since < crate::usage::TOUCH_PRECISION)
        };
        if entry.last_used.is_some_and(fresh) {
            return;
        }
        entry.last_used = Some(now);
        effects.changes.push(Change::PutUsage(
            key.0,
            record::to_ns(now),
            entry.usage_count,
        ));
    }

    /// One more that names the blob.
    pub(crate) fn use_blob(&mut self, blob: Digest) {
        *self.blobs.entry(blob).or_default() += 1;
    }

    /// One less that names the blob.
    pub(crate) fn leave_blob(&mut self, blob: Digest, effects: &mut Effects) {
        let Some(users) = self.blobs.get_mut(&blob) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            self.blobs.remove(&blob);
            effects.blobs.push(blob);
        }
    }

    /// Whether anything names the blob.
    pub(crate) fn has_blob(&self, blob: &Digest) -> bool {
        self.blobs.contains_key(blob)
    }

    /// Asserts the invariants above. For tests.
    pub(crate) fn check(&self) {
        let mut users: HashMap<LayerKey, usize> = HashMap::new();
        let stacks = self.refs.values().map(|entry| entry.layers.to_vec());
        let stacks = stacks.chain(self.mutables.values().map(MutableEntry::layers));
        stacks
            .flatten()
            .for_each(|layer| *users.entry(layer).or_default() += 1);
        for (key, entry) in &self.layers {
            assert_eq!(
                users.get(key).copied().unwrap_or(0),
                entry.users,
                "users of layer {key}"
            );
            let owner = self.refs.get(&entry.owner);
            assert!(
                owner.is_some_and(|owner| owner.own.contains(key)),
                "owner of layer {key}"
            );
        }
        assert_eq!(
            users.len(),
            self.layers.len(),
            "every layer of a stack is there"
        );
        for (key, entry) in &self.refs {
            let garbage = entry.ids.is_empty() && self.is_idle(entry);
            assert!(!garbage, "ref {key} is reachable");
            assert!(
                entry.ids.iter().all(|id| self.ids.get(id) == Some(key)),
                "ids of ref {key}"
            );
        }
        assert!(
            self.ids.values().all(|key| self.refs.contains_key(key)),
            "ids name refs"
        );
    }
}

/// A short name for listings, different for every record.
fn listing_name(id: &Digest, number: u64) -> String {
    let mut name = Digest::of(format!("{id} {number}")).hex();
    name.truncate(25);
    name
}

impl RecordType {
    /// As BuildKit writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            RecordType::Regular => "regular",
            RecordType::Internal => "internal",
            RecordType::Frontend => "frontend",
            RecordType::LocalSource => "source.local",
            RecordType::GitCheckout => "source.git.checkout",
            RecordType::CacheMount => "exec.cachemount",
        }
    }

    pub(crate) fn parse(text: &str) -> RecordType {
        match text {
            "internal" => RecordType::Internal,
            "frontend" => RecordType::Frontend,
            "source.local" => RecordType::LocalSource,
            "source.git.checkout" => RecordType::GitCheckout,
            "exec.cachemount" => RecordType::CacheMount,
            _ => RecordType::Regular,
        }
    }
}
