//! Reading tars.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::pax::{self, Records};
use super::sparse::{self, Sparse};
use super::{BLOCK, GNU, Header, Kind, USTAR, XATTR, checksums, field, number};

/// The largest extended header or long name that is read: as in Go. A larger one is an attempt on
/// our memory.
const MAX_SPECIAL: u64 = 1 << 20;

/// How many headers may stand before the entry that they belong to.
const MAX_SPECIAL_COUNT: usize = 64;

/// Why a tar cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream failed, or ended in the middle.
    #[error("failed to read tar")]
    Io(#[from] io::Error),
    /// What should be a header is none.
    #[error("invalid tar header: {0}")]
    Header(&'static str),
}

/// Reads the entries of a tar one after another.
///
/// After [`Reader::next`] has given an entry, the reader itself reads the entry's content.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    /// What is left of the entry in the stream.
    left: u64,
    /// What pads it to a block.
    padding: u64,
    /// The holes of the entry, if it has any.
    sparse: Option<Sparse>,
    ended: bool,
}

/// What headers before an entry say of it.
#[derive(Default)]
struct Extra {
    records: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Reads from `inner`, which need not be buffered if reads of 512 bytes are cheap.
    pub fn new(inner: R) -> Reader<R> {
        Reader {
            inner,
            left: 0,
            padding: 0,
            sparse: None,
            ended: false,
        }
    }

    /// The stream, after the last entry or in the middle of one.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; `None` at the end. What was not read of the last one is skipped.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator could not lend its content"
    )]
    pub fn next(&mut self) -> Result<Option<Header>, ReadError> {
        let mut extra = Extra::default();
        for _ in 0..MAX_SPECIAL_COUNT {
            self.skip_rest()?;
            let Some(block) = self.read_header()? else {
                return Ok(None);
            };
            match block[field::TYPE] {
                b'x' => {
                    let text = self.read_special(&block)?;
                    extra.records =
                        pax::parse(&text).ok_or(ReadError::Header("invalid PAX record"))?;
                }
                // Meant for all that follow; nobody who reads layers heeds them.
                b'g' => self.begin_content(size_of_content(&block)?),
                b'L' => extra.long_name = Some(c_string(self.read_special(&block)?)),
                b'K' => extra.long_link = Some(c_string(self.read_special(&block)?)),
                _ => return self.entry(&block, extra).map(Some),
            }
        }
        Err(ReadError::Header("too many headers for one entry"))
    }

    /// The block that should be a header; `None` at the end of the archive.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        // Some writers leave out the two empty blocks that mark the end.
        if !self.read_block(&mut block)? {
            self.ended = true;
            return Ok(None);
        }
        if block.iter().all(|byte| *byte == 0) {
            if self.read_block(&mut block)? && block.iter().any(|byte| *byte != 0) {
                return Err(ReadError::Header("only one empty block at the end"));
            }
            self.ended = true;
            return Ok(None);
        }
        let (unsigned, signed) = checksums(&block);
        match number::parse(&block[field::CHECKSUM]) {
            Some(sum) if u64::try_from(sum) == Ok(unsigned) || sum == signed => Ok(Some(block)),
            _ => Err(ReadError::Header("wrong checksum")),
        }
    }

    /// Fills `block`; `false` if the stream ended before it.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn begin_content(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    /// The content of a header that describes another one.
    fn read_special(&mut self, block: &[u8; BLOCK]) -> Result<Vec<u8>, ReadError> {
        let size = size_of_content(block)?;
        if size > MAX_SPECIAL {
            return Err(ReadError::Header("extended header is too large"));
        }
        self.begin_content(size);
        let mut content = Vec::new();
        self.read_content(size, &mut content)?;
        Ok(content)
    }

    /// Reads `size` bytes of the entry as it is in the stream.
    pub(super) fn read_content(&mut self, size: u64, out: &mut Vec<u8>) -> Result<(), ReadError> {
        let wanted = size.min(self.left);
        let read = (&mut self.inner).take(wanted).read_to_end(out)? as u64;
        if read < size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.left -= read;
        Ok(())
    }

    /// A block between a header and the entry's content, which does not count as either.
    pub(super) fn read_between(&mut self) -> Result<[u8; BLOCK], ReadError> {
        let mut block = [0; BLOCK];
        self.inner.read_exact(&mut block)?;
        Ok(block)
    }

    fn skip_rest(&mut self) -> Result<(), ReadError> {
        self.sparse = None;
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        if rest > 0 {
            let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
            if skipped < rest {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }

    fn entry(&mut self, block: &[u8; BLOCK], extra: Extra) -> Result<Header, ReadError> {
        let mut header = parse_header(block, &extra)?;
        if header.kind != Kind::File {
            // Whatever size a link or directory claims, Go reads no content for it.
            header.size = 0;
            return Ok(header);
        }
        self.begin_content(header.size);
        let sparse = if block[field::TYPE] == b'S' {
            Some(sparse::read_old(self, block)?)
        } else {
            sparse::read_pax(self, &extra.records)?
        };
        if let Some(sparse) = sparse {
            if let Some(name) = sparse.name.clone() {
                header.path = to_path(name);
            }
            header.size = sparse.size;
            self.sparse = Some(sparse);
        }
        Ok(header)
    }

    /// What is left of the entry in the stream.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut sparse) = self.sparse.take() else {
            return self.read_stored(buffer);
        };
        let result = match sparse.next(buffer.len()) {
            sparse::Piece::End => Ok(0),
            sparse::Piece::Hole(length) => {
                buffer[..length].fill(0);
                Ok(length)
            }
            sparse::Piece::Data(length) => self.read_stored(&mut buffer[..length]),
        };
        if let Ok(read) = result {
            sparse.advance(read as u64);
        }
        self.sparse = Some(sparse);
        result
    }
}

