//! Bytes from one thread to another.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};

use bytes::Bytes;
use tokio::sync::mpsc as async_mpsc;

/// Chunks that may wait between two threads. With those of the network (some 16 KiB) or of
/// [`PIECE`] that is at most some megabytes a layer.
const QUEUE: usize = 16;
/// What a blocking writer hands over at a time.
const PIECE: usize = 128 << 10;

/// The end of async code.
pub(crate) struct Feed(async_mpsc::Sender<io::Result<Bytes>>);

impl Feed {
    /// Hands over bytes, or the failure that ends them. False when nobody reads any more.
    pub(crate) async fn send(&self, chunk: io::Result<Bytes>) -> bool {
        self.0.send(chunk).await.is_ok()
    }

    /// Says that all bytes were handed over. Without it the reader sees a failure at the end, so
    /// that a transfer which was given up does not look complete.
    pub(crate) async fn finish(self) {
        self.send(Ok(Bytes::new())).await;
    }
}

/// The end of a blocking thread that reads.
pub(crate) struct FeedReader {
    chunks: async_mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    done: bool,
}

/// Async code feeds a thread.
pub(crate) fn feed() -> (Feed, FeedReader) {
    let (sender, chunks) = async_mpsc::channel(QUEUE);
    (
        Feed(sender),
        FeedReader {
            chunks,
            current: Bytes::new(),
            done: false,
        },
    )
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.done {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) if chunk.is_empty() => self.done = true,
                Some(chunk) => self.current = chunk?,
                None => return Err(io::Error::new(io::ErrorKind::BrokenPipe, Abandoned)),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// The transfer was given up.
#[derive(Debug, thiserror::Error)]
#[error("the transfer was given up")]
struct Abandoned;

/// The end of a blocking thread that writes.
pub(crate) struct PipeWriter {
    chunks: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
}

/// The end of a blocking thread that reads.
pub(crate) struct PipeReader {
    chunks: Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

/// A thread feeds another.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, chunks) = mpsc::sync_channel(QUEUE);
    let writer = PipeWriter {
        chunks: sender,
        piece: Vec::with_capacity(PIECE),
    };
    (
        writer,
        PipeReader {
            chunks,
            current: Vec::new(),
            at: 0,
        },
    )
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        if piece.is_empty() {
            return Ok(());
        }
        self.chunks
            .send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Read for PipeReader {
    /// The end of the bytes is where the writer was dropped: whoever made it says whether all
    /// went well.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.current, self.at) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let count = (self.current.len() - self.at).min(buffer.len());
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transfer_that_was_given_up_is_not_complete() {
        let (feed, mut reader) = feed();
        let thread = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        assert!(feed.send(Ok(Bytes::from_static(b"half"))).await);
        drop(feed);
        let error = thread.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the transfer was given up");
    }

    #[test]
    fn a_pipe_carries_everything() {
        let (mut writer, mut reader) = pipe();
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
        writer.write_all(&sent).unwrap();
        writer.flush().unwrap();
        drop(writer);
        assert_eq!(thread.join().unwrap(), sent);
    }
}
