//! All layers of one directory.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sys::mount::{Bind, MountFd};
use sys::root::RootDir;

use crate::active::{Active, WORK};
use crate::copy::{self, Transfer};
use crate::diff;
use crate::direct::Listings;
use crate::error::{CloneError, DiffError, MountError, OpenError, PrepareError, RemoveError};
use crate::groups::Groups;
use crate::merge::Form;
use crate::native;
use crate::parts::Parts;
use crate::ready::Ready;
use crate::trash::Trash;
use crate::tree;
use crate::usage::{Counter, Shared, Usage};

/// How stacks of layers become one filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Overlay mounts where they work, else copies.
    Auto,
    /// Overlay mounts.
    Overlay,
    /// Copies of all files: slow, and works everywhere.
    Native,
}

/// The number of a layer. Numbers are not used again while a record may name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The difference between two stacks.
#[derive(Debug)]
pub enum Diff {
    /// The one continues the other with these layers.
    Layers(Vec<LayerId>),
    /// It was written to a new layer.
    Written(Active),
}

/// Room on the disk that holds the layers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it.
    pub total: u64,
    /// What can still be used by this process.
    pub free: u64,
}

/// The layers in one directory. Clones are handles of the same.
///
/// Layers are immutable once committed. A stack that is mounted, or prepared upon, must not lose a
/// layer meanwhile: the caller sees to that.
#[derive(Clone, Debug)]
pub struct Snapshots {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) kind: Mode,
    pub(crate) trash: Arc<Trash>,
    ready: Ready,
    pub(crate) groups: Arc<Groups>,
    pub(crate) listings: Listings,
    pub(crate) parts: Parts,
    next: AtomicU64,
}

/// A [`Kind`] that is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Overlay,
    Native,
}

