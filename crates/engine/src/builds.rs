//! The builds that run, and the last ones that ended.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::BuildError;
use crate::progress::Log;

/// How many ended builds keep their progress for clients that ask late: a client sends Solve and
/// Status at the same time, and a build whose steps are all known may end in between.
const KEPT: usize = 32;

/// How long a client waits for a build that is not there yet (BuildKit: `solver/jobs.go`).
const WAIT: Duration = Duration::from_secs(6);

/// All builds by the name that their client gave them.
#[derive(Default)]
pub(crate) struct Builds {
    state: Mutex<State>,
    added: Notify,
    /// Where progress is kept that is too much for memory.
    logs: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    running: HashMap<String, Arc<Log>>,
    ended: VecDeque<(String, Arc<Log>)>,
}

/// A build's entry; dropped, the build has ended.
pub(crate) struct Entry {
    builds: Arc<Builds>,
    name: String,
    pub(crate) log: Arc<Log>,
}

impl Builds {
    /// No builds yet; progress that is too much for memory is kept in `logs`.
    pub(crate) fn new(logs: PathBuf) -> Builds {
        Builds {
            logs: Some(logs),
            ..Builds::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a build.
    pub(crate) fn begin(self: &Arc<Builds>, name: &str) -> Result<Entry, BuildError> {
        let log = match &self.logs {
            Some(dir) => Log::spilling_to(dir.clone()),
            None => Log::new(),
        };
        {
            let mut state = self.lock();
            if state.running.contains_key(name) {
                return Err(BuildError::user(format!("job ID {name} exists")));
            }
            state.running.insert(name.to_owned(), log.clone());
        }
        self.added.notify_waiters();
        Ok(Entry {
            builds: self.clone(),
            name: name.to_owned(),
            log,
        })
    }

    /// How many builds run.
    pub(crate) fn running(&self) -> usize {
        self.lock().running.len()
    }

    /// Lets go of the progress of an ended build, which is kept elsewhere now.
    pub(crate) fn forget(&self, log: &Arc<Log>) {
        let mut state = self.lock();
        state.ended.retain(|(_, ended)| !Arc::ptr_eq(ended, log));
    }

    /// The progress of a build that runs or has ended lately.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Log>> {
        let state = self.lock();
        let ended = || {
            state
                .ended
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, log)| log)
        };
        state.running.get(name).or_else(ended).cloned()
    }

    /// The progress of a build that runs or has ended lately; waits a little for one that is only
    /// about to begin.
    pub(crate) async fn log(&self, name: &str) -> Result<Arc<Log>, BuildError> {
        let search = async {
            loop {
                let added = self.added.notified();
                tokio::pin!(added);
                added.as_mut().enable();
                if let Some(log) = self.find(name) {
                    return log;
                }
                added.await;
            }
        };
        tokio::time::timeout(WAIT, search)
            .await
            .map_err(|_| BuildError::user(format!("no such job {name}")))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.log.close(SystemTime::now());
        let mut state = self.builds.lock();
        state.running.remove(&self.name);
        state
            .ended
            .push_back((std::mem::take(&mut self.name), self.log.clone()));
        if state.ended.len() > KEPT {
            state.ended.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_taken_only_while_its_build_runs() {
        let builds = Arc::new(Builds::default());
        let first = builds.begin("a").unwrap();
        assert_eq!(
            builds.begin("a").map(|_| ()).unwrap_err().to_string(),
            "job ID a exists"
        );
        drop(first);
        assert!(builds.begin("a").is_ok());
    }

    #[tokio::test]
    async fn a_watcher_may_come_before_its_build_and_after_it() {
        let builds = Arc::new(Builds::default());
        let early = tokio::spawn({
            let builds = builds.clone();
            async move { builds.log("a").await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(builds.begin("a").unwrap());
        assert!(early.await.unwrap());
        assert!(builds.log("a").await.is_ok());
        assert_eq!(builds.running(), 0);
    }
}
