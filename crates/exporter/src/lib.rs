//! Carries refs out: to an image, a registry, an archive, or a directory of the client.
//!
//! Owns what an exported image looks like: its layers' blobs, config, manifests and index, the
//! OCI and docker archives, and which names are pushed. Knows nothing of gRPC, of sessions or of
//! builds: bytes leave through an [`tokio::io::AsyncWrite`] or a registry, trees as a mounted
//! directory that the caller sends.
//!
//! Start at [`Exporter`] and [`Source`].

mod annotations;
mod archive;
mod attest;
mod blobs;
mod carry;
mod config;
mod epoch;
mod error;
mod exporter;
mod image;
mod layers;
mod media;
mod options;
mod push;
mod stored;
mod tree;

pub use annotations::Annotations;
pub use attest::{Attestation, Subject};
pub use carry::Carried;
pub use epoch::Epoch;
pub use error::{ConfigError, ExportError, LayerError, OptionError};
pub use exporter::{Caller, Exporter};
pub use image::{Built, BuiltImage, Response, Source, SourceRef};
pub use options::{
    Compression, CompressionKind, ImageOptions, Kind, TreeKind, TreeMode, TreeOptions,
};
pub use tree::{ExportTree, Transfer, TreePart};