fn size_of_content(block: &[u8; BLOCK]) -> Result<u64, ReadError> {
    number::parse(&block[field::SIZE])
        .and_then(|size| u64::try_from(size).ok())
        .ok_or(ReadError::Header("invalid size"))
}

fn parse_header(block: &[u8; BLOCK], extra: &Extra) -> Result<Header, ReadError> {
    let records = &extra.records;
    let record = |key: &str| records.get(key.as_bytes()).map(Vec::as_slice);
    let name = record("path")
        .or(extra.long_name.as_deref())
        .map_or_else(|| short_name(block), <[u8]>::to_vec);
    let link = record("linkpath")
        .or(extra.long_link.as_deref())
        .map_or_else(|| c_string(block[field::LINK].to_vec()), <[u8]>::to_vec);
    let number = |range: std::ops::Range<usize>, key: &str, what: &'static str| {
        let value = match record(key) {
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok()),
            None => number::parse(&block[range]),
        };
        value.ok_or(ReadError::Header(what))
    };
    let id = |range, key, what| {
        u32::try_from(number(range, key, what)?).map_err(|_| ReadError::Header(what))
    };
    let mtime_ns = match record("mtime") {
        Some(text) => pax::parse_time(text).ok_or(ReadError::Header("invalid time"))?,
        None => number(field::MTIME, "", "invalid time")?.saturating_mul(1_000_000_000),
    };
    let size = number(field::SIZE, "size", "invalid size")?;
    let xattrs = records
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?, value)))
        .map(|(name, value)| (OsString::from_vec(name.to_vec()), value.clone()))
        .collect();
    Ok(Header {
        kind: parse_kind(block, &name, link)?,
        mode: u32::try_from(number(field::MODE, "", "invalid mode")? & 0o7777).unwrap_or(0),
        uid: id(field::UID, "uid", "invalid owner")?,
        gid: id(field::GID, "gid", "invalid group")?,
        size: u64::try_from(size).map_err(|_| ReadError::Header("invalid size"))?,
        mtime_ns,
        xattrs,
        path: to_path(name),
    })
}

fn parse_kind(block: &[u8; BLOCK], name: &[u8], link: Vec<u8>) -> Result<Kind, ReadError> {
    let device = || -> Result<(u32, u32), ReadError> {
        let part = |range| number::parse(&block[range]).and_then(|part| u32::try_from(part).ok());
        match (part(field::MAJOR), part(field::MINOR)) {
            (Some(major), Some(minor)) => Ok((major, minor)),
            _ => Err(ReadError::Header("invalid device number")),
        }
    };
    Ok(match block[field::TYPE] {
        // The oldest form has no type for directories but a `/` at the end of the name.
        0 | b'0' if name.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink(to_path(link)),
        b'2' => Kind::Symlink(PathBuf::from(OsString::from_vec(link))),
        b'3' => {
            let (major, minor) = device()?;
            Kind::CharDevice(major, minor)
        }
        b'4' => {
            let (major, minor) = device()?;
            Kind::BlockDevice(major, minor)
        }
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        _ => return Err(ReadError::Header("unknown type of entry")),
    })
}

/// The name in the header itself.
fn short_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = c_string(block[field::NAME].to_vec());
    // In GNU's headers other things are where POSIX has the prefix.
    if &block[field::MAGIC] == GNU || !block[field::MAGIC].starts_with(&USTAR[..6]) {
        return name;
    }
    let mut path = c_string(block[field::PREFIX].to_vec());
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(&name);
    path
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn to_path(mut name: Vec<u8>) -> PathBuf {
    while name.len() > 1 && name.ends_with(b"/") {
        name.pop();
    }
    PathBuf::from(OsString::from_vec(name))
}
