//! The receiver: makes a directory equal to the tree of the sender.
//!
//! Packets are taken in by one task and handed on in batches: the list to a *planner* thread,
//! which compares it with the directory and decides ([`plan`]), data to a few *writer* threads
//! ([`mod@write`]). The task waits for these threads; they wait only for the disk and for it, never
//! for the connection, so that no circle of waiting can close through the sender.

mod metadata;
mod plan;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use fstree::pattern::Matcher;
use fstree::walk::WalkError;
use futures::{Stream, StreamExt};
use prost::Message;
use sys::root::RootDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use crate::merge::{Merge, is_misfit, route};
use crate::order::OrderError;
use crate::packets::Packets;
use crate::split::Split;
use crate::wire::{Kind, Packet, Stat};

use plan::{Listed, Planner};
use write::{Work, Writer};

/// Packets that are taken in at a time if there are so many.
const BATCH: usize = 256;

/// Batches that wait for a thread.
const QUEUE: usize = 16;

/// Writers at most: beyond that the directories' locks are what limits.
const MAX_WRITERS: usize = 4;

/// Neighbours in the list go to the same writer, which then finds their directory open.
const NEIGHBOURS: u32 = 32;

/// Entries of a tree at most. Their paths and requests are kept in memory.
const MAX_ENTRIES: u32 = 16 << 20;

/// When a file that is there already is taken for the one in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Differ {
    /// When kind, mode, owner, size and time of change are equal.
    #[default]
    Metadata,
    /// Never: all data is asked for.
    None,
}

/// Called with the number of bytes received so far.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// How a tree is received.
#[derive(Clone, Default)]
pub struct ReceiveOptions {
    /// What is taken for equal.
    pub differ: Differ,
    /// Whether what is there and not in the list stays. If so, all data is asked for.
    pub keep: bool,
    /// The owner that everything gets, in place of the one in the list.
    pub owner: Option<(u32, u32)>,
    /// If any, only what matches is transferred; of everything else only the list is kept, as
    /// frames in the file [`METADATA_FILE`].
    pub metadata_only: Option<Arc<Matcher>>,
    /// Whom to tell how far it is.
    pub progress: Option<Progress>,
    /// Whether to find out how several calls can list the tree the next time: if it has so many
    /// entries at least.
    pub survey: Option<usize>,
}

/// The file of lists whose entries are not transferred: for each entry its length as 4 bytes, the
/// lowest first, and the encoded [`Stat`].
pub const METADATA_FILE: &str = ".fsutil-metadata";

/// What a transfer has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes of all packets.
    pub bytes: u64,
    /// Entries in the list.
    pub entries: u64,
    /// The entries that were made, rewritten or changed, in order.
    pub changed: Vec<PathBuf>,
    /// The directories of which the sender has another time, and nothing else.
    pub retimed: Vec<PathBuf>,
    /// What was removed, without what was below it. Also a directory that something else took the
    /// place of, which is among what has `changed`.
    pub removed: Vec<PathBuf>,
    /// How several calls can list the tree, if asked for, and if that is worth it.
    pub split: Option<Split>,
    /// Whether the parts that were received may not be the whole tree: an entry was left out that was
    /// not of its call's part, or files of two parts may be one.
    pub misfit: bool,
}

impl Received {
    /// Adds what another transfer into the same directory has done after this one.
    #[must_use]
    pub fn then(mut self, next: Received) -> Received {
        for (all, more) in [
            (&mut self.changed, next.changed),
            (&mut self.retimed, next.retimed),
            (&mut self.removed, next.removed),
        ] {
            all.extend(more);
            all.sort();
            all.dedup();
        }
        Received {
            bytes: self.bytes + next.bytes,
            entries: next.entries,
            split: next.split,
            misfit: self.misfit || next.misfit,
            ..self
        }
    }
}

