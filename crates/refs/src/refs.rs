//! The front: everything that can be done with refs.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::SystemTime;

use content::Content;
use dashmap::DashMap;
use oci::{Descriptor, Digest};
use snapshot::{Active, LayerId, Snapshots};
use tokio::sync::{Notify, OwnedMutexGuard};

use crate::db::{Db, Job, WriteDbError};
use crate::handle::Ref;
use crate::image::Image;
use crate::layer::{Layer, LayerKey, LayerSource, LayerSpec};
use crate::lease::Held;
use crate::record;
use crate::state::{Effects, Found, NewLayer, RefKey, State};

/// What a record is, in BuildKit's kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordType {
    /// The result of a step or an image.
    Regular,
    /// Something that drydock needs for itself.
    Internal,
    /// A frontend's image.
    Frontend,
    /// Files of a client.
    LocalSource,
    /// A checkout of a git repository.
    GitCheckout,
    /// A cache mount.
    CacheMount,
}

/// What is told of a record in listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What made it, e.g. `mount / from exec /bin/sh -c make`.
    pub description: String,
    /// What it is.
    pub record_type: RecordType,
    /// When it was made.
    pub created: SystemTime,
}

/// How refs behave.
#[derive(Clone)]
pub struct Options {
    /// Tells the time.
    pub clock: fn() -> SystemTime,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            clock: SystemTime::now,
        }
    }
}

/// Why refs cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The records cannot be read.
    #[error("failed to read the records of refs")]
    Records(#[source] redb::Error),
    /// The records are of a later version.
    #[error("the records of refs have format {0}, this version knows {known}", known = record::FORMAT)]
    Format(u64),
    /// The layers or blobs cannot be listed.
    #[error("failed to list what is stored")]
    List(#[source] io::Error),
    /// The records cannot be brought into line with what is stored.
    #[error("failed to bring the records of refs into line with what is stored")]
    Settle(#[source] WriteDbError),
}

/// Why a ref was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A layer could not be finished.
    #[error("failed to commit a layer of `{id}`")]
    Layer {
        /// The id that the ref was to have.
        id: Digest,
        /// Why.
        source: snapshot::CommitError,
    },
    /// A layer that it was to have is gone.
    #[error("layer `{layer}` of `{id}` is not there")]
    Missing {
        /// The id that the ref was to have.
        id: Digest,
        /// The layer.
        layer: LayerKey,
    },
}

/// Why a blob cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not in the content store.
    #[error("blob `{0}` is not in the content store")]
    Missing(Digest),
}

/// All refs. Clones are handles of the same.
///
/// The methods answer at once from memory; what they change is recorded a little later (see
/// [`Refs::flush`]). None but those that say so block for longer than a few system calls.
#[derive(Clone)]
pub struct Refs {
    pub(crate) inner: Arc<Inner>,
}

type Evicted = Box<dyn Fn(&[Digest]) + Send + Sync>;

pub(crate) struct Inner {
    state: Mutex<State>,
    pub(crate) db: Db,
    pub(crate) snapshots: Snapshots,
    pub(crate) content: Content,
    clock: fn() -> SystemTime,
    evicted: RwLock<Vec<Evicted>>,
    /// Wakes those who wait for a mutable directory.
    pub(crate) given_back: Notify,
    /// Lets one directory at a time become a ref: two with the same content become one.
    pub(crate) freezing: Mutex<()>,
    pub(crate) leases: DashMap<String, Weak<Held>>,
    layer_locks: DashMap<LayerKey, Arc<tokio::sync::Mutex<()>>>,
    /// Lets one at a time prune.
    pub(crate) pruning: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Refs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refs").finish_non_exhaustive()
    }
}

impl Refs {
    /// Reads the records in `db`, drops those whose files are gone, and removes layers and blobs that
    /// no record names. Blocks.
    ///
    /// Everything in `snapshots` and `content` is known to these records or removed: whoever else
    /// stores blobs has them held (see [`Refs::hold`]).
    ///
    /// # Errors
    /// When the records cannot be read or written.
    pub fn open(
        db: Db,
        snapshots: Snapshots,
        content: Content,
        options: Options,
    ) -> Result<Refs, OpenError> {
        let found = find(&snapshots, &content).map_err(OpenError::List)?;
        let transaction = db.read().map_err(OpenError::Records)?;
        check_format(&transaction)?;
        let (state, effects) = State::load(&transaction, &found).map_err(OpenError::Records)?;
        drop(transaction);
        let (layers, blobs) = (snapshots.clone(), content.clone());
        db.sync_before_commit(move || layers.sync());
        db.sync_before_commit(move || blobs.sync());
        let inner = Inner {
            state: Mutex::new(state),
            db,
            snapshots,
            content,
            clock: options.clock,
            evicted: RwLock::default(),
            given_back: Notify::new(),
            freezing: Mutex::new(()),
            leases: DashMap::new(),
            layer_locks: DashMap::new(),
            pruning: tokio::sync::Mutex::default(),
        };
        let refs = Refs {
            inner: Arc::new(inner),
        };
        refs.inner.db.submit_light(|transaction| {
            transaction
                .open_table(record::META)?
                .insert("format", record::FORMAT)?;
            Ok(())
        });
        refs.inner.change(|_, all| *all = effects);
        refs.inner.db.flush_blocking().map_err(OpenError::Settle)?;
        Ok(refs)
    }

