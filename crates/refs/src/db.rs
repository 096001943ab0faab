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
use std::sync::{Arc, Mutex, PoisonError};
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

/// Memory for pages of the database; the records themselves are kept in memory by their owners.
const PAGE_MEMORY: usize = 32 << 20;

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

/// Why records cannot be made durable. Once this happens, nothing more is recorded until the process
/// starts again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteDbError {
    /// The files that records name did not reach the disk.
    #[error("failed to sync the files that records name")]
    Sync(#[source] Arc<io::Error>),
    /// The database refused.
    #[error("failed to commit records")]
    Commit(#[source] Arc<redb::Error>),
    /// The thread that writes has ended.
    #[error("the database is closed")]
    Closed,
}

type Write = Box<dyn FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send>;
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
    database: Arc<Database>,
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread and the handles share.
#[derive(Default)]
struct Shared {
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
        let opened = redb::Builder::new()
            .set_cache_size(PAGE_MEMORY)
            .create(path);
        let database = Arc::new(match opened {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(OpenDbError::InUse(path.to_owned()));
            }
            opened => opened.map_err(|source| OpenDbError::Open {
                path: path.to_owned(),
                source,
            })?,
        });
        let shared = Arc::<Shared>::default();
        let (queue, messages) = mpsc::channel();
        let writer = Writer {
            database: Arc::clone(&database),
            shared: Arc::clone(&shared),
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
                database,
                shared,
                queue,
                thread,
            }),
        })
    }

    /// Hands over what is to be written. The files that it names are on the disk before it is.
    ///
    /// `write` runs later on another thread, in the order of the calls. It must not fail but for
    /// the disk: an error ends all recording.
    pub fn submit(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
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
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
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
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
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
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
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
    /// When something could not be made durable, now or earlier.
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
    /// When something could not be made durable, now or earlier.
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
        Ok(self.inner.database.begin_read()?)
    }

    /// The failure that ended all recording, if there was one.
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
    fn failure(&self) -> Option<WriteDbError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct Writer {
    database: Arc<Database>,
    shared: Arc<Shared>,
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
    fn serve(self, messages: &mpsc::Receiver<Message>) {
        let mut rest_until = Instant::now();
        while let Ok(first) = messages.recv() {
            let mut batch = Batch::default();
            batch.add(first);
            gather(
                messages,
                &mut batch,
                rest_until.max(Instant::now() + INTERVAL),
            );
            let start = Instant::now();
            let closing = batch.closing;
            self.finish(batch);
            rest_until = Instant::now() + start.elapsed() * REST;
            if closing {
                return;
            }
        }
    }

    /// Commits `batch` and tells whoever waits.
    fn finish(&self, batch: Batch) {
        let mut result = match self.shared.failure() {
            Some(failure) => Err(failure),
            None => Ok(()),
        };
        let mut afters = Vec::new();
        if result.is_ok() && !batch.jobs.is_empty() {
            result = self.commit(batch.jobs, &mut afters);
            if let Err(failure) = &result {
                tracing::error!(error = %failure, cause = ?failure, "nothing more is recorded");
                let mut latch = self
                    .shared
                    .failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *latch = Some(failure.clone());
            }
        }
        if result.is_ok() {
            afters.into_iter().for_each(|after| after());
        }
        for done in batch.flushes {
            done(result.clone());
        }
    }

    fn commit(&self, jobs: Vec<Job>, afters: &mut Vec<After>) -> Result<(), WriteDbError> {
        if jobs.iter().any(|job| job.names_files) {
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
        self.write(jobs, afters)
            .map_err(|error| WriteDbError::Commit(Arc::new(error)))
    }

    fn write(&self, jobs: Vec<Job>, afters: &mut Vec<After>) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        // Without it, opening after a crash takes time in the size of the file.
        transaction.set_quick_repair(true);
        for job in jobs {
            (job.write)(&transaction)?;
            afters.extend(job.after);
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
