//! What is told of long work while it is under way.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the same item is told of at most: people cannot read faster.
const INTERVAL: Duration = Duration::from_millis(100);

/// One thing that is being done, e.g. the transfer of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Tells it apart from others of the same work.
    pub id: String,
    /// What people see.
    pub name: String,
    /// How much is done, in bytes or whatever the item counts.
    pub current: u64,
    /// How much there is to do; 0 when that is not known.
    pub total: u64,
    /// When it began.
    pub started: SystemTime,
    /// When it ended, well or not.
    pub completed: Option<SystemTime>,
}

/// Where items are told. Clones tell the same listener.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Item) + Send + Sync>);

impl Progress {
    /// Tells `listener`, which must not block.
    pub fn new(listener: impl Fn(Item) + Send + Sync + 'static) -> Progress {
        Progress(Arc::new(listener))
    }

    /// Tells nobody.
    pub fn none() -> Progress {
        Progress::new(|_| {})
    }

    /// Tells `item` as it is.
    pub fn tell(&self, item: Item) {
        (self.0)(item);
    }

    /// Tells that `name` begins, of which there is `total` to do (0: not known). Its end is told
    /// when the answer is dropped.
    pub fn begin(&self, name: impl Into<String>, total: u64) -> Tracked {
        let name = name.into();
        self.begin_as(name.clone(), name, total)
    }

    /// As [`Progress::begin`], with an id that is not the name.
    pub fn begin_as(&self, id: impl Into<String>, name: impl Into<String>, total: u64) -> Tracked {
        let item = Item {
            id: id.into(),
            name: name.into(),
            current: 0,
            total,
            started: SystemTime::now(),
            completed: None,
        };
        (self.0)(item.clone());
        Tracked {
            progress: self.clone(),
            item,
            current: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// An item under way.
#[derive(Debug)]
pub struct Tracked {
    progress: Progress,
    item: Item,
    current: AtomicU64,
    told: Mutex<Instant>,
}

impl Tracked {
    /// `more` was done.
    pub fn add(&self, more: u64) {
        let current = self.current.fetch_add(more, Ordering::Relaxed) + more;
        self.tell(current);
    }

    /// `current` is done in all.
    pub fn set(&self, current: u64) {
        self.current.store(current, Ordering::Relaxed);
        self.tell(current);
    }

    fn tell(&self, current: u64) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() < INTERVAL {
                return;
            }
            *told = Instant::now();
        }
        (self.progress.0)(Item {
            current,
            ..self.item.clone()
        });
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let current = self.current.load(Ordering::Relaxed);
        let completed = Some(SystemTime::now());
        (self.progress.0)(Item {
            current,
            completed,
            ..self.item.clone()
        });
    }
}
