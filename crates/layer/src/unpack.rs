//! Layer tars to layers in overlay form.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use oci::{Digest, Hasher};
use sys::root::{FileKind, Follow, RootDir};

use crate::extract::{Extractor, Form, Limits, UnpackError, is_missing};
use crate::tar::Reader;
use crate::write::is_portable;

/// Headers are read 512 bytes at a time, which should not each be a read of the stream.
const BUFFER: usize = 128 * 1024;

/// How to unpack a layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnpackOptions<'a> {
    /// What the layer may make of itself.
    pub limits: Limits,
    /// The layers below, if they are there already: where directories that the tar uses but does
    /// not have get their owner, mode and time from. See [`adopt_dirs`].
    pub lower: Option<&'a RootDir>,
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackSummary {
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The length of the uncompressed tar in bytes.
    pub size: u64,
    /// How many entries it has.
    pub entries: u64,
    /// The directories that the tar uses but does not have. They were made with mode 0755 and
    /// root's; [`adopt_dirs`] makes them as they are below.
    pub implied_dirs: Vec<PathBuf>,
}

/// Unpacks an uncompressed layer tar into the empty directory `into`, in overlay form: deletions
/// become whiteouts and opaque directories.
///
/// Nothing outside of `into` can be reached. Different layers may be unpacked at the same time. To
/// have decompression run beside it, give it a [`crate::compression::read_ahead`] stream.
pub fn unpack(
    tar: impl Read,
    into: &RootDir,
    options: &UnpackOptions<'_>,
) -> Result<UnpackSummary, UnpackError> {
    let limit = options.limits.max_size;
    let tar = BufReader::with_capacity(BUFFER, tar);
    let stream = Counted {
        inner: tar,
        hasher: Hasher::new(),
        size: 0,
        limit,
    };
    let mut reader = Reader::new(stream);
    let mut extractor = Extractor::new(into, Form::Overlay, options.limits);
    extractor.run(&mut reader)?;
    // The digest is of all that was stored, with what follows the end of the archive.
    let mut stream = reader.into_inner();
    io::copy(&mut stream, &mut io::sink()).map_err(|error| UnpackError::Tar(error.into()))?;
    if let Some(lower) = options.lower {
        adopt_dirs(into, lower, &extractor.implied)?;
    }
    Ok(UnpackSummary {
        diff_id: stream.hasher.finish(),
        size: stream.size,
        entries: extractor.entries(),
        implied_dirs: extractor.implied,
    })
}

/// Gives directories of a layer the owner, mode, time and attributes that they have in the layers
/// below; those that are not there stay as they are.
pub fn adopt_dirs(into: &RootDir, lower: &RootDir, dirs: &[PathBuf]) -> Result<(), UnpackError> {
    for path in dirs.iter().rev() {
        adopt_dir(into, lower, path).map_err(UnpackError::entry("chmod", path))?;
    }
    Ok(())
}

fn adopt_dir(into: &RootDir, lower: &RootDir, path: &Path) -> io::Result<()> {
    let metadata = match lower.stat(path, Follow::Yes) {
        Ok(metadata) if metadata.kind == FileKind::Dir => metadata,
        Ok(_) => return Ok(()),
        Err(error) if is_missing(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    into.chown(path, metadata.uid, metadata.gid, Follow::No)?;
    into.chmod(path, metadata.mode)?;
    let below = lower.open_dir(path)?;
    for (name, value) in below.xattrs(Path::new("."))? {
        if is_portable(&name) {
            into.set_xattr(path, &name, &value)?;
        }
    }
    into.set_mtime(path, metadata.mtime_ns, Follow::No)
}

/// Counts and digests what is read, up to a limit.
struct Counted<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
    limit: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.size += read as u64;
        if self.size > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "tar is too large",
            ));
        }
        Ok(read)
    }
}
