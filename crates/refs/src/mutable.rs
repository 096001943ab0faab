//! Directories that change: cache mounts and the files of clients.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use oci::Digest;
use snapshot::{Active, CloneError, LayerId, MountError, PrepareError};
use sys::mount::{Bind, MountFd};
use sys::root::RootDir;

use crate::handle::Ref;
use crate::layer::LayerKey;
use crate::refs::{CommitError, Inner, Meta, RecordType, Refs};
use crate::state::{Acquired, Dir, MutableKey, NewLayer, State, Use};

/// How many states of a local source are kept, besides those in use.
const STATES_KEPT: usize = 1;

/// Whether a directory that was in use when the process was killed is thrown away. Steps put up with
/// what others have left in their cache mounts; files that were half received, and a repository in
/// which git was at work, are of no use.
fn is_lost_by_a_crash(record_type: RecordType) -> bool {
    match record_type {
        RecordType::LocalSource | RecordType::GitCheckout => true,
        RecordType::Internal
        | RecordType::Frontend
        | RecordType::CacheMount
        | RecordType::Regular => false,
    }
}

/// Who may use a mutable directory at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// All who want it share one.
    Shared,
    /// Each has one of their own; a new one is made when all are in use.
    Private,
    /// There is one, and whoever wants it waits for it.
    Locked,
}

/// Which mutable directory is wanted.
#[derive(Clone, Debug)]
pub struct MutableOptions {
    /// Finds it again.
    pub key: String,
    /// What it holds at first, all of it here and not lazy. Another base is another directory.
    pub base: Option<Ref>,
    /// Who else may be in it.
    pub sharing: Sharing,
    /// Those of that key so far are not wanted any more.
    pub fresh: bool,
    /// What is told of it in listings if it is made.
    pub meta: Meta,
}

/// Why a mutable directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MutableError {
    /// A layer of its base has no files here.
    #[error("the base of `{0}` is not here")]
    LazyBase(String),
    /// It cannot be made.
    #[error("failed to make a directory for `{key}`")]
    Make {
        /// Its key.
        key: String,
        /// Why.
        source: PrepareError,
    },
    /// Its files cannot be told from those of the ref that it was frozen to.
    #[error("failed to make a clone of `{key}` to change")]
    Clone {
        /// Its key.
        key: String,
        /// Why.
        source: CloneError,
    },
    /// It cannot be marked as in use.
    #[error("failed to take `{key}`")]
    Take {
        /// Its key.
        key: String,
        /// Why.
        source: MountError,
    },
    /// The thread that opened it broke down.
    #[error("opening `{key}` was cut short")]
    Lost {
        /// Its key.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// It was given away meanwhile, or is on top of other layers.
    #[error("`{0}` cannot become a ref")]
    NotPlain(String),
    /// Its files cannot become a ref.
    #[error("failed to make a ref of `{key}`")]
    Freeze {
        /// Its key.
        key: String,
        /// Why.
        source: CommitError,
    },
}

/// A mutable directory in use. Dropped, it is given back with what is in it.
#[derive(Clone)]
pub struct Mutable {
    in_use: Arc<InUse>,
}

/// One use of a mutable directory, by all who share it.
pub(crate) struct InUse {
    inner: Arc<Inner>,
    key: MutableKey,
    name: String,
    created: bool,
    record_type: RecordType,
    from: Option<LayerId>,
    /// Gone when the directory was thrown away or became a ref.
    active: Mutex<Option<Active>>,
    /// Overlays of one directory must not be mounted twice: all users have clones of one mount.
    mount: Mutex<Option<MountFd>>,
}

impl fmt::Debug for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InUse")
            .field("key", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Mutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.in_use.fmt(f)
    }
}

/// What a mutable directory has in it when it is taken into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nothing: it was made for this use.
    New,
    /// What was left in it.
    Own,
    /// The files of a layer that it had become.
    Layer(LayerId),
}

/// What there is for whoever wants a mutable directory.
enum Found {
    /// A new one.
    Made(MutableKey, Active),
    /// What was there before.
    There(Acquired),
}