impl Snapshots {
    /// Opens the layers in the directory `root`, which is made if it is not there. One process may
    /// have it open at a time.
    ///
    /// # Errors
    /// When `root` cannot be prepared, or `kind` is [`Kind::Overlay`] and overlays do not work there.
    pub fn open(root: &Path, kind: Kind) -> Result<Snapshots, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { path, source }
        };
        make_dir_all(root).map_err(failed(root))?;
        let trash = root.join("trash");
        let trash = Arc::new(Trash::open(trash.clone()).map_err(failed(&trash))?);
        let ready = root.join("ready");
        let ready = Ready::open(ready.clone()).map_err(failed(&ready))?;
        let empty = root.join("empty");
        make_dir_all(&empty).map_err(failed(&empty))?;
        let kind = decide(root, kind, &trash)?;
        let form = match kind {
            Mode::Overlay => Form::Overlay,
            Mode::Native => Form::Plain,
        };
        let groups =
            Groups::open(root.to_owned(), form, Arc::clone(&trash)).map_err(failed(root))?;
        let mut layers = list(root).map_err(failed(root))?;
        let next = layers.iter().max().copied().unwrap_or(LayerId(0)).0 + 1;
        let parts = Parts::load(root, &mut layers, &trash).map_err(failed(root))?;
        for layer in &layers {
            // Of a mount that is gone: left by a layer that was committed just before a crash, or
            // made again when the layer is mounted.
            let work = root.join(layer.to_string()).join(WORK);
            if work.try_exists().map_err(failed(root))? {
                trash.take(&work).map_err(failed(root))?;
            }
        }
        Ok(Snapshots {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                kind,
                trash,
                ready,
                groups,
                listings: Listings::default(),
                parts,
                next: AtomicU64::new(next),
            }),
        })
    }

    /// `overlayfs` or `native`, as BuildKit calls them.
    pub fn name(&self) -> &'static str {
        match self.inner.kind {
            Mode::Overlay => "overlayfs",
            Mode::Native => "native",
        }
    }

    /// Starts an empty layer on top of `lower` (lowest first).
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn prepare(&self, lower: &[LayerId]) -> Result<Active, PrepareError> {
        self.inner.trash.yield_to_builds();
        let layer = self.reserve();
        self.make(layer, lower.last())
            .map_err(|source| PrepareError { layer, source })?;
        Ok(Active::new(Arc::clone(&self.inner), layer, lower.into()))
    }

    /// Starts a layer on top of `lower` (lowest first) that has the files of the layer `over`, which
    /// is on top of the same stack, at the cost of what is then made in it through [`Active::fs`]:
    /// nothing can be taken away. `over` must have no deletions in it, and must not be removed before
    /// the layer is committed. `None` where layers cannot be made so.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn prepare_over(
        &self,
        lower: &[LayerId],
        over: LayerId,
    ) -> Result<Option<Active>, PrepareError> {
        if self.inner.kind != Mode::Overlay || self.inner.parts.over(over).is_some() {
            return Ok(None);
        }
        let layer = self.reserve();
        let active = Active::new(Arc::clone(&self.inner), layer, lower.into());
        self.make(layer, Some(&over))
            .and_then(|()| self.inner.parts.note(&self.inner.root, layer, over))
            .map_err(|source| PrepareError { layer, source })?;
        Ok(Some(active))
    }

    /// Takes up a layer again that was left with [`Active::leave`], maybe by an earlier process.
    pub fn resume(&self, layer: LayerId, lower: &[LayerId]) -> Active {
        Active::new(Arc::clone(&self.inner), layer, lower.into())
    }

    /// A number for [`Snapshots::renumber`].
    pub fn reserve(&self) -> LayerId {
        LayerId(self.inner.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a committed layer that nobody mounts or names any more, to be changed. It goes on under
    /// the number `to`, so that whatever is known of `from` cannot be taken for what is true of it.
    ///
    /// # Errors
    /// When its directory cannot be renamed.
    pub fn renumber(&self, from: LayerId, to: LayerId) -> io::Result<Active> {
        self.inner.groups.forget(from);
        fs::rename(self.inner.dir(from), self.inner.dir(to))?;
        Ok(self.resume(to, &[]))
    }

    /// Mounts a stack of layers (lowest first) read-only and detached. Whiteouts do not show, also
    /// those that hide nothing.
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses.
    pub fn view(&self, layers: &[LayerId]) -> Result<MountFd, MountError> {
        let stack = |source| MountError::Stack {
            depth: layers.len(),
            source,
        };
        let bind = Bind {
            readonly: true,
            recursive: false,
        };
        let empty = self.inner.empty();
        if layers.is_empty() {
            return sys::mount::bind_clone_path(&empty, bind).map_err(stack);
        }
        match self.inner.kind {
            Mode::Overlay => {
                let mut lower = self.inner.lower(layers)?;
                if lower.len() == 1 {
                    // The kernel wants two layers when none is written to.
                    lower.insert(0, empty);
                }
                sys::mount::overlay(&lower, None).map_err(stack)
            }
            Mode::Native => {
                // A store that overlayfs was used for may have changes of layers.
                let merged = self.inner.groups.path(&self.inner.parts.all(layers))?;
                sys::mount::bind_clone_path(&merged, bind).map_err(stack)
            }
        }
    }

    /// A stack of layers (lowest first) to be read, as [`Snapshots::view`] shows it; without a mount
    /// where the directory of a layer looks the same (see [`Active::commit_plain`]).
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses.
    pub fn read(&self, layers: &[LayerId]) -> Result<RootDir, MountError> {
        if let [layer] = layers
            && self.inner.dir(*layer).join(PLAIN).exists()
        {
            return self.layer(*layer);
        }
        Ok(RootDir::from_fd(self.view(layers)?.into_fd()))
    }

    /// The files of a layer alone, in overlay form.
    ///
    /// # Errors
    /// When it is not there, or one that is made up of two directories cannot be mounted.
    pub fn layer(&self, layer: LayerId) -> Result<RootDir, MountError> {
        let own = layer_fs(&self.inner.root, layer);
        let opened = match self.inner.parts.over(layer) {
            None => RootDir::open(&own),
            Some(over) if self.inner.kind == Mode::Native => {
                RootDir::open(&self.inner.groups.path(&[over, layer])?)
            }
            Some(over) => {
                let both = [layer_fs(&self.inner.root, over), own];
                sys::mount::overlay(&both, None).map(|mount| RootDir::from_fd(mount.into_fd()))
            }
        };
        opened.map_err(|source| MountError::Layer { layer, source })
    }

    /// A directory beside the layer's files for what is known about them. It goes with the layer.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn notes(&self, layer: LayerId) -> Result<RootDir, MountError> {
        self.inner
            .notes(layer)
            .map_err(|source| MountError::Layer { layer, source })
    }

    /// What turns the stack `lower` into `upper`.
    ///
    /// # Errors
    /// When one of the stacks cannot be read, or the difference cannot be written.
    pub fn diff(&self, lower: &[LayerId], upper: &[LayerId]) -> Result<Diff, DiffError> {
        if let Some(rest) = upper.strip_prefix(lower) {
            return Ok(Diff::Layers(rest.to_vec()));
        }
        let view = |layers: &[LayerId]| {
            self.view(layers).map_err(|source| DiffError::View {
                depth: layers.len(),
                source,
            })
        };
        let (below, above) = (view(lower)?, view(upper)?);
        let active = self.prepare(&[]).map_err(DiffError::Prepare)?;
        let target = active.fs_path();
        let options = diff::Options {
            transfer: Transfer::Copy,
            suspect_since_ns: None,
        };
        let open = |mount: &MountFd| tree::open_dir(mount, c".");
        open(&below)
            .and_then(|lower| Ok((lower, open(&above)?, tree::open_root(&target)?)))
            .and_then(|(lower, upper, target)| diff::diff(&lower, &upper, &target, options))
            .map_err(|source| DiffError::Write {
                layer: active.id(),
                source,
            })?;
        Ok(Diff::Written(active))
    }

    /// Starts a layer with the files of `from`, by hard links: directories are its own, files are
    /// shared until they are replaced. No file of either may be written to or changed in place.
    ///
    /// # Errors
    /// When `from` is not there or its files cannot be linked.
    pub fn clone_layer(&self, from: LayerId) -> Result<Active, CloneError> {
        let active = self.prepare(&[]).map_err(CloneError::Prepare)?;
        let copy = |name: &str| -> io::Result<()> {
            let source = match tree::open_root(&self.inner.dir(from).join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && name == NOTES => {
                    return Ok(());
                }
                source => source?,
            };
            let target = self.inner.dir(active.id()).join(name);
            make_dir_all(&target)?;
            copy::tree(&source, &tree::open_root(&target)?, Transfer::Link)
        };
        copy("fs")
            .and_then(|()| copy(NOTES))
            .map_err(|source| CloneError::Link { from, source })?;
        Ok(active)
    }

    /// Removes a layer. Its files are removed in the background; see [`Snapshots::wait_removed`].
    ///
    /// # Errors
    /// When the directory cannot be renamed. That it is not there is none.
    pub fn remove(&self, layer: LayerId) -> Result<(), RemoveError> {
        self.inner
            .remove(layer)
            .map_err(|source| RemoveError { layer, source })
    }

    /// Waits until all that was removed no longer takes room. Blocks.
    pub fn wait_removed(&self) {
        self.inner.trash.wait_empty();
    }

    /// All layers that have a directory, committed or not, in no order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<LayerId>> {
        list(&self.inner.root)
    }

    /// Whether a layer has a directory.
    pub fn contains(&self, layer: LayerId) -> bool {
        layer_fs(&self.inner.root, layer).is_dir()
    }

    /// What layers take on the disk. A file with names in several of them counts in the first, so
    /// the sum is what `du` says of them all.
    ///
    /// # Errors
    /// When one is not there.
    pub fn usage(&self, layers: &[LayerId]) -> Result<Vec<Usage>, MountError> {
        let mut counter = Counter::default();
        let mut count = |layer: &LayerId| {
            counter
                .tree(&self.inner.dir(*layer), Shared::Counted)
                .map_err(|source| MountError::Layer {
                    layer: *layer,
                    source,
                })
        };
        layers.iter().map(&mut count).collect()
    }

    /// What `layer` takes beside its own directory: what was merged from several layers of which it
    /// is the topmost, and a removed layer that it is a change of.
    pub fn further_usage(&self, layer: LayerId) -> Usage {
        let (merged, below) = (
            self.inner.groups.usage(layer),
            self.inner.parts.usage(layer),
        );
        Usage {
            bytes: merged.bytes + below.bytes,
            inodes: merged.inodes + below.inodes,
        }
    }

    /// Whether somebody was at work in a layer (see [`Active::set_busy`]) when the process ended.
    pub fn is_busy(&self, layer: LayerId) -> bool {
        self.inner.dir(layer).join(BUSY).exists()
    }

    /// Room on the disk.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn disk_space(&self) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(&self.inner.root)?;
        Ok(DiskSpace {
            total: stat.f_blocks * stat.f_frsize,
            free: stat.f_bavail * stat.f_frsize,
        })
    }

    /// Waits until all that was written to the filesystem of the layers is on the disk. Blocks.
    ///
    /// # Errors
    /// When the disk fails; what was written since the last success may then be lost.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(tree::open_root(&self.inner.root)?)?)
    }

    fn make(&self, layer: LayerId, below: Option<&LayerId>) -> io::Result<()> {
        self.inner.ready.take(&self.inner.dir(layer))?;
        // The root of an overlay is that of its upper layer.
        if let Some(top) = below {
            let root = &self.inner.root;
            let (from, to) = (layer_fs(root, *top), layer_fs(root, layer));
            tree::copy_dir_metadata(&tree::open_root(&from)?, &tree::open_root(&to)?)?;
        }
        Ok(())
    }
}

