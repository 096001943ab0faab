//! The steps of an export, for whoever runs it.

use std::sync::Arc;
use std::time::SystemTime;

use oci::Descriptor;
use refs::{Image, KeptBlob, Lease, Ref, Refs};
use registry::{BlobSource, Credentials, Progress, Providers, Registry};
use time::OffsetDateTime;
use tokio::io::AsyncWrite;

use crate::blobs::Reader;
use crate::error::{ExportError, LayerError};
use crate::image::{self, Built, Source};
use crate::layers::{Layer, Layers, Wanted};
use crate::options::{ImageOptions, Kind, TreeOptions};
use crate::push::{self, How};
use crate::tree::{self, ExportTree};
use crate::{archive, config};

/// Carries results out. Made once for a process; clones share the making of blobs.
#[derive(Clone)]
pub struct Exporter {
    pub(crate) layers: Layers,
    registry: Registry,
}

/// On whose behalf an export runs, and who is told.
#[derive(Clone)]
pub struct Caller {
    /// For pushing.
    pub credentials: Arc<dyn Credentials>,
    /// For layers that are not here.
    pub providers: Arc<dyn Providers>,
    /// Is told how the export goes.
    pub progress: Progress,
    /// Keeps the blobs that only this export needs, until it is released.
    pub lease: Lease,
}

impl Exporter {
    /// Exports what is in `refs`.
    pub fn new(refs: Refs, registry: Registry) -> Exporter {
        Exporter {
            layers: Layers::new(refs),
            registry,
        }
    }

    /// Makes the manifests, configs and layers of `source`. Layers that are not here stay where
    /// they are.
    ///
    /// # Errors
    /// When options and result do not go together, or a layer cannot be made.
    pub async fn build(
        &self,
        source: &Source,
        options: &ImageOptions,
        caller: &Caller,
    ) -> Result<Built, ExportError> {
        let reader = self.reader(caller);
        let mut layers = Vec::new();
        let item = caller.progress.begin("exporting layers", 0);
        let metadata = image::metadata_of(source, options);
        for part in &source.refs {
            let epoch = options.epoch.of(&part.key, &metadata)?;
            if options.rewrite_timestamp && epoch.is_none() {
                tracing::warn!("rewrite-timestamp is given, but no source-date-epoch");
            }
            let clamp = epoch.filter(|_| options.rewrite_timestamp);
            let base = image::base_config(&metadata, &part.key);
            let wanted = Wanted::new(options.compression, clamp, base);
            let of = self
                .layers
                .of(part.filesystem.as_ref(), &wanted, &reader, &caller.lease);
            layers.push(of.await?);
        }
        drop(item);
        image::build(source, layers, options, &metadata, &caller.progress)
    }

    /// Keeps a built image under its names. Blocks for a few writes.
    ///
    /// # Errors
    /// When a blob cannot be written.
    pub fn store(
        &self,
        built: &mut Built,
        source: &Source,
        options: &ImageOptions,
        caller: &Caller,
    ) -> Result<(), ExportError> {
        self.name_dangling(built, options);
        if !options.store {
            return Ok(());
        }
        for name in built.names.clone() {
            let _item = caller.progress.begin(format!("naming to {name}"), 0);
            self.store_as(built, source, &name)?;
            if options.name_canonical && !name.contains('@') {
                self.store_as(built, source, &format!("{name}@{}", built.root.digest))?;
            }
        }
        Ok(())
    }

    fn name_dangling(&self, built: &mut Built, options: &ImageOptions) {
        let only_if_empty = options.dangling_empty_only && !built.names.is_empty();
        if !options.dangling_prefix.is_empty() && !only_if_empty {
            let name = format!("{}@{}", options.dangling_prefix, built.root.digest);
            built.names.push(name);
        }
    }

    fn store_as(&self, built: &Built, source: &Source, name: &str) -> Result<(), ExportError> {
        let reference = oci::Reference::parse(name)
            .map_err(|source| ExportError::Name {
                name: name.to_owned(),
                source,
            })?
            .with_default_tag();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ExportError::Store {
            what: name.to_owned(),
            source,
        };
        let mut kept = Vec::new();
        let manifests = built.manifests.iter().map(|(_, bytes)| bytes);
        for bytes in manifests.chain(built.memory()) {
            let blob = self.refs().insert_blob(bytes);
            kept.push(blob.map_err(|e| failed(e.into()))?);
        }
        for (image, part) in built.images.iter().zip(&source.refs) {
            let filesystem = match &part.filesystem {
                Some(filesystem) => filesystem.clone(),
                None => self.empty().map_err(|e| failed(e.into()))?,
            };
            let record = Image {
                name: reference.to_string(),
                platform: image.platform.clone(),
                id: image.config.digest,
                config: String::from_utf8_lossy(&image.config_bytes).into_owned(),
                manifest: Some(built.root.clone()),
                ref_id: filesystem.id(),
                created: created(image).unwrap_or_else(SystemTime::now),
                blobs: kept.iter().map(KeptBlob::digest).collect(),
            };
            self.refs()
                .set_image(record, &filesystem)
                .map_err(|e| failed(e.into()))?;
        }
        Ok(())
    }

