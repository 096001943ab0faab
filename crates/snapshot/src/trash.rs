//! Removing trees behind the caller's back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;

use sys::root::RootDir;

/// A directory whose entries a thread removes. What is left when the process ends is removed when
/// the directory is opened again.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    queue: mpsc::Sender<PathBuf>,
    pending: Arc<Pending>,
}

/// How many entries are still to be removed.
#[derive(Debug, Default)]
struct Pending {
    count: Mutex<usize>,
    none: Condvar,
}

impl Trash {
    /// Opens the directory `dir`, which is made if it is not there, and starts to empty it.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Trash> {
        fs::create_dir_all(&dir)?;
        let (queue, removals) = mpsc::channel();
        let pending = Arc::new(Pending::default());
        let trash = Trash { dir, next: AtomicU64::new(0), queue, pending: Arc::clone(&pending) };
        let mut highest = 0;
        for entry in fs::read_dir(&trash.dir)? {
            let entry = entry?;
            if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                highest = highest.max(number);
            }
            trash.enqueue(entry.path());
        }
        trash.next.store(highest + 1, Ordering::Relaxed);
        thread::Builder::new().name("snapshot-trash".into()).spawn(move || {
            // The work of builds comes first.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
            for path in removals {
                remove(&path);
                pending.done();
            }
        })?;
        Ok(trash)
    }

    /// Takes away the directory or file at `path`, on the same filesystem, with one rename.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        let place = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::rename(path, &place)?;
        self.enqueue(place);
        Ok(())
    }

    /// Waits until everything that was taken is removed.
    pub(crate) fn wait_empty(&self) {
        let mut count = self.pending.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            count = self.pending.none.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn enqueue(&self, path: PathBuf) {
        *self.pending.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        if self.queue.send(path).is_err() {
            // The thread is gone only if it panicked; the entry is removed at the next start.
            self.pending.done();
        }
    }
}

impl Pending {
    fn done(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            self.none.notify_all();
        }
    }
}

fn remove(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    let removed = RootDir::open(parent).and_then(|dir| dir.remove_all(Path::new(name)));
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "failed to remove a discarded tree");
    }
}