    /// The ref that `id` names; it is in use until the answer is dropped.
    pub fn get(&self, id: &Digest) -> Option<Ref> {
        let mut state = self.inner.state();
        let key = state.find(id)?;
        Some(self.inner.handle(&mut state, key, *id))
    }

    /// Which of `ids` name a ref now. Asking counts as using.
    pub fn exists(&self, ids: &[Digest]) -> Vec<bool> {
        let now = self.inner.now();
        self.inner.change(|state, effects| {
            let known = |id| match state.find(id) {
                Some(key) => {
                    state.touch(key, now, effects);
                    true
                }
                None => false,
            };
            ids.iter().map(known).collect()
        })
    }

    /// Names a new ref `id`: the layers of `base` and, on top, the finished `active`. If `id` named
    /// another, that one goes when nothing needs it.
    ///
    /// # Errors
    /// When the layer cannot be finished.
    pub fn commit(
        &self,
        id: Digest,
        base: Option<&Ref>,
        active: Active,
        meta: Meta,
    ) -> Result<Ref, CommitError> {
        let below = base.map(Ref::keys).unwrap_or_default();
        let mut layers: Vec<_> = below.iter().map(|key| NewLayer::Existing(*key)).collect();
        let snapshot = active
            .commit()
            .map_err(|source| CommitError::Layer { id, source })?;
        layers.push(NewLayer::Here {
            snapshot,
            family: None,
        });
        self.put(id, layers, meta)
    }

    /// Names a new ref `id` that is put together of `layers`, lowest first. A layer that comes again
    /// further up is left out below. Lazy layers that are known already are shared.
    ///
    /// # Errors
    /// When a new layer cannot be finished, or an existing one is gone.
    pub fn put_layers(
        &self,
        id: Digest,
        layers: Vec<LayerSpec>,
        meta: Meta,
    ) -> Result<Ref, CommitError> {
        let mut new = Vec::with_capacity(layers.len());
        for layer in layers {
            new.push(match layer {
                LayerSpec::Existing(key) => NewLayer::Existing(key),
                LayerSpec::Lazy {
                    descriptor,
                    diff_id,
                    provider,
                } => NewLayer::Lazy {
                    diff_id,
                    source: Box::new(LayerSource {
                        descriptor,
                        provider,
                    }),
                },
                LayerSpec::New(active) => match active.commit() {
                    Ok(snapshot) => NewLayer::Here {
                        snapshot,
                        family: None,
                    },
                    Err(source) => {
                        self.inner.remove(&snapshots_of(&new), &[]);
                        return Err(CommitError::Layer { id, source });
                    }
                },
            });
        }
        self.put(id, new, meta)
    }

    pub(crate) fn put(
        &self,
        id: Digest,
        layers: Vec<NewLayer>,
        meta: Meta,
    ) -> Result<Ref, CommitError> {
        let here = snapshots_of(&layers);
        let inner = &self.inner;
        inner.change(
            |state, effects| match state.put(id, layers, meta, effects) {
                Ok(key) => Ok(inner.adopt(state, key, id)),
                Err(layer) => {
                    effects.layers.extend(here);
                    Err(CommitError::Missing { id, layer })
                }
            },
        )
    }

    /// Lets `id` name what `target` is.
    pub fn alias(&self, id: Digest, target: &Ref) {
        self.inner
            .change(|state, effects| state.name(id, target.key(), effects));
    }

    /// Lets `id` name nothing. The ref goes when nothing needs it and no other id names it.
    pub fn forget(&self, id: &Digest) {
        self.inner
            .change(|state, effects| state.forget(id, effects));
    }

    /// What is known of a layer.
    pub fn layer(&self, key: LayerKey) -> Option<Arc<Layer>> {
        self.inner
            .state()
            .layers
            .get(&key)
            .map(|entry| Arc::clone(&entry.layer))
    }

    /// What is told of the ref that brought a layer in.
    pub fn layer_meta(&self, key: LayerKey) -> Option<Meta> {
        let state = self.inner.state();
        let owner = state.layers.get(&key)?.owner;
        state.refs.get(&owner).map(|entry| entry.meta.clone())
    }

