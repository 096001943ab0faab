//! Mutable directories in the index.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use snapshot::LayerId;

use super::{Effects, RefKey, State, listing_name};
use crate::layer::LayerKey;
use crate::mutable::{InUse, Sharing};
use crate::record::{self, Change, DirRecord, MutableRecord};
use crate::refs::Meta;

/// Names a mutable directory in the index and the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MutableKey(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct MutableEntry {
    pub(crate) key: String,
    pub(crate) name: String,
    /// The layers that it lies on, lowest first.
    pub(crate) base: Vec<LayerKey>,
    pub(crate) dir: Dir,
    pub(crate) meta: Meta,
    pub(crate) last_used: Option<SystemTime>,
    pub(crate) usage_count: u64,
    pub(crate) in_use: Use,
    /// What it takes on the disk, once counted since it was last used.
    pub(crate) size: Option<u64>,
    /// Its key no longer finds it: it goes when it is no longer in use.
    pub(crate) detached: bool,
}

/// Where the files of a mutable directory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dir {
    /// In a directory of its own.
    Own(LayerId),
    /// They are those of a layer, until they are next changed.
    Frozen(LayerKey),
}

/// Who is in a mutable directory.
#[derive(Debug)]
pub(crate) enum Use {
    Idle,
    /// One user and no other.
    Exclusive,
    /// Being opened by the first of those who will share it.
    Opening,
    /// Any number of users, through one handle.
    Shared(Weak<InUse>),
}

/// What comes of wanting a mutable directory.
#[derive(Debug)]
pub(crate) enum Acquired {
    /// This one, idle before, is now in use.
    Taken(MutableKey),
    /// This one is in use by others who share it.
    Joined(Arc<InUse>),
    /// None fits: a new one is to be made.
    Create,
    /// It must first be given back.
    Wait,
}

impl Use {
    /// Of whoever just took a directory.
    fn by(sharing: Sharing) -> Use {
        match sharing {
            Sharing::Shared => Use::Opening,
            Sharing::Private | Sharing::Locked => Use::Exclusive,
        }
    }
}

impl MutableEntry {
    /// The layers that it keeps.
    pub(crate) fn layers(&self) -> Vec<LayerKey> {
        let frozen = match self.dir {
            Dir::Own(_) => None,
            Dir::Frozen(layer) => Some(layer),
        };
        self.base.iter().copied().chain(frozen).collect()
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.in_use, Use::Idle)
    }
}

impl State {
    /// Finds the directory that somebody gets who wants one of that key.
    pub(crate) fn acquire_mutable(
        &mut self,
        key: &str,
        base: &[LayerKey],
        sharing: Sharing,
    ) -> Acquired {
        let mut busy = false;
        for candidate in self.by_key.get(key).into_iter().flatten() {
            let Some(entry) = self.mutables.get_mut(candidate) else {
                continue;
            };
            if entry.base != base {
                continue;
            }
            match (&entry.in_use, sharing) {
                (Use::Idle, _) => {
                    entry.in_use = Use::by(sharing);
                    entry.size = None;
                    return Acquired::Taken(*candidate);
                }
                (Use::Shared(users), Sharing::Shared) => match users.upgrade() {
                    Some(users) => return Acquired::Joined(users),
                    // It is being given back this moment.
                    None => return Acquired::Wait,
                },
                (Use::Opening, Sharing::Shared) => return Acquired::Wait,
                (Use::Exclusive | Use::Opening | Use::Shared(_), _) => busy = true,
            }
        }
        if busy && sharing == Sharing::Locked {
            Acquired::Wait
        } else {
            Acquired::Create
        }
    }

    /// Adds a directory that is in use by whoever made it.
    pub(crate) fn add_mutable(
        &mut self,
        key: &str,
        base: Vec<LayerKey>,
        layer: LayerId,
        sharing: Sharing,
        meta: Meta,
        effects: &mut Effects,
    ) -> MutableKey {
        let number = self.number();
        let id = oci::Digest::of(key);
        self.use_layers(&base);
        let entry = MutableEntry {
            key: key.to_owned(),
            name: listing_name(&id, number),
            base,
            dir: Dir::Own(layer),
            meta,
            last_used: None,
            usage_count: 0,
            in_use: Use::by(sharing),
            size: None,
            detached: false,
        };
        let number = MutableKey(number);
        self.by_key.entry(key.to_owned()).or_default().push(number);
        self.mutables.insert(number, entry);
        self.record_mutable(number, effects);
        number
    }

    /// Gives a directory back.
    pub(crate) fn release_mutable(
        &mut self,
        key: MutableKey,
        now: SystemTime,
        effects: &mut Effects,
    ) {
        let Some(entry) = self.mutables.get_mut(&key) else {
            return;
        };
        entry.in_use = Use::Idle;
        entry.size = None;
        entry.last_used = Some(now);
        entry.usage_count += 1;
        let family = entry.key.clone();
        let detached = entry.detached;
        self.families.remove(&family);
        if detached {
            self.remove_mutable(key, effects);
        } else {
            self.record_mutable(key, effects);
        }
    }

