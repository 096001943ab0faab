//! A build's progress as one blob, and back: each `StatusResponse` behind its length.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use content::{CommitError, Content, Whole, Writer};
use engine::progress::{Event, Log};
use oci::Digest;
use prost::Message as _;
use proto::control::{Descriptor, StatusResponse};

use crate::status;

pub(crate) const MEDIA_TYPE: &str = "application/vnd.buildkit.status.v0";

/// A longer log is a file of the store of blobs.
const IN_MEMORY: usize = 1 << 20;

/// No response comes near this; a longer one in a blob is damage.
const MAX_RESPONSE: usize = rpc::MAX_MESSAGE_SIZE * 2;

/// How many steps a build had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: i32,
    pub(crate) completed: i32,
    pub(crate) cached: i32,
    pub(crate) warnings: i32,
}

/// A written log.
pub(crate) struct Written {
    pub(crate) descriptor: Descriptor,
    pub(crate) counts: Counts,
    /// The blob.
    pub(crate) blob: WrittenBlob,
}

/// A log as a blob.
pub(crate) enum WrittenBlob {
    /// A short one.
    Memory(Digest, Bytes),
    /// For the store of blobs.
    File(Whole),
}

/// Writes all of an ended log.
pub(crate) fn write(log: &Log, content: &Content) -> Result<Written, CommitError> {
    let mut out = Output::default();
    let mut tally = Tally::default();
    let mut position = 0;
    loop {
        let events = log.read(position);
        if events.is_empty() {
            break;
        }
        position += events.len();
        tally.add(&events);
        for response in status::responses(&events) {
            out.push(&response, content).map_err(CommitError::Write)?;
        }
    }
    let size = out.written + out.buffer.len() as u64;
    let blob = out.finish()?;
    let digest = match &blob {
        WrittenBlob::Memory(digest, _) => *digest,
        WrittenBlob::File(whole) => whole.digest(),
    };
    Ok(Written {
        descriptor: super::descriptor(MEDIA_TYPE, &digest, size),
        counts: tally.counts(),
        blob,
    })
}

/// Where the blob is written: memory first.
#[derive(Default)]
struct Output {
    buffer: BytesMut,
    file: Option<Writer>,
    written: u64,
}

impl Output {
    fn push(&mut self, response: &StatusResponse, content: &Content) -> io::Result<()> {
        let length = response.encoded_len();
        self.buffer.reserve(length + 4);
        self.buffer
            .put_u32_le(u32::try_from(length).map_err(io::Error::other)?);
        response
            .encode(&mut self.buffer)
            .map_err(io::Error::other)?;
        if self.buffer.len() > IN_MEMORY {
            if self.file.is_none() {
                self.file = Some(content.begin()?);
            }
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<WrittenBlob, CommitError> {
        self.spill().map_err(CommitError::Write)?;
        match self.file {
            Some(file) => Ok(WrittenBlob::File(file.finish(None)?)),
            None => Ok(WrittenBlob::Memory(
                Digest::of(&self.buffer),
                self.buffer.freeze(),
            )),
        }
    }
}

/// Counts vertices by what was last said of them.
#[derive(Default)]
struct Tally {
    /// Whether it was cached, whether it ended.
    vertices: HashMap<Digest, (bool, bool)>,
    warnings: usize,
}

impl Tally {
    fn add(&mut self, events: &[Arc<Event>]) {
        for event in events {
            match &**event {
                Event::Vertex(state) => {
                    let seen = self.vertices.entry(state.digest).or_default();
                    seen.0 |= state.cached;
                    seen.1 |= state.completed.is_some();
                }
                Event::Warning { .. } => self.warnings += 1,
                Event::Item(_) | Event::Output { .. } => {}
            }
        }
    }

    fn counts(&self) -> Counts {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let of = |test: fn(&(bool, bool)) -> bool| {
            count(self.vertices.values().filter(|seen| test(seen)).count())
        };
        Counts {
            total: count(self.vertices.len()),
            completed: of(|seen| seen.1),
            cached: of(|seen| seen.0),
            warnings: count(self.warnings),
        }
    }
}

/// Reads a blob from its beginning.
pub(crate) enum Blob {
    Memory(Bytes),
    File(io::BufReader<File>),
}

impl Blob {
    /// The next response; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<StatusResponse>> {
        let mut length = [0; 4];
        if !self.fill(&mut length)? {
            return Ok(None);
        }
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        if length > MAX_RESPONSE {
            return Err(io::Error::other("the log is damaged"));
        }
        let bytes = match self {
            Blob::Memory(rest) if rest.len() >= length => rest.split_to(length),
            Blob::Memory(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Blob::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact(&mut bytes)?;
                bytes.into()
            }
        };
        StatusResponse::decode(bytes)
            .map(Some)
            .map_err(io::Error::other)
    }

    /// Whether there was anything left.
    fn fill(&mut self, into: &mut [u8; 4]) -> io::Result<bool> {
        let read = match self {
            Blob::Memory(rest) if rest.is_empty() => return Ok(false),
            Blob::Memory(rest) if rest.len() < 4 => Err(io::ErrorKind::UnexpectedEof.into()),
            Blob::Memory(rest) => {
                into.copy_from_slice(&rest.split_to(4));
                return Ok(true);
            }
            Blob::File(file) => file.read_exact(into),
        };
        match read {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use engine::progress::Step;

    use super::*;

    fn read_back(mut blob: Blob) -> Vec<StatusResponse> {
        std::iter::from_fn(|| blob.next().unwrap()).collect()
    }

    #[test]
    fn a_short_log_stays_in_memory_and_a_long_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let content = Content::open(directory.path()).unwrap();
        for lines in [3_usize, 3000] {
            let log = Log::new();
            let step = Step::begin(&log, Digest::of("a"), "a");
            for _ in 0..lines {
                log.push(Event::Output {
                    vertex: Digest::of("a"),
                    stream: 1,
                    data: vec![b'x'; 1 << 10].into(),
                    time: SystemTime::now(),
                });
            }
            step.done();
            log.close(SystemTime::now());
            let written = write(&log, &content).unwrap();
            assert_eq!((written.counts.total, written.counts.completed), (1, 1));
            let digest = written.descriptor.digest.parse().unwrap();
            let blob = match written.blob {
                WrittenBlob::Memory(_, bytes) => Blob::Memory(bytes),
                WrittenBlob::File(mut whole) => {
                    whole.place().unwrap();
                    Blob::File(io::BufReader::new(content.open_blob(&digest).unwrap()))
                }
            };
            assert_eq!(matches!(blob, Blob::Memory(_)), lines == 3);
            let responses = read_back(blob);
            let logs: usize = responses.iter().map(|r| r.logs.len()).sum();
            assert_eq!(logs, lines);
        }
    }
}
