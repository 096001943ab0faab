//! Where overlay mounts cannot be had: a tree of copies is written to, and what changed in it is
//! found by comparing.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::copy::{self, Transfer};
use crate::diff::{self, Options};
use crate::merge::{Form, merge};
use crate::store::{Inner, LayerId, layer_fs, make_dir_all};
use crate::trash::Trash;
use crate::tree;

/// The whole tree that is written to, beside the layer's files.
const FULL: &str = "full";

/// When [`FULL`] was complete, in nanoseconds since 1970.
const STARTED: &str = "full-started";

/// Finds out whether overlay mounts with layers in `root` work, whiteouts included.
pub(crate) fn probe_overlay(root: &Path, trash: &Trash) -> io::Result<()> {
    let probe = root.join("probe");
    if probe.try_exists()? {
        trash.take(&probe)?;
    }
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| probe.join(name));
    for dir in [&lower, &upper, &work] {
        make_dir_all(dir)?;
    }
    fs::write(lower.join("gone"), "")?;
    let tried = sys::mount::overlay(&[&lower], Some((&upper, &work))).and_then(|mount| {
        let mount = sys::root::RootDir::from_fd(mount.into());
        mount.unlink(Path::new("gone"))?;
        mount.mkdir(Path::new("gone"), 0o755)?;
        // A directory in the place of a file hides it, by an extended attribute.
        match tree::is_opaque(&tree::open_root(&upper.join("gone"))?)? {
            true => Ok(()),
            false => Err(io::Error::other(
                "the upper layer has no overlay attributes",
            )),
        }
    });
    trash.take(&probe)?;
    tried
}

/// The tree to be written for `layer`, with everything of `lower` and of the layer itself in it.
pub(crate) fn full(
    inner: &Inner,
    layer: LayerId,
    lower: &[LayerId],
) -> io::Result<std::path::PathBuf> {
    let dir = inner.dir(layer);
    let full = dir.join(FULL);
    let started = dir.join(STARTED);
    if started.try_exists()? {
        return Ok(full);
    }
    let mut sources = Vec::with_capacity(lower.len() + 1);
    for layer in inner.parts.all(lower).iter().chain([&layer]) {
        sources.push(tree::open_root(&layer_fs(&inner.root, *layer))?);
    }
    let linked = dir.join("linked");
    for left in [&linked, &full] {
        if left.try_exists()? {
            inner.trash.take(left)?;
        }
        make_dir_all(left)?;
    }
    let merged = tree::open_root(&linked)?;
    merge(&sources, &merged, Form::Plain)?;
    copy::tree(&merged, &tree::open_root(&full)?, Transfer::Copy)?;
    inner.trash.take(&linked)?;
    fs::write(&started, now_ns().to_string())?;
    Ok(full)
}

/// Turns the tree that was written, if there is one, into the layer's files in overlay form.
/// `below` is the plain tree of what is below the layer.
pub(crate) fn settle(inner: &Inner, layer: LayerId, below: &Path) -> io::Result<()> {
    let dir = inner.dir(layer);
    let (full, started) = (dir.join(FULL), dir.join(STARTED));
    let fresh = dir.join("fresh");
    if fresh.try_exists()? {
        inner.trash.take(&fresh)?;
    }
    make_dir_all(&fresh)?;
    let since = fs::read_to_string(&started)?.parse().unwrap_or(0);
    let options = Options {
        transfer: Transfer::Link,
        suspect_since_ns: Some(since),
    };
    let (upper, target) = (tree::open_root(&full)?, tree::open_root(&fresh)?);
    diff::diff(&tree::open_root(below)?, &upper, &target, options)?;
    tree::copy_dir_metadata(&upper, &target)?;
    let files = layer_fs(&inner.root, layer);
    inner.trash.take(&files)?;
    fs::rename(&fresh, &files)?;
    fs::remove_file(&started)?;
    inner.trash.take(&full)
}

/// Whether [`settle`] has something to do.
pub(crate) fn is_unsettled(inner: &Inner, layer: LayerId) -> bool {
    inner.dir(layer).join(STARTED).exists()
}

fn now_ns() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}
