//! Empty layers that are made ahead of need.
//!
//! Making two directories is most of what starting a layer takes, above all where much was removed
//! lately: ext4 without a journal passes over the inodes that went in the last minute, one by one.
//! So a few are made beside the builds, and a layer starts with a rename. For the same reason they are
//! made far from one another: the files in a layer come near its directories.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::IFlags;

/// How many are made at most.
const MOST: usize = 32;

/// With fewer than this, more are made.
const FEW: usize = 24;

/// A directory with empty layers in it. They stay there for the next process.
#[derive(Debug)]
pub(crate) struct Ready {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stock: Vec<PathBuf>,
    next: u64,
    /// A thread makes more.
    filling: bool,
}

/// Tells the filesystem that what is in the directories below `dir` does not belong together: ext4
/// then gives each another part of the disk (`chattr +T`). Next to where a layer's files were removed
/// lately, making new ones takes up to thirty times as long.
fn spread(dir: &Path) -> io::Result<()> {
    let dir = crate::tree::open_root(dir)?;
    let flags = rustix::fs::ioctl_getflags(&dir)?;
    if !flags.contains(IFlags::TOPDIR) {
        rustix::fs::ioctl_setflags(&dir, flags | IFlags::TOPDIR)?;
    }
    Ok(())
}

impl Ready {
    /// Opens the directory `dir`, which is made if it is not there.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Ready> {
        crate::store::make_dir_all(&dir)?;
        if let Err(error) = spread(&dir) {
            tracing::debug!(%error, "new layers are put wherever the disk has room");
        }
        let mut state = State {
            stock: Vec::new(),
            next: 0,
            filling: false,
        };
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.parse::<u64>().ok());
            state.next = state.next.max(number.map_or(0, |number| number + 1));
            // One that a killed process had half made is left where it is, and its number with it.
            if number.is_some() && path.join("fs").is_dir() {
                state.stock.push(path);
            }
        }
        let state = Mutex::new(state);
        Ok(Ready {
            shared: Arc::new(Shared { dir, state }),
        })
    }

    /// Makes `place` an empty layer.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn take(&self, place: &Path) -> io::Result<()> {
        let found = {
            let mut state = self.shared.lock();
            let found = state.stock.pop();
            if state.stock.len() < FEW && !state.filling {
                let shared = Arc::clone(&self.shared);
                let filler = thread::Builder::new().name("snapshot-ready".into());
                state.filling = filler.spawn(move || shared.fill()).is_ok();
            }
            found
        };
        match found {
            Some(path) if fs::rename(&path, place).is_ok() => Ok(()),
            Some(_) | None => make(place),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self) {
        loop {
            let path = {
                let mut state = self.lock();
                if state.stock.len() >= MOST {
                    state.filling = false;
                    return;
                }
                state.next += 1;
                self.dir.join((state.next - 1).to_string())
            };
            let made = make(&path);
            let mut state = self.lock();
            match made {
                Ok(()) => state.stock.push(path),
                // Whoever needs one is told why there is none.
                Err(_) => {
                    state.filling = false;
                    return;
                }
            }
        }
    }
}

/// Makes an empty layer at `path`.
fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    fs::DirBuilder::new().mode(0o755).create(path.join("fs"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn filled(ready: &Ready) {
        let start = Instant::now();
        while ready.shared.lock().stock.len() < MOST {
            assert!(start.elapsed() < Duration::from_secs(20), "{ready:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn each_place_is_a_layer_of_its_own_also_when_many_are_taken_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let ready = Ready::open(dir.path().join("ready")).unwrap();
        thread::scope(|scope| {
            for number in 0..4 {
                let (ready, dir) = (&ready, dir.path());
                scope.spawn(move || {
                    for n in 0..100 {
                        let place = dir.join(format!("{number} {n}"));
                        ready.take(&place).unwrap();
                        // Were it somebody else's too, it would be there.
                        fs::File::create_new(place.join("fs/mine")).unwrap();
                    }
                });
            }
        });
        filled(&ready);
    }

    #[test]
    fn those_of_an_earlier_process_are_taken_unless_they_are_half_made() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("ready");
        let ready = Ready::open(home.clone()).unwrap();
        ready.take(&dir.path().join("a")).unwrap();
        filled(&ready);
        drop(ready);
        fs::create_dir(home.join("1000")).unwrap();

        let ready = Ready::open(home).unwrap();
        assert_eq!(ready.shared.lock().stock.len(), MOST);
        for n in 0..2 * MOST {
            let place = dir.path().join(format!("b{n}"));
            ready.take(&place).unwrap();
            assert!(place.join("fs").is_dir());
        }
    }

    #[test]
    fn what_cannot_be_taken_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("ready");
        let ready = Ready::open(home.clone()).unwrap();
        ready.take(&dir.path().join("a")).unwrap();
        filled(&ready);
        fs::remove_dir_all(&home).unwrap();
        let place = dir.path().join("b");
        ready.take(&place).unwrap();
        assert!(place.join("fs").is_dir());
        let error = ready.take(&dir.path().join("none/c")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
