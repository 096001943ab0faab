//! Images of the store, as they are.
//!
//! An image that is carried out again under the manifest that it came with keeps its digest. Only
//! where its blobs cannot be had as that manifest says is it made anew.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci::{Descriptor, Digest, Manifest, media_type as media};
use refs::{Image, Ref};
use registry::MANIFEST_LIMIT;

use crate::blobs::{Blob, Place};
use crate::error::ExportError;
use crate::exporter::{Caller, Exporter};
use crate::image::{Built, BuiltImage};
use crate::layers::Wanted;
use crate::media as layer_media;
use crate::options::{Compression, CompressionKind};

impl Exporter {
    /// Makes `image` ready under the manifest and config that the store has of it; `None` when it
    /// has none, or the image's layers are not those any more.
    ///
    /// # Errors
    /// When a layer cannot be made.
    pub async fn stored(
        &self,
        image: &Image,
        filesystem: &Ref,
        names: Vec<String>,
        caller: &Caller,
    ) -> Result<Option<Built>, ExportError> {
        let Some((descriptor, bytes, manifest)) = self.manifest_of(image) else {
            return Ok(None);
        };
        let first = manifest.layers.first();
        let kind = first.and_then(|layer| layer_media::compression(&layer.media_type));
        let compression = Compression {
            kind: kind.unwrap_or(CompressionKind::Gzip),
            level: None,
            force: false,
        };
        let wanted = Wanted::new(compression, None, &[]);
        let layers = self.layers_of(filesystem, &wanted, caller).await?;
        let is_same = layers.len() == manifest.layers.len()
            && layers
                .iter()
                .zip(&manifest.layers)
                .all(|(layer, listed)| layer.blob.descriptor.digest == listed.digest);
        if !is_same {
            return Ok(None);
        }
        let mut blobs = BTreeMap::new();
        for (layer, listed) in layers.into_iter().zip(&manifest.layers) {
            let blob = Blob {
                descriptor: listed.clone(),
                ..layer.blob
            };
            blobs.insert(listed.digest, blob);
        }
        let config_bytes = Bytes::from(image.config.clone());
        let config = Blob {
            descriptor: manifest.config.clone(),
            place: Place::Memory(config_bytes.clone()),
            origins: Vec::new(),
        };
        blobs.insert(manifest.config.digest, config);
        let built = BuiltImage {
            key: String::new(),
            platform: image.platform.clone(),
            manifest: descriptor.clone(),
            config: manifest.config,
            config_bytes,
            layers: manifest.layers,
        };
        Ok(Some(Built {
            root: descriptor.clone(),
            config: Some(image.id),
            manifests: vec![(descriptor, bytes)],
            images: vec![built],
            names,
            blobs,
        }))
    }

    /// The manifest of `image` among its blobs.
    fn manifest_of(&self, image: &Image) -> Option<(Descriptor, Bytes, Manifest)> {
        // What the store has as text may not be what the digest is of.
        if Digest::of(&image.config) != image.id {
            return None;
        }
        image.blobs.iter().find_map(|digest| {
            let bytes = self.refs().content().read(digest, MANIFEST_LIMIT).ok()?;
            let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
            if manifest.config.digest != image.id {
                return None;
            }
            let kind = manifest.media_type.clone();
            let kind = kind.unwrap_or_else(|| media::OCI_MANIFEST.to_owned());
            let descriptor = Descriptor::new(&kind, *digest, bytes.len() as u64);
            Some((descriptor, bytes.into(), manifest))
        })
    }
}