impl Refs {
    /// Takes a mutable directory into use, made if there is none that fits. With
    /// [`Sharing::Locked`] it is waited for.
    ///
    /// # Errors
    /// When it cannot be made or marked.
    pub async fn mutable(&self, options: MutableOptions) -> Result<Mutable, MutableError> {
        let base = options.base.as_ref().map(Ref::keys).unwrap_or_default();
        let snapshots = match options.base.as_ref().map(Ref::snapshots) {
            Some(None) => return Err(MutableError::LazyBase(options.key)),
            Some(Some(snapshots)) => snapshots,
            None => Vec::new(),
        };
        if options.fresh {
            self.inner
                .change(|state, effects| state.detach_mutables(&options.key, effects));
        }
        loop {
            let given_back = self.inner.given_back.notified();
            tokio::pin!(given_back);
            // Registered before looking, so that nothing is missed in between.
            given_back.as_mut().enable();
            match self.acquire(&options, &base, &snapshots)? {
                Found::Made(key, active) => {
                    return self.enter(key, active, &options, Start::New);
                }
                Found::There(Acquired::Taken(key)) => {
                    return self.take(key, options, snapshots).await;
                }
                Found::There(Acquired::Joined(in_use)) => return Ok(Mutable { in_use }),
                Found::There(Acquired::Wait | Acquired::Create) => given_back.await,
            }
        }
    }

    /// Takes a directory that fits, or makes one.
    fn acquire(
        &self,
        options: &MutableOptions,
        base: &[LayerKey],
        snapshots: &[LayerId],
    ) -> Result<Found, MutableError> {
        let find = |state: &mut State| state.acquire_mutable(&options.key, base, options.sharing);
        let found = find(&mut self.inner.state());
        if !matches!(found, Acquired::Create) {
            return Ok(Found::There(found));
        }
        let failed = |source| MutableError::Make {
            key: options.key.clone(),
            source,
        };
        let active = self.inner.snapshots.prepare(snapshots).map_err(failed)?;
        let layer = active.id();
        // Meanwhile somebody else may have made one that is to be shared, or waited for: whether
        // one is missing is decided with the same look at the state that adds it.
        let made = self.inner.change(|state, effects| match find(state) {
            Acquired::Create => Ok(state.add_mutable(
                &options.key,
                base.to_vec(),
                layer,
                options.sharing,
                options.meta.clone(),
                effects,
            )),
            found => Err(found),
        });
        Ok(match made {
            Ok(key) => Found::Made(key, active),
            Err(found) => Found::There(found),
        })
    }

    /// Opens an idle directory that was just taken.
    async fn take(
        &self,
        key: MutableKey,
        options: MutableOptions,
        snapshots: Vec<LayerId>,
    ) -> Result<Mutable, MutableError> {
        let dir = self.inner.state().mutables.get(&key).map(|entry| entry.dir);
        if let Some(Dir::Own(layer)) = dir {
            let active = self.inner.snapshots.resume(layer, &snapshots);
            return self.enter(key, active, &options, Start::Own);
        }
        let refs = self.clone();
        let name = options.key.clone();
        // Also if nobody waits for it any more, this goes on to its end, where what comes of it is
        // given back.
        let opened = tokio::task::spawn_blocking(move || refs.open_frozen(key, &options)).await;
        opened.unwrap_or_else(|error| {
            self.inner.give_back(key);
            Err(MutableError::Lost {
                key: name,
                source: io::Error::other(error),
            })
        })
    }

    /// Opens a taken directory whose files are those of a layer, or gone.
    fn open_frozen(
        &self,
        key: MutableKey,
        options: &MutableOptions,
    ) -> Result<Mutable, MutableError> {
        let thawed = match self.inner.thaw(key) {
            Ok(Some((active, from))) => Ok((active, Start::Layer(from))),
            Ok(None) => self.empty(key).map(|active| (active, Start::Own)),
            Err(error) => Err(error),
        };
        match thawed {
            Ok((active, start)) => self.enter(key, active, options, start),
            Err(source) => {
                self.inner.give_back(key);
                Err(MutableError::Clone {
                    key: options.key.clone(),
                    source,
                })
            }
        }
    }