    /// Changes where the files of a directory are, and answers where they were.
    pub(crate) fn move_mutable(&mut self, key: MutableKey, dir: Dir, effects: &mut Effects) {
        let Some(entry) = self.mutables.get_mut(&key) else {
            return;
        };
        let before = std::mem::replace(&mut entry.dir, dir);
        entry.size = None;
        let family = entry.key.clone();
        self.families.remove(&family);
        if let Dir::Frozen(layer) = dir {
            self.use_layers(&[layer]);
        }
        self.record_mutable(key, effects);
        if let Dir::Frozen(layer) = before {
            self.leave_and_collect(&[layer], effects);
        }
    }

    /// The files of a directory are now those of `layer`; its own directory became that layer.
    pub(crate) fn freeze_mutable(
        &mut self,
        key: MutableKey,
        layer: LayerKey,
        effects: &mut Effects,
    ) {
        self.move_mutable(key, Dir::Frozen(layer), effects);
    }

    /// Makes the files of a frozen directory its own again, under the number `to`, and removes the ref
    /// that they were frozen to. Answers the number under which they still are; `None` if somebody
    /// else has the ref or its layer, or the directory is not frozen.
    pub(crate) fn take_back(
        &mut self,
        key: MutableKey,
        to: LayerId,
        effects: &mut Effects,
    ) -> Option<LayerId> {
        let Dir::Frozen(layer) = self.mutables.get(&key)?.dir else {
            return None;
        };
        let entry = self.layers.get_mut(&layer)?;
        let owner = entry.owner;
        // The ref itself and this directory.
        let has_others = entry.users > 2;
        let state = self.refs.get(&owner)?;
        if has_others || state.uses > 0 || state.images > 0 || *state.layers != [layer] {
            return None;
        }
        // What is not the layer's any more is not removed with it.
        let from = Arc::make_mut(&mut entry.layer).snapshot.take()?;
        self.move_mutable(key, Dir::Own(to), effects);
        self.remove_ref(owner, effects);
        Some(from)
    }

    /// Lets its key no longer find a directory, which goes when it is given back.
    pub(crate) fn detach_mutable(&mut self, key: MutableKey, effects: &mut Effects) {
        let Some(entry) = self.mutables.get_mut(&key) else {
            return;
        };
        entry.detached = true;
        let name = entry.key.clone();
        // From the records it goes at once: after a crash nobody is in it.
        effects.changes.push(Change::DeleteMutable(key.0));
        self.unlist_mutable(&name, key);
    }

    /// Lets the key find none of its directories any more.
    pub(crate) fn detach_mutables(&mut self, key: &str, effects: &mut Effects) {
        for found in self.by_key.get(key).cloned().unwrap_or_default() {
            self.detach_mutable(found, effects);
            if self.mutables.get(&found).is_some_and(MutableEntry::is_idle) {
                self.remove_mutable(found, effects);
            }
        }
    }

    /// Removes a directory that nobody is in.
    pub(crate) fn remove_mutable(&mut self, key: MutableKey, effects: &mut Effects) {
        let Some(entry) = self.mutables.remove(&key) else {
            return;
        };
        self.unlist_mutable(&entry.key, key);
        self.families.remove(&entry.key);
        effects.changes.push(Change::DeleteMutable(key.0));
        if let Dir::Own(layer) = entry.dir {
            effects.layers.push(layer);
        }
        self.leave_and_collect(&entry.layers(), effects);
    }

    fn leave_and_collect(&mut self, layers: &[LayerKey], effects: &mut Effects) {
        let owners: Vec<RefKey> = self.leave_layers(layers, effects).into_iter().collect();
        for owner in owners {
            self.collect(owner, effects);
        }
    }

    fn unlist_mutable(&mut self, name: &str, key: MutableKey) {
        if let Some(keys) = self.by_key.get_mut(name) {
            keys.retain(|known| *known != key);
            if keys.is_empty() {
                self.by_key.remove(name);
            }
        }
    }

    /// The refs that are states of the local source `family`, newest first.
    pub(crate) fn states_of(&self, family: &str) -> Vec<RefKey> {
        let is_state = |entry: &super::LayerEntry| entry.layer.family.as_deref() == Some(family);
        let mut states: Vec<RefKey> = self
            .layers
            .values()
            .filter(|entry| is_state(entry))
            .map(|entry| entry.owner)
            .collect();
        states.sort_unstable_by(|a, b| b.cmp(a));
        states
    }

    pub(super) fn record_mutable(&self, key: MutableKey, effects: &mut Effects) {
        let Some(entry) = self.mutables.get(&key) else {
            return;
        };
        if entry.detached {
            return;
        }
        let record = MutableRecord {
            key: entry.key.clone(),
            name: entry.name.clone(),
            base: entry.base.iter().map(|layer| layer.0).collect(),
            dir: match entry.dir {
                Dir::Own(layer) => DirRecord::Own(layer.0),
                Dir::Frozen(layer) => DirRecord::Frozen(layer.0),
            },
            description: entry.meta.description.clone(),
            record_type: entry.meta.record_type.as_str().to_owned(),
            created: record::to_ns(entry.meta.created),
            last_used: entry.last_used.map_or(0, record::to_ns),
            usage_count: entry.usage_count,
        };
        effects
            .changes
            .push(Change::PutMutable(key.0, Box::new(record)));
    }
}
