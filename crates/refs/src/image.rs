//! Images by name.

use std::time::SystemTime;

use oci::{Descriptor, Digest, Platform};

/// A named image for one platform. It keeps the files of its ref and its blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The name, e.g. `docker.io/library/alpine:latest`.
    pub name: String,
    /// What it runs on. A name may have one image for each platform.
    pub platform: Platform,
    /// The digest of the config.
    pub id: Digest,
    /// The config, JSON as it was received or made.
    pub config: String,
    /// The manifest or index, when the image came from or went to a registry.
    pub manifest: Option<Descriptor>,
    /// The id of the ref with the image's files when the image was made.
    pub ref_id: Digest,
    /// When the image was made or brought in.
    pub created: SystemTime,
    /// Blobs of the content store that belong to it, e.g. its manifest.
    pub blobs: Vec<Digest>,
}
