//! Digests of content that is selected from refs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fstree::checksum::{ChecksumError, Selector, Tree};
use oci::Digest;

use crate::failure::{Failure, blocking, chain};
use crate::state::Shared;
use crate::view::View;

/// How many refs' digests are remembered. A build looks at few: its context and some stages.
const KEPT: usize = 64;

/// How much memory they may take, in bytes: about a million files. The one used last may take more.
const MEMORY: usize = 256 << 20;

/// The one used last at the back.
type Trees = VecDeque<(Digest, Arc<Tree>)>;

/// What is known of the content of refs.
#[derive(Default)]
pub(crate) struct Digests {
    trees: Mutex<Trees>,
}

impl Digests {
    /// What is known of `id`, at first nothing.
    fn tree(&self, id: Digest) -> Arc<Tree> {
        let mut trees = self.lock();
        let tree = take(&mut trees, id).unwrap_or_default();
        put(&mut trees, id, tree.clone());
        tree
    }

    /// What is known of `id`, if anything is.
    pub(crate) fn known(&self, id: Digest) -> Option<Arc<Tree>> {
        let mut trees = self.lock();
        let tree = take(&mut trees, id)?;
        put(&mut trees, id, tree.clone());
        Some(tree)
    }

    /// Remembers what is known of `id`.
    pub(crate) fn learn(&self, id: Digest, tree: Tree) {
        let mut trees = self.lock();
        drop(take(&mut trees, id));
        put(&mut trees, id, Arc::new(tree));
    }

    /// Looks whether what came to be known since takes too much memory.
    fn trim(&self) {
        trim(&mut self.lock(), MEMORY);
    }

    fn lock(&self) -> MutexGuard<'_, Trees> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(trees: &mut Trees, id: Digest) -> Option<Arc<Tree>> {
    let at = trees.iter().position(|(known, _)| *known == id)?;
    trees.remove(at).map(|(_, tree)| tree)
}

fn put(trees: &mut Trees, id: Digest, tree: Arc<Tree>) {
    trees.push_back((id, tree));
    trim(trees, MEMORY);
}

/// Forgets what was used longest ago, if there is too much.
fn trim(trees: &mut Trees, memory: usize) {
    let mut taken: usize = trees.iter().map(|(_, tree)| tree.memory()).sum();
    while trees.len() > KEPT || (trees.len() > 1 && taken > memory) {
        let gone = trees.pop_front();
        taken -= gone.map_or(0, |(_, tree)| tree.memory());
    }
}

/// The digest of what `selectors` select in the ref `id`.
pub(crate) async fn digest(
    shared: &Shared,
    job: &str,
    id: Digest,
    selectors: Vec<Selector>,
) -> Result<Digest, Failure> {
    let reference = shared.find(job, id)?;
    let stack = shared
        .stack(&reference, &shared.job(job)?.sessions, None)
        .await?;
    let tree = shared.digests.tree(id);
    let snapshots = shared.refs.snapshots().clone();
    let digest = blocking(move || {
        // What is found out is remembered, also when nobody waits for it any more.
        let root = View::of(&snapshots, &stack).map_err(Failure::host)?;
        let root = root.holding(reference);
        tree.select_all(&root, &selectors)
            .map_err(|error| match &error {
                ChecksumError::NotFound(_) => Failure::not_found(chain(&error)),
                _ => Failure::host(error),
            })
    })
    .await;
    shared.digests.trim();
    digest.map_err(|failure| {
        let (worker, id) = (&shared.options.id, id.hex());
        failure.context(format!(
            "failed to calculate checksum of ref {}::{}",
            named(worker),
            named(&id)
        ))
    })
}

/// A worker's or a ref's name in messages, as long as BuildKit's.
fn named(id: &str) -> &str {
    id.get(..25).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sys::root::RootDir;

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_by_number_and_by_memory() {
        let directory = tempfile::tempdir().unwrap();
        for n in 0..100 {
            fs::write(directory.path().join(n.to_string()), "").unwrap();
        }
        let root = RootDir::open(directory.path()).unwrap();
        let mut trees = Trees::new();
        for n in 0..=KEPT {
            put(&mut trees, Digest::of(n.to_string()), Arc::default());
        }
        assert_eq!(trees.len(), KEPT);
        // They grow while they are remembered.
        for (_, tree) in &trees {
            tree.select_all(&root, &[]).unwrap();
        }
        let each = trees[0].1.memory();
        assert!(each > 100 * 100, "{each}");
        trim(&mut trees, each * 3);
        let left: Vec<Digest> = trees.iter().map(|(id, _)| *id).collect();
        let last = |back: usize| Digest::of((KEPT - back).to_string());
        assert_eq!(left, [last(2), last(1), last(0)]);
        trim(&mut trees, 0);
        assert_eq!(trees.len(), 1, "the one in use stays");
    }
}
