//! Files with holes as GNU tar stores them: a map of where data is, and the data alone.

use std::io::Read;

use super::pax::Records;
use super::reader::{ReadError, Reader};
use super::{BLOCK, field, number};

/// How many pieces of data a file may have, and how large its map may be: far more than any
/// real file, little enough for memory.
const MAX_PIECES: usize = 1 << 20;
const MAX_MAP: usize = 32 << 20;

/// A file with holes, while it is read.
#[derive(Debug, Clone)]
pub(super) struct Sparse {
    /// The length of the file with its holes.
    pub(super) size: u64,
    /// The file's real name, where the header has another one for old readers.
    pub(super) name: Option<Vec<u8>>,
    /// Start and end of each piece of data, in order.
    pieces: std::collections::VecDeque<(u64, u64)>,
    at: u64,
}

/// What comes next in a file with holes.
pub(super) enum Piece {
    Hole(usize),
    Data(usize),
    End,
}

impl Sparse {
    /// Checks that the pieces are in order, inside the file, and as long as what is stored.
    fn new(
        size: u64,
        stored: u64,
        name: Option<Vec<u8>>,
        map: &[(u64, u64)],
    ) -> Result<Sparse, ReadError> {
        let invalid = ReadError::Header("invalid map of a sparse file");
        let (mut at, mut data) = (0u64, 0u64);
        let mut pieces = std::collections::VecDeque::new();
        for (start, length) in map {
            let Some(end) = start.checked_add(*length).filter(|end| *end <= size) else {
                return Err(invalid);
            };
            if *start < at {
                return Err(invalid);
            }
            at = end;
            data += length;
            if *length > 0 {
                pieces.push_back((*start, end));
            }
        }
        if data != stored {
            return Err(invalid);
        }
        Ok(Sparse {
            size,
            name,
            pieces,
            at: 0,
        })
    }

    pub(super) fn next(&mut self, most: usize) -> Piece {
        while self.pieces.front().is_some_and(|(_, end)| *end <= self.at) {
            self.pieces.pop_front();
        }
        let bounded = |length: u64| most.min(usize::try_from(length).unwrap_or(usize::MAX));
        match self.pieces.front() {
            _ if self.at >= self.size || most == 0 => Piece::End,
            Some((start, end)) if self.at >= *start => Piece::Data(bounded(end - self.at)),
            Some((start, _)) => Piece::Hole(bounded(start - self.at)),
            None => Piece::Hole(bounded(self.size - self.at)),
        }
    }

    pub(super) fn advance(&mut self, length: u64) {
        self.at += length;
    }
}

/// GNU's old form: four entries in the header, more in blocks that follow it.
pub(super) fn read_old<R: Read>(
    reader: &mut Reader<R>,
    block: &[u8; BLOCK],
) -> Result<Sparse, ReadError> {
    let invalid = || ReadError::Header("invalid map of a sparse file");
    let size = unsigned(&block[field::SPARSE_SIZE]).ok_or_else(invalid)?;
    let mut map = Vec::new();
    let mut more = block[field::SPARSE_MORE] != 0;
    push_entries(&block[field::SPARSE..field::SPARSE_MORE], &mut map).ok_or_else(invalid)?;
    while more {
        let extension = reader.read_between()?;
        push_entries(&extension[..504], &mut map).ok_or_else(invalid)?;
        more = extension[504] != 0;
        if map.len() > MAX_PIECES {
            return Err(invalid());
        }
    }
    Sparse::new(size, reader.left(), None, &map)
}

fn push_entries(bytes: &[u8], map: &mut Vec<(u64, u64)>) -> Option<()> {
    for entry in bytes.chunks_exact(24) {
        if entry[0] == 0 {
            break;
        }
        map.push((unsigned(&entry[..12])?, unsigned(&entry[12..])?));
    }
    Some(())
}

fn unsigned(field: &[u8]) -> Option<u64> {
    u64::try_from(number::parse(field)?).ok()
}

/// The PAX form 1.0: a map in decimal lines before the data. The forms before it, 0.0 and 0.1,
/// were written for a few years only and are refused.
pub(super) fn read_pax<R: Read>(
    reader: &mut Reader<R>,
    records: &Records,
) -> Result<Option<Sparse>, ReadError> {
    let record = |key: &str| records.get(key.as_bytes());
    let (Some(major), Some(minor)) = (record("GNU.sparse.major"), record("GNU.sparse.minor"))
    else {
        return match record("GNU.sparse.map").or(record("GNU.sparse.offset")) {
            Some(_) => Err(ReadError::Header("unsupported form of sparse file")),
            None => Ok(None),
        };
    };
    if (&major[..], &minor[..]) != (b"1", b"0") {
        return Err(ReadError::Header("unsupported form of sparse file"));
    }
    let invalid = || ReadError::Header("invalid map of a sparse file");
    let size = record("GNU.sparse.realsize")
        .and_then(|size| decimal(size))
        .ok_or_else(invalid)?;
    let mut lines = Lines {
        reader,
        buffer: Vec::new(),
        at: 0,
    };
    let count = lines.next()?;
    if count > MAX_PIECES as u64 {
        return Err(invalid());
    }
    let mut map = Vec::new();
    for _ in 0..count {
        map.push((lines.next()?, lines.next()?));
    }
    let name = record("GNU.sparse.name").cloned();
    Sparse::new(size, reader.left(), name, &map).map(Some)
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads numbers, one a line, from whole blocks.
struct Lines<'a, R> {
    reader: &'a mut Reader<R>,
    buffer: Vec<u8>,
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn next(&mut self) -> Result<u64, ReadError> {
        let invalid = || ReadError::Header("invalid map of a sparse file");
        loop {
            let rest = &self.buffer[self.at..];
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let number = decimal(&rest[..length]).ok_or_else(invalid)?;
                self.at += length + 1;
                return Ok(number);
            }
            if self.buffer.len() > MAX_MAP {
                return Err(invalid());
            }
            self.reader.read_content(BLOCK as u64, &mut self.buffer)?;
        }
    }
}
