//! Bringing an earlier copy up to date.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use sys::root::{FileKind, Follow, Metadata, RootDir};

use super::tree::Copier;
use super::{CopyError, CopyOptions, CopySummary, Made, find_source, prepare_target, sources};
use crate::filter::Filter;
use crate::path::{has_wildcard, relative};
use crate::resolve::is_missing;

/// What may differ, as paths from a root.
pub type Changed = BTreeSet<PathBuf>;

/// Whether something at `path` or below it may differ.
pub(super) fn concerns(changed: &Changed, path: &Path) -> bool {
    let from = (Bound::Included(path), Bound::Unbounded);
    let next = changed.range::<Path, _>(from).next();
    next.is_some_and(|next| next.starts_with(path))
}

/// Copies like [`copy`](super::copy) to a `dst` in which the same copy was made before, of a source
/// that differed in nothing but the paths in `changed` (from the root of `src`), in which nothing was
/// removed since. Only these are copied, and nothing is taken away.
///
/// `None`, with nothing done, when what was there before may have to go, or it is not certain that
/// all of the source would be copied to the same places: then it has to be copied whole.
///
/// # Errors
/// As of [`copy`](super::copy).
pub fn copy_changed(
    src: &RootDir,
    src_path: &str,
    dst: &RootDir,
    dst_path: &str,
    options: &CopyOptions,
    changed: &Changed,
) -> Result<Option<CopySummary>, CopyError> {
    let is_pattern = has_wildcard(src_path.as_bytes()) || src_path.contains('\\');
    if !options.copy_dir_contents || is_pattern {
        return Ok(None);
    }
    let named = sources(src, src_path, options)?;
    let [named] = &named[..] else {
        return Ok(None);
    };
    let (source, metadata) = find_source(src, named, options)?;
    // A link on the way may have led elsewhere before.
    let is_itself = source == relative(Path::new(named));
    if metadata.kind != FileKind::Dir
        || !is_itself
        || changed.iter().any(|path| source.starts_with(path))
    {
        return Ok(None);
    }
    if !dst
        .exists(Path::new(dst_path))
        .map_err(CopyError::write("lstat", Path::new(dst_path)))?
    {
        return Ok(None);
    }
    let made = Made {
        dst,
        options,
        dirs: Vec::new(),
    };
    let (target, made) = prepare_target(named, &metadata, made, dst_path)?;
    // A link on the way may be one that the copy put there, and another led elsewhere before.
    if target != relative(Path::new(dst_path)) {
        return Ok(None);
    }
    let mut below = Changed::new();
    for path in changed {
        let Ok(path) = path.strip_prefix(&source) else {
            continue;
        };
        if !is_replaced_by_itself(src, &source.join(path), dst, &target.join(path))? {
            return Ok(None);
        }
        below.insert(path.to_owned());
    }
    let filter = Filter::new(&options.include, &options.exclude)?;
    let copier = Copier::new(src, dst, options, &filter);
    let summary = copier.copy_only(&below, &source, metadata, &target)?;
    made.finish()?;
    Ok(Some(summary))
}

/// Whether copying `from` to `to` takes nothing away but `to`, and changes nothing else.
fn is_replaced_by_itself(
    src: &RootDir,
    from: &Path,
    dst: &RootDir,
    to: &Path,
) -> Result<bool, CopyError> {
    let Some(from) = stat(src, from).map_err(CopyError::read("lstat", from))? else {
        return Ok(false);
    };
    let there = stat(dst, to).map_err(CopyError::write("lstat", to))?;
    let is_dir = |metadata: &Metadata| metadata.kind == FileKind::Dir;
    // Of a file with several names the others would have to be looked for.
    let stands_alone = |metadata: &Metadata| is_dir(metadata) || metadata.nlink == 1;
    Ok(stands_alone(&from)
        && there.is_none_or(|there| stands_alone(&there) && is_dir(&from) == is_dir(&there)))
}

fn stat(root: &RootDir, path: &Path) -> io::Result<Option<Metadata>> {
    match root.stat(path, Follow::No) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
