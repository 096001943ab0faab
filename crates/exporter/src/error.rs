//! What can go wrong with an export.

use std::error::Error;
use std::io;

use oci::{Digest, ParseReferenceError};
use registry::{Class, RegistryError};

/// Attributes that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Neither true nor false.
    #[error("non-bool value specified for {key}: `{value}`")]
    Flag {
        /// The attribute.
        key: String,
        /// Its value.
        value: String,
    },
    /// Not a number.
    #[error("non-integer value specified for {key}: `{value}`")]
    Number {
        /// The attribute.
        key: String,
        /// Its value.
        value: String,
    },
    /// Not a time.
    #[error("invalid {key}: `{value}`")]
    Epoch {
        /// The attribute, or the metadata's key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A compression that is not supported.
    #[error("unsupported compression type `{0}`")]
    Compression(String),
    /// A mode of the local exporter that is not known.
    #[error("invalid local exporter mode `{0}`")]
    Mode(String),
    /// An annotation's key that cannot be read.
    #[error("invalid annotation `{key}`: {detail}")]
    Annotation {
        /// The attribute.
        key: String,
        /// What is wrong.
        detail: &'static str,
    },
    /// Two attributes contradict each other.
    #[error("exporter option \"{option}\" conflicts with \"{other}\"")]
    Conflict {
        /// One.
        option: String,
        /// The other.
        other: String,
    },
    /// Docker's media types have no place for these annotations.
    #[error("cannot export annotations with \"oci-mediatypes=false\"")]
    NoAnnotations,
}

/// An image config that cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not the JSON of a config.
    #[error("invalid image config for export")]
    Parse(#[source] serde_json::Error),
    /// A required key is missing.
    #[error("invalid image config for export: missing {0}")]
    Missing(&'static str),
    /// A time that cannot be read.
    #[error("invalid time `{value}` in an image config")]
    Time {
        /// The text.
        value: String,
        /// Why.
        source: time::error::Parse,
    },
    /// A time that cannot be written.
    #[error("failed to write a time in an image config")]
    Format(#[source] time::error::Format),
    /// The config cannot be written.
    #[error("failed to write an image config")]
    Write(#[source] serde_json::Error),
}

/// A layer that cannot be made ready.
#[derive(Debug, thiserror::Error)]
#[error("failed to export layer {layer}")]
pub struct LayerError {
    /// The layer, as people may know it.
    pub layer: String,
    /// Why.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// An attribute.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The image's config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The result is not what the exporter can take.
    #[error("{0}")]
    Result(String),
    /// A name is no reference.
    #[error("failed to parse {name}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: ParseReferenceError,
    },
    /// A name has a tag where it may not.
    #[error("can't push tagged ref {0} by digest")]
    Tagged(String),
    /// A registry.
    #[error("failed to push {name}")]
    Push {
        /// The reference.
        name: String,
        /// Why.
        source: RegistryError,
    },
    /// A manifest cannot be written.
    #[error("failed to write a manifest")]
    Manifest(#[source] serde_json::Error),
    /// The store of blobs or images.
    #[error("failed to store {what}")]
    Store {
        /// What.
        what: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A blob cannot be read.
    #[error("failed to read blob {digest}")]
    Read {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("failed to write the archive")]
    Write(#[source] io::Error),
    /// The files of a result cannot be reached.
    #[error("failed to open the files of `{key}`")]
    Tree {
        /// The platform, or nothing.
        key: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A thread of this program ended before its time.
    #[error("export was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl ExportError {
    /// Who has to act.
    pub fn class(&self) -> Class {
        match self {
            ExportError::Option(_)
            | ExportError::Config(_)
            | ExportError::Result(_)
            | ExportError::Name { .. }
            | ExportError::Tagged(_) => Class::User,
            ExportError::Push { source, .. } => source.class(),
            ExportError::Layer(_)
            | ExportError::Store { .. }
            | ExportError::Read { .. }
            | ExportError::Write(_)
            | ExportError::Tree { .. } => Class::Host,
            ExportError::Manifest(_) | ExportError::Interrupted(_) => Class::Bug,
        }
    }
}
