//! Deep stacks made shallow.
//!
//! The kernel searches a stack layer by layer, so every lookup costs its depth, and it takes at most
//! 500 layers. From a stack that is deeper than [`DEEPEST`], groups of [`GROUP`] consecutive layers,
//! counted from the bottom, are each merged once into one directory of hard links. As groups are
//! aligned to the bottom, all stacks that grow from one share them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::thread;

use crate::error::MountError;
use crate::merge::{Form, merge};
use crate::store::{LayerId, layer_fs};
use crate::trash::Trash;
use crate::tree;
use crate::usage::{Counter, Shared, Usage};

/// A stack up to this depth is mounted as it is.
pub(crate) const DEEPEST: usize = 64;

/// How many layers are merged into one.
pub(crate) const GROUP: usize = 32;

/// While groups are being merged in the background, a stack may be mounted this deep rather than
/// wait for them.
const DEEPEST_UNMERGED: usize = DEEPEST + GROUP;

/// Layers, lowest first.
type Key = Arc<[LayerId]>;

/// Directories that stand for several layers each.
#[derive(Debug)]
pub(crate) struct Groups {
    root: PathBuf,
    dir: PathBuf,
    form: Form,
    trash: Arc<Trash>,
    state: Mutex<State>,
    queue: mpsc::Sender<Key>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    groups: HashMap<Key, Arc<Group>>,
    by_layer: HashMap<LayerId, Vec<Key>>,
}

#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// Set when the directory is complete.
    ready: OnceLock<()>,
    building: Mutex<()>,
    usage: OnceLock<Usage>,
}

impl Groups {
    /// For the layers in `root`. What an earlier process merged is thrown away: whether all of it
    /// reached the disk is not known, and making it again is cheap.
    pub(crate) fn open(root: PathBuf, form: Form, trash: Arc<Trash>) -> io::Result<Arc<Groups>> {
        let dir = root.join("merged");
        if dir.try_exists()? {
            trash.take(&dir)?;
        }
        fs::create_dir(&dir)?;
        let (queue, requests) = mpsc::channel::<Key>();
        let state = Mutex::default();
        let groups = Arc::new(Groups {
            root,
            dir,
            form,
            trash,
            state,
            queue,
        });
        let weak = Arc::downgrade(&groups);
        thread::Builder::new()
            .name("snapshot-merge".into())
            .spawn(move || serve(&weak, &requests))?;
        Ok(groups)
    }

    /// The directories to mount for a stack of `layers`, lowest first.
    pub(crate) fn lower(&self, layers: &[LayerId]) -> Result<Vec<PathBuf>, MountError> {
        let mut spans: Vec<Range<usize>> = (0..layers.len()).map(|at| at..at + 1).collect();
        let mut wait = false;
        while spans.len() > DEEPEST {
            let folded = fold(&spans);
            let missing: Vec<_> = folded
                .iter()
                .filter(|span| !self.is_ready(&layers[(*span).clone()]))
                .collect();
            let unmerged = folded.len() + missing.len() * (GROUP - 1);
            if !wait && unmerged <= DEEPEST_UNMERGED && !missing.is_empty() {
                missing
                    .iter()
                    .for_each(|span| self.request(&layers[(*span).clone()]));
                let missing: Vec<_> = missing.into_iter().cloned().collect();
                let unfold = |span: Range<usize>| -> Vec<Range<usize>> {
                    if missing.contains(&span) {
                        span.map(|at| at..at + 1).collect()
                    } else {
                        vec![span]
                    }
                };
                spans = folded.into_iter().flat_map(unfold).collect();
                break;
            }
            wait = true;
            spans = folded;
        }
        spans
            .into_iter()
            .map(|span| self.path(&layers[span]))
            .collect()
    }

    /// The directory that stands for all `layers` together, made now if need be.
    pub(crate) fn path(&self, layers: &[LayerId]) -> Result<PathBuf, MountError> {
        match layers {
            [layer] if self.form == Form::Overlay => Ok(layer_fs(&self.root, *layer)),
            _ => self.merged(layers).map_err(|source| MountError::Merge {
                first: layers.first().copied().unwrap_or(LayerId(0)),
                count: layers.len(),
                source,
            }),
        }
    }

    /// Tells that a stack ends with the group `layers`: it will be wanted when the stack grows.
    pub(crate) fn request(&self, layers: &[LayerId]) {
        if !self.is_ready(layers) {
            // The thread ends only with this object.
            let _ = self.queue.send(layers.into());
        }
    }

