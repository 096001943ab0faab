//! The history of builds: a record of each, its log and what it gave.
//!
//! A record is *active* while its build runs, *closing* while its log is written, which the build does
//! not wait for, and then *kept* until a client or the limits of the configuration remove it. Its trace
//! comes a moment later.

mod filter;
mod listen;
mod log;
mod record;
mod store;
mod traces;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use engine::progress::Log;
use engine::{Engine, Finished};
use oci::Digest;
use prost::Message as _;
use proto::control::{BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, Descriptor};
use refs::Refs;
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast};
use tonic::{Code, Status};

pub use store::HistoryError;

pub(crate) use log::Blob;
pub(crate) use record::of_request;

use log::WrittenBlob;
use store::{Kept, Store};

use crate::trace::Trace;

/// How often old records are looked for.
const SWEEP: Duration = Duration::from_secs(120);

/// Events that wait for a slow listener.
const EVENTS: usize = 1024;

/// Nobody waits longer than this for a record that is being closed.
const CLOSING: Duration = Duration::from_secs(10);

const ERROR_TYPE: &str = "application/vnd.googeapis.google.rpc.status+proto";

/// What records are kept: those that are young, and so many of the old ones.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// A record goes only when its build ended longer ago than this…
    pub max_age: Duration,
    /// …and so many younger ones are there.
    pub max_entries: usize,
}

/// The history of builds. Clones are handles of the same.
#[derive(Clone)]
pub struct History {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    state: Mutex<State>,
    /// Told whenever a record has been closed.
    closed: Notify,
    /// Shared, since the channel makes room for all that may wait when it is opened.
    events: broadcast::Sender<Arc<BuildHistoryEvent>>,
    /// Held while a kept record is changed.
    updates: Mutex<()>,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    /// Builds that run or whose records are being closed.
    active: HashMap<String, Active>,
    /// Builds whose traces are awaited, and by what that ends now.
    traced: HashMap<String, Arc<Notify>>,
}

struct Active {
    record: BuildHistoryRecord,
    closing: bool,
}

impl History {
    /// The history kept in `refs`' database. Must be called within a tokio runtime.
    pub fn open(refs: Refs, retention: Retention) -> History {
        let history = History {
            inner: Arc::new(Inner {
                store: Store::new(refs),
                state: Mutex::default(),
                closed: Notify::new(),
                events: broadcast::Sender::new(EVENTS),
                updates: Mutex::default(),
                runtime: Handle::current(),
            }),
        };
        let inner = Arc::downgrade(&history.inner);
        tokio::spawn(async move {
            loop {
                let Some(inner) = inner.upgrade() else { return };
                let swept = tokio::task::spawn_blocking(move || inner.sweep(retention)).await;
                if let Ok(Err(error)) = swept {
                    tracing::warn!(error = %rpc::status::chain(&error), "failed to look for old records of builds");
                }
                tokio::time::sleep(SWEEP).await;
            }
        });
        history
    }

    /// Begins the record of a build, which the answer closes.
    pub(crate) fn begin(
        &self,
        mut record: BuildHistoryRecord,
        log: Arc<Log>,
        trace: Option<Trace>,
        engine: Engine,
    ) -> Recording {
        record.created_at = Some(SystemTime::now().into());
        let name = record.r#ref.clone();
        let active = Active {
            record: record.clone(),
            closing: false,
        };
        self.inner.state().active.insert(name, active);
        self.inner
            .tell(BuildHistoryEventType::Started, record.clone());
        Recording {
            history: self.clone(),
            engine,
            open: Some((record, log, trace)),
        }
    }

    /// The log of a build that ended.
    pub(crate) async fn log(&self, name: &str) -> Result<Option<Blob>, Status> {
        self.settled(Some(name)).await;
        let name = name.to_owned();
        self.reading(move |store| {
            let Some(logs) = store.get(&name)?.and_then(|record| record.logs) else {
                return Ok(None);
            };
            let Ok(digest) = logs.digest.parse() else {
                return Ok(None);
            };
            if let Some(bytes) = store.blob(&digest)? {
                return Ok(Some(Blob::Memory(bytes)));
            }
            let file = store.refs().content().open_blob(&digest).ok();
            Ok(file.map(|file| Blob::File(std::io::BufReader::new(file))))
        })
        .await
    }

