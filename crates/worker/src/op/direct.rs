//! Whether a file action only adds to a filesystem: then it can write to the new layer itself, and
//! nothing has to be mounted.
//!
//! Each function says so, and has the directories that the action adds to brought up into the layer.
//! An action that may meet a link, replace something or fail is for the mounted filesystem.

use std::path::{Path, PathBuf};

use fstree::copy::{CopyOptions, sources};
use snapshot::{Active, Found};
use sys::root::{FileKind, Follow, RootDir};

use crate::failure::Failure;

/// Lookups of one name in one layer at most. Each file that is made through a mount costs as much as
/// ten of them, so that this is far from the mount's advantage for what is that much.
const MAX_LOOKUPS: usize = 4096;

/// Whether `path` is a new entry of a directory that is there.
pub(super) fn new_entry(active: &Active, path: &str) -> Result<bool, Failure> {
    let path = Path::new(path);
    let Some(parent) = path.parent() else {
        return Ok(false);
    };
    if !is_missing(active, path)? {
        return Ok(false);
    }
    active.bring_up(parent).map_err(Failure::host)
}

/// Whether `path` is a directory.
pub(super) fn is_dir(active: &Active, path: &str) -> Result<bool, Failure> {
    Ok(find(active, Path::new(path))? == Found::Dir)
}

/// Whether `path` is a new directory, with `parents` at any depth.
pub(super) fn new_dir(active: &Active, path: &str, parents: bool) -> Result<bool, Failure> {
    if !parents {
        return new_entry(active, path);
    }
    let path = Path::new(path);
    Ok(is_missing(active, path)? && bring_up_existing(active, path)?)
}

/// Whether nothing that copying `src` of `source` to `dest` makes is there yet.
pub(super) fn new_copy(
    active: &Active,
    source: &RootDir,
    src: &str,
    dest: &str,
    options: &CopyOptions,
) -> Result<bool, Failure> {
    let target = Path::new(dest);
    let kind = find(active, target)?;
    if kind == Found::Other {
        return Ok(false);
    }
    // Errors are for the copy itself to tell.
    let Ok(sources) = sources(source, src, options) else {
        return Ok(false);
    };
    if kind == Found::Missing && !options.create_dest_path {
        let parent = target.parent().unwrap_or(Path::new("/"));
        if find(active, parent)? != Found::Dir {
            return Ok(false);
        }
    }
    if kind == Found::Dir {
        for source_path in &sources {
            let Some(names) = names(source, source_path, options) else {
                return Ok(false);
            };
            if names.len() * (active.lower().len() + 1) > MAX_LOOKUPS {
                return Ok(false);
            }
            for name in names {
                if !is_missing(active, &target.join(name))? {
                    return Ok(false);
                }
            }
        }
    }
    bring_up_existing(active, target)
}

/// The names under which a source lands in a directory; `None` when they are not to be known.
fn names(source: &RootDir, path: &str, options: &CopyOptions) -> Option<Vec<PathBuf>> {
    let follow = if options.follow_symlinks {
        Follow::Yes
    } else {
        Follow::No
    };
    let metadata = source.stat(Path::new(path), follow).ok()?;
    if metadata.kind == FileKind::Dir && options.copy_dir_contents {
        let entries = source.read_dir(Path::new(path)).ok()?;
        return Some(entries.into_iter().map(|e| e.name.into()).collect());
    }
    let name = Path::new(path.trim_end_matches('/')).file_name()?;
    Some(vec![name.into()])
}

/// Brings up as much of `path` as is there.
fn bring_up_existing(active: &Active, path: &Path) -> Result<bool, Failure> {
    for ancestor in path.ancestors() {
        match find(active, ancestor)? {
            Found::Missing => {}
            Found::Dir => return active.bring_up(ancestor).map_err(Failure::host),
            Found::Other => return Ok(false),
        }
    }
    Ok(false)
}

fn is_missing(active: &Active, path: &Path) -> Result<bool, Failure> {
    Ok(find(active, path)? == Found::Missing)
}

/// What is at `path`; where that cannot be told, something that has to be mounted.
fn find(active: &Active, path: &Path) -> Result<Found, Failure> {
    let found = active.find(path);
    let found = found.map_err(Failure::host)?;
    Ok(found.unwrap_or(Found::Other))
}
