//! What a container prints, on disk, for readers that come later or follow along.
//!
//! A file of frames: stream (1 byte: 1 stdout, 2 stderr), time (8 bytes, nanoseconds since the
//! epoch), length (4 bytes), data; numbers little-endian. A torn frame at the end is ignored.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

/// The longest frame: readers of a container's output hand over no more than this at once.
pub(crate) const MAX_FRAME: usize = 64 << 10;

const HEADER: usize = 13;

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) stream: i64,
    pub(crate) time: SystemTime,
    pub(crate) data: Bytes,
}

/// A container's log.
pub(crate) struct Log {
    path: PathBuf,
    file: Mutex<File>,
    written: watch::Sender<Written>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    length: u64,
    closed: bool,
}

impl Log {
    /// Opens the log at `path` for appending; `closed` when its container has ended.
    pub(crate) fn open(path: &Path, closed: bool) -> io::Result<Arc<Log>> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(path)?;
        let length = file.metadata()?.len();
        Ok(Arc::new(Log {
            path: path.to_owned(),
            file: Mutex::new(file),
            written: watch::Sender::new(Written { length, closed }),
        }))
    }

    /// Adds a frame of at most [`MAX_FRAME`] bytes.
    pub(crate) fn append(&self, stream: i64, data: &[u8]) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let mut frame = Vec::with_capacity(HEADER + data.len());
        frame.push(u8::try_from(stream).unwrap_or(1));
        frame.extend(
            u64::try_from(now.as_nanos())
                .unwrap_or(u64::MAX)
                .to_le_bytes(),
        );
        frame.extend(
            u32::try_from(data.len())
                .map_err(io::Error::other)?
                .to_le_bytes(),
        );
        frame.extend(data);
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&frame)?;
        self.written.send_modify(|w| w.length += frame.len() as u64);
        Ok(())
    }

    /// No more comes: followers end when they have read all.
    pub(crate) fn close(&self) {
        self.written.send_modify(|w| w.closed = true);
    }

    /// Reads from the beginning; with `follow` until the log is closed, else what is there now.
    pub(crate) fn read(&self, follow: bool) -> io::Result<Reader> {
        Ok(Reader {
            file: File::open(&self.path)?,
            position: 0,
            written: self.written.subscribe(),
            follow,
        })
    }

    /// All frames that are there, for tails.
    pub(crate) fn frames(&self) -> io::Result<Vec<Frame>> {
        let mut reader = self.read(false)?;
        let length = reader.written.borrow().length;
        let mut frames = Vec::new();
        while let Some(frame) = reader.frame(length)? {
            frames.push(frame);
        }
        Ok(frames)
    }
}

/// Reads a [`Log`].
pub(crate) struct Reader {
    file: File,
    position: u64,
    written: watch::Receiver<Written>,
    follow: bool,
}

impl Reader {
    /// Begins after what is there now.
    pub(crate) fn skip_present(&mut self) {
        self.position = self.written.borrow().length;
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let written = *self.written.borrow_and_update();
            // A frame is in the page cache: it has just been written, or it is read once.
            if let Some(frame) = self.frame(written.length)? {
                return Ok(Some(frame));
            }
            if written.closed || !self.follow || self.written.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    fn frame(&mut self, length: u64) -> io::Result<Option<Frame>> {
        if self.position + HEADER as u64 > length {
            return Ok(None);
        }
        let mut header = [0u8; HEADER];
        self.file.read_exact_at(&mut header, self.position)?;
        let nanos = u64::from_le_bytes(header[1..9].try_into().expect("eight bytes"));
        let size = u32::from_le_bytes(header[9..].try_into().expect("four bytes")) as usize;
        let end = self.position + (HEADER + size) as u64;
        if end > length || size > MAX_FRAME {
            // Torn by a crash: nothing after it can be trusted.
            self.position = length;
            return Ok(None);
        }
        let mut data = vec![0; size];
        self.file
            .read_exact_at(&mut data, self.position + HEADER as u64)?;
        self.position = end;
        Ok(Some(Frame {
            stream: i64::from(header[0]),
            time: SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos),
            data: data.into(),
        }))
    }
}

/// The frames that hold the last `lines` lines.
pub(crate) fn tail(frames: Vec<Frame>, lines: usize) -> Vec<Frame> {
    let mut wanted = lines;
    let mut kept = Vec::new();
    let mut first = true;
    for mut frame in frames.into_iter().rev() {
        let mut end = frame.data.len();
        // The newline that ends the last line does not begin another.
        if first && frame.data.last() == Some(&b'\n') {
            end -= 1;
        }
        first = false;
        let mut start = 0;
        while let Some(newline) = frame.data[..end].iter().rposition(|b| *b == b'\n') {
            wanted = wanted.saturating_sub(1);
            if wanted == 0 {
                start = newline + 1;
                break;
            }
            end = newline;
        }
        if lines == 0 {
            break;
        }
        frame.data = frame.data.slice(start..);
        kept.push(frame);
        if wanted == 0 {
            break;
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frames: &[Frame]) -> String {
        frames
            .iter()
            .map(|f| String::from_utf8_lossy(&f.data).into_owned())
            .collect()
    }

    #[tokio::test]
    async fn a_follower_sees_what_comes_later_and_ends_with_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("log"), false).unwrap();
        log.append(1, b"one\n").unwrap();
        let mut reader = log.read(true).unwrap();
        assert_eq!(&reader.next().await.unwrap().unwrap().data[..], b"one\n");
        log.append(2, b"two\n").unwrap();
        let frame = reader.next().await.unwrap().unwrap();
        assert_eq!((frame.stream, &frame.data[..]), (2, &b"two\n"[..]));
        log.close();
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[test]
    fn a_torn_frame_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, false).unwrap();
        log.append(1, b"whole").unwrap();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(&[1; 14])
            .unwrap();
        let log = Log::open(&path, true).unwrap();
        assert_eq!(text(&log.frames().unwrap()), "whole");
    }

    #[test]
    fn the_tail_counts_lines_across_frames() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("log"), false).unwrap();
        for part in ["a\nb", "c\nd\n", "e\n"] {
            log.append(1, part.as_bytes()).unwrap();
        }
        for (lines, want) in [
            (0, ""),
            (1, "e\n"),
            (2, "d\ne\n"),
            (3, "bc\nd\ne\n"),
            (9, "a\nbc\nd\ne\n"),
        ] {
            assert_eq!(text(&tail(log.frames().unwrap(), lines)), want, "{lines}");
        }
    }
}
