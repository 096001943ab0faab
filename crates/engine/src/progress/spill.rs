//! What steps print, on the disk once it is much.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use oci::Digest;

use super::Event;

/// So many bytes of what a build's steps print are kept in memory.
const HELD: usize = 4 << 20;

/// Where the output goes that is too much for memory: a file without a name, which goes with the log.
#[derive(Debug, Default)]
pub(super) struct Spill {
    /// Where the file is made; output stays in memory if there is none.
    dir: Option<PathBuf>,
    held: usize,
    file: Option<Arc<File>>,
    written: u64,
}

/// An event, or where the rest of it is.
#[derive(Clone, Debug)]
pub(super) enum Stored {
    Here(Arc<Event>),
    /// Output whose text is in the file.
    Away {
        vertex: Digest,
        stream: i64,
        time: SystemTime,
        file: Arc<File>,
        at: u64,
        length: usize,
    },
}

impl Spill {
    pub(super) fn to(dir: PathBuf) -> Spill {
        Spill {
            dir: Some(dir),
            ..Spill::default()
        }
    }

    /// Puts an event away. What cannot be written stays in memory.
    pub(super) fn store(&mut self, event: Event) -> Stored {
        match event {
            Event::Output {
                vertex,
                stream,
                data,
                time,
            } if self.held + data.len() > HELD && self.dir.is_some() => match self.write(&data) {
                Ok((file, at)) => Stored::Away {
                    vertex,
                    stream,
                    time,
                    file,
                    at,
                    length: data.len(),
                },
                Err(error) => {
                    tracing::warn!(%error, "what steps print stays in memory");
                    self.dir = None;
                    Stored::Here(Arc::new(Event::Output {
                        vertex,
                        stream,
                        data,
                        time,
                    }))
                }
            },
            event => {
                if let Event::Output { data, .. } = &event {
                    self.held += data.len();
                }
                Stored::Here(Arc::new(event))
            }
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<(Arc<File>, u64)> {
        let file = match (&self.file, &self.dir) {
            (Some(file), _) => file.clone(),
            (None, Some(dir)) => {
                let file = Arc::new(tempfile::tempfile_in(dir)?);
                self.file.insert(file).clone()
            }
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let at = self.written;
        file.write_all_at(data, at)?;
        self.written += data.len() as u64;
        Ok((file, at))
    }
}

impl Stored {
    /// The whole event.
    pub(super) fn load(&self) -> Arc<Event> {
        match self {
            Stored::Here(event) => event.clone(),
            Stored::Away {
                vertex,
                stream,
                time,
                file,
                at,
                length,
            } => {
                let mut data = vec![0; *length];
                if let Err(error) = file.read_exact_at(&mut data, *at) {
                    data =
                        format!("[{length} bytes of output cannot be read back: {error}]\n").into();
                }
                Arc::new(Event::Output {
                    vertex: *vertex,
                    stream: *stream,
                    data: Bytes::from(data),
                    time: *time,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(byte: u8, length: usize) -> Event {
        Event::Output {
            vertex: Digest::of("step"),
            stream: 2,
            data: vec![byte; length].into(),
            time: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn much_output_goes_to_the_disk_and_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::to(dir.path().to_owned());
        let pieces: Vec<(u8, usize)> = (0..40).map(|n| (n, 200_000 + usize::from(n))).collect();
        let stored: Vec<Stored> = pieces
            .iter()
            .map(|(byte, length)| spill.store(output(*byte, *length)))
            .collect();
        let here = |stored: &&Stored| matches!(stored, Stored::Here(_));
        assert_eq!(stored.iter().filter(here).count(), HELD / 200_100);
        for (stored, (byte, length)) in stored.iter().zip(pieces) {
            let event = stored.load();
            let Event::Output {
                data, stream: 2, ..
            } = &*event
            else {
                panic!("{event:?}");
            };
            assert_eq!(*data, vec![byte; length]);
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "no name is left"
        );
    }

    #[test]
    fn output_stays_in_memory_where_there_is_no_disk() {
        let mut spill = Spill::to("/nonexistent/anywhere".into());
        let stored = spill.store(output(1, HELD + 1));
        assert!(matches!(stored, Stored::Here(_)));
    }
}
