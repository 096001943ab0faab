//! Copies of clients' files, to be brought up to date rather than made again.
//!
//! A step that copies a client's whole directory runs again when one file of it has changed. What
//! the transfer changed in the directory is known then, and so is the layer that the same step made
//! of the directory as it was: the new layer can be that one and the few files that differ.
//!
//! All of this is known to this process only. Whatever is not known is copied.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use filesync::Received;
use fstree::copy::Changed;
use llb::{ActionInput, FileActionKind, FileOp};
use oci::Digest;
use snapshot::LayerId;

/// Copies and transfers that are remembered, of each.
const KEPT: usize = 64;

/// More changes than this are not worth looking at one by one.
const MOST_CHANGES: usize = 1024;

/// Copies of fewer files are made again faster than they are brought up to date.
const FEWEST_FILES: u64 = 256;

/// What is known of clients' directories and copies of them.
#[derive(Default)]
pub(crate) struct Copies {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The latest at the back.
    transfers: VecDeque<Transfer>,
    copies: VecDeque<Copy>,
}

impl State {
    /// What may differ between what was copied to `copy` and the files of `source`; `None` when the
    /// transfers that are remembered do not lead from the one to the other.
    fn since(&self, copy: &Copy, source: LayerId) -> Option<Changed> {
        let mut changed = copy.changed.clone();
        let mut at = source;
        // The latest first: each led to the one after it.
        let mut transfers = self.transfers.iter().rev();
        while at != copy.step.source {
            let transfer = transfers.find(|transfer| transfer.to == at)?;
            changed.extend(transfer.changed.iter().cloned());
            at = transfer.from;
        }
        Some(changed)
    }
}

/// How the files of one layer became those of another.
struct Transfer {
    from: LayerId,
    to: LayerId,
    changed: Vec<PathBuf>,
}

/// What a step made of a client's directory.
struct Copy {
    step: Step,
    /// The ref that was copied to in full.
    output: Digest,
    /// What may differ between the directory that it was copied from and `step.source`.
    changed: Changed,
}

/// A step that copies a client's directory.
#[derive(Clone)]
pub(crate) struct Step {
    /// What it does, and to what.
    key: Digest,
    /// The layer of the client's files.
    pub(crate) source: LayerId,
    /// The stack that is copied to.
    pub(crate) base: Vec<LayerId>,
}

impl Step {
    /// `op` on the stacks of its inputs, if it copies from one layer and does nothing else.
    pub(crate) fn of(op: &FileOp, stacks: &[Vec<LayerId>]) -> Option<Step> {
        let [action] = &op.actions[..] else {
            return None;
        };
        let FileActionKind::Copy(copy) = &action.kind else {
            return None;
        };
        let stack = |input: ActionInput| match input {
            ActionInput::Empty => Some(Vec::new()),
            ActionInput::Input(n) => stacks.get(n as usize).cloned(),
            ActionInput::Action(_) => None,
        };
        let (base, source) = (stack(action.input)?, stack(action.secondary)?);
        let [source] = source[..] else {
            return None;
        };
        // What replaces something of another kind may leave marks of that in the layer.
        let only_adds = !copy.attempt_unpack && (!copy.always_replace || base.is_empty());
        only_adds.then(|| Step {
            key: Digest::of(format!("{op:?}\0{base:?}")),
            source,
            base,
        })
    }
}

/// A copy of the same directory as it was.
pub(crate) struct Earlier {
    /// The ref that was copied to.
    pub(crate) output: Digest,
    /// What may differ in the directory since.
    pub(crate) changed: Changed,
}

impl Copies {
    /// Takes note that a transfer made the files of `from` those of `to`.
    pub(crate) fn transferred(&self, from: LayerId, to: LayerId, received: &Received) {
        // What was removed from the directory would have to go from copies too.
        let changed = received.changed.iter().chain(&received.retimed);
        let changed: Vec<PathBuf> = changed.take(MOST_CHANGES + 1).cloned().collect();
        if !received.removed.is_empty() || changed.len() > MOST_CHANGES {
            return;
        }
        let mut state = self.lock();
        state.transfers.push_back(Transfer { from, to, changed });
        if state.transfers.len() > KEPT {
            state.transfers.pop_front();
        }
    }

    /// Takes note that `step` has copied so many files to `output`.
    pub(crate) fn copied(&self, step: Step, output: Digest, files: u64) {
        if files < FEWEST_FILES {
            return;
        }
        self.put(Copy {
            step,
            output,
            changed: Changed::new(),
        });
    }

