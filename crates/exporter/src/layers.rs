//! The blobs of a result's layers: found, made or converted.

use std::io::{self, BufWriter, Read};
use std::sync::Arc;
use std::thread;

use futures::stream::{self, StreamExt, TryStreamExt};
use layer::WriteOptions;
use oci::{Descriptor, Digest, Hasher, ImageConfig};
use refs::{KeptBlob, LayerKey, Lease, Ref, Refs};
use registry::Origin;
use time::OffsetDateTime;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::blobs::{Blob, Place, Reader};
use crate::config::LayerFacts;
use crate::error::LayerError;
use crate::media;
use crate::options::{Compression, CompressionKind};

/// Writes of a blob are gathered to this size.
const BUFFER: usize = 256 << 10;

/// A layer that is ready to be exported.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) facts: LayerFacts,
    pub(crate) blob: Blob,
}

/// What decides which blob of a layer is taken.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) compression: Compression,
    /// No file of a new layer gets a later time than this.
    pub(crate) clamp: Option<OffsetDateTime>,
    /// The layers of the base image, whose times stay.
    pub(crate) base: Vec<Digest>,
}

impl Wanted {
    /// With the layers that the config `base` of the base image names, if there is one.
    pub(crate) fn new(
        compression: Compression,
        clamp: Option<OffsetDateTime>,
        base: &[u8],
    ) -> Wanted {
        let base = serde_json::from_slice::<ImageConfig>(base).unwrap_or_default();
        Wanted {
            compression,
            clamp,
            base: base.rootfs.diff_ids,
        }
    }
}

/// Makes layers' blobs; each only once, whoever asks.
#[derive(Clone)]
pub(crate) struct Layers {
    pub(crate) refs: Refs,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Layers {
    pub(crate) fn new(refs: Refs) -> Layers {
        Layers { refs }
    }

    /// The layers of `reference`, lowest first; of nothing, none.
    pub(crate) async fn of(
        &self,
        reference: Option<&Ref>,
        wanted: &Wanted,
        reader: &Reader,
        lease: &Lease,
    ) -> Result<Vec<Layer>, LayerError> {
        let Some(reference) = reference else {
            return Ok(Vec::new());
        };
        let parallel = thread::available_parallelism().map_or(1, usize::from);
        stream::iter(reference.layers())
            .enumerate()
            .map(|(at, layer)| {
                let refs = &self.refs;
                let job = Job {
                    refs,
                    reference,
                    at,
                    key: layer.key,
                    wanted,
                    reader,
                    lease,
                };
                async move {
                    let name = layer.key.to_string();
                    job.run().await.map_err(|source| LayerError {
                        layer: name,
                        source,
                    })
                }
            })
            .buffered(parallel)
            .try_collect()
            .await
    }
}

/// One layer of one result.
struct Job<'a> {
    refs: &'a Refs,
    reference: &'a Ref,
    at: usize,
    key: LayerKey,
    wanted: &'a Wanted,
    reader: &'a Reader,
    lease: &'a Lease,
}

