//! What is kept for a job from its first call until it is released.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::Digest;
use refs::Lease;

use crate::failure::{Class, Failure};
use crate::git::Pins;
use crate::sessions::Sessions;

/// Of so many jobs it is remembered that they are over: a call that was cancelled may get here after
/// its job's release.
const REMEMBERED: usize = 4096;

/// One job. Clones are the same job.
#[derive(Clone)]
pub(crate) struct Job {
    /// The sessions that its calls have named so far, for calls that name none.
    pub(crate) sessions: Sessions,
    /// Keeps the results that it has touched.
    pub(crate) lease: Lease,
    /// The commits that its git sources stand for.
    pub(crate) git_pins: Pins,
    /// What its failed steps left behind, which nothing is ever found under again.
    remains: Arc<Mutex<Vec<Digest>>>,
}

impl Job {
    pub(crate) fn new(sessions: Sessions, lease: Lease) -> Job {
        Job {
            sessions,
            lease,
            git_pins: Pins::default(),
            remains: Arc::default(),
        }
    }

    /// Has `id`, which a failed step left behind, forgotten some time after the job.
    pub(crate) fn add_remains(&self, id: Digest) {
        let mut remains = self.remains.lock().unwrap_or_else(PoisonError::into_inner);
        remains.push(id);
    }
}

/// The jobs that are not released.
#[derive(Default)]
pub(crate) struct Jobs {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: HashMap<String, Job>,
    /// The latest at the end.
    released: VecDeque<String>,
}

impl Jobs {
    /// The job `id`, made by `new` at its first call.
    ///
    /// # Errors
    /// When it has been released: nobody would let go of what is kept for it now.
    pub(crate) fn get(&self, id: &str, new: impl FnOnce() -> Job) -> Result<Job, Failure> {
        let mut state = self.state();
        if let Some(job) = state.live.get(id) {
            return Ok(job.clone());
        }
        if state.released.iter().any(|released| released == id) {
            let text = format!("job {id} is over");
            return Err(Failure::new(Class::Canceled, text));
        }
        let job = new();
        state.live.insert(id.to_owned(), job.clone());
        Ok(job)
    }

    /// Lets go of all that is kept for the job `id`, and answers what its failed steps left behind.
    #[must_use]
    pub(crate) fn release(&self, id: &str) -> Vec<Digest> {
        let mut state = self.state();
        let job = state.live.remove(id);
        if state.released.len() == REMEMBERED {
            state.released.pop_front();
        }
        state.released.push_back(id.to_owned());
        drop(state);
        // Not under the lock: it may set off a lot.
        let Some(job) = job else {
            return Vec::new();
        };
        job.lease.release();
        let mut remains = job.remains.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *remains)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
