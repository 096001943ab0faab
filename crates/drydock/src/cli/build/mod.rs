//! `drydock build`: an ordinary BuildKit client of the daemon.
//!
//! Flags become a plain [`request::Request`], which `solve` carries out; `report` tells how it ended.

mod auth_tls;
pub(crate) mod buildctl;
mod context;
mod fields;
mod local_cache;
mod outputs;
mod report;
mod request;
mod solve;
mod ssh;

use std::path::{Path, PathBuf};

use super::Global;
use crate::progress::Mode;

/// Build an image from a Dockerfile.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Arguments {
    /// Name the image. May be repeated.
    #[arg(long, short, value_name = "NAME[:TAG]")]
    pub(super) tag: Vec<String>,
    /// The Dockerfile; `-` reads standard input. [default: Dockerfile in the context]
    #[arg(long, short, value_name = "FILE")]
    pub(super) file: Option<String>,
    /// Set a build argument; without a value it is taken from the environment.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,
    /// The stage to build.
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// Platforms to build for. May be repeated or a list.
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub(super) platform: Vec<String>,
    /// Run every step anew.
    #[arg(long)]
    pub(super) no_cache: bool,
    /// Run the steps of these stages anew.
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,
    /// Look for newer base images.
    #[arg(long)]
    pub(super) pull: bool,
    /// Label the image.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) label: Vec<String>,
    /// Add a line to /etc/hosts of steps.
    #[arg(long, value_name = "HOST:IP")]
    pub(super) add_host: Vec<String>,
    /// Network of steps: default, host or none.
    #[arg(long, value_name = "MODE")]
    pub(super) network: Option<String>,
    /// Offer a secret: id=ID[,src=FILE|,env=NAME].
    #[arg(long, value_name = "SECRET")]
    pub(super) secret: Vec<String>,
    /// Offer an SSH agent or keys: default or ID[=SOCKET|KEY[,KEY]].
    #[arg(long, value_name = "SSH")]
    pub(super) ssh: Vec<String>,
    /// Offer another context: NAME=DIRECTORY, image or URL.
    #[arg(long, value_name = "NAME=CONTEXT")]
    pub(super) build_context: Vec<String>,
    /// Grant an entitlement: network.host, security.insecure or device.
    #[arg(long, value_name = "ENTITLEMENT")]
    pub(super) allow: Vec<String>,
    /// Where the result goes: a directory, `-` for a tar on standard output, or type=TYPE[,KEY=VALUE].
    #[arg(long, short, value_name = "OUTPUT")]
    pub(super) output: Vec<String>,
    /// Send the image to its registry.
    #[arg(long)]
    pub(super) push: bool,
    /// Keep the image in the daemon's store; so it is anyway if it has a name and no other output.
    #[arg(long)]
    pub(super) load: bool,
    /// How the build is shown.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(super) progress: Mode,
    /// Show nothing, and print the image's id.
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Write what is known of the result to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,
    /// Write the image's id to a file.
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,
    /// Import a build cache: an image, or type=TYPE[,KEY=VALUE].
    #[arg(long, value_name = "CACHE")]
    pub(super) cache_from: Vec<String>,
    /// Export the build cache: an image, or type=TYPE[,KEY=VALUE].
    #[arg(long, value_name = "CACHE")]
    pub(super) cache_to: Vec<String>,
    /// Size of /dev/shm of steps.
    #[arg(long, value_name = "SIZE")]
    pub(super) shm_size: Option<String>,
    /// Limit of steps: NAME=SOFT[:HARD].
    #[arg(long, value_name = "LIMIT")]
    pub(super) ulimit: Vec<String>,
    /// Parent of the cgroups of steps.
    #[arg(long, value_name = "CGROUP")]
    pub(super) cgroup_parent: Option<String>,
    /// The context: a directory, a URL, or `-` for standard input.
    #[arg(value_name = "CONTEXT")]
    pub(super) context: String,
}

/// Builds, and shows it.
pub(super) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<()> {
    let request = request::Request::new(&arguments)?;
    let progress = if arguments.quiet {
        Mode::Quiet
    } else {
        arguments.progress
    };
    let result = solve::solve(global, request, progress).await?;
    report::success(&arguments, &result)
}

/// Builds `directory` into the daemon's store for `drydock run`, and gives the image's id.
pub(super) async fn for_run(
    global: &Global,
    directory: &Path,
    file: Option<&str>,
) -> anyhow::Result<String> {
    let arguments = Arguments {
        context: directory.to_string_lossy().into_owned(),
        file: file.map(ToOwned::to_owned),
        tag: vec![name_of(directory)],
        ..Arguments::default()
    };
    let request = request::Request::new(&arguments)?;
    solve::solve(global, request, Mode::Auto).await?;
    Ok(name_of(directory))
}

/// A name for the image of a directory: what is built from it next takes its place.
fn name_of(directory: &Path) -> String {
    let absolute = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let base = absolute
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase());
    let is_plain = |char: &char| char.is_ascii_lowercase() || char.is_ascii_digit();
    let base: String = base.unwrap_or_default().chars().filter(is_plain).collect();
    // The path in the name keeps directories of one name apart.
    let digest = oci::Digest::of(absolute.as_os_str().as_encoded_bytes());
    let hex = digest.to_string();
    let hex = hex.rsplit(':').next().unwrap_or_default();
    format!(
        "drydock-run/{base}{}:latest",
        hex.get(..8).unwrap_or_default()
    )
}
