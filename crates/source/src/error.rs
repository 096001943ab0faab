//! Why something cannot be brought in.

use std::error::Error;
use std::io;
use std::sync::Arc;

use crate::blob::BlobError;
use crate::git::{GitFailed, SignatureError};
use oci::{Digest, Platform};
use registry::{Class, RegistryError, SetupError, TransportError};

/// Why an image cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A client's layout.
    #[error("failed to read {digest} of the OCI layout `{store}`")]
    Layout {
        /// The layout.
        store: String,
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// An image in a layout is named by its digest.
    #[error("an image in an OCI layout needs a digest")]
    NoDigest,
    /// It is for other platforms.
    #[error("{reference}: no match for platform in manifest: not found")]
    NoPlatform {
        /// The reference.
        reference: String,
        /// The platform that was wanted.
        platform: Platform,
    },
    /// It is another one than was expected.
    #[error("image digest {got} of {reference} does not match the expected {want}")]
    Checksum {
        /// The reference.
        reference: String,
        /// What it resolves to.
        got: Digest,
        /// What it should.
        want: Digest,
    },
    /// A manifest or config cannot be read.
    #[error("failed to parse the manifest or config of {reference}")]
    Parse {
        /// The reference.
        reference: String,
        /// Why.
        source: serde_json::Error,
    },
    /// It is something else, e.g. a chart.
    #[error("{reference} is not an image: {detail}")]
    NotAnImage {
        /// The reference.
        reference: String,
        /// Why not.
        detail: &'static str,
    },
}

impl ImageError {
    /// Who has to act.
    pub fn class(&self) -> Class {
        match self {
            ImageError::Registry(error) => error.class(),
            ImageError::Layout { .. }
            | ImageError::NoDigest
            | ImageError::NoPlatform { .. }
            | ImageError::Checksum { .. }
            | ImageError::Parse { .. }
            | ImageError::NotAnImage { .. } => Class::User,
        }
    }