/// Why a tree could not be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The sender has failed.
    #[error("error from sender: {0}")]
    Sender(String),
    /// The connection broke.
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Stream(Box<Status>),
    /// The sender went away before the end.
    #[error("the sender went away before all was received")]
    Ended,
    /// An entry's path, or its place in the list, is not allowed.
    #[error("entry `{}` is refused: {reason}", path.display())]
    Entry {
        /// The entry.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Data came for a file that was not asked for.
    #[error("invalid file request {0}")]
    UnexpectedData(u32),
    /// The list is too long.
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
    /// The sender gives many files at once, more than it may.
    #[error("the sender interleaves too many files")]
    TooManyOpen,
    /// The directory cannot be compared with the list.
    #[error("failed to list the destination")]
    Walk(#[from] WalkError),
    /// An entry cannot be written.
    #[error("failed to write `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A thread of ours ended without a result.
    #[error("a task of the transfer was lost")]
    Lost,
}

impl ReceiveError {
    fn order(path: PathBuf, error: OrderError) -> ReceiveError {
        ReceiveError::Entry {
            path,
            reason: error.to_string(),
        }
    }
}

/// Makes `root` equal to the sender's tree: gives the packets for the sender, and what does the
/// work.
///
/// After an error the directory is neither what it was nor what it should be. Dropped, the future
/// stops; its threads end soon after.
///
/// # Errors
/// See [`ReceiveError`]; the sender is told.
pub fn receive<S>(
    root: RootDir,
    options: ReceiveOptions,
    incoming: S,
) -> (
    Packets,
    impl Future<Output = Result<Received, ReceiveError>> + Send,
)
where
    S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
{
    let (outgoing, packets) = Packets::unbounded();
    let work = async move {
        let result = run(root, options, incoming, &outgoing).await;
        if let Err(error) = &result
            && !matches!(error, ReceiveError::Sender(_) | ReceiveError::Stream(_))
        {
            drop(outgoing.send(vec![Packet::error(rpc::status::chain(error))]));
        }
        result
    };
    (packets, work)
}

/// As [`receive`], from several calls each of which lists a part of the tree: gives the packets for
/// each, and what does the work.
///
/// When it is a [misfit](Received::misfit), the tree must be received again, from one call.
///
/// # Errors
/// See [`ReceiveError`]; the senders are told.
pub fn receive_parts<S>(
    root: RootDir,
    options: ReceiveOptions,
    split: Split,
    incoming: Vec<S>,
) -> (
    Vec<Packets>,
    impl Future<Output = Result<Received, ReceiveError>> + Send,
)
where
    S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
{
    let (senders, outgoing) = incoming.iter().map(|_| Packets::unbounded()).unzip();
    let (merged, origins) = Merge::new(split, incoming);
    let (packets, receiving) = receive(root, options, merged);
    let work = async move {
        let (received, ()) = tokio::join!(receiving, route(packets, origins.clone(), senders));
        Ok(Received {
            misfit: is_misfit(&origins),
            ..received?
        })
    };
    (outgoing, work)
}

/// Where received packets go.
struct Sinks {
    /// None once the list is complete.
    plan: Option<mpsc::Sender<Listed>>,
    writers: Vec<mpsc::Sender<Work>>,
}

async fn run<S>(
    root: RootDir,
    options: ReceiveOptions,
    incoming: S,
    outgoing: &mpsc::UnboundedSender<Vec<Packet>>,
) -> Result<Received, ReceiveError>
where
    S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
{
    let root = Arc::new(root);
    let mut work = JoinSet::new();
    let mut writers = Vec::new();
    let count = available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_WRITERS);
    let (done, written) = mpsc::channel(count);
    for _ in 0..count {
        let (sender, queue) = mpsc::channel(QUEUE);
        let (root, done) = (root.clone(), done.clone());
        work.spawn_blocking(move || {
            Writer::new(root).run(queue)?;
            // The planner waits for one from each.
            done.blocking_send(()).map_err(|_| ReceiveError::Lost)?;
            Ok(None)
        });
        writers.push(sender);
    }
    drop(done);
    let (plan, list) = mpsc::channel(QUEUE);
    let planner = Planner::new(root, &options, writers.clone(), outgoing.clone());
    work.spawn_blocking(move || planner.run(options.keep, list, written).map(Some));

    let sinks = Sinks {
        plan: Some(plan),
        writers,
    };
    let mut taking = Box::pin(take_in(incoming, sinks, options.progress));
    let mut received = None;
    let mut bytes = None;
    while bytes.is_none() || received.is_none() {
        let failed = tokio::select! {
            taken = &mut taking, if bytes.is_none() => match taken {
                Ok(taken) => {
                    bytes = Some(taken);
                    continue;
                }
                Err(error) => error,
            },
            Some(done) = work.join_next() => match done.unwrap_or(Err(ReceiveError::Lost)) {
                Ok(None) => continue,
                Ok(planned) => {
                    received = planned;
                    continue;
                }
                Err(error) => error,
            },
        };
        // All queues end with this, and so do the threads.
        drop(taking);
        return Err(root_cause(failed, &mut work).await);
    }
    Ok(Received {
        bytes: bytes.unwrap_or_default(),
        ..received.unwrap_or_default()
    })
}