    /// A blob that is kept with a record.
    pub(crate) async fn blob(&self, digest: Digest) -> Result<Option<Bytes>, Status> {
        self.reading(move |store| store.blob(&digest)).await
    }

    /// Digests and sizes of the blobs that are kept with records.
    pub(crate) async fn blobs(&self) -> Result<Vec<(Digest, u64)>, Status> {
        self.reading(|store| store.blobs()).await
    }

    /// When the oldest of the large blobs that are kept with records was written.
    pub(crate) async fn oldest_blob(&self) -> Result<Option<SystemTime>, Status> {
        self.reading(|store| {
            let records = store.all()?;
            let named = records
                .iter()
                .flat_map(|record| [&record.logs, &record.trace]);
            let digests = named.flatten().filter_map(|blob| blob.digest.parse().ok());
            let blobs = digests.filter_map(|digest| store.refs().content().stat(&digest));
            Ok(blobs.map(|blob| blob.written).min())
        })
        .await
    }

    /// The store of large blobs.
    pub(crate) fn content(&self) -> &content::Content {
        self.inner.store.refs().content()
    }

    /// Pins or unpins a record.
    pub(crate) async fn pin(&self, name: &str, pinned: bool) -> Result<(), Status> {
        self.settled(Some(name)).await;
        let (inner, name) = (self.inner.clone(), name.to_owned());
        self.reading(move |store| {
            let _updating = inner.updating();
            let Some(mut record) = store.get(&name)? else {
                return Ok(Err(Status::unknown(format!(
                    "failed to retrieve ref {name}: file does not exist"
                ))));
            };
            record.pinned = pinned;
            record.generation += 1;
            store.put(Kept {
                record: record.clone(),
                blobs: Vec::new(),
            });
            inner.tell(BuildHistoryEventType::Complete, record);
            Ok(Ok(()))
        })
        .await?
    }

    /// Removes a record; one that is not there is gone already.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Status> {
        self.finalize(name).await;
        let (inner, name) = (self.inner.clone(), name.to_owned());
        self.reading(move |store| {
            let _updating = inner.updating();
            if let Some(record) = store.get(&name)? {
                inner.remove(&record);
            }
            Ok(())
        })
        .await
    }

    /// Waits until the record of `name`, or of all builds that have ended, is closed.
    pub async fn settled(&self, name: Option<&str>) {
        let settled = async {
            loop {
                let closed = self.inner.closed.notified();
                tokio::pin!(closed);
                closed.as_mut().enable();
                if !self.inner.state().is_closing(name) {
                    return;
                }
                closed.await;
            }
        };
        // What is asked for then is answered without the record that cannot be closed.
        let _ = tokio::time::timeout(CLOSING, settled).await;
    }

    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Arc<Store>) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.inner.store.clone();
        tokio::task::spawn_blocking(move || read(&store))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(rpc::status::chain(&error)))
    }
}

