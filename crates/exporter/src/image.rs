//! Manifests, configs and indexes of an image that is exported.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use oci::{Descriptor, Digest, Index, Manifest, Platform, Reference, media_type as media};
use registry::Progress;
use serde::Serialize;
use time::OffsetDateTime;

use crate::attest::{self, Attestation};
use crate::blobs::{Blob, Place};
use crate::config::{self, ConfigInput, LayerFacts};
use crate::error::ExportError;
use crate::layers::Layer;
use crate::options::{ImageOptions, Kind};
use crate::{annotations, media as layer_media};

/// When an image was made, on the descriptor in a layout's index.
const CREATED: &str = "org.opencontainers.image.created";
/// The keys of a frontend's result, alone or with `/<platform>`.
const CONFIG: &str = "containerimage.config";
const BASE_CONFIG: &str = "containerimage.base.config";
const NAME: &str = "image.name";

/// What the client is told of an export.
pub type Response = BTreeMap<String, String>;

/// A build's result, to be carried out.
#[derive(Clone, Debug)]
pub struct Source {
    /// One for each platform.
    pub refs: Vec<SourceRef>,
    /// Whether the result is a map, even with one entry: it becomes an index.
    pub multi_platform: bool,
    /// What the frontend says of it.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

/// A result for one platform.
#[derive(Clone, Debug)]
pub struct SourceRef {
    /// The platform's id, `""` for a single result.
    pub key: String,
    /// The filesystem; `None` when it is empty.
    pub filesystem: Option<refs::Ref>,
    /// What it is for.
    pub platform: Platform,
    /// The image config; empty for what the metadata says, or a default one.
    pub config: Vec<u8>,
    /// What is attested of it.
    pub attestations: Vec<Attestation>,
    /// What the config tells of the build that made it: a build cache's records.
    pub inline_cache: Option<Vec<u8>>,
}

/// An image that is ready: all its manifests are made, all its blobs can be read.
#[derive(Clone, Debug)]
pub struct Built {
    /// The descriptor of the manifest or index.
    pub root: Descriptor,
    /// The digest of the config, when the image is for a single platform.
    pub config: Option<Digest>,
    /// Children before parents; the root is the last.
    pub manifests: Vec<(Descriptor, Bytes)>,
    /// The images, in order of platforms, without attestations.
    pub images: Vec<BuiltImage>,
    /// The references as the client gave them, `*` resolved.
    pub names: Vec<String>,
    /// Layers, configs and statements.
    pub(crate) blobs: BTreeMap<Digest, Blob>,
}

/// The image of one platform.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The platform's id, `""` for a single result.
    pub key: String,
    /// What it is for.
    pub platform: Platform,
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its config.
    pub config: Descriptor,
    /// The config's bytes.
    pub config_bytes: Bytes,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Built {
    /// What the client is told.
    ///
    /// # Errors
    /// When the descriptor cannot be written.
    pub fn response(&self, kind: Kind) -> Result<Response, ExportError> {
        let mut response = Response::new();
        response.insert(
            "containerimage.digest".to_owned(),
            self.root.digest.to_string(),
        );
        if let Some(config) = self.config {
            response.insert(
                "containerimage.config.digest".to_owned(),
                config.to_string(),
            );
        }
        let descriptor = serde_json::to_vec(&self.root).map_err(ExportError::Manifest)?;
        response.insert(
            "containerimage.descriptor".to_owned(),
            STANDARD.encode(descriptor),
        );
        if !self.names.is_empty() {
            let names = match kind {
                Kind::Image => self.names.join(","),
                Kind::Oci | Kind::Docker => {
                    let full = self.references()?;
                    full.iter()
                        .map(Reference::to_string)
                        .collect::<Vec<_>>()
                        .join(",")
                }
            };
            response.insert(NAME.to_owned(), names);
        }
        Ok(response)
    }

    /// The manifests, configs and statements, the root first, up to `limit` bytes in all: what
    /// describes the image.
    pub fn documents(&self, limit: usize) -> Vec<Bytes> {
        let manifests = self.manifests.iter().rev().map(|(_, bytes)| bytes);
        let mut total = 0;
        let within = |bytes: &&Bytes| {
            total += bytes.len();
            total <= limit
        };
        manifests
            .chain(self.memory())
            .take_while(within)
            .cloned()
            .collect()
    }

    /// Configs and statements.
    pub(crate) fn memory(&self) -> impl Iterator<Item = &Bytes> {
        self.blobs.values().filter_map(|blob| match &blob.place {
            Place::Memory(bytes) => Some(bytes),
            Place::Content | Place::Remote => None,
        })
    }

    /// The names as complete references.
    pub(crate) fn references(&self) -> Result<Vec<Reference>, ExportError> {
        self.names
            .iter()
            .map(|name| match Reference::parse(name) {
                Ok(reference) => Ok(reference.with_default_tag()),
                Err(source) => Err(ExportError::Name {
                    name: name.clone(),
                    source,
                }),
            })
            .collect()
    }
}

/// Makes the manifests of `source`, whose layers are `layers`, one list for each of its refs.
pub(crate) fn build(
    source: &Source,
    layers: Vec<Vec<Layer>>,
    options: &ImageOptions,
    metadata: &BTreeMap<String, Vec<u8>>,
    progress: &Progress,
) -> Result<Built, ExportError> {
    let mut annotations = options.annotations.clone();
    for (key, value) in metadata {
        annotations.take(key, &String::from_utf8_lossy(value))?;
    }
    let metadata = metadata.clone();
    let options = ImageOptions {
        annotations,
        metadata,
        ..options.clone()
    };
    let attested = |r: &SourceRef| attest::kept(&r.attestations, &options).next().is_some();
    let is_index = source.multi_platform || source.refs.iter().any(attested);
    check(source, &options, is_index)?;

    let mut builder = Builder {
        options: &options,
        progress,
        blobs: BTreeMap::new(),
        done: Vec::new(),
    };
    let mut images = Vec::new();
    for (source, layers) in source.refs.iter().zip(layers) {
        images.push(builder.image(source, layers)?);
    }
    let names = names(&options);
    let mut built = Built {
        root: images[0].manifest.clone(),
        config: Some(images[0].config.digest),
        manifests: Vec::new(),
        images,
        names,
        blobs: BTreeMap::new(),
    };
    if is_index {
        built.root = builder.index(source, &built)?;
        built.config = None;
    }
    if options.kind != Kind::Image {
        let created = latest(&built.images);
        built
            .root
            .annotations
            .entry(CREATED.to_owned())
            .or_insert(created);
    }
    (built.blobs, built.manifests) = (builder.blobs, builder.done);
    Ok(built)
}

fn check(source: &Source, options: &ImageOptions, is_index: bool) -> Result<(), ExportError> {
    let result = |text: &str| Err(ExportError::Result(text.to_owned()));
    if source.refs.is_empty() {
        return result("the result has no platform to export");
    }
    if options.kind == Kind::Docker && source.multi_platform {
        return result("docker exporter does not currently support exporting manifest lists");
    }
    if !source.multi_platform && source.refs.len() > 1 {
        return result("cannot export multiple platforms without multi-platform enabled");
    }
    let annotations = &options.annotations;
    for platform in annotations.platforms() {
        if !source
            .refs
            .iter()
            .any(|r| r.platform.normalized().to_string() == platform)
        {
            let text = format!("invalid annotation: no platform {platform} found in source");
            return Err(ExportError::Result(text));
        }
    }
    let on_index = !annotations.index.is_empty() || !annotations.index_descriptor.is_empty();
    if !is_index && on_index {
        return result("index annotations not supported for single platform export");
    }
    if !options.oci_types && annotations.beyond_manifests() {
        return result("cannot export annotations with \"oci-mediatypes=false\"");
    }
    let attestations = source.refs.iter().any(|r| !r.attestations.is_empty());
    if !options.oci_types && is_index && attestations {
        return result("cannot export attestations with \"oci-mediatypes=false\"");
    }
    Ok(())
}

/// The names to give to the image.
fn names(options: &ImageOptions) -> Vec<String> {
    let own = options
        .metadata
        .get(NAME)
        .map(|name| String::from_utf8_lossy(name).into_owned());
    let text = match (options.name.as_str(), own) {
        ("*", Some(own)) => own,
        (name, _) => name.to_owned(),
    };
    text.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// When the newest of the images was made, by its own word: so an image that is exported again
/// gets the same index.
fn latest(images: &[BuiltImage]) -> String {
    let created = images.iter().filter_map(|image| {
        let config: oci::ImageConfig = serde_json::from_slice(&image.config_bytes).ok()?;
        config::parse_time(config.created.as_deref()?).ok()
    });
    let created = created.max().unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // A layout's times have no fractions.
    let created = created.replace_nanosecond(0).unwrap_or(created);
    config::text(created).unwrap_or_default()
}

struct Builder<'a> {
    options: &'a ImageOptions,
    progress: &'a Progress,
    blobs: BTreeMap<Digest, Blob>,
    done: Vec<(Descriptor, Bytes)>,
}

impl Builder<'_> {
    fn image(&mut self, source: &SourceRef, layers: Vec<Layer>) -> Result<BuiltImage, ExportError> {
        let options = self.options;
        let facts: Vec<LayerFacts> = layers.iter().map(|layer| layer.facts.clone()).collect();
        let config_bytes = config::finish(&ConfigInput {
            config: self.config(source),
            base: base_config(&options.metadata, &source.key),
            platform: &source.platform,
            layers: &facts,
            epoch: options.epoch.of(&source.key, &options.metadata)?,
            inline_cache: source
                .inline_cache
                .as_ref()
                .map(|records| STANDARD.encode(records).into()),
        })?;
        let layers = layers
            .into_iter()
            .map(|mut layer| {
                let kind = &mut layer.blob.descriptor.media_type;
                *kind = layer_media::converted(kind, options.oci_types, options.prefer_nondist);
                clean(&mut layer.blob.descriptor.annotations, options.oci_types);
                let descriptor = layer.blob.descriptor.clone();
                self.blobs.insert(descriptor.digest, layer.blob);
                descriptor
            })
            .collect();
        let (manifest_type, config_type) = if options.oci_types {
            (media::OCI_MANIFEST, media::OCI_CONFIG)
        } else {
            (media::DOCKER_MANIFEST, media::DOCKER_CONFIG)
        };
        let config_bytes = Bytes::from(config_bytes);
        let config = self.memory(config_type, config_bytes.clone());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(manifest_type.to_owned()),
            artifact_type: None,
            config: config.clone(),
            layers,
            subject: None,
            annotations: options.annotations.manifest(Some(&source.platform)),
        };
        let mut descriptor = self.manifest(manifest_type, &manifest, "exporting manifest")?;
        drop(
            self.progress
                .begin(format!("exporting config {}", config.digest), 0),
        );
        descriptor.annotations = options
            .annotations
            .manifest_descriptor(Some(&source.platform));
        descriptor.platform = Some(source.platform.clone());
        Ok(BuiltImage {
            key: source.key.clone(),
            platform: source.platform.clone(),
            manifest: descriptor,
            config,
            config_bytes,
            layers: manifest.layers,
        })
    }

    fn config<'a>(&'a self, source: &'a SourceRef) -> &'a [u8] {
        if source.config.is_empty() {
            return of_platform(&self.options.metadata, CONFIG, &source.key);
        }
        &source.config
    }

    /// Makes the index over all images and what is attested of them.
    fn index(&mut self, source: &Source, built: &Built) -> Result<Descriptor, ExportError> {
        let options = self.options;
        let kind = if options.oci_types {
            media::OCI_INDEX
        } else {
            media::DOCKER_INDEX
        };
        let mut manifests: Vec<Descriptor> = built
            .images
            .iter()
            .map(|image| image.manifest.clone())
            .collect();
        for (source, image) in source.refs.iter().zip(&built.images) {
            let made = attest::manifest(source, image, &built.names, options)?;
            let Some(made) = made else { continue };
            for (kind, bytes) in made.blobs {
                self.memory(kind, bytes);
            }
            let manifest_type = made.manifest.media_type.clone().unwrap_or_default();
            let name = "exporting attestation manifest";
            let mut descriptor = self.manifest(&manifest_type, &made.manifest, name)?;
            (descriptor.annotations, descriptor.platform) = (made.annotations, Some(made.platform));
            manifests.push(descriptor);
        }
        let index = Index {
            schema_version: 2,
            media_type: Some(kind.to_owned()),
            manifests,
            annotations: options.annotations.index.clone(),
        };
        let mut descriptor = self.manifest(kind, &index, "exporting manifest list")?;
        descriptor.annotations = options.annotations.index_descriptor.clone();
        Ok(descriptor)
    }

    /// Adds a blob that is at hand.
    fn memory(&mut self, kind: &str, bytes: Bytes) -> Descriptor {
        let descriptor = Descriptor::new(kind, Digest::of(&bytes), bytes.len() as u64);
        let blob = Blob {
            descriptor: descriptor.clone(),
            place: Place::Memory(bytes),
            origins: Vec::new(),
        };
        self.blobs.insert(descriptor.digest, blob);
        descriptor
    }

    fn manifest(
        &mut self,
        kind: &str,
        manifest: &impl Serialize,
        told: &str,
    ) -> Result<Descriptor, ExportError> {
        let bytes = serde_json::to_vec_pretty(manifest).map_err(ExportError::Manifest)?;
        let descriptor = Descriptor::new(kind, Digest::of(&bytes), bytes.len() as u64);
        drop(
            self.progress
                .begin(format!("{told} {}", descriptor.digest), 0),
        );
        if self
            .done
            .iter()
            .all(|(done, _)| done.digest != descriptor.digest)
        {
            self.done.push((descriptor.clone(), bytes.into()));
        }
        Ok(descriptor)
    }
}

/// What the frontend and the client's attributes say of a result; the client has the last word.
pub(crate) fn metadata_of(source: &Source, options: &ImageOptions) -> BTreeMap<String, Vec<u8>> {
    let mut metadata = source.metadata.clone();
    metadata.extend(options.metadata.clone());
    metadata
}

/// The config of the base image for the platform `key`, or nothing.
pub(crate) fn base_config<'a>(metadata: &'a BTreeMap<String, Vec<u8>>, key: &str) -> &'a [u8] {
    of_platform(metadata, BASE_CONFIG, key)
}

/// What is under `name` for the platform `key`, or for all.
fn of_platform<'a>(metadata: &'a BTreeMap<String, Vec<u8>>, name: &str, key: &str) -> &'a [u8] {
    let own = metadata.get(&format!("{name}/{key}"));
    own.or_else(|| metadata.get(name))
        .map_or(&[], Vec::as_slice)
}

/// Takes out what is of no use outside: Docker's descriptors have no annotations at all.
fn clean(annotations: &mut annotations::Map, oci_types: bool) {
    annotations.retain(|key, _| {
        oci_types
            && key != "containerd.io/uncompressed"
            && key != "buildkit/createdat"
            && !key.starts_with("containerd.io/distribution.source.")
    });
}
