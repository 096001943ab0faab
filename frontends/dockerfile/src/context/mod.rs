//! Where files come from: the main context, named contexts, base images.
//!
//! Bringing something in takes two steps. What has to be asked of the engine is fetched first,
//! many things at a time ([`Surroundings`]); then states are written from what was fetched, in
//! order and without waiting.

mod archive;
mod client;
mod fetched;
mod offline;

use async_trait::async_trait;
use frontend::{FrontendError, ResolveImage, ResolveSource, ResolvedImage, ResolvedSource};
use llb::builder::Builder;
use oci::{Platform, Reference};

use crate::git::GitRefError;
use crate::options::Options;
use crate::{go, platform};

pub(crate) use client::{Client, Entrypoint};
pub(crate) use fetched::{Fetched, MainSource, follow_list, follow_paths, mode_name};
pub(crate) use offline::Offline;

/// The name of the main context among local directories.
pub(crate) const CONTEXT: &str = "context";
/// The name of the Dockerfile's directory among local directories.
pub(crate) const DOCKERFILE_DIR: &str = "dockerfile";
/// The Dockerfile's usual name.
pub(crate) const DOCKERFILE: &str = "Dockerfile";
/// The ignore file of a context.
pub(crate) const IGNORE_FILE: &str = ".dockerignore";
/// The image of nothing.
pub(crate) const SCRATCH: &str = "scratch";

/// What lowering asks of the world outside of the Dockerfile.
#[async_trait]
pub(crate) trait Surroundings: Send + Sync {
    /// Resolves a base image.
    async fn resolve_image(&self, request: ResolveImage) -> Result<ResolvedImage, FrontendError>;

    /// Resolves a source to what pins it.
    async fn resolve_source(&self, request: ResolveSource)
    -> Result<ResolvedSource, FrontendError>;

    /// The patterns of the main context's ignore file; none for contexts that are not local.
    async fn ignore_patterns(&self) -> Result<Vec<String>, ContextError>;

    /// Brings in the main context.
    async fn main_source(&self) -> Result<MainSource, ContextError>;

    /// Brings in a named context.
    async fn named_source(&self, context: &NamedContext) -> Result<Fetched, ContextError>;

    /// The line of `known_hosts` for an ssh server of which nothing is known.
    async fn ssh_host_key(&self, host: &str) -> Option<String>;

    /// The largest modification time, in seconds, of the files of an archive behind a source.
    async fn archive_time(&self, source: &ResolveSource) -> Result<Option<i64>, ContextError>;
}

/// Gives the git repositories in `builder` that are behind ssh the keys that their servers have now,
/// so that they are asked with these and no others. A server that does not answer gets none.
pub(crate) async fn know_ssh_hosts(builder: &mut Builder, surroundings: &dyn Surroundings) {
    for host in builder.unknown_ssh_hosts() {
        if let Some(line) = surroundings.ssh_host_key(&host).await {
            builder.know_ssh_host(&host, &line);
        }
    }
}

/// A context that the client gives under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedContext {
    /// What it is, e.g. `docker-image://…`.
    pub(crate) input: String,
    /// The name that was looked for.
    pub(crate) name: String,
    /// The name under which it was found: with a platform, or not.
    pub(crate) found_as: String,
    /// Groups transfers of the same directory.
    pub(crate) shared_key: String,
    /// The platform that is wanted.
    pub(crate) platform: Option<Platform>,
}

/// A context that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] FrontendError),
    /// The engine failed at something of ours.
    #[error("{what}")]
    EngineAt {
        what: &'static str,
        source: FrontendError,
    },
    /// A name that no context can have.
    #[error("invalid context name {name}")]
    Name {
        name: String,
        source: oci::ParseReferenceError,
    },
    /// A value that is no context.
    #[error("invalid context specifier {input} for {name}")]
    Specifier { input: String, name: String },
    /// A scheme that does not exist.
    #[error("unsupported context source {scheme} for {name}")]
    Scheme { scheme: String, name: String },
    /// A git URL.
    #[error("invalid git context {0}")]
    Git(String),
    /// A git URL with a bad query.
    #[error(transparent)]
    GitRef(#[from] GitRefError),
    /// An image's name.
    #[error(transparent)]
    Reference(#[from] oci::ParseReferenceError),
    /// An OCI layout that is no reference.
    #[error("could not parse oci-layout reference {}", go::quote(.text))]
    Layout {
        text: String,
        source: oci::ParseReferenceError,
    },
    /// An OCI layout without a digest.
    #[error("oci-layout reference {} has no digest", go::quote(.0))]
    LayoutDigest(String),
    /// An input that the client does not give.
    #[error("invalid input {input} for {name}")]
    Input { input: String, name: String },
    /// An image config.
    #[error("{what}")]
    Config {
        what: String,
        source: serde_json::Error,
    },
    /// An ignore file.
    #[error("failed parsing {name}")]
    Ignore {
        name: String,
        source: fstree::dockerignore::ParseError,
    },
    /// A graph that this frontend wrote is not one.
    #[error("failed to marshal a source")]
    Graph(#[from] llb::DecodeError),
}

impl NamedContext {
    /// Looks for the context `name`, first for `platform`, then for all.
    pub(crate) fn find(
        options: &Options,
        name: &str,
        wanted: Option<&Platform>,
    ) -> Result<Option<NamedContext>, ContextError> {
        if matches!(name.to_lowercase().as_str(), SCRATCH | CONTEXT) {
            return Ok(None);
        }
        let reference = Reference::parse(name).map_err(|source| ContextError::Name {
            name: name.to_owned(),
            source,
        })?;
        let familiar = reference.familiar();
        let name = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        let shown = wanted.cloned().unwrap_or_else(Platform::host).normalized();
        let with_platform = format!("{name}::{}", platform::format_all(&shown));
        Ok([with_platform, name.to_owned()]
            .into_iter()
            .find_map(|found_as| {
                let input = options.get(&format!("context:{found_as}"))?.to_owned();
                let key = format!("sharedkey:localdir:{found_as}");
                Some(NamedContext {
                    input,
                    name: name.to_owned(),
                    shared_key: options.get(&key).unwrap_or_default().to_owned(),
                    found_as,
                    platform: wanted.cloned(),
                })
            }))
    }
}