impl State {
    fn is_closing(&self, name: Option<&str>) -> bool {
        match name {
            Some(name) => self.active.get(name).is_some_and(|active| active.closing),
            None => self.active.values().any(|active| active.closing),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn updating(&self) -> MutexGuard<'_, ()> {
        self.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, kind: BuildHistoryEventType, record: BuildHistoryRecord) {
        // Nobody may be listening.
        let _ = self.events.send(Arc::new(BuildHistoryEvent {
            r#type: kind.into(),
            record: Some(record),
        }));
    }

    fn remove(&self, record: &BuildHistoryRecord) {
        self.store.remove(record);
        let gone = BuildHistoryRecord {
            r#ref: record.r#ref.clone(),
            ..BuildHistoryRecord::default()
        };
        self.tell(BuildHistoryEventType::Deleted, gone);
    }

    /// Removes records that are both too old and too many.
    fn sweep(&self, retention: Retention) -> Result<(), HistoryError> {
        let mut records = self.store.all()?;
        records.retain(|record| !record.pinned);
        let ended = |record: &BuildHistoryRecord| filter::nanoseconds(record.completed_at.as_ref());
        records.sort_by_key(|record| std::cmp::Reverse(ended(record)));
        let oldest = SystemTime::now().checked_sub(retention.max_age);
        let oldest = oldest.map_or(0, |time| filter::nanoseconds(Some(&time.into())));
        for record in records.iter().skip(retention.max_entries) {
            if ended(record) < oldest {
                self.remove(record);
            }
        }
        Ok(())
    }

    /// Writes what is left to write of an ended build.
    fn close(
        &self,
        mut record: BuildHistoryRecord,
        log: &Log,
        mut blobs: Vec<(Digest, Bytes)>,
        error: Option<&Status>,
    ) {
        match log::write(log, self.store.refs().content()) {
            Ok(written) => {
                let counts = written.counts;
                record.num_total_steps = counts.total;
                record.num_completed_steps = counts.completed;
                record.num_cached_steps = counts.cached;
                record.num_warnings = counts.warnings;
                match written.blob {
                    WrittenBlob::Memory(digest, bytes) => blobs.push((digest, bytes)),
                    WrittenBlob::File(whole) => match self.store.refs().place_blob(whole) {
                        Ok(_kept) => self.hold(&record.r#ref, [Some(&written.descriptor)]),
                        Err(error) => tracing::warn!(
                            build = record.r#ref,
                            error = %rpc::status::chain(&error),
                            "the log of a build is lost"
                        ),
                    },
                }
                record.logs = Some(written.descriptor);
            }
            Err(error) => tracing::warn!(
                build = record.r#ref,
                error = %rpc::status::chain(&error),
                "failed to write the log of a build"
            ),
        }
        if let Some(error) = error {
            let whole = Bytes::copy_from_slice(&whole_error(error));
            let digest = Digest::of(&whole);
            record.external_error = Some(descriptor(ERROR_TYPE, &digest, whole.len() as u64));
            record.error = Some(proto::rpc::Status {
                code: error.code() as i32,
                message: error.message().to_owned(),
                details: Vec::new(),
            });
            blobs.push((digest, whole));
        }
        self.store.put(Kept {
            record: record.clone(),
            blobs,
        });
        self.state().active.remove(&record.r#ref);
        self.tell(BuildHistoryEventType::Complete, record);
        self.closed.notify_waiters();
    }
}

/// The error with its details, as it went to the client.
fn whole_error(error: &Status) -> Vec<u8> {
    if !error.details().is_empty() {
        return error.details().to_vec();
    }
    let plain = proto::rpc::Status {
        code: error.code() as i32,
        message: error.message().to_owned(),
        details: Vec::new(),
    };
    plain.encode_to_vec()
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..Descriptor::default()
    }
}

type Open = (BuildHistoryRecord, Arc<Log>, Option<Trace>);

/// The open record of a build. Dropped, the build was given up by its client.
pub(crate) struct Recording {
    history: History,
    engine: Engine,
    open: Option<Open>,
}

impl Recording {
    /// Closes the record of a build that went well. Returns before the record is written.
    pub(crate) fn succeeded(mut self, finished: &Finished) {
        if let Some(open) = self.open.take() {
            self.close(open, Some(finished.clone()), None);
        }
    }

    /// Closes the record of a build that failed.
    pub(crate) fn failed(mut self, error: &Status) {
        if let Some(open) = self.open.take() {
            self.close(open, None, Some(error.clone()));
        }
    }

    fn close(
        &self,
        (mut record, log, trace): Open,
        finished: Option<Finished>,
        error: Option<Status>,
    ) {
        record.completed_at = Some(SystemTime::now().into());
        let inner = self.history.inner.clone();
        if let Some(active) = inner.state().active.get_mut(&record.r#ref) {
            active.closing = true;
        }
        let engine = self.engine.clone();
        let runtime = inner.runtime.clone();
        runtime.clone().spawn_blocking(move || {
            let traced = trace.map(|trace| {
                trace.record(&log);
                let now = Arc::new(Notify::new());
                let mut state = inner.state();
                state.traced.insert(record.r#ref.clone(), now.clone());
                (record.r#ref.clone(), now, trace.listening())
            });
            let finished = finished.as_ref();
            let blobs = finished.map(|finished| record::add_results(&mut record, finished));
            inner.close(record, &log, blobs.unwrap_or_default(), error.as_ref());
            // From now on the log is read from the record.
            engine.forget(&log);
            if let Some((name, now, listening)) = traced {
                runtime.spawn(inner.keep_trace(name, now, listening));
            }
        });
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let error = Status::new(Code::Cancelled, "context canceled");
            self.close(open, None, Some(error));
        }
    }
}