    /// Takes note that the copy `earlier` was brought up to date by `step`.
    pub(crate) fn updated(&self, step: Step, earlier: Earlier) {
        self.put(Copy {
            step,
            output: earlier.output,
            changed: earlier.changed,
        });
    }

    /// What is known of an earlier copy by `step`.
    pub(crate) fn earlier(&self, step: &Step) -> Option<Earlier> {
        let state = self.lock();
        let copies = state.copies.iter().rev();
        // Clients with different files may run the same step.
        let known = copies.filter(|copy| copy.step.key == step.key);
        let mut earlier = known.filter_map(|copy| {
            let changed = state.since(copy, step.source)?;
            (changed.len() <= MOST_CHANGES).then_some(Earlier {
                output: copy.output,
                changed,
            })
        });
        earlier.next()
    }

    fn put(&self, copy: Copy) {
        let mut state = self.lock();
        let is_same = |known: &Copy| known.step.key == copy.step.key && known.output == copy.output;
        state.copies.retain(|known| !is_same(known));
        state.copies.push_back(copy);
        if state.copies.len() > KEPT {
            state.copies.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(source: u64) -> Step {
        Step {
            key: Digest::of("step"),
            source: LayerId(source),
            base: vec![],
        }
    }

    fn received(changed: &[&str], removed: &[&str]) -> Received {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Received {
            changed: paths(changed),
            removed: paths(removed),
            ..Received::default()
        }
    }

    fn changed(copies: &Copies, source: u64) -> Option<Vec<String>> {
        let earlier = copies.earlier(&step(source))?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Some(earlier.changed.into_iter().map(text).collect())
    }

    #[test]
    fn changes_add_up_from_the_full_copy_on() {
        let copies = Copies::default();
        let output = Digest::of("output");
        copies.transferred(LayerId(1), LayerId(2), &received(&["before"], &[]));
        assert_eq!(changed(&copies, 2), None);
        copies.copied(step(2), output, FEWEST_FILES);
        assert_eq!(changed(&copies, 2), Some(vec![]));
        copies.transferred(LayerId(2), LayerId(3), &received(&["a"], &[]));
        copies.transferred(LayerId(3), LayerId(4), &received(&["b", "a"], &[]));
        assert_eq!(
            changed(&copies, 4),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        let earlier = copies.earlier(&step(3)).unwrap();
        copies.updated(step(3), earlier);
        assert_eq!(
            changed(&copies, 4),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(changed(&copies, 5), None, "nobody knows how it came about");
    }

    #[test]
    fn what_was_removed_or_changed_in_many_places_is_copied_whole() {
        let copies = Copies::default();
        copies.copied(step(1), Digest::of("output"), FEWEST_FILES);
        copies.transferred(LayerId(1), LayerId(2), &received(&["a"], &["b"]));
        assert_eq!(changed(&copies, 2), None);
        let many: Vec<String> = (0..=MOST_CHANGES).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        copies.transferred(LayerId(1), LayerId(3), &received(&many, &[]));
        assert_eq!(changed(&copies, 3), None);
        copies.transferred(LayerId(1), LayerId(4), &received(&many[..600], &[]));
        copies.transferred(LayerId(4), LayerId(5), &received(&many[600..], &[]));
        assert!(changed(&copies, 4).is_some());
        assert_eq!(changed(&copies, 5), None);
    }

    #[test]
    fn clients_that_run_the_same_step_have_copies_of_their_own() {
        let copies = Copies::default();
        for client in [10, 20] {
            let output = Digest::of(client.to_string());
            copies.copied(step(client), output, FEWEST_FILES);
            copies.transferred(LayerId(client), LayerId(client + 1), &received(&["a"], &[]));
        }
        for client in [10, 20] {
            let earlier = copies.earlier(&step(client + 1)).unwrap();
            assert_eq!(earlier.output, Digest::of(client.to_string()));
            copies.updated(step(client + 1), earlier);
        }
        assert!(
            copies.earlier(&step(10)).is_none(),
            "it goes on from the last"
        );
        assert!(copies.earlier(&step(11)).is_some());
    }

    #[test]
    fn small_copies_are_made_again() {
        let copies = Copies::default();
        copies.copied(step(1), Digest::of("output"), FEWEST_FILES - 1);
        assert_eq!(changed(&copies, 1), None);
    }
}
