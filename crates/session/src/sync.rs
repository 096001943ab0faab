//! Bringing a client's directory in.

use std::sync::Arc;

use filesync::{ReceiveOptions, Received, Split};
use futures::future::join_all;
use sys::root::RootDir;
use tokio::sync::oneshot;
use tonic::Streaming;

use crate::calls::{append, late_stream};
use crate::{SessionCalls, SessionError};

/// What of a directory is to be seen.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    /// If any, nothing else is.
    pub include: Vec<String>,
    /// What is not, unless a later one that begins with `!` matches too.
    pub exclude: Vec<String>,
    /// Paths that are, and where they lead if they are links.
    pub follow: Vec<String>,
}

impl Patterns {
    /// Whether the directory can be listed in parts. Where something is picked out of it, the patterns
    /// for parts would pick more.
    #[must_use]
    pub fn can_be_split(&self) -> bool {
        self.include.is_empty() && self.follow.is_empty()
    }

    /// What one of several calls is to see.
    fn of_part(&self, split: &Split, call: usize) -> Patterns {
        let (include, exclude) = split.patterns(call);
        Patterns {
            include,
            exclude: self.exclude.iter().cloned().chain(exclude).collect(),
            follow: Vec::new(),
        }
    }
}

impl SessionCalls {
    /// Makes `root` equal to the directory that the client calls `name`, as far as the patterns let
    /// it be seen. Only what differs is sent.
    ///
    /// # Errors
    /// When the client refuses the directory, or the transfer fails. The tree is in no known state
    /// then.
    pub async fn sync_dir(
        &self,
        name: &str,
        patterns: &Patterns,
        root: RootDir,
        options: ReceiveOptions,
    ) -> Result<Received, SessionError> {
        let (answer, incoming) = late_stream();
        let (packets, work) = filesync::receive(root, options, incoming);
        let call = self.list(name, patterns, packets, answer);
        let (called, received) = tokio::join!(call, work);
        called?;
        received.map_err(|error| SessionError::Files(error.into()))
    }

    /// As [`sync_dir`](SessionCalls::sync_dir), by several calls at the same time, as `split` says. When
    /// their answers may not be the whole tree, it is listed again by one.
    ///
    /// # Errors
    /// As there.
    pub async fn sync_parts(
        &self,
        name: &str,
        patterns: &Patterns,
        split: Split,
        root: RootDir,
        options: ReceiveOptions,
    ) -> Result<Received, SessionError> {
        let again = root.try_clone().map_err(|source| SessionError::Io {
            what: "failed to open the directory of a local source",
            source,
        })?;
        let (answers, incoming): (Vec<_>, Vec<_>) =
            (0..split.calls()).map(|_| late_stream()).unzip();
        let parts = (0..split.calls()).map(|call| patterns.of_part(&split, call));
        let parts: Vec<Patterns> = parts.collect();
        let (packets, work) = filesync::receive_parts(root, options.clone(), split, incoming);
        let calls = parts.iter().zip(packets).zip(answers);
        let calls =
            calls.map(|((patterns, packets), answer)| self.list(name, patterns, packets, answer));
        let (called, received) = tokio::join!(join_all(calls), work);
        called.into_iter().collect::<Result<(), _>>()?;
        let received = received.map_err(|error| SessionError::Files(error.into()))?;
        if !received.misfit {
            return Ok(received);
        }
        tracing::debug!(name, "listing a client's directory again, as a whole");
        let so_far = received.bytes;
        let progress = options.progress.clone();
        let options = ReceiveOptions {
            progress: progress
                .map(|tell| -> filesync::Progress { Arc::new(move |bytes| tell(so_far + bytes)) }),
            ..options
        };
        let whole = self.sync_dir(name, patterns, again, options).await?;
        Ok(received.then(whole))
    }

    /// Makes the call that lists a directory.
    async fn list(
        &self,
        name: &str,
        patterns: &Patterns,
        packets: filesync::Packets,
        answer: oneshot::Sender<Streaming<filesync::wire::Packet>>,
    ) -> Result<(), SessionError> {
        let mut request = self.request(packets)?;
        let metadata = request.metadata_mut();
        append(metadata, "dir-name", &[name.to_owned()])?;
        append(metadata, "include-patterns", &patterns.include)?;
        append(metadata, "exclude-patterns", &patterns.exclude)?;
        append(metadata, "followpaths", &patterns.follow)?;
        self.packets(request, "/moby.filesync.v1.FileSync/DiffCopy", answer)
            .await
    }
}
