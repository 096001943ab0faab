//! A ref in use.

use std::fmt;
use std::sync::Arc;

use oci::Digest;
use snapshot::LayerId;

use crate::layer::{Layer, LayerKey};
use crate::refs::{Inner, Meta};
use crate::state::RefKey;

/// A stored filesystem. It stays as long as this handle, or a clone of it, does.
#[derive(Clone)]
pub struct Ref {
    guard: Arc<Guard>,
}

struct Guard {
    inner: Arc<Inner>,
    key: RefKey,
    id: Digest,
    layers: Arc<[LayerKey]>,
}

impl Ref {
    pub(crate) fn new(inner: Arc<Inner>, key: RefKey, id: Digest, layers: Arc<[LayerKey]>) -> Ref {
        Ref {
            guard: Arc::new(Guard {
                inner,
                key,
                id,
                layers,
            }),
        }
    }

    /// The id that it was found or made under.
    pub fn id(&self) -> Digest {
        self.guard.id
    }

    /// The names of its layers, lowest first.
    pub fn keys(&self) -> Vec<LayerKey> {
        self.guard.layers.to_vec()
    }

    /// What is known of its layers now, lowest first.
    pub fn layers(&self) -> Vec<Arc<Layer>> {
        let state = self.guard.inner.state();
        let layer = |key| state.layers.get(key).map(|entry| Arc::clone(&entry.layer));
        self.guard.layers.iter().filter_map(layer).collect()
    }

    /// The directories of its layers, lowest first; `None` while a layer is lazy.
    pub fn snapshots(&self) -> Option<Vec<LayerId>> {
        let state = self.guard.inner.state();
        let snapshot = |key| state.layers.get(key).and_then(|entry| entry.layer.snapshot);
        self.guard.layers.iter().map(snapshot).collect()
    }

    /// What is told of it in listings.
    pub fn meta(&self) -> Option<Meta> {
        self.guard
            .inner
            .state()
            .refs
            .get(&self.guard.key)
            .map(|entry| entry.meta.clone())
    }

    /// Whether `other` is a handle of the same ref, under whatever id.
    pub fn is_same(&self, other: &Ref) -> bool {
        self.guard.key == other.guard.key
    }

    pub(crate) fn key(&self) -> RefKey {
        self.guard.key
    }
}

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ref")
            .field("id", &self.guard.id)
            .field("layers", &self.guard.layers)
            .finish()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let now = self.inner.now();
        self.inner
            .change(|state, effects| state.release(self.key, now, effects));
    }
}
