//! The sender: lists a tree and gives the files that are asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fstree::walk::{WalkError, WalkOptions};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use crate::packets::Packets;
use crate::source::Source;
use crate::wire::{Kind, Packet};

/// Most data in a packet: Go's receiver is used to it, and it keeps other calls flowing.
const CHUNK: usize = 32 << 10;

/// Files that are read at the same time, as in fsutil.
const READERS: usize = 4;

/// A batch goes out when it has this many packets or data of this many bytes.
const BATCH_PACKETS: usize = 128;
const BATCH_BYTES: usize = 128 << 10;

/// The first entries go out early, so that the receiver starts to compare at once.
const FIRST_BATCH: usize = 16;

/// What to send.
#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    /// Which entries of each tree. Attributes are always read.
    pub walk: WalkOptions,
    /// The owner that is told for every entry, in place of its own.
    pub owner: Option<(u32, u32)>,
    /// Counts the bytes of files as they are sent.
    pub sent: Arc<AtomicU64>,
}

/// Why a tree could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The tree cannot be read.
    #[error("failed to list the tree")]
    Walk(#[from] WalkError),
    /// A file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The receiver has failed.
    #[error("error from receiver: {0}")]
    Receiver(String),
    /// The receiver wants what was not offered or was sent already.
    #[error("invalid file id {0}")]
    InvalidId(u32),
    /// The receiver is gone.
    #[error("the receiver went away before all was sent")]
    Ended,
    /// The connection broke.
    #[error("failed to read the receiver's packets")]
    Stream(#[source] Box<Status>),
    /// A thread of ours ended without a result.
    #[error("a task of the transfer was lost")]
    Lost,
}

/// Sends a tree, or several as one: gives the packets for the receiver, and what does the work.
///
/// The future ends when the receiver has all it wants. Dropped, it stops.
///
/// # Errors
/// See [`SendError`]; a tree that cannot be read is told to the receiver, too.
pub fn send<S>(
    source: impl Into<Source>,
    options: SendOptions,
    incoming: S,
) -> (Packets, impl Future<Output = Result<(), SendError>> + Send)
where
    S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
{
    let (outgoing, packets) = Packets::bounded();
    (packets, run(source.into(), options, incoming, outgoing))
}

/// The files that can be asked for, by their position in the list: tree and path.
type Files = Arc<Mutex<HashMap<u32, (usize, PathBuf)>>>;

async fn run<S>(
    source: Source,
    options: SendOptions,
    mut incoming: S,
    outgoing: mpsc::Sender<Vec<Packet>>,
) -> Result<(), SendError>
where
    S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
{
    let source = Arc::new(source);
    let files = Files::default();
    let (wanted, queue) = mpsc::unbounded_channel();
    let queue = Arc::new(Mutex::new(queue));
    let mut work = JoinSet::new();
    let sent = options.sent.clone();
    {
        let (source, files, outgoing) = (source.clone(), files.clone(), outgoing.clone());
        work.spawn_blocking(move || list(&source, options, &files, &outgoing));
    }
    for _ in 0..READERS {
        let (source, queue, outgoing) = (source.clone(), queue.clone(), outgoing.clone());
        let sent = sent.clone();
        work.spawn_blocking(move || serve(&source, &queue, &sent, &outgoing));
    }
    loop {
        tokio::select! {
            packet = incoming.next() => {
                let packet = packet.ok_or(SendError::Ended)?;
                let packet = packet.map_err(|status| SendError::Stream(Box::new(status)))?;
                match packet.kind() {
                    Kind::Request => {
                        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                        let (tree, path) =
                            files.remove(&packet.id).ok_or(SendError::InvalidId(packet.id))?;
                        // Nobody takes it only when a reader has failed, which is found below.
                        drop(wanted.send(Wanted { id: packet.id, tree, path }));
                    }
                    Kind::Error => return Err(SendError::Receiver(packet.message())),
                    Kind::Finish => break,
                    Kind::Stat | Kind::Data => {}
                }
            }
            Some(done) = work.join_next() => done.map_err(|_| SendError::Lost)??,
        }
    }
    drop(outgoing.send(vec![Packet::of(Kind::Finish)]).await);
    drop(wanted);
    while let Some(done) = work.join_next().await {
        done.map_err(|_| SendError::Lost)??;
    }
    Ok(())
}

/// Sends the list of entries.
fn list(
    source: &Source,
    options: SendOptions,
    files: &Files,
    outgoing: &mpsc::Sender<Vec<Packet>>,
) -> Result<(), SendError> {
    let owner = options.owner;
    let listed = (|| {
        let mut batch = Vec::new();
        let mut limit = FIRST_BATCH;
        let options = WalkOptions {
            xattrs: true,
            ..options.walk
        };
        for (id, entry) in (0..).zip(source.list(&options)?) {
            let (tree, mut stat) = entry?;
            if let Some((uid, gid)) = owner {
                (stat.uid, stat.gid) = (uid, gid);
            }
            if stat.has_data() {
                let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                files.insert(id, (tree, stat.path().to_owned()));
            }
            batch.push(Packet::entry(stat));
            if batch.len() == limit {
                if outgoing.blocking_send(std::mem::take(&mut batch)).is_err() {
                    return Ok(());
                }
                limit = BATCH_PACKETS;
            }
        }
        batch.push(Packet::of(Kind::Stat));
        drop(outgoing.blocking_send(batch));
        Ok(())
    })();
    listed.map_err(|error: WalkError| {
        let message = rpc::status::chain(&error);
        drop(outgoing.blocking_send(vec![Packet::error(message)]));
        SendError::Walk(error)
    })
}

/// A file that the receiver wants.
struct Wanted {
    id: u32,
    tree: usize,
    path: PathBuf,
}

/// Files waiting for a reader.
type Queue = Mutex<mpsc::UnboundedReceiver<Wanted>>;

/// Sends files, one after the other, until no more can be asked for.
fn serve(
    source: &Source,
    queue: &Queue,
    sent: &AtomicU64,
    outgoing: &mpsc::Sender<Vec<Packet>>,
) -> Result<(), SendError> {
    let mut batch = Batch {
        packets: Vec::new(),
        bytes: 0,
        outgoing,
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        let ready = queue
            .try_lock()
            .ok()
            .and_then(|mut queue| queue.try_recv().ok());
        let next = ready.or_else(|| {
            // Whoever waits, for the queue or for what comes into it, must not hold data back.
            batch.flush();
            queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .blocking_recv()
        });
        let Some(Wanted { id, tree, path }) = next else {
            return Ok(());
        };
        // A file that is gone, or is none, has no data; the receiver learns of it by that.
        if let Ok(mut file) = source.open(tree, &path) {
            copy(&path, id, &mut file, &mut buffer, sent, &mut batch)?;
        }
        batch.push(Packet::data(id, Bytes::new()));
    }
}

fn copy(
    path: &Path,
    id: u32,
    file: &mut File,
    buffer: &mut [u8],
    sent: &AtomicU64,
    batch: &mut Batch<'_>,
) -> Result<(), SendError> {
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                sent.fetch_add(length as u64, Ordering::Relaxed);
                batch.push(Packet::data(id, Bytes::copy_from_slice(&buffer[..length])));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(SendError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

struct Batch<'a> {
    packets: Vec<Packet>,
    bytes: usize,
    outgoing: &'a mpsc::Sender<Vec<Packet>>,
}

impl Batch<'_> {
    fn push(&mut self, packet: Packet) {
        self.bytes += packet.data.len();
        self.packets.push(packet);
        if self.packets.len() >= BATCH_PACKETS || self.bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.packets.is_empty() {
            // A receiver that is gone is found where its packets are read.
            drop(
                self.outgoing
                    .blocking_send(std::mem::take(&mut self.packets)),
            );
            self.bytes = 0;
        }
    }
}
