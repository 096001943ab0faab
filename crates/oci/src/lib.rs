//! The vocabulary of images: digests, descriptors, manifests, configs, platforms, references and
//! container paths.
//!
//! Owns the parsing and the byte-stable writing of these. Knows nothing of where a blob is stored,
//! who sends it, or how an image is built. Start at [`Digest`], then [`Descriptor`].
//!
//! The JSON shapes are those of the OCI image specification (checked against the `oci-spec` crate
//! in the tests). They are written out here instead of taken from that crate because its
//! annotations are hash maps: the same manifest would get another digest at every run.

mod config;
mod digest;
mod manifest;
mod path;
mod platform;
mod reference;
mod url;

pub use config::{ConfigDetails, HealthConfig, History, ImageConfig, RootFs};
pub use digest::{Digest, Hasher, ParseDigestError};
pub use manifest::{Descriptor, Index, Manifest, media_type};
pub use path::RootedPath;
pub use platform::{ParsePlatformError, Platform};
pub use reference::{ParseReferenceError, Reference};
pub use url::{UrlCredentials, redact_text, redact_url};
