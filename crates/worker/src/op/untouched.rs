//! Directories that are in a step's layer though the step left them as they were.
//!
//! Making a mount point in a directory of the layers below, or a file that is gone at the end of the
//! step, brings the directory into the layer on top, where it stays. Without this a step that changes
//! no file would have a layer that says otherwise.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use snapshot::{Active, Snapshots};
use sys::root::{FileKind, Follow, Metadata, RootDir};

/// On a directory: nothing of what is below shows.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Takes those directories out of a layer that are empty in it and the same in the layers below.
pub(super) fn forget(active: &Active, snapshots: &Snapshots) -> io::Result<()> {
    // A layer that is not one of overlayfs holds everything below as well.
    let is_overlay = active.find(Path::new("/"))?.is_some();
    if active.lower().is_empty() || !is_overlay {
        return Ok(());
    }
    let top = active.fs().map_err(io::Error::other)?;
    let mut found = directories(&top)?;
    let bare = |found: &HashMap<PathBuf, usize>, path: &Path| found.get(path) == Some(&0);
    let mut paths: Vec<PathBuf> = found.keys().cloned().collect();
    // What is inside comes before what it is in.
    paths.sort_by(|one, other| other.cmp(one));
    let mut lower: Option<Vec<RootDir>> = None;
    for path in paths.iter().filter(|path| path.parent().is_some()) {
        if !bare(&found, path) {
            continue;
        }
        let layers = match &mut lower {
            Some(layers) => layers,
            None => lower.insert(open(active, snapshots)?),
        };
        if is_same(layers, path, &top)? {
            top.rmdir(path)?;
            let parent = path.parent().and_then(|parent| found.get_mut(parent));
            if let Some(entries) = parent {
                *entries -= 1;
            }
        }
    }
    Ok(())
}

/// The directories of a layer that hide nothing, each with how many entries it has.
fn directories(top: &RootDir) -> io::Result<HashMap<PathBuf, usize>> {
    let mut found = HashMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        if is_opaque(top, &path)? {
            continue;
        }
        let entries = top.read_dir(&path)?;
        for entry in &entries {
            if entry.kind == FileKind::Dir {
                left.push(path.join(&entry.name));
            }
        }
        found.insert(path, entries.len());
    }
    Ok(found)
}

/// The layers below, the topmost first.
fn open(active: &Active, snapshots: &Snapshots) -> io::Result<Vec<RootDir>> {
    let layers = active.lower().iter().rev();
    layers
        .map(|layer| snapshots.layer(*layer).map_err(io::Error::other))
        .collect()
}

/// Whether the layers below have the same directory.
fn is_same(layers: &[RootDir], path: &Path, top: &RootDir) -> io::Result<bool> {
    let own = top.stat(path, Follow::No)?;
    for layer in layers {
        match look(layer, path)? {
            Look::Found(below) => {
                return Ok(same(&own, &below) && xattrs(top, path)? == xattrs(layer, path)?);
            }
            Look::Hidden => return Ok(false),
            Look::Further => {}
        }
    }
    Ok(false)
}

/// What one layer says of a path.
enum Look {
    Found(Metadata),
    /// Neither it nor a layer below it has it.
    Hidden,
    /// It says nothing.
    Further,
}

fn look(layer: &RootDir, path: &Path) -> io::Result<Look> {
    let mut opaque = is_opaque(layer, Path::new(""))?;
    let mut at = PathBuf::new();
    for name in path.iter() {
        at.push(name);
        let metadata = match layer.stat(&at, Follow::No) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound && opaque => {
                return Ok(Look::Hidden);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Further),
            Err(error) => return Err(error),
        };
        if metadata.kind != FileKind::Dir {
            return Ok(Look::Hidden);
        }
        if at == path {
            return Ok(Look::Found(metadata));
        }
        opaque |= is_opaque(layer, &at)?;
    }
    Ok(Look::Further)
}

fn is_opaque(root: &RootDir, path: &Path) -> io::Result<bool> {
    let value = root.get_xattr(path, OsStr::new(OPAQUE))?;
    Ok(value.as_deref() == Some(b"y"))
}

/// The time of change says only that something was there for a while.
fn same(one: &Metadata, other: &Metadata) -> bool {
    let key = |metadata: &Metadata| (metadata.kind, metadata.mode, metadata.uid, metadata.gid);
    key(one) == key(other)
}

/// Extended attributes but overlay's own.
fn xattrs(root: &RootDir, path: &Path) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let all = root.xattrs(path)?.into_iter();
    let own = all.filter(|(name, _)| !name.as_bytes().starts_with(b"trusted.overlay."));
    Ok(own.collect())
}
