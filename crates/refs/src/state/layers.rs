//! Layers in the index.

use std::collections::BTreeSet;
use std::sync::Arc;

use oci::{Descriptor, Digest};
use snapshot::LayerId;

use super::{Effects, LayerEntry, RefKey, State};
use crate::layer::{Layer, LayerKey, LayerSource};
use crate::record::{Change, LayerRecord, SourceRecord};
use crate::refs::Meta;

/// A layer that a new ref is to have.
#[derive(Debug)]
pub(crate) enum NewLayer {
    Existing(LayerKey),
    Lazy {
        diff_id: Digest,
        source: Box<LayerSource>,
    },
    Here {
        snapshot: LayerId,
        family: Option<String>,
    },
}

impl State {
    /// Adds a ref of `layers`, lowest first, under `id`; it is in use. `Err` names a layer that is not
    /// there.
    pub(crate) fn put(
        &mut self,
        id: Digest,
        layers: Vec<NewLayer>,
        meta: Meta,
        effects: &mut Effects,
    ) -> Result<RefKey, LayerKey> {
        for layer in &layers {
            if let NewLayer::Existing(key) = layer
                && !self.layers.contains_key(key)
            {
                return Err(*key);
            }
        }
        let mut stack = Vec::with_capacity(layers.len());
        let mut own = Vec::new();
        // The chain is followed as long as all layers from the bottom are those of an image.
        let mut chain = Some(None);
        for layer in layers {
            let key = self.place(layer, &mut chain, &mut own, effects);
            stack.push(key);
        }
        keep_last(&mut stack);
        Ok(self.add_ref(id, stack, own, meta, effects))
    }

    /// Finds or makes the layer. `chain` is the chain id of what is below it: `Some(None)` for
    /// nothing, `None` where it is not known.
    fn place(
        &mut self,
        layer: NewLayer,
        chain: &mut Option<Option<Digest>>,
        own: &mut Vec<LayerKey>,
        effects: &mut Effects,
    ) -> LayerKey {
        match layer {
            NewLayer::Existing(key) => {
                let layer = self.layers.get(&key).map(|entry| Arc::clone(&entry.layer));
                let diff_id = layer.as_ref().and_then(|layer| layer.diff_id);
                let next = chain
                    .zip(diff_id)
                    .map(|(below, diff_id)| chain_id(below, diff_id));
                let same =
                    next.filter(|next| layer.and_then(|layer| layer.chain_id) == Some(*next));
                *chain = same.map(Some);
                key
            }
            NewLayer::Lazy { diff_id, source } => {
                let next = chain.map(|below| chain_id(below, diff_id));
                *chain = next.map(Some);
                // A layer of another image is the same only on top of the same layers: a tar may
                // leave out directories, which then are as they are below it.
                if let Some(key) = next.and_then(|next| self.chains.get(&next).copied()) {
                    self.add_source(key, *source, effects);
                    return key;
                }
                let key = LayerKey(self.number());
                let layer = Layer {
                    key,
                    snapshot: None,
                    diff_id: Some(diff_id),
                    blobs: Vec::new(),
                    sources: vec![*source],
                    chain_id: next,
                    family: None,
                };
                self.chains.extend(next.map(|next| (next, key)));
                self.insert_layer(layer, own)
            }
            NewLayer::Here { snapshot, family } => {
                *chain = None;
                let key = LayerKey(self.number());
                let layer = Layer {
                    key,
                    snapshot: Some(snapshot),
                    diff_id: None,
                    blobs: Vec::new(),
                    sources: Vec::new(),
                    chain_id: None,
                    family,
                };
                self.insert_layer(layer, own)
            }
        }
    }

    fn insert_layer(&mut self, layer: Layer, own: &mut Vec<LayerKey>) -> LayerKey {
        let key = layer.key;
        // The owner is set when the ref has a key.
        let entry = LayerEntry {
            layer: Arc::new(layer),
            owner: RefKey(0),
            users: 0,
            size: None,
        };
        self.layers.insert(key, entry);
        own.push(key);
        key
    }

    /// One more that has `layers`.
    pub(crate) fn use_layers(&mut self, layers: &[LayerKey]) {
        for layer in layers {
            if let Some(entry) = self.layers.get_mut(layer) {
                entry.users += 1;
            }
        }
    }

