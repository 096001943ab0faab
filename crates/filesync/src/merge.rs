//! The lists of several calls as one, and requests to where the entry was listed.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt as _};
use sys::root::FileKind;
use tokio::sync::mpsc;
use tonic::Status;

use crate::packets::Packets;
use crate::split::{Likeness, Split};
use crate::wire::{Kind, Packet, Stat};

/// Entries of one call that wait for those of another.
const MOST_WAITING: usize = 16 << 10;

/// Packets that are taken from one call before it is the turn of the next.
const BATCH: usize = 256;

/// A position that no entry has.
const NOWHERE: u32 = u32::MAX;

/// Where the entries of the merged list come from.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    /// By position: the call, and the position in its list.
    entries: Vec<(usize, u32)>,
    /// Whether something was left out that the next call may list.
    misfit: bool,
}

/// Shared by the list and the requests.
pub(crate) type SharedOrigins = Arc<Mutex<Origins>>;

/// One list of several.
pub(crate) struct Merge<S> {
    split: Split,
    calls: Vec<Call<S>>,
    /// What is no entry, to be given first.
    others: VecDeque<Packet>,
    /// The call of which a file of this likeness was.
    seen: HashMap<Likeness, usize>,
    /// Whether the directory that is divided was listed.
    dir_listed: bool,
    state: State,
    /// What comes when all has been given that can be: the end, or an error.
    broken: Option<Option<Status>>,
    origins: SharedOrigins,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Listing,
    /// The end of the list was given.
    Listed,
    /// All is over.
    Finished,
}

struct Call<S> {
    packets: S,
    /// Entries that were not given yet, with their positions.
    waiting: VecDeque<(u32, Stat)>,
    /// Entries that have come.
    count: u32,
    /// By the position here: the one in the merged list.
    merged: Vec<u32>,
    /// The list is complete.
    listed: bool,
    /// It has said that it has finished.
    finished: bool,
}

impl<S> Call<S> {
    /// Whether nobody knows yet which of its entries is the next.
    fn is_behind(&self) -> bool {
        self.waiting.is_empty() && !self.listed
    }
}

impl<S> Merge<S> {
    /// Merges the lists of calls whose packets are `packets`, one for each part of `split`.
    pub(crate) fn new(split: Split, packets: Vec<S>) -> (Merge<S>, SharedOrigins) {
        let origins = SharedOrigins::default();
        let calls = packets.into_iter().map(|packets| Call {
            packets,
            waiting: VecDeque::new(),
            count: 0,
            merged: Vec::new(),
            listed: false,
            finished: false,
        });
        let merge = Merge {
            calls: calls.collect(),
            others: VecDeque::new(),
            seen: HashMap::new(),
            dir_listed: split.dir() == Path::new(""),
            split,
            state: State::Listing,
            broken: None,
            origins: origins.clone(),
        };
        (merge, origins)
    }

    /// The next packet that can be given, of those that have come.
    fn give(&mut self) -> Option<Packet> {
        if let Some(packet) = self.others.pop_front() {
            return Some(packet);
        }
        while self.state == State::Listing && !self.calls.iter().any(Call::is_behind) {
            let heads = self.calls.iter().enumerate();
            let heads = heads.filter_map(|(call, found)| Some((call, found.waiting.front()?)));
            let first =
                heads.min_by(|(_, (_, one)), (_, (_, other))| order(&one.path, &other.path));
            let Some(call) = first.map(|(call, _)| call) else {
                self.state = State::Listed;
                return Some(Packet::of(Kind::Stat));
            };
            let (position, stat) = self.calls[call].waiting.pop_front()?;
            if let Some(packet) = self.entry(call, position, stat) {
                return Some(packet);
            }
        }
        if self.state == State::Listed && self.calls.iter().all(|call| call.finished) {
            self.state = State::Finished;
            return Some(Packet::of(Kind::Finish));
        }
        None
    }

    /// An entry for the merged list, if it is one.
    fn entry(&mut self, call: usize, position: u32, stat: Stat) -> Option<Packet> {
        let fits = self.fits(call, &stat);
        let mut origins = lock(&self.origins);
        // Those above what was asked for are listed as well, and are the last call's.
        let is_above = call + 1 < self.calls.len() && self.split.dir().starts_with(stat.path());
        if !fits || is_above {
            origins.misfit |= !is_above;
            self.calls[call].merged.push(NOWHERE);
            return None;
        }
        let merged = u32::try_from(origins.entries.len()).unwrap_or(NOWHERE);
        self.calls[call].merged.push(merged);
        origins.entries.push((call, position));
        if let Some(likeness) = Likeness::of(&stat) {
            let other = *self.seen.entry(likeness).or_insert(call);
            // It may be the same file.
            origins.misfit |= other != call;
        }
        Some(Packet::entry(stat))
    }

