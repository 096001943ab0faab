//! From an image reference to layers that are not here yet.

use std::sync::Arc;

use bytes::Bytes;
use oci::{Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, media_type};
use refs::LayerSpec;
use registry::Origin;

use crate::error::ImageError;
use crate::provider::{From, Sources};
use crate::remember::Remembered;

/// Indexes inside of indexes that are followed; real ones have one level.
const MAX_DEPTH: usize = 4;

/// What to resolve.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// The reference, complete (with tag or digest).
    pub reference: Reference,
    /// For a layout: its session and its name there. The reference then needs a digest.
    pub layout: Option<(String, String)>,
    /// The platform wanted of an index.
    pub platform: Platform,
    /// The digest that the reference must resolve to.
    pub checksum: Option<Digest>,
    /// Only so many layers, from the bottom.
    pub layer_limit: Option<usize>,
}

/// One layer of an image, not here yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// The compressed tar.
    pub descriptor: Descriptor,
    /// The digest of the tar.
    pub diff_id: Digest,
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// What the reference names: a manifest or an index.
    pub root: Descriptor,
    /// The manifest for the platform.
    pub manifest: Descriptor,
    /// Its bytes.
    pub manifest_bytes: Bytes,
    /// The config's descriptor.
    pub config: Descriptor,
    /// Its bytes.
    pub config_bytes: Bytes,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Who serves the layers.
    pub origin: Origin,
}

impl ResolvedImage {
    /// The layers as a ref takes them, none of which is here.
    pub fn layer_specs(&self) -> Vec<LayerSpec> {
        let spec = |layer: &ImageLayer| LayerSpec::Lazy {
            descriptor: layer.descriptor.clone(),
            diff_id: layer.diff_id,
            provider: self.origin.to_string(),
        };
        self.layers.iter().map(spec).collect()
    }
}

/// Resolves images; keeps the manifests and configs that were read lately. Clones share them.
#[derive(Clone, Default)]
pub struct ImageResolver {
    remembered: Arc<Remembered>,
}

impl ImageResolver {
    /// Keeps nothing yet.
    pub fn new() -> ImageResolver {
        ImageResolver::default()
    }

    /// What `request` names now. Reads no layer.
    ///
    /// # Errors
    /// When there is no such image, it is not for the platform, or it is not an image.
    pub async fn resolve(
        &self,
        sources: &Sources,
        request: &ImageRequest,
    ) -> Result<ResolvedImage, ImageError> {
        let repository;
        let (from, root, origin) = match &request.layout {
            Some((session, store)) => {
                let digest = request.reference.digest.ok_or(ImageError::NoDigest)?;
                let origin = Origin::Layout {
                    session: session.clone(),
                    store: store.clone(),
                };
                // The size is found out by reading: nobody says it beforehand.
                (
                    From::Layout { session, store },
                    Descriptor::new("", digest, 0),
                    origin,
                )
            }
            None => {
                repository = sources.repository(&request.reference)?;
                let root = match request.reference.digest.and_then(|d| self.known(&d)) {
                    Some(root) => root,
                    None => repository.resolve().await?,
                };
                (
                    From::Repository(&repository),
                    root,
                    Origin::of(&request.reference),
                )
            }
        };
        if let Some(want) = request.checksum
            && want != root.digest
        {
            return Err(ImageError::Checksum {
                reference: request.reference.to_string(),
                got: root.digest,
                want,
            });
        }
        let reader = ImageReader {
            remembered: &self.remembered,
            sources,
            from,
            request,
        };
        reader.read(root, origin).await
    }

    /// The root of a reference by digest whose manifest was read before.
    fn known(&self, digest: &Digest) -> Option<Descriptor> {
        let bytes = self.remembered.get(digest)?;
        let kind = kind_of(&bytes)?;
        Some(Descriptor::new(kind, *digest, bytes.len() as u64))
    }
}

struct ImageReader<'a> {
    remembered: &'a Remembered,
    sources: &'a Sources,
    from: From<'a>,
    request: &'a ImageRequest,
}

