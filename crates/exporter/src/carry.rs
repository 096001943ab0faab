//! Layers that leave without an image around them.

use std::sync::Arc;

use oci::Descriptor;
use refs::Ref;
use registry::{BlobSource, Origin};

use crate::error::ExportError;
use crate::layers::{Layer, Wanted};
use crate::options::Compression;
use crate::{Caller, Exporter, config, media};

/// One layer, ready to be written elsewhere.
#[derive(Clone)]
pub struct Carried {
    /// Its blob; the annotations tell what the blob unpacks to, and where it comes from.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub blob: Arc<dyn BlobSource>,
    /// Who else is known to have it.
    pub origins: Vec<Origin>,
}

impl Exporter {
    /// The layers of `reference`, lowest first, with media types of OCI or of Docker.
    ///
    /// # Errors
    /// When a layer cannot be made.
    pub async fn carry(
        &self,
        reference: &Ref,
        compression: Compression,
        oci_types: bool,
        caller: &Caller,
    ) -> Result<Vec<Carried>, ExportError> {
        let reader = self.reader(caller);
        let wanted = Wanted::new(compression, None, &[]);
        let layers = self
            .layers
            .of(Some(reference), &wanted, &reader, &caller.lease)
            .await?;
        let carried = layers.into_iter().map(|layer| {
            let blob = reader.source(&layer.blob);
            let descriptor = described(&layer, oci_types)?;
            Ok(Carried {
                descriptor,
                blob,
                origins: layer.blob.origins,
            })
        });
        carried.collect()
    }
}

/// The descriptor of a layer with the annotations that readers of build caches look at.
fn described(layer: &Layer, oci_types: bool) -> Result<Descriptor, ExportError> {
    let mut descriptor = layer.blob.descriptor.clone();
    descriptor.media_type = media::converted(&descriptor.media_type, oci_types, true);
    let annotations = &mut descriptor.annotations;
    annotations.retain(|key, _| !key.starts_with("containerd.io/distribution.source."));
    let mut set = |key: &str, value: String| annotations.insert(key.to_owned(), value);
    set(
        "containerd.io/uncompressed",
        layer.facts.diff_id.to_string(),
    );
    set("buildkit/description", layer.facts.description.clone());
    if let Some(created) = layer.facts.created {
        set("buildkit/createdat", config::text(created)?);
    }
    Ok(descriptor)
}