    /// Whether an entry is of the call's part, and has its place in the tree.
    fn fits(&mut self, call: usize, stat: &Stat) -> bool {
        let is_last = call + 1 == self.calls.len();
        if is_last && stat.kind() == Some(FileKind::Dir) && stat.path() == self.split.dir() {
            self.dir_listed = true;
        }
        let is_link = stat.kind() == Some(FileKind::File) && !stat.link.is_empty();
        self.split.owner(stat.path()) == call
            && (is_last || self.dir_listed)
            && (!is_link || self.split.owner(stat.link()) == call)
    }
}

impl<S> Merge<S>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin,
{
    /// Takes what has come from one call; answers whether that was anything.
    /// `Err` ends the merged list, with an error if there is one.
    fn take_in(&mut self, number: usize, cx: &mut Context<'_>) -> Result<bool, Option<Status>> {
        let call = &mut self.calls[number];
        let mut any = false;
        for _ in 0..BATCH {
            if call.finished || call.waiting.len() >= MOST_WAITING {
                break;
            }
            let packet = match call.packets.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(packet))) => packet,
                Poll::Ready(Some(Err(status))) => return Err(Some(status)),
                Poll::Ready(None) => return Err(None),
                Poll::Pending => break,
            };
            any = true;
            match packet.kind() {
                Kind::Stat => match packet.stat {
                    Some(_) if call.listed => {
                        return Err(Some(Status::internal("an entry after the end of the list")));
                    }
                    Some(stat) => {
                        call.waiting.push_back((call.count, stat));
                        call.count = call.count.saturating_add(1);
                    }
                    None => call.listed = true,
                },
                Kind::Data => {
                    let merged = call.merged.get(packet.id as usize);
                    let id = merged.copied().unwrap_or(NOWHERE);
                    self.others.push_back(Packet::data(id, packet.data));
                }
                Kind::Finish => call.finished = true,
                Kind::Error | Kind::Request => self.others.push_back(packet),
            }
        }
        Ok(any)
    }
}

impl<S> Stream for Merge<S>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin,
{
    type Item = Result<Packet, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Packet, Status>>> {
        loop {
            if let Some(packet) = self.give() {
                return Poll::Ready(Some(Ok(packet)));
            }
            if self.state == State::Finished {
                return Poll::Ready(None);
            }
            if let Some(end) = &mut self.broken {
                return Poll::Ready(end.take().map(Err));
            }
            let mut any = false;
            for number in 0..self.calls.len() {
                match self.take_in(number, cx) {
                    Ok(taken) => any |= taken,
                    Err(end) => {
                        self.broken = Some(end);
                        any = true;
                        break;
                    }
                }
            }
            if !any {
                return Poll::Pending;
            }
        }
    }
}

/// Hands the receiver's packets on to the calls that they are for, until the receiver is gone.
pub(crate) async fn route(
    mut packets: Packets,
    origins: SharedOrigins,
    calls: Vec<mpsc::UnboundedSender<Vec<Packet>>>,
) {
    while let Some(packet) = packets.next().await {
        let one = match packet.kind() {
            Kind::Request => lock(&origins).entries.get(packet.id as usize).copied(),
            _ => None,
        };
        // A call that is gone is found where its packets are read.
        match one {
            Some((call, position)) => {
                drop(calls[call].send(vec![Packet::request(position)]));
            }
            None => {
                for call in &calls {
                    drop(call.send(vec![packet.clone()]));
                }
            }
        }
    }
}

/// Whether the list may not be that of the whole tree.
pub(crate) fn is_misfit(origins: &SharedOrigins) -> bool {
    lock(origins).misfit
}

fn lock(origins: &SharedOrigins) -> MutexGuard<'_, Origins> {
    origins.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The order of a list: a directory, then what is in it, then what comes after it.
fn order(one: &[u8], other: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    one.iter().map(rank).cmp(other.iter().map(rank))
}
