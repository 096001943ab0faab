//! Layers on their way in: fetched, checked and unpacked in one pass, once for all who wait.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared, WeakShared, try_join_all};
use futures::stream::StreamExt;
use layer::{UnpackOptions, UnpackSummary, adopt_dirs};
use oci::{Descriptor, Digest};
use refs::{KeptBlob, Layer, LayerKey, Ref, Refs};
use registry::{BlobStream, Item, Origin, Progress, Providers};
use snapshot::{Active, LayerId, Snapshots};
use sys::root::RootDir;
use tokio_util::io::ReaderStream;

use crate::error::FetchError;
use crate::pipe::{self, Feed, FeedReader, PipeReader, PipeWriter};

/// Read at a time from a blob that is here.
const CHUNK: usize = 256 << 10;

/// Brings lazy layers in. Clones share what is under way.
#[derive(Clone)]
pub struct Fetcher {
    refs: Refs,
    running: Arc<Mutex<HashMap<LayerKey, Running>>>,
}

type Transfer = BoxFuture<'static, Result<(), FetchError>>;

/// A layer that somebody waits for. Those who wait carry the transfer on together; when the last
/// of them leaves, it is dropped and so cancelled.
struct Running {
    transfer: WeakShared<Transfer>,
    /// Weak: a listener may be what keeps a caller's stream open, and must be gone with the transfer.
    listeners: Weak<Listeners>,
}

/// Those who are told of one transfer.
#[derive(Default)]
struct Listeners(Mutex<Vec<Progress>>);

impl Listeners {
    fn add(&self, progress: &Progress) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(progress.clone());
    }

    fn tell(&self, item: &Item) {
        let all = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        all.iter().for_each(|progress| progress.tell(item.clone()));
    }
}

impl Fetcher {
    /// Brings in layers of these refs.
    pub fn new(refs: Refs) -> Fetcher {
        Fetcher {
            refs,
            running: Arc::default(),
        }
    }

    /// Has the files of all layers of `reference` here. Layers are brought in at the same time;
    /// one that somebody else is bringing in already is waited for.
    ///
    /// # Errors
    /// The first failure; then the other layers are given up, unless somebody else wants them.
    pub async fn materialize(
        &self,
        reference: &Ref,
        providers: &Arc<dyn Providers>,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let mut transfers = Vec::new();
        for (at, layer) in reference.layers().into_iter().enumerate() {
            if layer.snapshot.is_none() {
                let place = Place {
                    reference: reference.clone(),
                    at,
                    below: transfers.clone(),
                };
                transfers.push(self.join(layer, place, providers, progress));
            }
        }
        try_join_all(transfers).await.map(drop)
    }

    /// The transfer of `layer`, begun now or before.
    fn join(
        &self,
        layer: Arc<Layer>,
        place: Place,
        providers: &Arc<dyn Providers>,
        progress: &Progress,
    ) -> Shared<Transfer> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, running| running.transfer.upgrade().is_some());
        if let Some(found) = running.get(&layer.key)
            && let Some(transfer) = found.transfer.upgrade()
        {
            // Without listeners it has just ended.
            if let Some(listeners) = found.listeners.upgrade() {
                listeners.add(progress);
            }
            return transfer;
        }
        let listeners = Arc::<Listeners>::default();
        listeners.add(progress);
        let weak_listeners = Arc::downgrade(&listeners);
        let work = Work {
            fetcher: self.clone(),
            layer: layer.clone(),
            place,
            providers: providers.clone(),
            progress: Progress::new(move |item| listeners.tell(&item)),
        };
        let transfer = work.run().boxed().shared();
        if let Some(weak) = transfer.downgrade() {
            running.insert(
                layer.key,
                Running {
                    transfer: weak,
                    listeners: weak_listeners,
                },
            );
        }
        transfer
    }
}

/// Where a layer is in its stack. The same layer always has the same layers below it.
struct Place {
    /// A ref that has the layer, and so keeps it.
    reference: Ref,
    at: usize,
    /// The transfers of the layers below.
    below: Vec<Shared<Transfer>>,
}

/// The transfer of one layer.
struct Work {
    fetcher: Fetcher,
    layer: Arc<Layer>,
    place: Place,
    providers: Arc<dyn Providers>,
    progress: Progress,
}

/// What came in.
struct Arrived {
    active: Active,
    summary: UnpackSummary,
    descriptor: Descriptor,
    /// Until the layer names it.
    kept: Option<KeptBlob>,
}