/// Says that somebody is at work in a layer that outlives the process.
pub(crate) const BUSY: &str = "busy";

/// Says that the files of a layer are all there is to it: none stands for a deletion.
pub(crate) const PLAIN: &str = "plain";

/// Where notes on a layer are kept, beside its files.
pub(crate) const NOTES: &str = "notes";

impl Inner {
    pub(crate) fn dir(&self, layer: LayerId) -> PathBuf {
        self.root.join(layer.0.to_string())
    }

    /// Removes the directory of a layer, unless another layer is a change of it: then it goes with
    /// the last of those.
    pub(crate) fn remove(&self, layer: LayerId) -> io::Result<()> {
        if self.parts.keep(&self.root, layer) {
            return Ok(());
        }
        let below = self.parts.forget(layer);
        for layer in std::iter::once(layer).chain(below) {
            self.groups.forget(layer);
            match self.trash.take(&self.dir(layer)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    pub(crate) fn empty(&self) -> PathBuf {
        self.root.join("empty")
    }

    pub(crate) fn notes(&self, layer: LayerId) -> io::Result<RootDir> {
        let path = self.dir(layer).join(NOTES);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        RootDir::open(&path)
    }

    /// The directories to mount for `layers`.
    pub(crate) fn lower(&self, layers: &[LayerId]) -> Result<Vec<PathBuf>, MountError> {
        if layers.is_empty() {
            return Ok(vec![self.empty()]);
        }
        self.groups.lower(&self.parts.all(layers))
    }
}

/// Where the files of `layer` are.
pub(crate) fn layer_fs(root: &Path, layer: LayerId) -> PathBuf {
    root.join(layer.0.to_string()).join("fs")
}

pub(crate) fn make_dir_all(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn list(root: &Path) -> io::Result<Vec<LayerId>> {
    let mut layers = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        layers.extend(
            name.to_str()
                .and_then(|name| name.parse().ok())
                .map(LayerId),
        );
    }
    Ok(layers)
}

fn decide(root: &Path, kind: Kind, trash: &Trash) -> Result<Mode, OpenError> {
    if kind == Kind::Native {
        return Ok(Mode::Native);
    }
    match native::probe_overlay(root, trash) {
        Ok(()) => Ok(Mode::Overlay),
        Err(source) if kind == Kind::Overlay => Err(OpenError::Overlay {
            path: root.to_owned(),
            source,
        }),
        Err(error) => {
            tracing::warn!(%error, "overlay mounts do not work here, files will be copied");
            Ok(Mode::Native)
        }
    }
}
