//! Brings in what builds start from: images, git repositories and files behind URLs.
//!
//! Owns how an image reference becomes a list of lazy layers, how layers are fetched and unpacked
//! (each once, whoever asks), and what a URL's file is called and keyed by. Knows nothing of gRPC
//! or ops; whose credentials are used, and how a client's OCI layout is read, is handed in.
//!
//! Start at [`ImageResolver`] and [`Fetcher`]; [`Http`] and [`GitRequest`] stand apart.

mod blob;
mod disposition;
mod error;
mod fetch;
mod git;
mod http;
mod image;
mod pipe;
mod provider;
mod remember;

pub use blob::{BlobError, BlobRequest};
pub use error::{FetchError, GitError, HttpError, ImageError};
pub use fetch::Fetcher;
pub use git::{
    GitBundle, GitFailed, GitObjects, GitPin, GitRequest, SignatureError, SignatureRules,
    ssh_host_key,
};
pub use http::{Http, HttpPin, HttpRequest};
pub use image::{ImageLayer, ImageRequest, ImageResolver, ResolvedImage};
pub use provider::{LayoutStore, Sources};
