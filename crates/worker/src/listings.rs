//! How clients' directories are listed.
//!
//! Of a large directory is remembered how several calls can list it at the same time. What is not
//! remembered is listed by one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use filesync::{Received, Split};

/// Directories that are remembered.
const KEPT: usize = 64;

/// So often a directory is listed as a whole after its parts were none.
const PAUSE: u32 = 16;

/// What is known of clients' directories.
#[derive(Default)]
pub(crate) struct Listings {
    /// The latest at the back.
    known: Mutex<VecDeque<Known>>,
}

struct Known {
    /// Which directory.
    key: String,
    split: Option<Split>,
    /// Transfers until it may be listed in parts.
    pause: u32,
}

impl Listings {
    /// How to list the directory `key` in parts, if that is known and has not gone wrong lately.
    pub(crate) fn split(&self, key: &str) -> Option<Split> {
        let known = self.lock();
        let known = known.iter().find(|known| known.key == key)?;
        known.split.clone().filter(|_| known.pause == 0)
    }

    /// Takes note of a transfer of the directory `key`.
    pub(crate) fn learn(&self, key: String, received: &mut Received) {
        let mut all = self.lock();
        let before = all.iter().position(|known| known.key == key);
        let before = before.and_then(|before| all.remove(before));
        let pause = match before {
            _ if received.misfit => PAUSE,
            Some(before) => before.pause.saturating_sub(1),
            None => 0,
        };
        let split = received.split.take();
        if split.is_none() && pause == 0 {
            return;
        }
        all.push_back(Known { key, split, pause });
        if all.len() > KEPT {
            all.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
