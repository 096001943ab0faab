//! Empty layers that are made ahead of need.
//!
//! Making two directories is most of what starting a layer takes, above all where much was removed
//! lately: ext4 without a journal passes over the inodes that went in the last minute, one by one.
//! So a few are made beside the builds, and a layer starts with a rename. For the same reason they are
//! made away from what is there, since the files in a layer come near its directories. To find such a
//! place the filesystem looks at all there are, so it is asked for a batch of layers at a time.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::IFlags;

/// So many are ready at most.
const MOST: usize = 32;

/// With fewer than this, more are made.
const FEW: usize = 24;

/// How many are made at one place of the disk, in a directory of their own.
const BATCH: usize = 8;

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
    /// Those that can be taken, by the directory of their batch.
    stock: Vec<PathBuf>,
    /// The number of the next batch.
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
            let batch = entry?.path();
            let name = batch.file_name().and_then(|name| name.to_str());
            let Some(number) = name.and_then(|name| name.parse::<u64>().ok()) else {
                continue;
            };
            state.next = state.next.max(number + 1);
            for entry in fs::read_dir(&batch)? {
                let layer = entry?.path();
                if layer.join("fs").is_dir() {
                    state.stock.push(layer);
                } else {
                    // A killed process had half made it. One that is not empty is left where it is.
                    let _ = fs::remove_dir(&layer);
                }
            }
            let _ = fs::remove_dir(&batch);
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
            Some(path) if fs::rename(&path, place).is_ok() => {
                // It goes with the last of its layers.
                let _ = path.parent().map(fs::remove_dir);
                Ok(())
            }
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
            let batch = {
                let mut state = self.lock();
                if state.stock.len() + BATCH > MOST {
                    state.filling = false;
                    return;
                }
                state.next += 1;
                self.dir.join((state.next - 1).to_string())
            };
            let mut layers = Vec::with_capacity(BATCH);
            let made = make_batch(&batch, &mut layers);
            let mut state = self.lock();
            // All at once: a batch that is found empty is removed.
            state.stock.append(&mut layers);
            if made.is_err() {
                // Whoever needs one is told why there is none.
                state.filling = false;
                return;
            }
        }
    }
}

/// Makes the directory `batch` with empty layers in it, and adds each that is there to `layers`.
fn make_batch(batch: &Path, layers: &mut Vec<PathBuf>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(batch)?;
    for number in 0..BATCH {
        let layer = batch.join(number.to_string());
        make(&layer)?;
        layers.push(layer);
    }
    Ok(())
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
        while ready.shared.lock().filling {
            assert!(start.elapsed() < Duration::from_secs(20), "{ready:?}");
            thread::yield_now();
        }
        let stock = ready.shared.lock().stock.len();
        assert!((FEW..=MOST).contains(&stock), "{stock}");
    }

    /// The batches in `home`, and the layers in them.
    fn counted(home: &Path) -> (usize, usize) {
        let batches = fs::read_dir(home).unwrap().map(|entry| entry.unwrap());
        let layers = batches.map(|batch| fs::read_dir(batch.path()).unwrap().count());
        layers.fold((0, 0), |(batches, all), layers| (batches + 1, all + layers))
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
        let (batches, layers) = counted(&dir.path().join("ready"));
        let stock = ready.shared.lock().stock.len();
        assert_eq!(layers, stock);
        assert!(batches <= stock.div_ceil(BATCH) + 1, "{batches} {stock}");
    }

    #[test]
    fn those_of_an_earlier_process_are_taken_unless_they_are_half_made() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("ready");
        let ready = Ready::open(home.clone()).unwrap();
        ready.take(&dir.path().join("a")).unwrap();
        filled(&ready);
        let stock = ready.shared.lock().stock.len();
        drop(ready);
        for half_made in ["1000", "1001/0", "1002/fs"] {
            fs::create_dir_all(home.join(half_made)).unwrap();
        }
        fs::create_dir_all(home.join("1003/0/somebody's")).unwrap();

        let ready = Ready::open(home.clone()).unwrap();
        assert_eq!(ready.shared.lock().stock.len(), stock);
        assert_eq!(counted(&home), (stock.div_ceil(BATCH) + 1, stock + 1));
        for n in 0..2 * MOST {
            let place = dir.path().join(format!("b{n}"));
            ready.take(&place).unwrap();
            assert!(place.join("fs").is_dir());
        }
        assert!(home.join("1003/0/somebody's").is_dir());
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