    /// The ref of a result without files.
    fn empty(&self) -> Result<Ref, refs::CommitError> {
        let id = oci::Digest::of("drydock.scratch.v0");
        if let Some(found) = self.refs().get(&id) {
            return Ok(found);
        }
        let meta = refs::Meta {
            description: "empty filesystem".to_owned(),
            record_type: refs::RecordType::Internal,
            created: SystemTime::UNIX_EPOCH,
        };
        self.refs().put_layers(id, Vec::new(), meta)
    }

    /// Pushes a built image under each of its names.
    ///
    /// # Errors
    /// When a registry refuses or cannot be reached.
    pub async fn push(
        &self,
        built: &Built,
        options: &ImageOptions,
        caller: &Caller,
    ) -> Result<(), ExportError> {
        if built.names.is_empty() {
            return Err(ExportError::Result(
                "tag is needed when pushing to registry".to_owned(),
            ));
        }
        for name in &built.names {
            self.push_as(built, name, options, caller).await?;
        }
        Ok(())
    }

    async fn push_as(
        &self,
        built: &Built,
        name: &str,
        options: &ImageOptions,
        caller: &Caller,
    ) -> Result<(), ExportError> {
        let how = How {
            by_digest: options.push_by_digest,
            insecure: options.insecure,
        };
        let reader = self.reader(caller);
        let credentials = caller.credentials.clone();
        push::push(
            &self.registry,
            credentials,
            built,
            name,
            how,
            &reader,
            &caller.progress,
        )
        .await
    }

    /// Writes built images to `out` as one tar; one that there is twice under different names is in
    /// it once.
    ///
    /// # Errors
    /// When a blob cannot be read, or `out` fails.
    pub async fn write_archive(
        &self,
        built: &[Built],
        kind: Kind,
        caller: &Caller,
        out: &mut (dyn AsyncWrite + Unpin + Send),
    ) -> Result<(), ExportError> {
        archive::write(out, kind, built, &self.reader(caller)).await
    }

    /// All blobs of a built image, children before parents, the root last: for a store of the
    /// client's.
    pub fn blobs(&self, built: &Built, caller: &Caller) -> Vec<(Descriptor, Arc<dyn BlobSource>)> {
        let reader = self.reader(caller);
        let blobs = built.blobs.values();
        let mut all: Vec<(Descriptor, Arc<dyn BlobSource>)> = blobs
            .map(|blob| (blob.descriptor.clone(), reader.source(blob)))
            .collect();
        for (descriptor, bytes) in &built.manifests {
            all.push((descriptor.clone(), Arc::new(bytes.clone())));
        }
        all
    }

    /// Opens the files of `source`, all layers of which are here. Blocks.
    ///
    /// # Errors
    /// When two platforms' files collide, or the files cannot be reached.
    pub fn tree(&self, source: &Source, options: &TreeOptions) -> Result<ExportTree, ExportError> {
        tree::open(self.refs().snapshots(), source, options)
    }

    pub(crate) fn refs(&self) -> &Refs {
        &self.layers.refs
    }

    /// The layers of `filesystem` as blobs.
    pub(crate) async fn layers_of(
        &self,
        filesystem: &Ref,
        wanted: &Wanted,
        caller: &Caller,
    ) -> Result<Vec<Layer>, LayerError> {
        let reader = self.reader(caller);
        self.layers
            .of(Some(filesystem), wanted, &reader, &caller.lease)
            .await
    }

    pub(crate) fn reader(&self, caller: &Caller) -> Reader {
        Reader {
            content: self.refs().content().clone(),
            providers: caller.providers.clone(),
        }
    }
}

/// When an image says that it was made.
fn created(image: &image::BuiltImage) -> Option<SystemTime> {
    let config: oci::ImageConfig = serde_json::from_slice(&image.config_bytes).ok()?;
    let time: OffsetDateTime = config::parse_time(config.created.as_deref()?).ok()?;
    Some(time.into())
}
