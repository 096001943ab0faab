//! Writing tars.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{BLOCK, Header, Kind, USTAR, XATTR, checksums, field, number, pax};

/// How content is copied where the kernel cannot do it.
const BUFFER: usize = 256 * 1024;

/// Writes a tar. The same entries give the same bytes.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes to `inner`, which should be buffered.
    pub fn new(inner: W) -> Writer<W> {
        Writer {
            inner,
            buffer: Vec::new(),
        }
    }

    /// Writes one entry. For a regular file `content` must hold at least `header.size` bytes, and
    /// what is more is not written; for anything else it is not read.
    pub fn append(&mut self, header: &Header, mut content: impl Read) -> io::Result<()> {
        self.append_header(header)?;
        if header.kind != Kind::File {
            return Ok(());
        }
        self.buffer.resize(BUFFER, 0);
        let mut left = header.size;
        while left > 0 {
            let wanted = BUFFER.min(usize::try_from(left).unwrap_or(BUFFER));
            match content.read(&mut self.buffer[..wanted]) {
                Ok(0) => {
                    let message = format!("`{}` became shorter", header.path.display());
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                Ok(read) => {
                    self.inner.write_all(&self.buffer[..read])?;
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.pad(header.size)
    }

    /// Writes a regular file, owned by root, of these bytes.
    pub fn append_bytes(
        &mut self,
        path: impl AsRef<Path>,
        mode: u32,
        mtime_ns: i64,
        content: &[u8],
    ) -> io::Result<()> {
        let header = Header {
            path: path.as_ref().to_owned(),
            kind: Kind::File,
            mode,
            uid: 0,
            gid: 0,
            size: content.len() as u64,
            mtime_ns,
            xattrs: Default::default(),
        };
        self.append(&header, content)
    }

    /// Writes the end of the archive and gives the stream back.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        // Less than a block.
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.inner
            .write_all(&[0; BLOCK][..usize::try_from(padding).unwrap_or(0)])
    }

    fn append_header(&mut self, header: &Header) -> io::Result<()> {
        let mut path = header.path.as_os_str().as_bytes().to_vec();
        if header.kind == Kind::Dir && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let mut records = Vec::new();
        let block = fill(header, &path, &mut records);
        if !records.is_empty() {
            let mut special = [0; BLOCK];
            put(&mut special, field::NAME, &pax_name(&path));
            number::write(&mut special[field::MODE], 0o644);
            number::write(
                &mut special[field::SIZE],
                i64::try_from(records.len()).unwrap_or(0),
            );
            for range in [
                field::UID,
                field::GID,
                field::MTIME,
                field::MAJOR,
                field::MINOR,
            ] {
                number::write(&mut special[range], 0);
            }
            special[field::TYPE] = b'x';
            self.inner.write_all(&seal(special))?;
            self.inner.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.inner.write_all(&seal(block))
    }
}

/// Fills a header; what does not fit into its fields becomes PAX records.
fn fill(header: &Header, path: &[u8], records: &mut Vec<u8>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut record = |key: &[u8], value: &[u8]| pax::append(records, key, value);
    for (name, value) in &header.xattrs {
        // A `=` would end the key, and nothing as a value means that there is no record.
        if !name.as_bytes().contains(&b'=') && !value.is_empty() {
            record(&[XATTR, name.as_bytes()].concat(), value);
        }
    }
    let (code, link, (major, minor)) = match &header.kind {
        Kind::File => (b'0', None, (0, 0)),
        Kind::HardLink(target) => (b'1', Some(target), (0, 0)),
        Kind::Symlink(target) => (b'2', Some(target), (0, 0)),
        Kind::CharDevice(major, minor) => (b'3', None, (*major, *minor)),
        Kind::BlockDevice(major, minor) => (b'4', None, (*major, *minor)),
        Kind::Dir => (b'5', None, (0, 0)),
        Kind::Fifo => (b'6', None, (0, 0)),
    };
    block[field::TYPE] = code;
    let size = if header.kind == Kind::File {
        header.size
    } else {
        0
    };
    let seconds = header.mtime_ns.div_euclid(1_000_000_000);
    number::write(&mut block[field::MODE], i64::from(header.mode & 0o7777));
    for (range, key, value) in [
        (field::UID, &b"uid"[..], i64::from(header.uid)),
        (field::GID, b"gid", i64::from(header.gid)),
        (
            field::SIZE,
            b"size",
            i64::try_from(size).unwrap_or(i64::MAX),
        ),
        (field::MTIME, b"mtime", seconds),
    ] {
        if !number::write(&mut block[range.clone()], value) {
            number::write(&mut block[range], 0);
            record(key, value.to_string().as_bytes());
        }
    }
    // Kernel device numbers fit: a major has 12 bits, a minor 20.
    number::write(&mut block[field::MAJOR], i64::from(major));
    number::write(&mut block[field::MINOR], i64::from(minor));
    if let Some(link) = link {
        let link = link.as_os_str().as_bytes();
        if !link.is_ascii() || link.len() > field::LINK.len() {
            record(b"linkpath", link);
        }
        put(&mut block, field::LINK, link);
    }
    match split(path) {
        Some((prefix, name)) => {
            put(&mut block, field::PREFIX, prefix);
            put(&mut block, field::NAME, name);
        }
        None => {
            record(b"path", path);
            put(&mut block, field::NAME, path);
        }
    }
    block
}

/// Splits a path between the two fields for it; `None` if it does not fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= field::NAME.len() {
        return Some((b"", path));
    }
    // The prefix as long as possible, and something left for the name.
    let end = path.len().min(field::PREFIX.len() + 1).min(path.len() - 1);
    let at = path[..end].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    (!prefix.is_empty() && !name.is_empty() && name.len() <= field::NAME.len())
        .then_some((prefix, name))
}

/// The name of the entry that holds PAX records, which only old readers ever see.
fn pax_name(path: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let at = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    [&path[..at], b"PaxHeaders.0/", &path[at..]].concat()
}

/// Puts text into a field, cut to fit, with bytes that are not ASCII left out.
fn put(block: &mut [u8; BLOCK], range: std::ops::Range<usize>, text: &[u8]) {
    let field = &mut block[range];
    for (place, byte) in field
        .iter_mut()
        .zip(text.iter().filter(|byte| byte.is_ascii()))
    {
        *place = *byte;
    }
}

fn seal(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[field::MAGIC].copy_from_slice(USTAR);
    let (sum, _) = checksums(&block);
    // Six digits, NUL and space, unlike all other fields.
    block[field::CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