impl Work {
    async fn run(self) -> Result<(), FetchError> {
        let here = self
            .layer
            .blobs
            .iter()
            .find(|b| self.fetcher.refs.content().contains(&b.digest));
        let arrived = match here {
            Some(descriptor) => {
                let stream = self.stored(descriptor)?;
                self.transfer(stream, descriptor, false).await?
            }
            None => self.fetch().await?,
        };
        let Arrived {
            active,
            summary,
            descriptor,
            kept,
        } = arrived;
        let digest = descriptor.digest;
        self.adopt(digest, &active, &summary).await?;
        let (refs, key) = (self.fetcher.refs.clone(), self.layer.key);
        blocking(digest, move || {
            let _kept = kept;
            refs.add_blob(key, summary.diff_id, descriptor)?;
            refs.materialized(key, active)?;
            Ok(())
        })
        .await
    }

    /// Directories that the tar uses but does not have are as the layers below have them.
    async fn adopt(
        &self,
        digest: Digest,
        active: &Active,
        summary: &UnpackSummary,
    ) -> Result<(), FetchError> {
        if summary.implied_dirs.is_empty() || self.place.at == 0 {
            return Ok(());
        }
        try_join_all(self.place.below.iter().cloned()).await?;
        let layers = self.place.reference.layers();
        let below: Vec<LayerId> = layers[..self.place.at]
            .iter()
            .filter_map(|layer| layer.snapshot)
            .collect();
        let (snapshots, dirs) = (
            self.fetcher.refs.snapshots().clone(),
            summary.implied_dirs.clone(),
        );
        let root = active.fs().map_err(|e| store(digest, e))?;
        blocking(digest, move || {
            let lower = RootDir::from_fd(snapshots.view(&below)?.into_fd());
            adopt_dirs(&root, &lower, &dirs)?;
            Ok(())
        })
        .await
    }

