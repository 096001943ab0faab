//! The contract between the engine and a frontend.
//!
//! A [`Frontend`] turns a description (a Dockerfile, say) into LLB; the [`Bridge`] is what the
//! engine lends it for that. The shape is that of BuildKit's gateway (`frontend/gateway`), so a
//! built-in frontend, a frontend image and a client's own frontend are served by one
//! implementation of [`Bridge`].
//!
//! Knows nothing of the wire, of sessions or of how anything is solved. Start at [`Frontend`].

mod container;
mod error;
pub mod policy;
mod result;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Platform};

pub use container::{
    Container, ContainerInput, ContainerProcess, OpenContainer, ProcessInput, ProcessOutput,
    StartProcess,
};
pub use error::{ErrorClass, FrontendError, Remains, SourceLocation};
pub use result::{Attestation, BuildResult, ResultRef};

/// Turns a description into a build result.
#[async_trait]
pub trait Frontend: Send + Sync {
    /// Builds with the options and inputs that `bridge` gives.
    ///
    /// # Errors
    /// The build's error, with the places in the sources that it is about.
    async fn build(&self, bridge: Arc<dyn Bridge>) -> Result<BuildResult, FrontendError>;
}

/// What the engine lends a frontend for one build.
#[async_trait]
pub trait Bridge: Send + Sync {
    /// The frontend's options (`SolveRequest.FrontendAttrs`).
    fn options(&self) -> &BTreeMap<String, String>;

    /// The definitions that the client offers under names (`SolveRequest.FrontendInputs`).
    async fn inputs(&self) -> Result<BTreeMap<String, Arc<llb::Graph>>, FrontendError>;

    /// The session of the client that asked for the build.
    fn session_id(&self) -> &str;

    /// The platforms of the workers, the default one first; never empty.
    fn worker_platforms(&self) -> &[Platform];

    /// Whether the engine has the LLB capability `id` (reference: BuildKit's `solver/pb/caps.go`).
    fn has_capability(&self, id: &str) -> bool;

    /// Solves a graph. With `evaluate` false nothing runs until the result is looked at.
    async fn solve(&self, request: SolveGraph) -> Result<ResultRef, FrontendError>;

    /// Runs another frontend (`dockerfile.v0`, `gateway.v0`) with these options and inputs.
    async fn solve_frontend(&self, request: SolveFrontend) -> Result<BuildResult, FrontendError>;

    /// Reads a file of a result, whole or the given range.
    ///
    /// # Errors
    /// [`FrontendError::NotFound`] when there is no such file.
    async fn read_file(
        &self,
        result: &ResultRef,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Bytes, FrontendError>;

    /// What is in a directory of a result; `include` filters names (Go's `filepath.Match`).
    async fn read_dir(
        &self,
        result: &ResultRef,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<FileStat>, FrontendError>;

    /// One file's metadata; the last component, if a link, is not followed.
    async fn stat_file(&self, result: &ResultRef, path: &str) -> Result<FileStat, FrontendError>;

    /// Resolves an image reference and reads its config.
    async fn resolve_image(&self, request: ResolveImage) -> Result<ResolvedImage, FrontendError>;

    /// Resolves a source op (git, http, …) to what pins it.
    async fn resolve_source(&self, request: ResolveSource)
    -> Result<ResolvedSource, FrontendError>;

    /// The line of `known_hosts` for the ssh server `host` (`name` or `name:port`), of which nothing
    /// is known, as it answers now; `None` when it does not.
    async fn ssh_host_key(&self, host: &str) -> Option<String> {
        let _ = host;
        None
    }

    /// Shows a warning on a vertex of the build.
    async fn warn(&self, warning: Warning) -> Result<(), FrontendError>;

    /// The same bridge for graphs and sources for which these policies hold, too.
    fn under(&self, policies: Vec<policy::Policy>) -> Result<Arc<dyn Bridge>, FrontendError> {
        let _ = policies;
        let text = "source policies cannot be evaluated here".to_owned();
        Err(FrontendError::Unsupported(text))
    }

    /// Makes a container in which the frontend can run processes.
    async fn open_container(
        &self,
        request: OpenContainer,
    ) -> Result<Arc<dyn Container>, FrontendError> {
        Err(FrontendError::Unsupported(format!(
            "container {} cannot be run here",
            request.name
        )))
    }
}

/// A graph to solve.
#[derive(Clone, Debug)]
pub struct SolveGraph {
    /// What is wanted: the graph's terminal vertex.
    pub graph: Arc<llb::Graph>,
    /// Build caches to look in, beside those of the build.
    pub cache_imports: Vec<CacheImport>,
    /// Whether the result must be there when the call returns.
    pub evaluate: bool,
}

/// A frontend to run inside the build.
#[derive(Clone, Debug)]
pub struct SolveFrontend {
    /// `dockerfile.v0` or `gateway.v0`.
    pub frontend: String,
    /// Its options, all of them: nothing is inherited.
    pub options: BTreeMap<String, String>,
    /// Its inputs.
    pub inputs: BTreeMap<String, Arc<llb::Graph>>,
    /// Build caches to look in, beside those of the build.
    pub cache_imports: Vec<CacheImport>,
}

/// A build cache to look in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheImport {
    /// `registry`, `local`, …
    pub kind: String,
    /// Where it is.
    pub attrs: BTreeMap<String, String>,
}

/// Part of a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// Where to begin.
    pub offset: u64,
    /// How many; 0 means to the end.
    pub length: u64,
}

