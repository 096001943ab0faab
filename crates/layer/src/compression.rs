//! Compression of layers, on all cores, with output that does not depend on how many there are.

mod decompress;
mod gzip;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::thread;

pub use decompress::{Detected, decompress, detect, read_ahead};

use gzip::GzipWriter;

/// How a blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip at a level from 0 to 9.
    Gzip(u32),
    /// zstd at a level from 1 to 22.
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Compression {
        Compression::GZIP
    }
}

impl Compression {
    /// The level of zlib-rs that takes the time and gives the size of Go's default, which is what
    /// images are usually compressed with.
    pub const GZIP: Compression = Compression::Gzip(4);

    /// The level that the zstd program has by default.
    pub const ZSTD: Compression = Compression::Zstd(3);
}

/// More threads than this compress faster than anything takes the output.
const MAX_THREADS: usize = 16;

/// A stream being compressed; see [`compress`].
///
/// [`Encoder::finish`] must be called: what is dropped before is not whole.
pub struct Encoder<W: Write>(Inner<W>);

enum Inner<W: Write> {
    None(W),
    Gzip(Box<GzipWriter<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

/// Compresses what is written to the result into `out`.
pub fn compress<W: Write>(compression: Compression, out: W) -> io::Result<Encoder<W>> {
    compress_with(compression, out, cores())
}

/// [`compress`] with a number of threads.
pub fn compress_with<W: Write>(
    compression: Compression,
    out: W,
    threads: usize,
) -> io::Result<Encoder<W>> {
    let threads = threads.clamp(1, MAX_THREADS);
    Ok(Encoder(match compression {
        Compression::None => Inner::None(out),
        Compression::Gzip(level) => Inner::Gzip(Box::new(GzipWriter::new(out, level, threads)?)),
        Compression::Zstd(level) => {
            let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
            // With at least one worker the output is the same for any number of them.
            encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
            encoder.include_checksum(true)?;
            Inner::Zstd(Box::new(encoder))
        }
    }))
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl<W: Write> Encoder<W> {
    /// Writes the rest and gives the stream back.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::None(mut out) => {
                out.flush()?;
                Ok(out)
            }
            Inner::Gzip(writer) => writer.finish(),
            Inner::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::None(out) => out.write(bytes),
            Inner::Gzip(writer) => writer.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Does nothing: what is compressed comes in blocks, and cutting one short would change the
    /// output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Inner::None(_) => "Encoder(None)",
            Inner::Gzip(_) => "Encoder(Gzip)",
            Inner::Zstd(_) => "Encoder(Zstd)",
        })
    }
}