    /// Waits until nobody else brings in the files of the layer or makes a tar of it.
    pub async fn lock_layer(&self, key: LayerKey) -> OwnedMutexGuard<()> {
        let lock = Arc::clone(&self.inner.layer_locks.entry(key).or_default());
        lock.lock_owned().await
    }

    /// Takes in the files of a lazy layer. If they came in meanwhile, these are dropped.
    ///
    /// # Errors
    /// When the layer cannot be finished.
    pub fn materialized(&self, key: LayerKey, active: Active) -> Result<(), snapshot::CommitError> {
        let snapshot = active.commit()?;
        self.inner.change(|state, effects| {
            if !state.materialize(key, snapshot, effects) {
                effects.layers.push(snapshot);
            }
        });
        Ok(())
    }

    /// Takes note of a tar of a layer, which is in the content store; it stays as long as the layer.
    ///
    /// # Errors
    /// When it is not there.
    pub fn add_blob(
        &self,
        key: LayerKey,
        diff_id: Digest,
        blob: Descriptor,
    ) -> Result<(), BlobError> {
        let content = &self.inner.content;
        self.inner.change(|state, effects| {
            if !content.contains(&blob.digest) {
                return Err(BlobError::Missing(blob.digest));
            }
            state.add_blob(key, diff_id, blob, effects);
            Ok(())
        })
    }

    /// Takes note of the digest of a layer's uncompressed tar.
    pub fn set_diff_id(&self, key: LayerKey, diff_id: Digest) {
        self.inner
            .change(|state, effects| state.set_diff_id(key, diff_id, effects));
    }

    /// Takes note of a place that has a layer's tar, so that it need not be sent there again.
    pub fn add_source(&self, key: LayerKey, source: LayerSource) {
        self.inner
            .change(|state, effects| state.add_source(key, source, effects));
    }

    /// Adds an image made of `reference`, in the place of one with the same name and platform. It
    /// keeps the ref and its blobs.
    ///
    /// # Errors
    /// When one of its blobs is not in the content store.
    pub fn set_image(&self, image: Image, reference: &Ref) -> Result<(), BlobError> {
        let content = &self.inner.content;
        self.inner.change(|state, effects| {
            if let Some(missing) = image.blobs.iter().find(|blob| !content.contains(blob)) {
                return Err(BlobError::Missing(*missing));
            }
            state.set_image(image, reference.key(), effects);
            Ok(())
        })
    }

    /// All images, by name and platform.
    pub fn images(&self) -> Vec<Image> {
        self.inner
            .state()
            .images()
            .map(|entry| entry.image.clone())
            .collect()
    }

    /// The images of that name, one for each platform, with their refs.
    pub fn image(&self, name: &str) -> Vec<(Image, Ref)> {
        let mut state = self.inner.state();
        let found: Vec<_> = state
            .images()
            .filter(|entry| entry.image.name == name)
            .cloned()
            .collect();
        let with_ref = |entry: crate::state::ImageEntry| {
            let id = entry.image.ref_id;
            (
                entry.image,
                self.inner.handle(&mut state, entry.reference, id),
            )
        };
        found.into_iter().map(with_ref).collect()
    }

    /// Removes the images of that name and answers them.
    pub fn remove_image(&self, name: &str) -> Vec<Image> {
        self.inner
            .change(|state, effects| state.remove_image(name, effects))
    }

    /// Keeps blobs of the content store for `owner`, until this is called for it again. None frees
    /// what was kept. Survives a restart.
    ///
    /// # Errors
    /// When a blob is not in the content store.
    pub fn hold(&self, owner: &str, blobs: Vec<Digest>) -> Result<(), BlobError> {
        let content = &self.inner.content;
        self.inner.change(|state, effects| {
            if let Some(missing) = blobs.iter().find(|blob| !content.contains(blob)) {
                return Err(BlobError::Missing(*missing));
            }
            state.hold(owner, blobs, effects);
            Ok(())
        })
    }

    /// The blobs that are kept for `owner`.
    pub fn held(&self, owner: &str) -> Vec<Digest> {
        self.inner.state().held(owner)
    }

    /// Has `call` called with ids that come to name nothing. It must return soon and must not call
    /// back here.
    pub fn on_evicted(&self, call: impl Fn(&[Digest]) + Send + Sync + 'static) {
        let mut calls = self
            .inner
            .evicted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        calls.push(Box::new(call));
    }

    /// Waits until all that was changed before this call is durable.
    ///
    /// # Errors
    /// When something could not be made durable, now or earlier.
    pub fn flush(&self) -> impl Future<Output = Result<(), WriteDbError>> + Send + use<> {
        self.inner.db.flush()
    }

