//! Small blobs that were read lately: manifests and configs, which every build asks for again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use oci::Digest;

/// What is kept at most, in bytes: some thousand images.
const ROOM: usize = 32 << 20;

/// Blobs by digest, the least lately used of which go first.
#[derive(Default)]
pub(crate) struct Remembered {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, (u64, Bytes)>,
    order: BTreeMap<u64, Digest>,
    next: u64,
    bytes: usize,
}

impl Remembered {
    pub(crate) fn get(&self, digest: &Digest) -> Option<Bytes> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, bytes) = state.remove(digest)?;
        state.insert(*digest, bytes.clone());
        Some(bytes)
    }

    /// Keeps `bytes`, whose digest is known to be `digest`.
    pub(crate) fn put(&self, digest: Digest, bytes: Bytes) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.remove(&digest);
        state.insert(digest, bytes);
        while state.bytes > ROOM
            && let Some((_, oldest)) = state.order.first_key_value()
        {
            let oldest = *oldest;
            state.remove(&oldest);
        }
    }
}

impl State {
    fn insert(&mut self, digest: Digest, bytes: Bytes) {
        self.next += 1;
        self.bytes += bytes.len();
        self.order.insert(self.next, digest);
        self.blobs.insert(digest, (self.next, bytes));
    }

    fn remove(&mut self, digest: &Digest) -> Option<(u64, Bytes)> {
        let found = self.blobs.remove(digest)?;
        self.order.remove(&found.0);
        self.bytes -= found.1.len();
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_lately_goes() {
        let kept = Remembered::default();
        let blob = |n: u8| Bytes::from(vec![n; ROOM / 3]);
        for n in 0..3 {
            kept.put(Digest::of([n]), blob(n));
        }
        assert!(kept.get(&Digest::of([0])).is_some());
        kept.put(Digest::of([3]), blob(3));
        assert!(kept.get(&Digest::of([0])).is_some());
        assert!(kept.get(&Digest::of([1])).is_none());
        assert!(kept.get(&Digest::of([3])).is_some());
    }
}