    /// From the first that has it.
    async fn fetch(&self) -> Result<Arrived, FetchError> {
        let mut first_error = None;
        for source in &self.layer.sources {
            let digest = source.descriptor.digest;
            let failed = |e| FetchError::Fetch {
                digest,
                source: Arc::new(e),
            };
            let arrived = async {
                let origin: Origin = source
                    .provider
                    .parse()
                    .map_err(|e| failed(io::Error::other(e)))?;
                let blob = self.providers.blob(&origin, &source.descriptor);
                let stream = blob.open().await.map_err(failed)?;
                self.transfer(stream, &source.descriptor, true).await
            };
            match arrived.await {
                Ok(arrived) => return Ok(arrived),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let digest = self.layer.diff_id.unwrap_or_else(|| Digest::of(""));
        Err(first_error.unwrap_or(FetchError::NoOrigin { digest }))
    }

    fn stored(&self, descriptor: &Descriptor) -> Result<BlobStream, FetchError> {
        let digest = descriptor.digest;
        let file = self
            .fetcher
            .refs
            .content()
            .open_blob(&digest)
            .map_err(|e| store(digest, e))?;
        Ok(ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK).boxed())
    }

    /// Takes the blob in: it is kept (with `keep`), decompressed and unpacked while it comes.
    async fn transfer(
        &self,
        stream: BlobStream,
        descriptor: &Descriptor,
        keep: bool,
    ) -> Result<Arrived, FetchError> {
        let digest = descriptor.digest;
        let failed = |source| FetchError::Extract { digest, source };
        let (feed, from_network) = pipe::feed();
        let (to_tar, tar) = pipe::pipe();
        let keep = keep.then(|| self.fetcher.refs.clone());
        let inflate =
            tokio::task::spawn_blocking(move || inflate(from_network, keep, digest, to_tar));
        let snapshots = self.fetcher.refs.snapshots().clone();
        let unpack = tokio::task::spawn_blocking(move || unpack(&snapshots, tar));

        let item = self.progress.begin(digest.to_string(), descriptor.size);
        let extracting = self.progress.begin(format!("extracting {digest}"), 0);
        pour(stream, feed, |bytes| item.add(bytes)).await;
        drop(item);

        let inflated = inflate.await.map_err(|e| failed(Arc::new(e)))?;
        let unpacked = unpack.await.map_err(|e| failed(Arc::new(e)))?;
        drop(extracting);
        // The thread that unpacks may have stopped the other, or the other way round.
        let kept = match inflated {
            Ok(kept) => kept,
            Err(Inflate::Stopped) => None,
            Err(Inflate::Read(source)) => {
                return Err(FetchError::Fetch {
                    digest,
                    source: Arc::new(source),
                });
            }
            Err(Inflate::Store(source)) => return Err(FetchError::Store { digest, source }),
            Err(Inflate::Decompress(source)) => return Err(failed(Arc::new(source))),
        };
        let (active, summary) = unpacked.map_err(|e| failed(e.into()))?;
        match self.layer.diff_id {
            Some(want) if want != summary.diff_id => Err(FetchError::DiffId {
                digest,
                want,
                got: summary.diff_id,
            }),
            _ => Ok(Arrived {
                active,
                summary,
                descriptor: descriptor.clone(),
                kept,
            }),
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

fn store(digest: Digest, source: impl Into<BoxError>) -> FetchError {
    FetchError::Store {
        digest,
        source: source.into().into(),
    }
}

/// Runs what blocks.
async fn blocking(
    digest: Digest,
    work: impl FnOnce() -> Result<(), BoxError> + Send + 'static,
) -> Result<(), FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| store(digest, e)),
        Err(e) => Err(store(digest, e)),
    }
}

async fn pour(mut stream: BlobStream, feed: Feed, count: impl Fn(u64)) {
    while let Some(chunk) = stream.next().await {
        let bytes = chunk.as_ref().map_or(0, |chunk: &Bytes| chunk.len() as u64);
        count(bytes);
        let last = chunk.is_err();
        // An empty chunk would be taken for the end.
        let taken = if bytes > 0 || last {
            feed.send(chunk).await
        } else {
            true
        };
        if last || !taken {
            return;
        }
    }
    feed.finish().await;
}

/// Why a blob was not decompressed to its end.
enum Inflate {
    /// It could not be read.
    Read(io::Error),
    /// It could not be kept.
    Store(Arc<dyn Error + Send + Sync>),
    /// It is broken.
    Decompress(io::Error),
    /// Nobody wants the rest.
    Stopped,
}

/// Decompresses what comes in, and keeps it as it comes.
fn inflate(
    from: FeedReader,
    keep: Option<Refs>,
    digest: Digest,
    mut out: PipeWriter,
) -> Result<Option<KeptBlob>, Inflate> {
    let store = |e: io::Error| Inflate::Store(Arc::new(e));
    let writer = keep
        .as_ref()
        .map(|refs| refs.content().begin())
        .transpose()
        .map_err(store)?;
    let mut tee = Tee {
        from,
        writer,
        failure: None,
    };
    let copied = layer::decompress(&mut tee)
        .map_err(Inflate::Decompress)
        .and_then(|mut tar| copy(&mut tar, &mut out));
    // What follows the end of the compressed stream belongs to the blob's digest all the same.
    let drained = match copied {
        Ok(()) => io::copy(&mut tee, &mut io::sink())
            .map(drop)
            .map_err(Inflate::Decompress),
        Err(error) => Err(error),
    };
    match (tee.failure.take(), drained) {
        (Some(failure), _) => return Err(failure),
        (None, drained) => drained?,
    }
    let place = |(refs, writer): (Refs, content::Writer)| {
        let whole = writer.finish(Some(digest))?;
        refs.place_blob(whole)
    };
    let kept = keep.zip(tee.writer).map(place).transpose();
    let kept = kept.map_err(|e| Inflate::Store(Arc::new(e)))?;
    // Only now is the blob known to be whole: until then the other thread must not be done.
    out.flush().map_err(|_| Inflate::Stopped)?;
    Ok(kept)
}

fn copy(from: &mut dyn Read, to: &mut PipeWriter) -> Result<(), Inflate> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to
                .write_all(&buffer[..count])
                .map_err(|_| Inflate::Stopped)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Inflate::Decompress(error)),
        }
    }
}

/// Keeps what is read through it. Its own failures are told apart from those of the decompressor,
/// which sees them as its own.
struct Tee {
    from: FeedReader,
    writer: Option<content::Writer>,
    failure: Option<Inflate>,
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer);
        let count = match read {
            Ok(count) => count,
            Err(error) => {
                self.failure = Some(Inflate::Read(error));
                return Err(io::ErrorKind::Other.into());
            }
        };
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.write_all(&buffer[..count])
        {
            self.failure = Some(Inflate::Store(Arc::new(error)));
            return Err(io::ErrorKind::Other.into());
        }
        Ok(count)
    }
}

/// Unpacks a tar to a new layer.
fn unpack(snapshots: &Snapshots, tar: PipeReader) -> Result<(Active, UnpackSummary), BoxError> {
    let active = snapshots.prepare(&[])?;
    let root = active.fs()?;
    let summary = layer::unpack(tar, &root, &UnpackOptions::default())?;
    drop(root);
    Ok((active, summary))
}