impl ImageReader<'_> {
    async fn read(&self, root: Descriptor, origin: Origin) -> Result<ResolvedImage, ImageError> {
        let (mut root, mut descriptor) = (root.clone(), root);
        let mut bytes = self.manifest(&descriptor).await?;
        if root.media_type.is_empty() {
            root.size = bytes.len() as u64;
            kind_of(&bytes)
                .ok_or_else(|| self.not_an_image("no manifest"))?
                .clone_into(&mut root.media_type);
            descriptor = root.clone();
        }
        for _ in 0..MAX_DEPTH {
            if !descriptor.is_index() {
                let manifest = (descriptor, bytes);
                return self.read_manifest(root, manifest, origin).await;
            }
            descriptor = self.choose(&bytes)?;
            bytes = self.manifest(&descriptor).await?;
        }
        Err(self.not_an_image("too many indexes in each other"))
    }

    async fn read_manifest(
        &self,
        root: Descriptor,
        (descriptor, bytes): (Descriptor, Bytes),
        origin: Origin,
    ) -> Result<ResolvedImage, ImageError> {
        let manifest: Manifest = self.parse(&bytes)?;
        let config_bytes = match self.remembered.get(&manifest.config.digest) {
            Some(bytes) => bytes,
            None => {
                let bytes = self.sources.config(&self.from, &manifest.config).await?;
                self.remembered.put(manifest.config.digest, bytes.clone());
                bytes
            }
        };
        let config: ImageConfig = self.parse(&config_bytes)?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(self.not_an_image("the config has not as many layers as the manifest"));
        }
        let limit = self.request.layer_limit.unwrap_or(usize::MAX);
        let layers = manifest
            .layers
            .into_iter()
            .zip(diff_ids)
            .take(limit)
            .map(|(descriptor, diff_id)| ImageLayer {
                descriptor,
                diff_id,
            })
            .collect();
        Ok(ResolvedImage {
            root,
            manifest: descriptor,
            manifest_bytes: bytes,
            config: manifest.config,
            config_bytes,
            layers,
            origin,
        })
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, ImageError> {
        if let Some(bytes) = self.remembered.get(&descriptor.digest) {
            return Ok(bytes);
        }
        let bytes = self.sources.manifest(&self.from, descriptor).await?;
        self.remembered.put(descriptor.digest, bytes.clone());
        Ok(bytes)
    }

    /// The manifest of an index that serves the wanted platform best.
    fn choose(&self, index: &[u8]) -> Result<Descriptor, ImageError> {
        let index: Index = self.parse(index)?;
        let wanted = &self.request.platform;
        let rank = |descriptor: &Descriptor| match &descriptor.platform {
            Some(platform) => platform.serves(wanted),
            // Without a platform it may be anything, also an index: better than nothing.
            None => Some(u8::MAX),
        };
        let candidates = index
            .manifests
            .into_iter()
            .filter(|d| d.is_manifest() || d.is_index());
        candidates
            .filter_map(|descriptor| Some((rank(&descriptor)?, descriptor)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, descriptor)| descriptor)
            .ok_or_else(|| ImageError::NoPlatform {
                reference: self.request.reference.to_string(),
                platform: wanted.clone(),
            })
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ImageError> {
        serde_json::from_slice(bytes).map_err(|source| ImageError::Parse {
            reference: self.request.reference.to_string(),
            source,
        })
    }

    fn not_an_image(&self, detail: &'static str) -> ImageError {
        ImageError::NotAnImage {
            reference: self.request.reference.to_string(),
            detail,
        }
    }
}

/// What a manifest says that it is, or looks like.
fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    match (shape.media_type.as_deref(), &shape.manifests, &shape.config) {
        (Some(media_type::DOCKER_INDEX), ..) => Some(media_type::DOCKER_INDEX),
        (Some(media_type::DOCKER_MANIFEST), ..) => Some(media_type::DOCKER_MANIFEST),
        (_, Some(_), _) => Some(media_type::OCI_INDEX),
        (_, None, Some(_)) => Some(media_type::OCI_MANIFEST),
        (_, None, None) => None,
    }
}
