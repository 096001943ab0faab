//! What a job needs until it is done.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::Digest;

use crate::blob::KeptBlob;
use crate::handle::Ref;
use crate::refs::{Inner, Refs};
use crate::state::RefKey;

/// Keeps refs and blobs for as long as it, or another lease of the same name, is there. Not kept
/// across a restart.
#[derive(Clone)]
pub struct Lease {
    held: Arc<Held>,
}

pub(crate) struct Held {
    inner: Arc<Inner>,
    name: String,
    things: Mutex<Things>,
}

#[derive(Default)]
struct Things {
    refs: HashMap<RefKey, Ref>,
    blobs: Vec<KeptBlob>,
}

impl Refs {
    /// The lease of that name, made if there is none.
    pub fn lease(&self, name: &str) -> Lease {
        use dashmap::Entry;
        let made = || {
            Arc::new(Held {
                inner: Arc::clone(&self.inner),
                name: name.to_owned(),
                things: Mutex::default(),
            })
        };
        let held = match self.inner.leases.entry(name.to_owned()) {
            Entry::Occupied(mut entry) => match entry.get().upgrade() {
                Some(held) => held,
                None => {
                    let held = made();
                    entry.insert(Arc::downgrade(&held));
                    held
                }
            },
            Entry::Vacant(entry) => {
                let held = made();
                entry.insert(Arc::downgrade(&held));
                held
            }
        };
        Lease { held }
    }
}

impl Lease {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.held.name
    }

    /// Keeps a ref.
    pub fn add(&self, reference: &Ref) {
        self.held
            .things()
            .refs
            .entry(reference.key())
            .or_insert_with(|| reference.clone());
    }

    /// Keeps the refs that `ids` name now, and says which of them do.
    pub fn keep(&self, refs: &Refs, ids: &[Digest]) -> Vec<bool> {
        let found: Vec<Option<Ref>> = ids.iter().map(|id| refs.get(id)).collect();
        let mut things = self.held.things();
        let mut extra = Vec::new();
        let keep = |found: Option<Ref>| {
            let Some(found) = found else { return false };
            match things.refs.entry(found.key()) {
                std::collections::hash_map::Entry::Occupied(_) => extra.push(found),
                std::collections::hash_map::Entry::Vacant(entry) => drop(entry.insert(found)),
            }
            true
        };
        let kept = found.into_iter().map(keep).collect();
        drop(things);
        kept
    }

    /// Keeps a blob.
    pub fn add_blob(&self, blob: KeptBlob) {
        self.held.things().blobs.push(blob);
    }

    /// Lets go of everything, for all leases of that name.
    pub fn release(&self) {
        self.held.release();
    }
}

impl Held {
    fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self) {
        let things = std::mem::take(&mut *self.things());
        // Dropped outside of the lock: the last handle of a ref may set off a lot.
        drop(things);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
        self.inner
            .leases
            .remove_if(&self.name, |_, lease| lease.strong_count() == 0);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.held.name)
            .finish_non_exhaustive()
    }
}
