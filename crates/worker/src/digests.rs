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
    if trees.len() > KEPT {
        trees.pop_front();
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
    blocking(move || {
        // What is found out is remembered, also when nobody waits for it any more.
        let root = View::of(&snapshots, &stack).map_err(Failure::host)?;
        let root = root.holding(reference);
        tree.select_all(&root, &selectors)
            .map_err(|error| match &error {
                ChecksumError::NotFound(_) => Failure::not_found(chain(&error)),
                _ => Failure::host(error),
            })
    })
    .await
    .map_err(|failure| failure.context(format!("failed to calculate checksum of ref {}", name(id))))
}

/// A ref's name in messages, as long as BuildKit's.
fn name(id: Digest) -> String {
    id.hex()[..25].to_owned()
}