/// A file's metadata, as fsutil's `Stat` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileStat {
    /// Name or path relative to what was asked.
    pub path: String,
    /// Go's `os.FileMode` bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes, of regular files.
    pub size: i64,
    /// Nanoseconds since the epoch.
    pub mod_time: i64,
    /// A symbolic link's target.
    pub linkname: String,
    /// Of devices.
    pub dev_major: i64,
    /// Of devices.
    pub dev_minor: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// An image reference to resolve.
#[derive(Clone, Debug)]
pub struct ResolveImage {
    /// The reference, normalized, with tag or digest.
    pub reference: String,
    /// The platform whose config is wanted; `None` is the worker's own.
    pub platform: Option<Platform>,
    /// Where to look.
    pub mode: ResolveMode,
    /// The name of the vertex that shows it, e.g. `[internal] load metadata for …`.
    pub log_name: String,
    /// An OCI layout in a session instead of a registry.
    pub layout: Option<LayoutStore>,
}

/// Where an `oci-layout` image is read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayoutStore {
    /// The session that serves it; empty is the build's own.
    pub session: String,
    /// The name of the store in that session.
    pub store: String,
}

/// Where an image is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolveMode {
    /// The registry, and if that fails what the worker has.
    #[default]
    Default,
    /// Only the registry.
    ForcePull,
    /// What the worker has, else the registry.
    PreferLocal,
}

/// What an image reference stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The digest of the index or manifest that the reference names.
    pub digest: Digest,
    /// The config blob of the wanted platform.
    pub config: Bytes,
    /// The reference after source policies.
    pub reference: String,
}

/// A source op to resolve.
#[derive(Clone, Debug, Default)]
pub struct ResolveSource {
    /// The op's identifier, e.g. `git://…`.
    pub identifier: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
    /// The wanted platform.
    pub platform: Option<Platform>,
    /// Of an image: where to look.
    pub mode: ResolveMode,
    /// The name of the vertex that shows it.
    pub log_name: String,
    /// Of a git source: whether the raw objects are wanted.
    pub git_objects: bool,
    /// Of an http source: what else is to be hashed.
    pub http_checksum: Option<HttpChecksum>,
}

/// A digest that is wanted of a file behind a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpChecksum {
    /// `sha256`, `sha384` or `sha512`.
    pub algorithm: String,
    /// What follows the file.
    pub suffix: Bytes,
}

/// What pins a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedSource {
    /// The identifier after source policies.
    pub identifier: String,
    /// The attributes after source policies.
    pub attrs: BTreeMap<String, String>,
    /// Of an image: its digest.
    pub image_digest: Option<Digest>,
    /// Of an image: its config.
    pub image_config: Option<Bytes>,
    /// Of a git source: the commit or tag object's id.
    pub git_checksum: Option<String>,
    /// Of a git source: the full ref.
    pub git_ref: Option<String>,
    /// Of a git source: the commit's id when the checksum is a tag object's.
    pub git_commit_checksum: Option<String>,
    /// Of a git source: the raw commit object.
    pub git_commit_object: Option<Bytes>,
    /// Of a git source: the raw tag object.
    pub git_tag_object: Option<Bytes>,
    /// Of an http source: the content's digest.
    pub http_digest: Option<Digest>,
    /// Of an http source: the file name.
    pub http_filename: Option<String>,
    /// Of an http source: seconds since the epoch.
    pub http_last_modified: Option<i64>,
    /// Of an http source: the digest that was asked for, with its algorithm.
    pub http_checksum: Option<String>,
}

/// Something that the user should know, shown on a vertex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The digest of the vertex.
    pub vertex: Digest,
    /// 1 for a lint.
    pub level: i64,
    /// One line.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// Where it is explained.
    pub url: String,
    /// The places that it is about.
    pub location: Option<SourceLocation>,
}
