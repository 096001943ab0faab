//! Copying files from one tree into another: what `COPY` does.
//!
//! The rules are those of BuildKit (vendor/github.com/tonistiigi/fsutil/copy): where a directory
//! lands, what is merged, what is replaced, whose metadata is taken. Both sides are reached through
//! their roots only.

mod changed;
mod content;
mod leaf;
mod mode;
mod pool;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use sys::root::{FileKind, Follow, Metadata, RootDir};

pub use changed::{Changed, copy_changed};
pub use mode::{ModeChange, ParseModeError, SymbolicMode};

use crate::filter::Filter;
use crate::path::{join, relative};
use crate::pattern::PatternError;
use crate::resolve::{blocking, in_root, is_missing, wildcards};
use tree::Copier;

/// The permission bits of directories made on the way, unless an octal mode is asked for.
const DEFAULT_DIR_MODE: u32 = 0o755;

/// How to copy.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// What to do to the permission bits of everything copied but symbolic links.
    pub mode: ModeChange,
    /// The user and group who are to own what is copied and made; `None` keeps the source's.
    pub owner: Option<(u32, u32)>,
    /// Whether a source that is a symbolic link is replaced by what it points to.
    pub follow_symlinks: bool,
    /// Whether the entries of a source directory are copied instead of the directory.
    pub copy_dir_contents: bool,
    /// Whether the directory that holds the destination is made if it is missing.
    pub create_dest_path: bool,
    /// Whether the source may have wildcards.
    pub allow_wildcard: bool,
    /// Whether wildcards may match nothing.
    pub allow_empty_wildcard: bool,
    /// The time of change of everything copied and made, in nanoseconds since 1970; `None` keeps
    /// the source's.
    pub timestamp_ns: Option<i64>,
    /// If any, only what matches one of these patterns, relative to the source, is copied.
    pub include: Vec<String>,
    /// What matches these patterns, relative to the source, is left out.
    pub exclude: Vec<String>,
    /// Whether something in the way of another kind is replaced instead of an error.
    pub always_replace: bool,
    /// Paths that must exist in the source.
    pub required: Vec<String>,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopySummary {
    /// Everything that is not a directory.
    pub files: u64,
    /// The size of the regular files in bytes.
    pub bytes: u64,
}

