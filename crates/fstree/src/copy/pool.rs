//! Copying many files on all cores.
//!
//! One thread goes through the source and makes the directories; the files in them are copied in
//! batches by whoever is free, it included.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope};

use sys::root::{Metadata, RootDir};

use super::CopyError;
use super::leaf::{Leaf, LeafCopier};

/// Files in a batch at most: few enough that all cores are busy to the end.
pub(super) const BATCH: usize = 32;

/// Batches that wait. Each holds two directories open.
const QUEUE: usize = 32;

/// Batches that one thread copies alone: starting others takes longer.
const WORTH_A_THREAD: usize = 2;

/// More threads than this wait for the disk and for each other.
const MAX_THREADS: usize = 8;

/// Files to copy from one directory to another.
pub(super) struct Batch {
    pub(super) src: RootDir,
    pub(super) dst: RootDir,
    /// Where from and where to, from the roots, and what each is.
    pub(super) files: Vec<(PathBuf, PathBuf, Metadata)>,
}

/// What all threads share.
pub(super) struct Shared<'a> {
    copier: LeafCopier<'a>,
    queue: Mutex<Receiver<Batch>>,
    failed: AtomicBool,
    error: Mutex<Option<CopyError>>,
}

/// Where batches go. Dropped, the threads end when all are copied.
pub(super) struct Pool<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared<'env>,
    sender: SyncSender<Batch>,
    batches: usize,
    threads: usize,
}

impl<'a> Shared<'a> {
    pub(super) fn new(copier: LeafCopier<'a>) -> (Shared<'a>, SyncSender<Batch>) {
        let (sender, queue) = sync_channel(QUEUE);
        let shared = Shared {
            copier,
            queue: Mutex::new(queue),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        };
        (shared, sender)
    }

    /// What went wrong first, after all threads have ended.
    pub(super) fn into_error(self) -> Option<CopyError> {
        self.error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let next = self
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            match next {
                Ok(batch) => self.copy(&batch),
                Err(_) => return,
            }
        }
    }

    fn copy(&self, batch: &Batch) {
        for (from, to, metadata) in &batch.files {
            if self.failed.load(Ordering::Relaxed) {
                return;
            }
            let copied = self.copier.copy(&Leaf {
                src: &batch.src,
                dst: &batch.dst,
                from,
                to,
                metadata: *metadata,
            });
            if let Err(error) = copied {
                self.failed.store(true, Ordering::Relaxed);
                let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
            }
        }
    }
}

impl<'scope, 'env> Pool<'scope, 'env> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        shared: &'env Shared<'env>,
        sender: SyncSender<Batch>,
    ) -> Pool<'scope, 'env> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Pool {
            scope,
            shared,
            sender,
            batches: 0,
            threads: cores.min(MAX_THREADS) - 1,
        }
    }

    /// Has `batch` copied. `false` once something has failed.
    pub(super) fn copy(&mut self, batch: Batch) -> bool {
        self.batches += 1;
        if self.batches <= WORTH_A_THREAD || self.threads == 0 {
            self.shared.copy(&batch);
        } else {
            if self.batches == WORTH_A_THREAD + 1 {
                for _ in 0..self.threads {
                    let shared = self.shared;
                    self.scope.spawn(move || shared.work());
                }
            }
            match self.sender.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                    self.shared.copy(&batch);
                }
            }
        }
        !self.shared.failed.load(Ordering::Relaxed)
    }
}
