//! Digesting many files on all cores.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use oci::Digest;
use sys::root::RootDir;

use super::ChecksumError;
use super::header::FileHasher;
use super::tree::{Id, Nodes};
use crate::path::join;

/// How many files one thread takes at a time: enough to make opening the directory cheap, few
/// enough that all cores are busy to the end.
const BATCH: usize = 64;

/// Fewer files than this are digested by the calling thread: starting others takes longer.
const WORTH_A_THREAD: usize = 8;

/// More threads than this wait for the disk and for each other.
const MAX_THREADS: usize = 16;

/// Files in one directory.
pub(super) struct Job {
    /// The directory that holds them.
    pub(super) dir: PathBuf,
    /// The files; or the root, which is in no directory.
    pub(super) ids: Vec<Id>,
}

/// Digests all files of `jobs`.
pub(super) fn hash_all(
    root: &RootDir,
    nodes: &Nodes,
    jobs: Vec<Job>,
) -> Result<Vec<(Id, Digest)>, ChecksumError> {
    let batches: Vec<(&Path, &[Id])> = jobs
        .iter()
        .flat_map(|job| job.ids.chunks(BATCH).map(|ids| (job.dir.as_path(), ids)))
        .collect();
    let files: usize = jobs.iter().map(|job| job.ids.len()).sum();
    let cores = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS);
    let threads = if files < WORTH_A_THREAD {
        1
    } else {
        cores.min(batches.len())
    };
    let pool = Pool {
        root,
        nodes,
        batches: &batches,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    };
    if threads <= 1 {
        return pool.run();
    }
    let results = Mutex::new(Vec::with_capacity(files));
    let error = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| match pool.run() {
                Ok(taken) => lock(&results).extend(taken),
                Err(failed) => drop(lock(&error).get_or_insert(failed)),
            });
        }
    });
    match error
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        Some(error) => Err(error),
        None => Ok(results
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Pool<'a> {
    root: &'a RootDir,
    nodes: &'a Nodes,
    batches: &'a [(&'a Path, &'a [Id])],
    next: AtomicUsize,
    failed: AtomicBool,
}

impl Pool<'_> {
    fn run(&self) -> Result<Vec<(Id, Digest)>, ChecksumError> {
        let mut hasher = FileHasher::new();
        let mut taken = Vec::new();
        while !self.failed.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((dir, ids)) = self.batches.get(at) else {
                break;
            };
            if let Err(error) = self.hash_batch(&mut hasher, dir, ids, &mut taken) {
                self.failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(taken)
    }

    fn hash_batch(
        &self,
        hasher: &mut FileHasher,
        dir: &Path,
        ids: &[Id],
        taken: &mut Vec<(Id, Digest)>,
    ) -> Result<(), ChecksumError> {
        let opened = self.root.open_dir(dir).map_err(ChecksumError::read(dir))?;
        for id in ids {
            let node = self.nodes.node(*id);
            let name = if node.name.is_empty() {
                OsStr::new(".")
            } else {
                &node.name
            };
            let digest = hasher
                .digest(&opened, name, &node.metadata, node.link.as_deref())
                .map_err(ChecksumError::read(&join(dir, name)))?;
            taken.push((*id, digest));
        }
        Ok(())
    }
}
