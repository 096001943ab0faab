//! Removing trees behind the caller's back, and out of the way of builds.
//!
//! Removing is slow where it hurts: a filesystem mounted with `discard` may tell the disk of every
//! directory that goes, and ext4 without a journal passes over the inodes that went in the last
//! minute, one by one, whenever it makes a file. So nothing is removed while layers are being made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use sys::root::RootDir;

/// How long no layer must have been started before something is removed.
const QUIET: Duration = Duration::from_secs(2);

/// With more entries than this left, they are removed whatever goes on.
const MOST_LEFT: usize = 10_000;

/// A directory whose entries a thread removes. What is left when the process ends is removed when
/// the directory is opened again.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    state: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    left: Vec<PathBuf>,
    /// The thread is at an entry.
    busy: bool,
    /// How many wait until nothing is left.
    waiting: usize,
    last_use: Option<Instant>,
}

impl Trash {
    /// Opens the directory `dir`, which is made if it is not there, and starts to empty it.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Trash> {
        fs::create_dir_all(&dir)?;
        let trash = Trash {
            dir,
            next: AtomicU64::new(0),
            state: Arc::default(),
        };
        let mut highest = 0;
        for entry in fs::read_dir(&trash.dir)? {
            let entry = entry?;
            if let Some(number) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            {
                highest = highest.max(number);
            }
            trash.remove_in_place(entry.path());
        }
        trash.next.store(highest + 1, Ordering::Relaxed);
        let state = Arc::downgrade(&trash.state);
        thread::Builder::new()
            .name("snapshot-trash".into())
            .spawn(move || serve(&state))?;
        Ok(trash)
    }

    /// Takes away the directory or file at `path`, on the same filesystem, with one rename.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        let place = self
            .dir
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::rename(path, &place)?;
        self.remove_in_place(place);
        Ok(())
    }

    /// Has `path` removed from where it is; nothing there is no error.
    pub(crate) fn remove_in_place(&self, path: PathBuf) {
        self.state.lock().left.push(path);
        self.state.changed.notify_all();
    }

    /// Tells that a layer is being made.
    pub(crate) fn yield_to_builds(&self) {
        self.state.lock().last_use = Some(Instant::now());
    }

    /// Waits until everything that was taken is removed.
    pub(crate) fn wait_empty(&self) {
        let mut state = self.state.lock();
        state.waiting += 1;
        self.state.changed.notify_all();
        while state.busy || !state.left.is_empty() {
            state = self
                .state
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        // Wakes the thread, which then finds nobody to work for.
        self.state.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next entry if now is the time to remove one.
    fn next(&mut self) -> Option<PathBuf> {
        let quiet = self.last_use.is_none_or(|last| last.elapsed() >= QUIET);
        if quiet || self.waiting > 0 || self.left.len() > MOST_LEFT {
            self.left.pop()
        } else {
            None
        }
    }
}

fn serve(shared: &Weak<Shared>) {
    // The work of builds comes first.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
    while let Some(shared) = shared.upgrade() {
        let mut state = shared.lock();
        if let Some(path) = state.next() {
            state.busy = true;
            drop(state);
            remove(&path);
            shared.lock().busy = false;
            shared.changed.notify_all();
            continue;
        }
        let woken = shared.changed.wait_timeout(state, QUIET / 4);
        drop(woken.unwrap_or_else(PoisonError::into_inner));
    }
}

fn remove(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    match RootDir::open(parent).and_then(|dir| dir.remove_all(Path::new(name))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "failed to remove a discarded tree");
        }
        Ok(()) | Err(_) => {}
    }
}
