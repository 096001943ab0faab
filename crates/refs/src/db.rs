//! One database for all records, written by one thread.
//!
//! Whoever has something to record hands over a closure and goes on. The thread gathers what comes
//! in, waits until the files that the records name are on the disk, and then commits all of it as one
//! transaction. So a record that survives a crash names files that survived it, records become durable
//! in the order in which they were handed over, and nobody waits for the disk who did not ask to.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::sync::oneshot;

/// The shortest time between two commits that nobody asked for.
const INTERVAL: Duration = Duration::from_millis(300);

/// After a commit the disk is left alone for this many times as long as the commit took.
const REST: u32 = 4;

/// So many records are committed at once whatever the time.
const MOST_GATHERED: usize = 10_000;

/// After a commit that failed, the next waits this long at least, twice as long each time it fails again…
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// …but no longer than this.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Memory for pages of the database. Little: the records are kept in memory by their owners, and what
/// is read again and again the system keeps too.
const PAGE_MEMORY: usize = 4 << 20;

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDbError {
    /// Another process has it open.
    #[error("database `{}` is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It cannot be read or made.
    #[error("failed to open database `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: redb::DatabaseError,
    },
    /// The thread that writes cannot be started.
    #[error("failed to start the thread that writes database `{}`", path.display())]
    Thread {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why records cannot be made durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteDbError {
    /// The files that records name did not reach the disk. Which of them is not known, so nothing more
    /// is recorded until the process starts again.
    #[error("failed to sync the files that records name; restart the daemon")]
    Sync(#[source] Arc<io::Error>),
    /// The database could not be written, because the disk is full for example. The records are
    /// kept, and written as soon as that works again.
    #[error("failed to commit records")]
    Commit(#[source] Arc<redb::Error>),
    /// After a failure the database could not be opened again yet.
    #[error("failed to open the database again")]
    Reopen(#[source] Arc<redb::DatabaseError>),
    /// The thread that writes has ended.
    #[error("the database is closed")]
    Closed,
}

type Write = Box<dyn Fn(&WriteTransaction) -> Result<(), redb::Error> + Send>;
type After = Box<dyn FnOnce() + Send>;
type Flushed = Box<dyn FnOnce(Result<(), WriteDbError>) + Send>;
type Sync = Box<dyn Fn() -> io::Result<()> + Send + std::marker::Sync>;

enum Message {
    Write(Job),
    Flush(Flushed),
    Close,
}

/// One record.
pub(crate) struct Job {
    pub(crate) write: Write,
    /// Called when it is durable.
    pub(crate) after: Option<After>,
    /// Whether it names files, which then are on the disk before it is.
    pub(crate) names_files: bool,
}

/// The database. Clones are handles of the same; when the last is dropped, what was handed over is
/// committed and the file is closed.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread and the handles share.
struct Shared {
    path: PathBuf,
    /// Not there while it is opened again: redb takes no more calls once a file operation failed.
    database: RwLock<Option<Arc<Database>>>,
    syncs: Mutex<Vec<Sync>>,
    failure: Mutex<Option<WriteDbError>>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").finish_non_exhaustive()
    }
}

impl Db {
    /// Opens the database in the file `path`, which is made if it is not there.
    ///
    /// # Errors
    /// [`OpenDbError::InUse`] when another process has it open.
    pub fn open(path: &Path) -> Result<Db, OpenDbError> {
        let database = match open(path) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(OpenDbError::InUse(path.to_owned()));
            }
            opened => opened.map_err(|source| OpenDbError::Open {
                path: path.to_owned(),
                source,
            })?,
        };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            database: RwLock::new(Some(Arc::new(database))),
            syncs: Mutex::default(),
            failure: Mutex::default(),
        });
        let (queue, messages) = mpsc::channel();
        let writer = Writer {
            shared: Arc::clone(&shared),
            waiting: Vec::new(),
            pause: FIRST_RETRY,
        };
        let thread = thread::Builder::new()
            .name("database".into())
            .spawn(move || writer.serve(&messages))
            .map_err(|source| OpenDbError::Thread {
                path: path.to_owned(),
                source,
            })?;
        let thread = Mutex::new(Some(thread));
        Ok(Db {
            inner: Arc::new(Inner {
                shared,
                queue,
                thread,
            }),
        })
    }

    /// Hands over what is to be written. The files that it names are on the disk before it is.
    ///
    /// `write` runs later on another thread, in the order of the calls, and again when the commit
    /// failed. It must not fail but for the disk.
    pub fn submit(
        &self,
        write: impl Fn(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    ) {
        self.send(Job {
            write: Box::new(write),
            after: None,
            names_files: true,
        });
    }

    /// Like [`Db::submit`], and then calls `after` when the record is durable, on the thread that
    /// writes.
    pub fn submit_then(
        &self,
        write: impl Fn(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
        after: impl FnOnce() + Send + 'static,
    ) {
        let after: After = Box::new(after);
        self.send(Job {
            write: Box::new(write),
            after: Some(after),
            names_files: true,
        });
    }

    /// Like [`Db::submit`], for a record that names no file: no file is waited for.
    pub fn submit_light(
        &self,
        write: impl Fn(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    ) {
        self.send(Job {
            write: Box::new(write),
            after: None,
            names_files: false,
        });
    }

    /// Like [`Db::submit_light`], and then calls `after` when the record is durable, on the thread
    /// that writes.
    pub fn submit_light_then(
        &self,
        write: impl Fn(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
        after: impl FnOnce() + Send + 'static,
    ) {
        let after: After = Box::new(after);
        self.send(Job {
            write: Box::new(write),
            after: Some(after),
            names_files: false,
        });
    }

    /// Waits until all that was handed over before this call is durable. The commit is under way even
    /// if the future is dropped.
    ///
    /// # Errors
    /// When something could not be made durable. It may become so later.
    pub fn flush(&self) -> impl Future<Output = Result<(), WriteDbError>> + Send + use<> {
        let (done, flushed) = oneshot::channel();
        // Nobody may be waiting any more.
        let sent = self.request_flush(move |result| drop(done.send(result)));
        async move {
            sent?;
            flushed.await.unwrap_or(Err(WriteDbError::Closed))
        }
    }

    /// Like [`Db::flush`], and blocks.
    ///
    /// # Errors
    /// When something could not be made durable. It may become so later.
    pub fn flush_blocking(&self) -> Result<(), WriteDbError> {
        let (done, flushed) = mpsc::channel();
        self.request_flush(move |result| drop(done.send(result)))?;
        flushed.recv().unwrap_or(Err(WriteDbError::Closed))
    }

    /// Reads what is durable. What was handed over and not yet committed does not show.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(&self) -> Result<ReadTransaction, redb::Error> {
        let database = self.inner.shared.database();
        let database = database.ok_or(redb::Error::PreviousIo)?;
        Ok(database.begin_read()?)
    }

    /// Why nothing is recorded at present, if so.
    pub fn failure(&self) -> Option<WriteDbError> {
        self.inner.shared.failure()
    }

    /// Has `sync` called before records that name files are committed.
    pub(crate) fn sync_before_commit(
        &self,
        sync: impl Fn() -> io::Result<()> + Send + std::marker::Sync + 'static,
    ) {
        let mut syncs = self
            .inner
            .shared
            .syncs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        syncs.push(Box::new(sync));
    }

    fn request_flush(
        &self,
        done: impl FnOnce(Result<(), WriteDbError>) + Send + 'static,
    ) -> Result<(), WriteDbError> {
        let request = Message::Flush(Box::new(done));
        self.inner
            .queue
            .send(request)
            .map_err(|_| WriteDbError::Closed)
    }

    pub(crate) fn send(&self, job: Job) {
        if self.inner.queue.send(Message::Write(job)).is_err() {
            tracing::error!("a record is lost: the database thread has ended");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.queue.send(Message::Close);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // The last handle may be dropped by something that the thread itself called.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn database(&self) -> Option<Arc<Database>> {
        self.database
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Opens the database anew. Transactions that others still read from keep the file locked, and
    /// then it cannot be yet.
    fn reopen(&self) -> Result<Arc<Database>, WriteDbError> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        drop(database.take());
        let opened = open(&self.path).map_err(|error| WriteDbError::Reopen(Arc::new(error)))?;
        let opened = Arc::new(opened);
        *database = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn set_failure(&self, failure: Option<WriteDbError>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    fn failure(&self) -> Option<WriteDbError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn open(path: &Path) -> Result<Database, redb::DatabaseError> {
    redb::Builder::new()
        .set_cache_size(PAGE_MEMORY)
        .create(path)
}

struct Writer {
    shared: Arc<Shared>,
    /// What could not be committed yet, the oldest first.
    waiting: Vec<Job>,
    /// How long after the last failure the next commit is tried.
    pause: Duration,
}

/// What was gathered for one commit.
#[derive(Default)]
struct Batch {
    jobs: Vec<Job>,
    flushes: Vec<Flushed>,
    closing: bool,
}

impl Batch {
    fn add(&mut self, message: Message) {
        match message {
            Message::Write(job) => self.jobs.push(job),
            Message::Flush(done) => self.flushes.push(done),
            Message::Close => self.closing = true,
        }
    }

    fn is_due(&self) -> bool {
        self.closing || !self.flushes.is_empty() || self.jobs.len() >= MOST_GATHERED
    }
}

impl Writer {
    fn serve(mut self, messages: &mpsc::Receiver<Message>) {
        let mut rest_until = Instant::now();
        loop {
            let mut batch = Batch::default();
            if self.waiting.is_empty() {
                let Ok(first) = messages.recv() else { return };
                batch.add(first);
            }
            let due = rest_until.max(Instant::now() + INTERVAL);
            gather(messages, &mut batch, due);
            let start = Instant::now();
            let closing = batch.closing;
            self.finish(batch);
            rest_until = if self.waiting.is_empty() {
                Instant::now() + start.elapsed() * REST
            } else {
                Instant::now() + self.pause
            };
            if closing {
                if !self.waiting.is_empty() {
                    tracing::error!(records = self.waiting.len(), "the last records are lost");
                }
                return;
            }
        }
    }

    /// Commits what waits and `batch`, and tells whoever waits for it.
    fn finish(&mut self, batch: Batch) {
        self.waiting.extend(batch.jobs);
        let result = match self.shared.failure() {
            Some(failure @ WriteDbError::Sync(_)) => {
                self.waiting.clear();
                Err(failure)
            }
            Some(_) | None if self.waiting.is_empty() => Ok(()),
            earlier => self.settle(earlier.is_some()),
        };
        for done in batch.flushes {
            done(result.clone());
        }
    }

    /// Commits what waits.
    fn settle(&mut self, failed_before: bool) -> Result<(), WriteDbError> {
        let failure = match self.commit(failed_before) {
            Ok(()) => {
                if failed_before {
                    tracing::info!(records = self.waiting.len(), "records are written again");
                }
                self.shared.set_failure(None);
                self.pause = FIRST_RETRY;
                let afters = self.waiting.drain(..).filter_map(|job| job.after);
                afters.for_each(|after| after());
                return Ok(());
            }
            Err(failure) => failure,
        };
        if failed_before {
            self.pause = (self.pause * 2).min(LAST_RETRY);
        }
        let after = self.pause;
        match &failure {
            WriteDbError::Sync(_) => {
                tracing::error!(error = %failure, cause = ?failure, "nothing more is recorded");
            }
            _ => {
                tracing::error!(error = %failure, cause = ?failure, retry = ?after, "records are kept back");
            }
        }
        self.shared.set_failure(Some(failure.clone()));
        Err(failure)
    }

    fn commit(&self, failed_before: bool) -> Result<(), WriteDbError> {
        if self.waiting.iter().any(|job| job.names_files) {
            for sync in self
                .shared
                .syncs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
            {
                sync().map_err(|error| WriteDbError::Sync(Arc::new(error)))?;
            }
        }
        let database = match self.shared.database() {
            Some(database) if !failed_before => database,
            _ => self.shared.reopen()?,
        };
        self.write(&database)
            .map_err(|error| WriteDbError::Commit(Arc::new(error)))
    }

    fn write(&self, database: &Database) -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        // Without it, opening after a crash takes time in the size of the file.
        transaction.set_quick_repair(true);
        for job in &self.waiting {
            (job.write)(&transaction)?;
        }
        Ok(transaction.commit()?)
    }
}

/// Takes in messages until `deadline` or until somebody waits for the commit.
fn gather(messages: &mpsc::Receiver<Message>, batch: &mut Batch, deadline: Instant) {
    while !batch.is_due() {
        match messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(message) => batch.add(message),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
    // Whatever else is there goes with it.
    while batch.jobs.len() < MOST_GATHERED
        && let Ok(message) = messages.try_recv()
    {
        batch.add(message);
    }
}
