//! A stream of packets to the other side.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use tokio::sync::mpsc;

use crate::wire::Packet;

/// The codec of calls that carry packets.
pub type Codec = tonic_prost::ProstCodec<Packet, Packet>;

/// Batches on the way out that the transport has not taken yet.
const QUEUE: usize = 8;

/// Packets for the other side, to be given to the call that carries them.
///
/// They are produced in batches, since a channel operation for each would cost more than the
/// packet itself.
#[derive(Debug)]
pub struct Packets {
    batch: std::vec::IntoIter<Packet>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Bounded(mpsc::Receiver<Vec<Packet>>),
    Unbounded(mpsc::UnboundedReceiver<Vec<Packet>>),
}

impl Packets {
    /// For a sender, who waits when the transport is slow.
    pub(crate) fn bounded() -> (mpsc::Sender<Vec<Packet>>, Packets) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (
            sender,
            Packets {
                batch: Vec::new().into_iter(),
                source: Source::Bounded(receiver),
            },
        )
    }

    /// For a receiver, who must never wait for the sender to take a request: the sender may be
    /// waiting for the receiver to take data. There is at most one request for each entry.
    pub(crate) fn unbounded() -> (mpsc::UnboundedSender<Vec<Packet>>, Packets) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (
            sender,
            Packets {
                batch: Vec::new().into_iter(),
                source: Source::Unbounded(receiver),
            },
        )
    }
}

impl Stream for Packets {
    type Item = Packet;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        loop {
            if let Some(packet) = self.batch.next() {
                return Poll::Ready(Some(packet));
            }
            let batch = match &mut self.source {
                Source::Bounded(receiver) => ready!(receiver.poll_recv(cx)),
                Source::Unbounded(receiver) => ready!(receiver.poll_recv(cx)),
            };
            match batch {
                Some(batch) => self.batch = batch.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }
}