/// The error that the others follow from: a thread that fails makes those fail that count on it.
async fn root_cause(
    first: ReceiveError,
    work: &mut JoinSet<Result<Option<Received>, ReceiveError>>,
) -> ReceiveError {
    let follows = |error: &ReceiveError| {
        matches!(
            error,
            ReceiveError::Ended | ReceiveError::Lost | ReceiveError::UnexpectedData(_)
        )
    };
    let mut cause = first;
    while follows(&cause)
        && let Some(done) = work.join_next().await
    {
        match done {
            Ok(Err(error)) if !follows(&error) => cause = error,
            _ => {}
        }
    }
    cause
}

/// Takes packets in until the sender has finished; gives the number of their bytes.
async fn take_in<S>(
    incoming: S,
    mut sinks: Sinks,
    progress: Option<Progress>,
) -> Result<u64, ReceiveError>
where
    S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
{
    let mut incoming = incoming.ready_chunks(BATCH);
    let mut bytes = 0;
    let mut id = 0;
    let mut end_of_list = false;
    while let Some(batch) = incoming.next().await {
        let mut entries = Vec::new();
        let mut data = vec![Vec::new(); sinks.writers.len()];
        let mut finished = false;
        for packet in batch {
            let packet = packet.map_err(|status| ReceiveError::Stream(Box::new(status)))?;
            bytes += packet.encoded_len() as u64;
            match packet.kind() {
                Kind::Error => return Err(ReceiveError::Sender(packet.message())),
                Kind::Finish => finished = true,
                Kind::Request => {}
                Kind::Data => {
                    let writer = writer_of(packet.id, sinks.writers.len());
                    data[writer].push((packet.id, packet.data));
                }
                Kind::Stat => match packet.stat {
                    // Also if both come in one batch, in which the end is handed on last.
                    Some(stat) if end_of_list => {
                        let path = stat.path().to_owned();
                        return Err(ReceiveError::order(path, OrderError::OutOfOrder));
                    }
                    Some(stat) if id < MAX_ENTRIES => {
                        entries.push((id, stat));
                        id += 1;
                    }
                    Some(_) => return Err(ReceiveError::TooMany),
                    None => end_of_list = true,
                },
            }
        }
        if let Some(progress) = &progress {
            progress(bytes);
        }
        sinks.hand_on(entries, end_of_list, data).await?;
        if finished {
            return Ok(bytes);
        }
    }
    Err(ReceiveError::Ended)
}

/// The writer of the file at this position of the list.
fn writer_of(id: u32, writers: usize) -> usize {
    (id / NEIGHBOURS) as usize % writers
}

impl Sinks {
    async fn hand_on(
        &mut self,
        entries: Vec<(u32, Stat)>,
        end_of_list: bool,
        data: Vec<Vec<(u32, Bytes)>>,
    ) -> Result<(), ReceiveError> {
        if !entries.is_empty()
            && let Some(plan) = &self.plan
        {
            plan.send(Listed::Entries(entries))
                .await
                .map_err(|_| ReceiveError::Lost)?;
        }
        if end_of_list && let Some(plan) = self.plan.take() {
            plan.send(Listed::End)
                .await
                .map_err(|_| ReceiveError::Lost)?;
        }
        for (writer, data) in self.writers.iter().zip(data) {
            if let Some(&(id, _)) = data.first() {
                // A writer that is gone has failed, or has all that it expects.
                let unexpected = |_| ReceiveError::UnexpectedData(id);
                writer.send(Work::Data(data)).await.map_err(unexpected)?;
            }
        }
        Ok(())
    }
}
