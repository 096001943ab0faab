//! A layer that is being written.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sys::mount::{Bind, MountFd};
use sys::root::RootDir;

use crate::error::{CommitError, MountError};
use crate::groups::{DEEPEST, GROUP};
use crate::native;
use crate::store::{BUSY, Inner, LayerId, Mode, PLAIN, layer_fs, make_dir_all};

/// A new layer on top of others. Dropped before it is committed, it is removed.
///
/// Write to it either through [`Active::mount`] or, in overlay form, through [`Active::fs`]; not
/// through both at a time.
#[derive(Debug)]
pub struct Active {
    pub(crate) inner: Arc<Inner>,
    layer: LayerId,
    pub(crate) lower: Arc<[LayerId]>,
    state: State,
    /// There is a scratch directory.
    mounted: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Committed, or left for later: not ours to remove.
    Left,
}

impl Active {
    pub(crate) fn new(inner: Arc<Inner>, layer: LayerId, lower: Arc<[LayerId]>) -> Active {
        Active {
            inner,
            layer,
            lower,
            state: State::Open,
            mounted: AtomicBool::new(false),
        }
    }

    /// The number of the layer.
    pub fn id(&self) -> LayerId {
        self.layer
    }

    /// What it is on top of, lowest first.
    pub fn lower(&self) -> &[LayerId] {
        &self.lower
    }

    /// Mounts the layer on top of the others, writable and detached. The mount must be gone before
    /// the layer is committed, and there may be one at a time.
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses.
    pub fn mount(&self) -> Result<MountFd, MountError> {
        let stack = |source| MountError::Stack {
            depth: self.lower.len() + 1,
            source,
        };
        match self.inner.kind {
            Mode::Overlay => {
                let lower = self.inner.lower(&self.below())?;
                let work = self.inner.dir(self.layer).join(WORK);
                make_dir_all(&work).map_err(stack)?;
                self.mounted.store(true, Ordering::Relaxed);
                sys::mount::overlay(&lower, Some((&self.fs_path(), &work))).map_err(stack)
            }
            Mode::Native => {
                let full =
                    native::full(&self.inner, self.layer, &self.lower).map_err(|source| {
                        MountError::Copy {
                            layer: self.layer,
                            source,
                        }
                    })?;
                bind(&full).map_err(stack)
            }
        }
    }

    /// The files of the layer alone as a writable, detached mount. Only for a layer on top of
    /// nothing: what is deleted through it leaves no whiteout.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bind(&self) -> Result<MountFd, MountError> {
        bind(&self.fs_path()).map_err(|source| MountError::Layer {
            layer: self.layer,
            source,
        })
    }

    /// The files of the layer alone, in overlay form.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn fs(&self) -> Result<RootDir, MountError> {
        RootDir::open(&self.fs_path()).map_err(|source| MountError::Layer {
            layer: self.layer,
            source,
        })
    }

    /// A directory beside the layer's files for what is known about them. It goes with the layer.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn notes(&self) -> Result<RootDir, MountError> {
        self.inner
            .notes(self.layer)
            .map_err(|source| MountError::Layer {
                layer: self.layer,
                source,
            })
    }

    /// Marks the layer as one that somebody is at work in, or no longer. The mark outlives the
    /// process.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn set_busy(&self, busy: bool) -> Result<(), MountError> {
        let mark = self.inner.dir(self.layer).join(BUSY);
        let done = if busy {
            fs::write(&mark, "")
        } else {
            fs::remove_file(&mark)
        };
        match done {
            Err(error) if !busy && error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|source| MountError::Layer {
                layer: self.layer,
                source,
            }),
        }
    }

    /// Ends the layer. From now on it does not change.
    ///
    /// # Errors
    /// When the disk fails; the layer is removed then.
    pub fn commit(mut self) -> Result<LayerId, CommitError> {
        let layer = self.layer;
        match self.inner.kind {
            Mode::Overlay => {
                if self.mounted.load(Ordering::Relaxed) {
                    self.inner
                        .trash
                        .remove_in_place(self.inner.dir(layer).join(WORK));
                }
                self.announce();
            }
            Mode::Native => self.settle()?,
        }
        self.state = State::Left;
        Ok(layer)
    }

    /// Ends a layer on top of nothing that was only written to through [`Active::fs`], and in which
    /// nothing stands for a deletion: it can be read without a mount, which takes half the time.
    ///
    /// # Errors
    /// When the disk fails; the layer is removed then.
    pub fn commit_plain(self) -> Result<LayerId, CommitError> {
        if self.lower.is_empty()
            && let Err(error) = fs::write(self.inner.dir(self.layer).join(PLAIN), "")
        {
            tracing::debug!(layer = self.layer.0, %error, "a layer will be read through mounts");
        }
        self.commit()
    }

    /// Leaves the layer as it is, to be taken up again with
    /// [`Snapshots::resume`](crate::Snapshots::resume).
    pub fn leave(mut self) -> LayerId {
        self.state = State::Left;
        self.layer
    }

    pub(crate) fn fs_path(&self) -> PathBuf {
        layer_fs(&self.inner.root, self.layer)
    }

    /// All that is below the files of this layer, lowest first.
    pub(crate) fn below(&self) -> Vec<LayerId> {
        let over = self.inner.parts.over(self.layer);
        self.lower.iter().copied().chain(over).collect()
    }

    /// Has the topmost group merged ahead of need when this layer completes it.
    fn announce(&self) {
        if self.lower.len() + 1 < DEEPEST {
            return;
        }
        let layers = [&self.lower[..], &[self.layer]].concat();
        let layers = self.inner.parts.all(&layers);
        if layers.len().is_multiple_of(GROUP) {
            let group = &layers[layers.len() - GROUP..];
            self.inner.groups.request(group);
        }
    }

    fn settle(&self) -> Result<(), CommitError> {
        let layer = self.layer;
        if !native::is_unsettled(&self.inner, layer) {
            return Ok(());
        }
        let below = if self.lower.is_empty() {
            self.inner.empty()
        } else {
            let merged = self.inner.groups.path(&self.inner.parts.all(&self.lower));
            merged.map_err(|source| CommitError::Below { layer, source })?
        };
        native::settle(&self.inner, layer, &below)
            .map_err(|source| CommitError::Compare { layer, source })
    }
}

/// The scratch directory of an overlay mount.
pub(crate) const WORK: &str = "work";

fn bind(path: &std::path::Path) -> io::Result<MountFd> {
    sys::mount::bind_clone_path(
        path,
        Bind {
            readonly: false,
            recursive: false,
        },
    )
}

impl Drop for Active {
    fn drop(&mut self) {
        if self.state == State::Open
            && let Err(error) = self.inner.remove(self.layer)
        {
            tracing::warn!(layer = self.layer.0, %error, "failed to remove an unfinished layer");
        }
    }
}
