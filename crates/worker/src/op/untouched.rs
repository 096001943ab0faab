//! Directories that are in a step's layer though the step did nothing to them.
//!
//! Making a mount point in a directory of the layers below brings the directory into the layer on
//! top, where it stays when the mount point is gone. Without this a step that changes no file would
//! have a layer that says otherwise.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use snapshot::{Active, Snapshots};
use sys::root::{FileKind, Follow, Metadata, RootDir};

/// Takes those of `directories` out of a layer that are empty in it and the same in the layers below.
/// Only those right below the root are looked at: for the others it would have to be known which
/// directories on the way are opaque.
pub(super) fn forget(
    active: &Active,
    snapshots: &Snapshots,
    directories: &BTreeSet<PathBuf>,
) -> io::Result<()> {
    let top = active.fs().map_err(io::Error::other)?;
    for directory in directories {
        let depth = directory.components().count();
        if depth == 2 && is_bare(&top, directory)? && is_same(active, snapshots, directory, &top)? {
            top.rmdir(directory)?;
        }
    }
    Ok(())
}

/// Whether `directory` is an empty directory that hides nothing.
fn is_bare(top: &RootDir, directory: &Path) -> io::Result<bool> {
    match top.stat(directory, Follow::No) {
        Ok(metadata) if metadata.kind == FileKind::Dir => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let opaque = top
        .xattrs(directory)?
        .contains_key(std::ffi::OsStr::new("trusted.overlay.opaque"));
    Ok(!opaque && top.read_dir(directory)?.is_empty())
}

/// Whether the layers below have the same directory.
fn is_same(
    active: &Active,
    snapshots: &Snapshots,
    directory: &Path,
    top: &RootDir,
) -> io::Result<bool> {
    let own = top.stat(directory, Follow::No)?;
    for layer in active.lower().iter().rev() {
        let layer = snapshots.layer(*layer).map_err(io::Error::other)?;
        match layer.stat(directory, Follow::No) {
            Ok(below) => {
                return Ok(
                    same(&own, &below) && xattrs(top, directory)? == xattrs(&layer, directory)?
                );
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The time of change says only that a mount point was made.
fn same(one: &Metadata, other: &Metadata) -> bool {
    let key = |metadata: &Metadata| (metadata.kind, metadata.mode, metadata.uid, metadata.gid);
    key(one) == key(other)
}

/// Extended attributes but overlay's own.
fn xattrs(root: &RootDir, path: &Path) -> io::Result<Vec<(std::ffi::OsString, Vec<u8>)>> {
    use std::os::unix::ffi::OsStrExt as _;
    let all = root.xattrs(path)?.into_iter();
    let own = all.filter(|(name, _)| !name.as_bytes().starts_with(b"trusted.overlay."));
    Ok(own.collect())
}