    /// A directory of its own for a mutable directory whose files are gone.
    fn empty(&self, key: MutableKey) -> Result<Active, CloneError> {
        let active = self
            .inner
            .snapshots
            .prepare(&[])
            .map_err(CloneError::Prepare)?;
        let dir = Dir::Own(active.id());
        self.inner
            .change(|state, effects| state.move_mutable(key, dir, effects));
        Ok(active)
    }

    fn enter(
        &self,
        key: MutableKey,
        active: Active,
        options: &MutableOptions,
        start: Start,
    ) -> Result<Mutable, MutableError> {
        let record_type = options.meta.record_type;
        let in_use = Arc::new(InUse {
            inner: Arc::clone(&self.inner),
            key,
            name: options.key.clone(),
            created: start == Start::New,
            record_type,
            from: match start {
                Start::Layer(from) => Some(from),
                Start::New | Start::Own => None,
            },
            active: Mutex::new(None),
            mount: Mutex::new(None),
        });
        if is_lost_by_a_crash(record_type)
            && let Err(source) = active.set_busy(true)
        {
            active.leave();
            return Err(MutableError::Take {
                key: options.key.clone(),
                source,
            });
        }
        *lock(&in_use.active) = Some(active);
        if options.sharing == Sharing::Shared
            && let Some(entry) = self.inner.state().mutables.get_mut(&key)
        {
            entry.in_use = Use::Shared(Arc::downgrade(&in_use));
        }
        if options.sharing == Sharing::Shared {
            // Others may have waited for what they can share now.
            self.inner.given_back.notify_waiters();
        }
        Ok(Mutable { in_use })
    }
}

impl Mutable {
    /// Whether it was made for this use, so that its root still has to get its owner and mode.
    pub fn is_new(&self) -> bool {
        self.in_use.created
    }

    /// The layer whose very files, with their times, it had when it was taken into use, if it had
    /// become one.
    pub fn came_from(&self) -> Option<LayerId> {
        self.in_use.from
    }

    /// The layer that it becomes when it is frozen; `None` when it was thrown away.
    pub fn layer(&self) -> Option<LayerId> {
        lock(&self.in_use.active).as_ref().map(Active::id)
    }

    /// A writable, detached mount of it.
    ///
    /// # Errors
    /// When the kernel refuses, or the directory was thrown away.
    pub fn mount(&self) -> Result<MountFd, MountError> {
        let active = lock(&self.in_use.active);
        let active = active.as_ref().ok_or_else(gone)?;
        if active.lower().is_empty() {
            return active.bind();
        }
        let mut mount = lock(&self.in_use.mount);
        let whole = match mount.take() {
            Some(whole) => whole,
            None => active.mount()?,
        };
        let bind = Bind {
            readonly: false,
            recursive: false,
        };
        let clone = sys::mount::bind_clone(&whole, bind).map_err(|source| MountError::Stack {
            depth: active.lower().len() + 1,
            source,
        })?;
        *mount = Some(whole);
        Ok(clone)
    }

    /// Its own files, without those of a base.
    ///
    /// After [`Mutable::freeze`] files are shared with refs: a file is replaced, never written to or
    /// changed in place. A cache mount is never frozen.
    ///
    /// # Errors
    /// When the directory cannot be opened, or was thrown away.
    pub fn fs(&self) -> Result<RootDir, MountError> {
        lock(&self.in_use.active).as_ref().ok_or_else(gone)?.fs()
    }

    /// A directory beside its files for what is known about them. The same rule holds for the files
    /// in it.
    ///
    /// # Errors
    /// When it cannot be made, or was thrown away.
    pub fn notes(&self) -> Result<RootDir, MountError> {
        lock(&self.in_use.active).as_ref().ok_or_else(gone)?.notes()
    }

    /// Throws it away when all who share it are done.
    pub fn discard(self) {
        let inner = Arc::clone(&self.in_use.inner);
        inner.change(|state, effects| state.detach_mutable(self.in_use.key, effects));
    }

