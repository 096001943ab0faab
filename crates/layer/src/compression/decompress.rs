//! Decompression by what a stream starts with.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// What the xz decoder may take: the largest preset needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// How much is read from the stream at once.
const BUFFER: usize = 128 * 1024;

/// How much is handed from the decompressing thread at once, and how many of these may wait.
const CHUNK: usize = 256 * 1024;
const CHUNKS: usize = 8;

/// How a stream is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// In no way that is known here.
    None,
    /// gzip.
    Gzip,
    /// zstd, perhaps with a skippable frame first.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

/// Tells how a stream that starts with `start` (at least 6 bytes, unless it is shorter) is
/// compressed.
pub fn detect(start: &[u8]) -> Detected {
    let skippable =
        start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18];
    if start.starts_with(&[0x1f, 0x8b, 8]) {
        Detected::Gzip
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable {
        Detected::Zstd
    } else if start.starts_with(b"BZh") {
        Detected::Bzip2
    } else if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Detected::Xz
    } else {
        Detected::None
    }
}

/// Decompresses `stream`; one that is not compressed is given as it is.
///
/// How much comes out is not bounded here: who reads it has to.
pub fn decompress<'a>(stream: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut start = Start {
        bytes: Vec::new(),
        stream,
    };
    start.fill(6)?;
    let detected = detect(&start.bytes);
    let stream = BufReader::with_capacity(BUFFER, Rest { at: 0, start });
    Ok(match detected {
        Detected::None => Box::new(stream),
        Detected::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Detected::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(stream)?),
        Detected::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stream)),
        Detected::Xz => {
            let decoder =
                xz2::stream::Stream::new_stream_decoder(XZ_MEMORY, xz2::stream::CONCATENATED)
                    .map_err(io::Error::other)?;
            Box::new(xz2::bufread::XzDecoder::new_stream(stream, decoder))
        }
    })
}

/// The first bytes of a stream, taken out of it.
struct Start<R> {
    bytes: Vec<u8>,
    stream: R,
}

impl<R: Read> Start<R> {
    fn fill(&mut self, length: u64) -> io::Result<()> {
        (&mut self.stream)
            .take(length)
            .read_to_end(&mut self.bytes)?;
        Ok(())
    }
}

/// A stream with its first bytes put back.
struct Rest<R> {
    at: usize,
    start: Start<R>,
}

impl<R: Read> Read for Rest<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut first = &self.start.bytes[self.at..];
        if first.is_empty() {
            return self.start.stream.read(buffer);
        }
        let read = first.read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

/// Reads `stream` in a thread of its own, a bounded amount ahead, so that decompressing and
/// writing go on at the same time.
///
/// The thread ends when the result is dropped, after the read that it is in.
pub fn read_ahead(
    mut stream: impl Read + Send + 'static,
) -> io::Result<impl BufRead + Send + 'static> {
    let (sender, receiver) = sync_channel::<io::Result<Vec<u8>>>(CHUNKS);
    thread::Builder::new()
        .name("read-ahead".to_owned())
        .spawn(move || {
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                let result = (&mut stream).take(CHUNK as u64).read_to_end(&mut chunk);
                let message = match result {
                    Ok(0) => return,
                    Ok(_) => Ok(chunk),
                    Err(error) => Err(error),
                };
                let failed = message.is_err();
                if sender.send(message).is_err() || failed {
                    return;
                }
            }
        })?;
    Ok(Ahead {
        receiver,
        chunk: Vec::new(),
        at: 0,
    })
}

struct Ahead {
    receiver: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() {
            // A thread that is gone has said all it had.
            self.chunk = self.receiver.recv().unwrap_or(Ok(Vec::new()))?;
            self.at = 0;
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