    /// The database with the records, for others to keep theirs in.
    pub fn db(&self) -> &Db {
        &self.inner.db
    }

    /// The layers' files.
    pub fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// The blobs.
    pub fn content(&self) -> &Content {
        &self.inner.content
    }

    /// Panics unless the index is in order. For tests.
    #[doc(hidden)]
    pub fn check(&self) {
        self.inner.state().check();
    }
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete when the lock is given back, but for a panic in the middle of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// Changes the index and sees to it that the effects are carried out. They are handed over while
    /// the index is locked, so that records are written in the order of the changes.
    pub(crate) fn change<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State, &mut Effects) -> T,
    ) -> T {
        let mut effects = Effects::default();
        let mut state = self.state();
        let answer = change(&mut state, &mut effects);
        let evicted = std::mem::take(&mut effects.evicted);
        self.submit(effects);
        drop(state);
        if !evicted.is_empty() {
            for call in self
                .evicted
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
            {
                call(&evicted);
            }
        }
        answer
    }

    fn submit(self: &Arc<Self>, effects: Effects) {
        let Effects {
            changes,
            layers,
            blobs,
            evicted: _,
        } = effects;
        if changes.is_empty() && layers.is_empty() && blobs.is_empty() {
            return;
        }
        let names_files = changes.iter().any(record::Change::names_files);
        let inner = Arc::downgrade(self);
        self.db.send(Job {
            names_files,
            write: Box::new(move |transaction| record::write(transaction, &changes)),
            // Files go only when no durable record names them.
            after: Some(Box::new(move || {
                if let Some(inner) = inner.upgrade() {
                    inner.remove(&layers, &blobs);
                }
            })),
        });
    }

    fn remove(&self, layers: &[LayerId], blobs: &[Digest]) {
        for layer in layers {
            if let Err(error) = self.snapshots.remove(*layer) {
                tracing::warn!(layer = layer.0, %error, "a layer stays until the next start");
            }
        }
        for blob in blobs {
            // Somebody may have found the blob and named it since. Who names one looks for it with
            // the index locked.
            let state = self.state();
            let detached = if state.has_blob(blob) {
                Ok(None)
            } else {
                self.content.detach(blob)
            };
            drop(state);
            if let Err(error) = detached {
                tracing::warn!(blob = %blob, %error, "a blob stays until the next start");
            }
        }
    }

    /// A handle of `key`.
    pub(crate) fn handle(self: &Arc<Self>, state: &mut State, key: RefKey, id: Digest) -> Ref {
        state.acquire(key);
        self.adopt(state, key, id)
    }

    /// A handle of `key`, which counts one already.
    pub(crate) fn adopt(self: &Arc<Self>, state: &State, key: RefKey, id: Digest) -> Ref {
        let layers = state.refs.get(&key).map(|entry| Arc::clone(&entry.layers));
        Ref::new(
            Arc::clone(self),
            key,
            id,
            layers.unwrap_or_else(|| [].into()),
        )
    }

    /// Forgets the locks of layers that are gone.
    pub(crate) fn sweep_locks(&self) {
        let known: HashSet<LayerKey> = self.state().layers.keys().copied().collect();
        self.layer_locks
            .retain(|key, lock| known.contains(key) || Arc::strong_count(lock) > 1);
        self.leases.retain(|_, lease| lease.strong_count() > 0);
    }
}

/// The directories that were made for new layers.
fn snapshots_of(layers: &[NewLayer]) -> Vec<LayerId> {
    let snapshot = |layer: &NewLayer| match layer {
        NewLayer::Here { snapshot, .. } => Some(*snapshot),
        NewLayer::Existing(_) | NewLayer::Lazy { .. } => None,
    };
    layers.iter().filter_map(snapshot).collect()
}

fn find(snapshots: &Snapshots, content: &Content) -> io::Result<Found> {
    let layers: HashSet<LayerId> = snapshots.list()?.into_iter().collect();
    let busy = layers
        .iter()
        .copied()
        .filter(|layer| snapshots.is_busy(*layer))
        .collect();
    let blobs = content
        .list()?
        .into_iter()
        .map(|blob| blob.digest)
        .collect();
    Ok(Found {
        layers,
        busy,
        blobs,
    })
}

fn check_format(transaction: &redb::ReadTransaction) -> Result<(), OpenError> {
    let table = match transaction.open_table(record::META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        table => table.map_err(|error| OpenError::Records(error.into()))?,
    };
    let format = redb::ReadableTable::get(&table, "format");
    match format
        .map_err(|error| OpenError::Records(error.into()))?
        .map(|found| found.value())
    {
        Some(format) if format > record::FORMAT => Err(OpenError::Format(format)),
        Some(_) | None => Ok(()),
    }
}