    /// Makes a ref named `id` of what is in it now, and gives it back. If `id` names a ref already,
    /// nothing is made. It costs next to nothing: the directory itself becomes the layer. Its next user
    /// takes it back if nobody else has the ref by then, and gets a clone by hard links otherwise.
    ///
    /// # Errors
    /// When others share it, it has a base, or the layer cannot be finished.
    pub fn freeze(self, id: Digest, meta: Meta) -> Result<Ref, MutableError> {
        let InUse {
            inner, key, name, ..
        } = &*self.in_use;
        let refs = Refs {
            inner: Arc::clone(inner),
        };
        // Were a second ref made of the same content, it would take the name away from the first, and
        // with its own end from those who use the first.
        let _freezing = lock(&inner.freezing);
        if let Some(known) = refs.get(&id) {
            return Ok(known);
        }
        let mut active = lock(&self.in_use.active);
        let plain = active
            .as_ref()
            .is_some_and(|active| active.lower().is_empty());
        if !plain || Arc::strong_count(&self.in_use) > 1 {
            return Err(MutableError::NotPlain(name.clone()));
        }
        let Some(taken) = active.take() else {
            return Err(MutableError::NotPlain(name.clone()));
        };
        let failed = |source| MutableError::Freeze {
            key: name.clone(),
            source,
        };
        if let Err(source) = taken.set_busy(false) {
            return Err(MutableError::Take {
                key: name.clone(),
                source,
            });
        }
        let snapshot = taken
            .commit_plain()
            .map_err(|source| failed(CommitError::Layer { id, source }))?;
        let layer = NewLayer::Here {
            snapshot,
            family: Some(name.clone()),
        };
        let frozen = inner.change(|state, effects| {
            let reference = state.put(id, vec![layer], meta, effects);
            let reference = reference.map_err(|layer| CommitError::Missing { id, layer })?;
            if let Some(layer) = state
                .refs
                .get(&reference)
                .and_then(|entry| entry.layers.last().copied())
            {
                state.freeze_mutable(*key, layer, effects);
            }
            for old in state.states_of(name).into_iter().skip(STATES_KEPT) {
                // A job that has one in use may still look it up by its name.
                if state.refs.get(&old).is_some_and(|entry| entry.uses == 0) {
                    state.unname(old, effects);
                }
            }
            Ok(inner.adopt(state, reference, id))
        });
        frozen.map_err(failed)
    }
}

impl Inner {
    /// Makes the files of a frozen directory ready to be changed: the very files if nobody else has
    /// them, and a clone otherwise. With the layer that they are those of. `None` if it is not frozen, or its files are lost.
    fn thaw(self: &Arc<Self>, key: MutableKey) -> Result<Option<(Active, LayerId)>, CloneError> {
        let to = self.snapshots.reserve();
        let taken = self.change(|state, effects| state.take_back(key, to, effects));
        if let Some(from) = taken {
            // The records may say so before the directory has that name, or after: at a start, files
            // under a number that no record has are removed, and records whose files are not there.
            let renamed = self.snapshots.renumber(from, to);
            return Ok(renamed
                .inspect_err(|error| tracing::warn!(%error, "the files of a local source are lost"))
                .ok()
                .map(|active| (active, from)));
        }
        let from = {
            let state = self.state();
            let layer = state.mutables.get(&key).and_then(|entry| match entry.dir {
                Dir::Frozen(layer) => Some(layer),
                Dir::Own(_) => None,
            });
            layer
                .and_then(|layer| state.layers.get(&layer))
                .and_then(|entry| entry.layer.snapshot)
        };
        let Some(from) = from else { return Ok(None) };
        let clone = self.snapshots.clone_layer(from)?;
        let dir = Dir::Own(clone.id());
        self.change(|state, effects| state.move_mutable(key, dir, effects));
        Ok(Some((clone, from)))
    }

    /// Gives back a directory that was taken.
    fn give_back(self: &Arc<Self>, key: MutableKey) {
        let now = self.now();
        self.change(|state, effects| state.release_mutable(key, now, effects));
        self.given_back.notify_waiters();
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        drop(lock(&self.mount).take());
        if let Some(active) = lock(&self.active).take() {
            if is_lost_by_a_crash(self.record_type)
                && let Err(error) = active.set_busy(false)
            {
                tracing::warn!(key = self.name, %error, "a directory will be lost at the next start");
            }
            active.leave();
        }
        self.inner.give_back(self.key);
    }
}

fn gone() -> MountError {
    MountError::Stack {
        depth: 0,
        source: io::ErrorKind::NotFound.into(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