    /// One less that has `layers`. Answers the owners of those that stay.
    pub(crate) fn leave_layers(
        &mut self,
        layers: &[LayerKey],
        effects: &mut Effects,
    ) -> BTreeSet<RefKey> {
        let mut owners = BTreeSet::new();
        for key in layers {
            let Some(entry) = self.layers.get_mut(key) else {
                continue;
            };
            entry.users -= 1;
            if entry.users > 0 {
                owners.insert(entry.owner);
                continue;
            }
            if let Some(entry) = self.layers.remove(key) {
                self.drop_layer(&entry.layer, effects);
            }
        }
        owners
    }

    fn drop_layer(&mut self, layer: &Layer, effects: &mut Effects) {
        effects.changes.push(Change::DeleteLayer(layer.key.0));
        effects.layers.extend(layer.snapshot);
        if let Some(chain) = layer
            .chain_id
            .filter(|chain| self.chains.get(chain) == Some(&layer.key))
        {
            self.chains.remove(&chain);
        }
        if let Some(family) = &layer.family {
            self.families.remove(family);
        }
        for blob in &layer.blobs {
            self.leave_blob(blob.digest, effects);
        }
    }

    /// Notes that the files of a lazy layer are in `snapshot` now. `false` if they were here before,
    /// or the layer is gone: the snapshot is not wanted then.
    pub(crate) fn materialize(
        &mut self,
        key: LayerKey,
        snapshot: LayerId,
        effects: &mut Effects,
    ) -> bool {
        self.change_layer(key, effects, |layer| {
            let lazy = layer.snapshot.is_none();
            if lazy {
                layer.snapshot = Some(snapshot);
            }
            lazy
        })
    }

    /// Notes a tar of a layer that is in the content store.
    pub(crate) fn add_blob(
        &mut self,
        key: LayerKey,
        diff_id: Digest,
        blob: Descriptor,
        effects: &mut Effects,
    ) {
        let digest = blob.digest;
        let added = self.change_layer(key, effects, |layer| {
            let known = layer.blobs.iter().any(|known| known.digest == digest);
            if known && layer.diff_id.is_some() {
                return false;
            }
            layer.diff_id.get_or_insert(diff_id);
            if !known {
                layer.blobs.push(blob);
            }
            !known
        });
        if added {
            self.use_blob(digest);
        }
    }

    /// Notes the digest of the uncompressed tar of a layer.
    pub(crate) fn set_diff_id(&mut self, key: LayerKey, diff_id: Digest, effects: &mut Effects) {
        self.change_layer(key, effects, |layer| {
            let unknown = layer.diff_id.is_none();
            layer.diff_id.get_or_insert(diff_id);
            unknown
        });
    }

    /// Notes a place that has the tar of a layer.
    pub(crate) fn add_source(&mut self, key: LayerKey, source: LayerSource, effects: &mut Effects) {
        self.change_layer(key, effects, |layer| {
            let known = layer.sources.contains(&source);
            if !known {
                layer.sources.push(source);
            }
            !known
        });
    }

    /// Changes a layer and records it if `change` says that it did.
    fn change_layer(
        &mut self,
        key: LayerKey,
        effects: &mut Effects,
        change: impl FnOnce(&mut Layer) -> bool,
    ) -> bool {
        let Some(entry) = self.layers.get_mut(&key) else {
            return false;
        };
        let changed = change(Arc::make_mut(&mut entry.layer));
        if changed {
            self.record_layer(key, effects);
        }
        changed
    }

    pub(super) fn record_layer(&self, key: LayerKey, effects: &mut Effects) {
        let Some(entry) = self.layers.get(&key) else {
            return;
        };
        let layer = &entry.layer;
        let source = |source: &LayerSource| SourceRecord {
            descriptor: source.descriptor.clone(),
            provider: source.provider.clone(),
        };
        let record = LayerRecord {
            snapshot: layer.snapshot.map(|snapshot| snapshot.0),
            diff_id: layer.diff_id,
            chain_id: layer.chain_id,
            blobs: layer.blobs.clone(),
            sources: layer.sources.iter().map(source).collect(),
            owner: entry.owner.0,
            size: entry.size,
            family: layer.family.clone(),
        };
        effects
            .changes
            .push(Change::PutLayer(key.0, Box::new(record)));
    }
}

/// The OCI chain id of a tar on top of a chain.
fn chain_id(below: Option<Digest>, diff_id: Digest) -> Digest {
    match below {
        None => diff_id,
        Some(below) => Digest::of(format!("{below} {diff_id}")),
    }
}

/// Of a layer that is in the stack several times only the topmost matters: it gives and hides all
/// that those below it do. The kernel refuses such a stack.
fn keep_last(stack: &mut Vec<LayerKey>) {
    let mut seen = BTreeSet::new();
    stack.reverse();
    stack.retain(|layer| seen.insert(*layer));
    stack.reverse();
}
