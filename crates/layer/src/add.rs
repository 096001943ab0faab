//! What `ADD` does with archives: they are unpacked where other files are copied.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use fstree::copy::{CopyError, CopyOptions, CopySummary, sources};
use fstree::edit::{Made, mkdir};
use sys::root::{FileKind, Follow, RootDir};

use crate::compression::decompress;
use crate::extract::{Extractor, Form, Limits, UnpackError};
use crate::tar::Reader;

/// How to unpack an archive as plain files.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtractOptions {
    /// The user and group who are to own everything; `None` takes the archive's word.
    pub owner: Option<(u32, u32)>,
    /// The time of change of directories made on the way, in nanoseconds since 1970.
    pub timestamp_ns: Option<i64>,
    /// What the archive may make of itself.
    pub limits: Limits,
}

/// Why something was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// It is no archive, and could not be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// It is an archive that could not be unpacked.
    #[error("failed to unpack archive {}", path.display())]
    Unpack {
        /// The archive.
        path: PathBuf,
        /// Why not.
        source: UnpackError,
    },
}

/// Copies as [`fstree::copy()`] does, except that archives (tars, also compressed) are unpacked into
/// the destination, taken as a directory.
pub fn add(
    src: &RootDir,
    src_path: &str,
    dst: &RootDir,
    dst_path: &str,
    options: &CopyOptions,
) -> Result<CopySummary, AddError> {
    let mut summary = CopySummary::default();
    let one = CopyOptions {
        allow_wildcard: false,
        required: Vec::new(),
        ..options.clone()
    };
    for source in sources(src, src_path, options)? {
        if let Some(archive) = open_archive(src, Path::new(&source)) {
            let extract = ExtractOptions {
                owner: options.owner,
                timestamp_ns: options.timestamp_ns,
                limits: Limits::default(),
            };
            summary.files +=
                extract_archive(archive, dst, dst_path, &extract).map_err(|error| {
                    AddError::Unpack {
                        path: PathBuf::from(&source),
                        source: error,
                    }
                })?;
            continue;
        }
        let copied = fstree::copy(src, &source, dst, dst_path, &one)?;
        summary.files += copied.files;
        summary.bytes += copied.bytes;
    }
    Ok(summary)
}

/// The file at `path`, links followed, if it is an archive.
fn open_archive(src: &RootDir, path: &Path) -> Option<File> {
    if src.stat(path, Follow::Yes).ok()?.kind != FileKind::File {
        return None;
    }
    is_archive(src.open_file(path).ok()?).then(|| src.open_file(path).ok())?
}

/// Whether a stream is a tar, perhaps compressed: whether its first entry can be read.
pub fn is_archive(stream: impl Read + Send) -> bool {
    let first = || -> Option<()> { Reader::new(decompress(stream).ok()?).next().ok()?.map(drop) };
    first().is_some()
}

/// Unpacks a tar, perhaps compressed, into the directory `path` of `dst`, which is made if it is
/// missing. Returns how many entries it has.
///
/// What is there is replaced, except that directories are merged. Names like `.wh.x` mean nothing
/// special. Links in the archive lead nowhere outside of the directory while it is unpacked.
pub fn extract_archive(
    stream: impl Read + Send,
    dst: &RootDir,
    path: &str,
    options: &ExtractOptions,
) -> Result<u64, UnpackError> {
    // The directories up to the destination belong to whom the files are given.
    let made = Made {
        owner: options.owner,
        timestamp_ns: options.timestamp_ns,
    };
    mkdir(dst, path, 0o755, true, made).map_err(UnpackError::Destination)?;
    let path = Path::new(path);
    let dir = dst
        .open_dir(path)
        .map_err(UnpackError::entry("open", path))?;
    let stream = decompress(stream).map_err(|error| UnpackError::Tar(error.into()))?;
    let mut extractor = Extractor::new(
        &dir,
        Form::Plain {
            owner: options.owner,
        },
        options.limits,
    );
    extractor.run(&mut Reader::new(BufReader::new(stream)))?;
    Ok(extractor.entries())
}