    /// Whether there is no such image, as opposed to one that cannot be read.
    pub fn is_not_found(&self) -> bool {
        match self {
            ImageError::Registry(error) => error.is_not_found(),
            ImageError::NoPlatform { .. } => true,
            ImageError::Layout { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// Why a layer cannot be brought in. Clones are of the same failure: those who wait for one
/// transfer all learn of it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// Its blob cannot be read to the end.
    #[error("failed to fetch layer {digest}")]
    Fetch {
        /// The blob.
        digest: Digest,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Its tar is not the one that the image's config names.
    #[error("wrong diff id {got} calculated on extraction of layer {digest}, want {want}")]
    DiffId {
        /// The blob.
        digest: Digest,
        /// What the config names.
        want: Digest,
        /// What the tar is.
        got: Digest,
    },
    /// It cannot be unpacked.
    #[error("failed to extract layer {digest}")]
    Extract {
        /// The blob.
        digest: Digest,
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// It cannot be kept.
    #[error("failed to store layer {digest}")]
    Store {
        /// The blob.
        digest: Digest,
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Nobody is known to have it.
    #[error("nobody is known to have layer {digest}")]
    NoOrigin {
        /// The layer's blob or tar.
        digest: Digest,
    },
}

impl FetchError {
    /// Who has to act.
    pub fn class(&self) -> Class {
        match self {
            FetchError::Fetch { source, .. } => source
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<RegistryError>())
                .map_or(Class::Host, RegistryError::class),
            FetchError::DiffId { .. }
            | FetchError::Extract { .. }
            | FetchError::NoOrigin { .. } => Class::User,
            FetchError::Store { .. } => Class::Host,
        }
    }
}

/// Why the file behind a URL cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It is no URL.
    #[error("invalid URL `{0}`")]
    Url(String),
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No answer came, or it broke off.
    #[error("Get \"{url}\"")]
    Request {
        /// Where.
        url: String,
        /// Why.
        source: TransportError,
    },
    /// The answer is an error.
    #[error("invalid response status {status} of {url}")]
    Status {
        /// Where.
        url: String,
        /// The status.
        status: u16,
    },
    /// The content is not what was expected.
    #[error("digest mismatch {got}: {want}")]
    Digest {
        /// Where.
        url: String,
        /// What it is.
        got: Digest,
        /// What it should be.
        want: Digest,
    },
    /// The content changed between two looks at it.
    #[error("{0} changed while it was used")]
    Changed(String),
    /// There is no end to it.
    #[error("{url} is larger than {limit} bytes")]
    TooLarge {
        /// Where.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// The file cannot be kept.
    #[error("failed to store {url}")]
    Store {
        /// Where.
        url: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl HttpError {
    /// Who has to act.
    pub fn class(&self) -> Class {
        match self {
            HttpError::Status { status, .. } if *status >= 500 => Class::Transient,
            HttpError::Url(_)
            | HttpError::Status { .. }
            | HttpError::Digest { .. }
            | HttpError::TooLarge { .. } => Class::User,
            HttpError::Request { .. } | HttpError::Changed(_) => Class::Transient,
            HttpError::Setup(_) | HttpError::Store { .. } => Class::Host,
        }
    }
}

/// Why the files of a git repository cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It is no remote repository.
    #[error("invalid git URL `{0}`")]
    Url(String),
    /// It is no name of a ref.
    #[error("invalid git reference `{0}`")]
    Word(String),
    /// The repository has no such ref.
    #[error("repository does not contain ref {reference}, output: {output:?}")]
    NoRef {
        /// What was asked for.
        reference: String,
        /// What git said.
        output: String,
    },
    /// The ref is not what it should be.
    #[error("expected checksum to match {want}, got {got}")]
    Checksum {
        /// What it should be.
        want: String,
        /// What it is.
        got: String,
    },
    /// What is asked for contradicts itself.
    #[error("{0}")]
    Refused(String),
    /// A bundle cannot be had.
    #[error("failed to fetch git bundle {name}")]
    BundleFetch {
        /// Which.
        name: String,
        /// Why.
        source: BlobError,
    },
    /// What was fetched is no bundle, or part of one.
    #[error("failed to import git bundle {name}")]
    Bundle {
        /// Which.
        name: String,
        /// Why.
        source: GitFailed,
    },
    /// What was fetched does not begin as a bundle.
    #[error("failed to import git bundle {name}: it is not a bundle")]
    BundleForm {
        /// Which.
        name: String,
    },
    /// A bundle has nothing in it.
    #[error("failed to import git bundle {name}: it has no refs")]
    BundleEmpty {
        /// Which.
        name: String,
    },
    /// A bundle is of something else.
    #[error("commit {commit} not found in bundle {name}")]
    NotInBundle {
        /// What was looked for.
        commit: String,
        /// In which.
        name: String,
    },
    /// The commit does not become a bundle.
    #[error("failed to create git bundle for {commit}")]
    BundleCreate {
        /// Which.
        commit: String,
        /// Why.
        source: GitFailed,
    },
    /// The object is no commit, and no tag of one.
    #[error("expected commit or tag object, got {kind} for {object}")]
    Kind {
        /// Which.
        object: String,
        /// What it is.
        kind: String,
    },
    /// The default branch cannot be found.
    #[error("error fetching default branch for repository {url}")]
    DefaultBranch {
        /// Where.
        url: String,
        /// Why.
        source: GitFailed,
    },
    /// The repository cannot be read.
    #[error("failed to fetch remote {url}")]
    Fetch {
        /// Where.
        url: String,
        /// Why.
        source: GitFailed,
    },
    /// There is no place to keep objects.
    #[error("failed to prepare a git repository")]
    Repository {
        /// Why.
        source: GitFailed,
    },
    /// The commit does not become files.
    #[error("failed to check out commit {commit}")]
    Checkout {
        /// Which.
        commit: String,
        /// Why.
        source: GitFailed,
    },
    /// The repositories in it do not become files.
    #[error("failed to update the submodules of commit {commit}")]
    Submodules {
        /// Which.
        commit: String,
        /// Why.
        source: GitFailed,
    },
    /// It is not signed as it has to be.
    #[error("the git source is not signed as the build demands")]
    Signature(#[source] SignatureError),
    /// The directory is not in the commit.
    #[error("invalid subdir {path}: failed to lstat {path:?}: statat {path}")]
    Subdir {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The files cannot be kept.
    #[error("failed to keep the files of a git repository")]
    Store(#[source] io::Error),
}

impl GitError {
    /// Whether it can come of what is kept of the repository here, so that it may help to begin with
    /// nothing.
    pub fn may_be_the_repository(&self) -> bool {
        match self {
            GitError::Repository { source }
            | GitError::Fetch { source, .. }
            | GitError::BundleCreate { source, .. }
            | GitError::Checkout { source, .. } => matches!(source, GitFailed::Exit { .. }),
            GitError::Url(_)
            | GitError::Word(_)
            | GitError::Refused(_)
            | GitError::BundleFetch { .. }
            | GitError::Bundle { .. }
            | GitError::BundleForm { .. }
            | GitError::BundleEmpty { .. }
            | GitError::NotInBundle { .. }
            | GitError::NoRef { .. }
            | GitError::Checksum { .. }
            | GitError::Kind { .. }
            | GitError::DefaultBranch { .. }
            | GitError::Submodules { .. }
            | GitError::Subdir { .. }
            | GitError::Signature(_)
            | GitError::Store(_) => false,
        }
    }

    /// Who has to act.
    pub fn class(&self) -> Class {
        match self {
            GitError::Repository { .. } | GitError::Store(_) => Class::Host,
            _ => Class::User,
        }
    }
}