/// Why something cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source, or a required path in it, does not exist.
    #[error("`{0}` not found")]
    NotFound(String),
    /// A directory would land where there is something else.
    #[error("cannot copy to non-directory: {}", .0.display())]
    NotADirectory(PathBuf),
    /// Something else would land where there is a directory.
    #[error("cannot replace to directory {} with file", .0.display())]
    IsADirectory(PathBuf),
    /// A pattern is not well formed.
    #[error("invalid include or exclude patterns")]
    Pattern(#[from] PatternError),
    /// Symbolic links lead in a circle.
    #[error("too many links")]
    TooManyLinks,
    /// An operation on the source failed.
    #[error("{action} {}", path.display())]
    Read {
        /// What was done, as the system call is called.
        action: &'static str,
        /// The path in the source.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// An operation on the destination failed.
    #[error("{action} {}", path.display())]
    Write {
        /// What was done, as the system call is called.
        action: &'static str,
        /// The path in the destination.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

impl CopyError {
    fn read(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
        let path = Path::new("/").join(path);
        move |source| match is_loop(&source) {
            true => CopyError::TooManyLinks,
            false => CopyError::Read {
                action,
                path,
                source,
            },
        }
    }

    fn write(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
        let path = Path::new("/").join(path);
        move |source| match is_loop(&source) {
            true => CopyError::TooManyLinks,
            false => CopyError::Write {
                action,
                path,
                source,
            },
        }
    }
}

fn is_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Copies `src_path` of `src` to `dst_path` of `dst`.
///
/// A `/` at the end of `dst_path` says that it is a directory, to be made if need be. Names of one
/// file stay names of one file within one call.
pub fn copy(
    src: &RootDir,
    src_path: &str,
    dst: &RootDir,
    dst_path: &str,
    options: &CopyOptions,
) -> Result<CopySummary, CopyError> {
    let mut summary = CopySummary::default();
    for source in sources(src, src_path, options)? {
        copy_one(src, &source, dst, dst_path, options, &mut summary)?;
    }
    Ok(summary)
}

/// The paths in `src` that [`copy`] would copy one by one.
///
/// For a caller that treats some of them, archives for example, in its own way and hands on the
/// others to [`copy`] without `allow_wildcard`.
pub fn sources(
    src: &RootDir,
    src_path: &str,
    options: &CopyOptions,
) -> Result<Vec<String>, CopyError> {
    for required in &options.required {
        let path = in_root(src, Path::new(required), Follow::Yes)
            .map_err(CopyError::read("lstat", Path::new(required)))?;
        if !src.exists(&path).map_err(CopyError::read("lstat", &path))? {
            return Err(CopyError::NotFound(required.clone()));
        }
    }
    if !options.allow_wildcard {
        return Ok(vec![src_path.to_owned()]);
    }
    let follow = if options.follow_symlinks {
        Follow::Yes
    } else {
        Follow::No
    };
    let found = match wildcards(src, src_path, follow) {
        Ok(found) => found,
        Err(error) if is_missing(&error) => {
            return Err(CopyError::NotFound(src_path.to_owned()));
        }
        Err(error) => return Err(CopyError::read("lstat", Path::new(src_path))(error)),
    };
    if found.is_empty() && !options.allow_empty_wildcard {
        return Err(CopyError::NotFound(src_path.to_owned()));
    }
    // Names that are not UTF-8 cannot be named by the caller, but a wildcard can find them.
    let mut sources = Vec::with_capacity(found.len());
    for path in found {
        match path.into_os_string().into_string() {
            Ok(path) => sources.push(format!("/{path}")),
            Err(path) => {
                let source = io::Error::new(io::ErrorKind::InvalidData, "name is not UTF-8");
                return Err(CopyError::Read {
                    action: "open",
                    path: path.into(),
                    source,
                });
            }
        }
    }
    Ok(sources)
}

fn copy_one(
    src: &RootDir,
    src_path: &str,
    dst: &RootDir,
    dst_path: &str,
    options: &CopyOptions,
    summary: &mut CopySummary,
) -> Result<(), CopyError> {
    let filter = Filter::new(&options.include, &options.exclude)?;
    let made = Made {
        dst,
        options,
        dirs: Vec::new(),
    };
    let (source, metadata) = find_source(src, src_path, options)?;
    let (target, made) = prepare_target(src_path, &metadata, made, dst_path)?;
    let mut copier = Copier::new(src, dst, options, &filter);
    copier.copy(&source, metadata, &target)?;
    summary.files += copier.summary.files;
    summary.bytes += copier.summary.bytes;
    made.finish()
}

/// Where the source is, and what.
fn find_source(
    src: &RootDir,
    src_path: &str,
    options: &CopyOptions,
) -> Result<(PathBuf, Metadata), CopyError> {
    let named = relative(Path::new(src_path));
    let follow = if options.follow_symlinks {
        Follow::Yes
    } else {
        Follow::No
    };
    let source = in_root(src, &named, follow).map_err(CopyError::read("lstat", &named))?;
    match src.stat(&source, Follow::No) {
        Ok(metadata) => Ok((source, metadata)),
        Err(error) if is_missing(&error) => Err(CopyError::NotFound(src_path.to_owned())),
        Err(error) => Err(CopyError::read("lstat", &source)(error)),
    }
}

/// Decides where the source lands, and makes the directories that lead there.
fn prepare_target<'a>(
    src_path: &str,
    source: &Metadata,
    mut made: Made<'a>,
    dst_path: &str,
) -> Result<(PathBuf, Made<'a>), CopyError> {
    let (dst, options) = (made.dst, made.options);
    let follow = |path: &Path| {
        let resolved = in_root(dst, path, Follow::Yes);
        resolved.map_err(CopyError::write("lstat", path))
    };
    let (dir, last) = match dst_path.rsplit_once('/') {
        Some((dir, last)) => (dir, last),
        None => ("", dst_path),
    };
    if !options.create_dest_path {
        let target = follow(Path::new(dst_path))?;
        let parent = target.parent().unwrap_or(Path::new(""));
        dst.stat(parent, Follow::No)
            .map_err(CopyError::write("lstat", parent))?;
    }
    let ensured = if matches!(last, "" | ".") {
        dst_path
    } else {
        dir
    };
    made.ensure(&follow(Path::new(ensured))?)?;

    let mut target = follow(Path::new(dst_path))?;
    let existing = match dst.stat(&target, Follow::No) {
        Ok(metadata) => Some(metadata.kind),
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(CopyError::write("lstat", &target)(error)),
    };
    let source_is_dir = source.kind == FileKind::Dir;
    let lands_inside = if source_is_dir {
        !options.copy_dir_contents && existing.is_some()
    } else {
        existing == Some(FileKind::Dir)
    };
    let name = base_name(src_path);
    if lands_inside && !name.is_empty() {
        target = join(&target, name);
    }
    if options.copy_dir_contents && source_is_dir && existing.is_none() {
        made.ensure(&target)?;
    } else {
        made.ensure(target.parent().unwrap_or(Path::new("")))?;
    }
    Ok((target, made))
}

/// The name under which a source lands in a directory; empty for the root and for `dir/.`, which
/// means what is in the directory.
fn base_name(src_path: &str) -> &OsStr {
    match src_path.trim_end_matches('/').rsplit('/').next() {
        None | Some(".") => OsStr::new(""),
        Some(name) => OsStr::new(name),
    }
}

/// Directories that were made on the way to a destination.
struct Made<'a> {
    dst: &'a RootDir,
    options: &'a CopyOptions,
    dirs: Vec<PathBuf>,
}

impl Made<'_> {
    /// Makes the directory `path` (without links in it) and those that lead there.
    fn ensure(&mut self, path: &Path) -> Result<(), CopyError> {
        let mode = match self.options.mode {
            ModeChange::Octal(mode) => mode & 0o777,
            ModeChange::Keep | ModeChange::Symbolic(_) => DEFAULT_DIR_MODE,
        };
        let made = self
            .dst
            .mkdir_all(path, mode)
            .map_err(|error| CopyError::write("mkdir", &blocking(self.dst, path, &error))(error))?;
        for dir in &made {
            if let Some((uid, gid)) = self.options.owner {
                self.dst
                    .chown(dir, uid, gid, Follow::No)
                    .map_err(CopyError::write("lchown", dir))?;
            }
        }
        self.dirs.extend(made);
        Ok(())
    }

    /// Sets the time of what was made, once nothing more is put there.
    fn finish(self) -> Result<(), CopyError> {
        let Some(time) = self.options.timestamp_ns else {
            return Ok(());
        };
        for dir in self.dirs.iter().rev() {
            self.dst
                .set_mtime(dir, time, Follow::No)
                .map_err(CopyError::write("utimensat", dir))?;
        }
        Ok(())
    }
}