impl Job<'_> {
    async fn run(&self) -> Result<Layer, BoxError> {
        let layer = self.layer();
        if let Some(clamp) = self.wanted.clamp
            && !self.is_base(layer.diff_id)
            && layer.snapshot.is_some()
        {
            // Not recorded: it is another layer than the one whose files these are.
            let (diff_id, descriptor, kept) = self.make(Some(clamp)).await?;
            self.lease.add_blob(kept);
            return Ok(self.layer_of(diff_id, descriptor, Place::Content, &[]));
        }
        if let Some(found) = self.found(&layer) {
            return Ok(found);
        }
        let _lock = self.refs.lock_layer(self.key).await;
        // Whoever had the lock before may have made it.
        let layer = self.layer();
        if let Some(found) = self.found(&layer) {
            return Ok(found);
        }
        let (diff_id, descriptor, kept) = match (layer.diff_id, self.any(&layer)) {
            (Some(diff_id), Some(blob)) => {
                let (descriptor, kept) = self.convert(blob, diff_id).await?;
                (diff_id, descriptor, kept)
            }
            _ => self.make(None).await?,
        };
        let (refs, key) = (self.refs.clone(), self.key);
        let recorded = descriptor.clone();
        tokio::task::spawn_blocking(move || {
            let _kept = kept;
            refs.add_blob(key, diff_id, recorded)
        })
        .await??;
        Ok(self.layer_of(diff_id, descriptor, Place::Content, &layer.sources))
    }

    /// The layer as it is now.
    fn layer(&self) -> Arc<refs::Layer> {
        self.reference.layers()[self.at].clone()
    }

    fn is_base(&self, diff_id: Option<Digest>) -> bool {
        let layers = self.reference.layers();
        let same = layers.iter().zip(&self.wanted.base);
        let same = same
            .take_while(|(layer, base)| layer.diff_id == Some(**base))
            .count();
        diff_id.is_some() && self.at < same
    }

    /// A blob that will do as it is.
    fn found(&self, layer: &refs::Layer) -> Option<Layer> {
        let diff_id = layer.diff_id?;
        let fits = |blob: &Descriptor| {
            media::compression(&blob.media_type) == Some(self.wanted.compression.kind)
        };
        let here = || {
            layer
                .blobs
                .iter()
                .filter(|b| self.refs.content().contains(&b.digest))
        };
        let remote = || layer.sources.iter().map(|source| &source.descriptor);
        // Any blob will do, but one that was asked for is better, and one that is here.
        let exact = here().find(|b| fits(b)).map(|b| (b, Place::Content));
        let exact = exact.or_else(|| remote().find(|b| fits(b)).map(|b| (b, Place::Remote)));
        let any = || {
            let here = here().next().map(|b| (b, Place::Content));
            here.or_else(|| remote().next().map(|b| (b, Place::Remote)))
        };
        let (blob, place) = if self.wanted.compression.force {
            exact?
        } else {
            exact.or_else(any)?
        };
        Some(self.layer_of(diff_id, blob.clone(), place, &layer.sources))
    }

    /// Any blob, to make another of.
    fn any(&self, layer: &refs::Layer) -> Option<Blob> {
        let here = layer
            .blobs
            .iter()
            .find(|b| self.refs.content().contains(&b.digest));
        let (descriptor, place) = match here {
            Some(blob) => (blob, Place::Content),
            None => (&layer.sources.first()?.descriptor, Place::Remote),
        };
        let origins = origins(descriptor, &layer.sources);
        Some(Blob {
            descriptor: descriptor.clone(),
            place,
            origins,
        })
    }

    fn layer_of(
        &self,
        diff_id: Digest,
        descriptor: Descriptor,
        place: Place,
        sources: &[refs::LayerSource],
    ) -> Layer {
        let meta = self.refs.layer_meta(self.key);
        let facts = LayerFacts {
            diff_id,
            description: meta
                .as_ref()
                .map(|meta| meta.description.clone())
                .filter(|description| !description.is_empty())
                .unwrap_or_else(|| "created by buildkit".to_owned()),
            created: meta.map(|meta| OffsetDateTime::from(meta.created)),
        };
        let origins = origins(&descriptor, sources);
        Layer {
            facts,
            blob: Blob {
                descriptor,
                place,
                origins,
            },
        }
    }

    /// Writes the layer's files as a tar.
    async fn make(
        &self,
        clamp: Option<OffsetDateTime>,
    ) -> Result<(Digest, Descriptor, KeptBlob), BoxError> {
        let snapshot = self.layer().snapshot.ok_or("the layer is not here")?;
        let refs = self.refs.clone();
        let compression = self.wanted.compression;
        let clamp = clamp
            .map(|time| i64::try_from(time.unix_timestamp_nanos()))
            .transpose()?;
        // The ref keeps the layer's files while the thread reads them, whoever gives up.
        let held = self.reference.clone();
        tokio::task::spawn_blocking(move || {
            let _held = held;
            let dir = refs.snapshots().layer(snapshot)?;
            let out = BufWriter::with_capacity(BUFFER, refs.content().begin()?);
            let mut encoder = layer::compress(method(compression), out)?;
            let options = WriteOptions {
                mtime_clamp_ns: clamp,
            };
            let summary = layer::write_layer(&dir, &mut encoder, &options)?;
            let (descriptor, kept) = commit(&refs, encoder, compression.kind)?;
            Ok((summary.diff_id, descriptor, kept))
        })
        .await?
    }

    /// Compresses a blob anew; the tar inside stays the same.
    async fn convert(
        &self,
        blob: Blob,
        diff_id: Digest,
    ) -> Result<(Descriptor, KeptBlob), BoxError> {
        let stream = self.reader.source(&blob).open().await?;
        let refs = self.refs.clone();
        let compression = self.wanted.compression;
        tokio::task::spawn_blocking(move || {
            let blob = SyncIoBridge::new(StreamReader::new(stream));
            let mut tar = Digesting {
                inner: layer::decompress(blob)?,
                hasher: Hasher::new(),
            };
            let out = BufWriter::with_capacity(BUFFER, refs.content().begin()?);
            let mut encoder = layer::compress(method(compression), out)?;
            io::copy(&mut tar, &mut encoder)?;
            if tar.hasher.finish() != diff_id {
                return Err("the blob does not hold the layer that it should".into());
            }
            commit(&refs, encoder, compression.kind)
        })
        .await?
    }
}

/// Takes the digest of what is read.
struct Digesting<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Those of `sources` that have exactly this blob.
fn origins(descriptor: &Descriptor, sources: &[refs::LayerSource]) -> Vec<Origin> {
    sources
        .iter()
        .filter(|source| source.descriptor.digest == descriptor.digest)
        .filter_map(|source| source.provider.parse().ok())
        .collect()
}

fn method(compression: Compression) -> layer::Compression {
    match (compression.kind, compression.level) {
        (CompressionKind::Uncompressed, _) => layer::Compression::None,
        (CompressionKind::Gzip, None) => layer::Compression::GZIP,
        (CompressionKind::Gzip, Some(level)) => {
            layer::Compression::Gzip(u32::try_from(level.clamp(0, 9)).unwrap_or(0))
        }
        (CompressionKind::Zstd, None) => layer::Compression::ZSTD,
        (CompressionKind::Zstd, Some(level)) => layer::Compression::Zstd(level.clamp(1, 22)),
    }
}

/// Ends a blob, and keeps it in the store.
fn commit(
    refs: &Refs,
    encoder: layer::Encoder<BufWriter<content::Writer>>,
    kind: CompressionKind,
) -> Result<(Descriptor, KeptBlob), BoxError> {
    let writer = encoder
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    let size = writer.size();
    let kept = refs.place_blob(writer.finish(None)?)?;
    let descriptor = Descriptor::new(media::layer(kind), kept.digest(), size);
    Ok((descriptor, kept))
}