    /// Forgets all groups with `layer` in them.
    pub(crate) fn forget(&self, layer: LayerId) {
        let mut gone = Vec::new();
        let mut state = self.state();
        for key in state.by_layer.remove(&layer).unwrap_or_default() {
            gone.extend(state.groups.remove(&key));
            for other in key.iter() {
                if let Some(keys) = state.by_layer.get_mut(other) {
                    keys.retain(|kept| *kept != key);
                }
            }
        }
        drop(state);
        gone.iter().for_each(|group| self.discard(group));
    }

    /// What the groups whose topmost layer is `layer` take on the disk. Their files belong to the
    /// layers; only the directories count.
    pub(crate) fn usage(&self, layer: LayerId) -> Usage {
        let groups: Vec<Arc<Group>> = {
            let state = self.state();
            let keys = state.by_layer.get(&layer).into_iter().flatten();
            let keys = keys.filter(|key| key.last() == Some(&layer));
            keys.filter_map(|key| state.groups.get(key))
                .map(Arc::clone)
                .collect()
        };
        let mut usage = Usage::default();
        for group in groups.iter().filter(|group| group.ready.get().is_some()) {
            // It may be removed while it is counted.
            let count = || {
                Counter::default()
                    .tree(&group.path, Shared::Skipped)
                    .unwrap_or_default()
            };
            let counted = group.usage.get_or_init(count);
            usage.bytes += counted.bytes;
            usage.inodes += counted.inodes;
        }
        usage
    }

    fn is_ready(&self, layers: &[LayerId]) -> bool {
        (layers.len() == 1 && self.form == Form::Overlay)
            || self
                .state()
                .groups
                .get(layers)
                .is_some_and(|group| group.ready.get().is_some())
    }

    fn merged(&self, layers: &[LayerId]) -> io::Result<PathBuf> {
        let group = self.entry(layers);
        let building = group
            .building
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if group.ready.get().is_none() {
            self.build(layers, &group)?;
        }
        drop(building);
        Ok(group.path.clone())
    }

    /// The group of `layers`, registered if it was not.
    fn entry(&self, layers: &[LayerId]) -> Arc<Group> {
        let mut state = self.state();
        if let Some(group) = state.groups.get(layers) {
            return Arc::clone(group);
        }
        let key: Key = layers.into();
        state.next += 1;
        let path = self.dir.join(state.next.to_string());
        let group = Arc::new(Group {
            path,
            ready: OnceLock::new(),
            building: Mutex::default(),
            usage: OnceLock::new(),
        });
        state.groups.insert(Arc::clone(&key), Arc::clone(&group));
        for layer in layers {
            state
                .by_layer
                .entry(*layer)
                .or_default()
                .push(Arc::clone(&key));
        }
        group
    }

    fn build(&self, layers: &[LayerId], group: &Arc<Group>) -> io::Result<()> {
        let built = self.fill(layers, &group.path);
        if built.is_err() {
            self.discard(group);
            return built;
        }
        let _ = group.ready.set(());
        let current = self
            .state()
            .groups
            .get(layers)
            .is_some_and(|known| Arc::ptr_eq(known, group));
        if !current {
            // One of the layers was removed meanwhile.
            self.discard(group);
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    }

    fn fill(&self, layers: &[LayerId], path: &Path) -> io::Result<()> {
        let sources = layers
            .iter()
            .map(|layer| tree::open_root(&layer_fs(&self.root, *layer)))
            .collect::<io::Result<Vec<_>>>()?;
        fs::create_dir(path)?;
        merge(&sources, &tree::open_root(path)?, self.form)
    }

    fn discard(&self, group: &Group) {
        if let Err(error) = self.trash.take(&group.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %group.path.display(), %error, "failed to remove merged layers");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Joins every full group of consecutive spans; the rest at the top stays as it is.
fn fold(spans: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut folded = Vec::with_capacity(spans.len() / GROUP + GROUP);
    for group in spans.chunks(GROUP) {
        match group {
            [first, .., last] if group.len() == GROUP => folded.push(first.start..last.end),
            rest => folded.extend_from_slice(rest),
        }
    }
    folded
}

fn serve(groups: &Weak<Groups>, requests: &mpsc::Receiver<Key>) {
    for key in requests {
        let Some(groups) = groups.upgrade() else {
            return;
        };
        if let Err(error) = groups.merged(&key) {
            tracing::debug!(layers = key.len(), %error, "could not merge layers ahead of need");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_groups_are_joined_from_the_bottom() {
        let spans = |count: usize| (0..count).map(|at| at..at + 1).collect::<Vec<_>>();
        assert_eq!(fold(&spans(31)).len(), 31);
        assert_eq!(fold(&spans(65)), [0..32, 32..64, 64..65]);
        assert_eq!(fold(&fold(&spans(32 * 32 + 1))), [0..1024, 1024..1025]);
    }
}
