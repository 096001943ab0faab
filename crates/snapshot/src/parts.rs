//! Layers that are kept as a change of another layer.
//!
//! A layer that hardly differs from one that is there already, on top of the same stack, need not be
//! written whole: its directory has what differs, the file `over` beside it names the other layer,
//! and a mount shows the one on top of the other. That other layer's directory stays as long as
//! there is a change of it, also when the layer itself was removed.
//!
//! Neither of the two has deletions in it, so that both together are no more than their files.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::LayerId;
use crate::trash::Trash;
use crate::usage::{Counter, Shared, Usage};

/// Names the layer that a layer is a change of.
const OVER: &str = "over";

/// Which layers are changes of which.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// For each change the layer below it.
    over: HashMap<LayerId, LayerId>,
    /// The layers of which there are changes.
    below: HashMap<LayerId, Below>,
}

#[derive(Debug, Default)]
struct Below {
    changes: Vec<LayerId>,
    /// The layer was removed but for its directory, which takes so much.
    removed: Option<Usage>,
}

impl Parts {
    /// Reads which of `layers` are changes of which. One whose other half is not there goes.
    pub(crate) fn load(root: &Path, layers: &mut Vec<LayerId>, trash: &Trash) -> io::Result<Parts> {
        let parts = Parts::default();
        let mut broken = Vec::new();
        for layer in layers.iter() {
            let text = match fs::read(file(root, *layer)) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let number = std::str::from_utf8(&text)
                .ok()
                .and_then(|text| text.parse().ok());
            match number.map(LayerId) {
                Some(over) if layers.contains(&over) => parts.add(*layer, over),
                Some(_) | None => broken.push(*layer),
            }
        }
        for layer in broken {
            tracing::warn!(%layer, "the layer that a layer is a change of is not there; both go");
            trash.take(&root.join(layer.to_string()))?;
            layers.retain(|kept| *kept != layer);
        }
        Ok(parts)
    }

    /// Takes note, also on the disk, that `layer` is a change of `over`.
    pub(crate) fn note(&self, root: &Path, layer: LayerId, over: LayerId) -> io::Result<()> {
        fs::write(file(root, layer), over.to_string())?;
        self.add(layer, over);
        Ok(())
    }

    fn add(&self, layer: LayerId, over: LayerId) {
        let mut state = self.state();
        state.over.insert(layer, over);
        state.below.entry(over).or_default().changes.push(layer);
    }

    /// What `layer` is a change of.
    pub(crate) fn over(&self, layer: LayerId) -> Option<LayerId> {
        self.state().over.get(&layer).copied()
    }

    /// The layers whose directories make up `layers`, lowest first, each once.
    pub(crate) fn all(&self, layers: &[LayerId]) -> Vec<LayerId> {
        let state = self.state();
        if state.over.is_empty() {
            return layers.to_vec();
        }
        let parts = |layer: &LayerId| [Some(*layer), state.over.get(layer).copied()];
        // A stack may have a layer and a change of it further up, or two changes of one. The kernel
        // takes no directory twice; nothing of one shows that comes again above.
        let mut seen = HashSet::new();
        let from_top = layers.iter().rev().flat_map(parts).flatten();
        let mut all: Vec<_> = from_top.filter(|layer| seen.insert(*layer)).collect();
        all.reverse();
        all
    }

    /// Whether the directory of a layer that is removed has to stay for now.
    pub(crate) fn keep(&self, root: &Path, layer: LayerId) -> bool {
        if !self.state().below.contains_key(&layer) {
            return false;
        }
        // It takes a while, and somebody may let go of the last change meanwhile.
        let counted = Counter::default().tree(&root.join(layer.to_string()), Shared::Counted);
        match self.state().below.get_mut(&layer) {
            Some(below) => {
                below.removed = Some(counted.unwrap_or_default());
                true
            }
            None => false,
        }
    }

    /// Forgets a layer that goes. Answers the layer below it if that was waiting for this.
    pub(crate) fn forget(&self, layer: LayerId) -> Option<LayerId> {
        let mut state = self.state();
        let over = state.over.remove(&layer)?;
        let below = state.below.get_mut(&over)?;
        below.changes.retain(|change| *change != layer);
        if !below.changes.is_empty() {
            return None;
        }
        let below = state.below.remove(&over)?;
        below.removed.is_some().then_some(over)
    }

    /// What `layer` takes beside its own directory: that of a removed layer which it is the first
    /// change of.
    pub(crate) fn usage(&self, layer: LayerId) -> Usage {
        let state = self.state();
        let below = state
            .over
            .get(&layer)
            .and_then(|over| state.below.get(over));
        below
            .filter(|below| below.changes.first() == Some(&layer))
            .and_then(|below| below.removed)
            .unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file(root: &Path, layer: LayerId) -> PathBuf {
    root.join(layer.to_string()).join(OVER)
}
