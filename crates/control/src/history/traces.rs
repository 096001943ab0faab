//! The trace of a build, kept with its record a moment after the build has ended: clients send the last of
//! their spans when they have the build's answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use content::CommitError;
use oci::Digest;
use proto::control::{BuildHistoryEventType, Descriptor};
use spans::Listening;
use tokio::sync::Notify;

use super::store::Kept;
use super::{CLOSING, History, HistoryError, Inner};

/// How long spans are awaited that come late (BuildKit: `solver/llbsolver/history.go`).
const LATE: Duration = Duration::from_secs(3);

const MEDIA_TYPE: &str = "application/vnd.buildkit.otlp.json.v0";

/// A longer trace is a file of the store of blobs.
const IN_DATABASE: usize = 1 << 20;

/// Why a trace is not kept.
#[derive(Debug, thiserror::Error)]
enum TraceError {
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("failed to write the trace")]
    Write(#[from] CommitError),
}

impl History {
    /// Keeps the trace of the build `name` with its record now, if it is still awaited.
    pub(crate) async fn finalize(&self, name: &str) {
        self.settled(Some(name)).await;
        self.inner.finalized(|waiting| waiting == name).await;
    }

    /// Ends all that is still to be kept of builds that have ended.
    pub async fn finish(&self) {
        self.settled(None).await;
        self.inner.finalized(|_| true).await;
    }
}

impl Inner {
    /// Waits for the traces of the builds that are `wanted`, for no later spans.
    async fn finalized(&self, wanted: impl Fn(&str) -> bool) {
        let finalized = async {
            loop {
                let closed = self.closed.notified();
                tokio::pin!(closed);
                closed.as_mut().enable();
                let mut waits = false;
                for (name, now) in &self.state().traced {
                    if wanted(name) {
                        now.notify_one();
                        waits = true;
                    }
                }
                if !waits {
                    return;
                }
                closed.await;
            }
        };
        // Without the trace that cannot be kept.
        let _ = tokio::time::timeout(CLOSING, finalized).await;
    }

    /// Keeps what comes for the trace of a build whose record is kept, after a while or `now`.
    pub(super) async fn keep_trace(
        self: Arc<Inner>,
        name: String,
        now: Arc<Notify>,
        listening: Listening,
    ) {
        // Told or not: then it is time.
        let _ = tokio::time::timeout(LATE, now.notified()).await;
        let (inner, build) = (self.clone(), name.clone());
        let kept = tokio::task::spawn_blocking(move || match listening.document() {
            Some(document) => inner.add_trace(&build, document),
            None => Ok(()),
        });
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(build = name, error = %rpc::status::chain(&error), "a trace is lost");
        }
        {
            let mut state = self.state();
            // A later build may have the same name.
            if state
                .traced
                .get(&name)
                .is_some_and(|n| Arc::ptr_eq(n, &now))
            {
                state.traced.remove(&name);
            }
        }
        self.closed.notify_waiters();
    }

    fn add_trace(&self, name: &str, document: Bytes) -> Result<(), TraceError> {
        let digest = Digest::of(&document);
        let descriptor = super::descriptor(MEDIA_TYPE, &digest, document.len() as u64);
        let mut blobs = Vec::new();
        // Until it is held.
        let mut kept = None;
        if document.len() > IN_DATABASE {
            kept = Some(self.store.refs().insert_blob(&document)?);
        } else {
            blobs.push((digest, document));
        }
        let _updating = self.updating();
        // A record that was removed meanwhile is not brought back.
        let Some(mut record) = self.store.get(name)? else {
            return Ok(());
        };
        if kept.is_some() {
            self.hold(name, [record.logs.as_ref(), Some(&descriptor)]);
        }
        record.trace = Some(descriptor);
        record.generation += 1;
        self.store.put(Kept {
            record: record.clone(),
            blobs,
        });
        self.tell(BuildHistoryEventType::Complete, record);
        Ok(())
    }

    /// Keeps those of a record's blobs that are in the store of blobs.
    pub(super) fn hold<'a>(
        &self,
        name: &str,
        blobs: impl IntoIterator<Item = Option<&'a Descriptor>>,
    ) {
        let content = self.store.refs().content();
        let digests = blobs.into_iter().flatten();
        let digests = digests.filter_map(|blob| blob.digest.parse().ok());
        let stored = digests.filter(|digest| content.contains(digest)).collect();
        let owner = super::store::owner(name);
        if let Err(error) = self.store.refs().hold(&owner, stored) {
            tracing::warn!(build = name, %error, "the log or the trace of a build is lost");
        }
    }
}
