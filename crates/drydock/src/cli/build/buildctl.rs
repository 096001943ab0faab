//! `buildctl build`: a build in the words of BuildKit's own client, which names everything itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use client::session::random_id;
use client::{Client, SourcePolicy, read_graph};

use super::context::Inputs;
use super::outputs::{self, Output};
use super::request::{self, Cache, Request};
use super::solve::{self, Style};
use super::{auth_tls, fields, report, ssh};
use crate::progress::{Display, Metrics, Mode};

/// The prefix of options that are build arguments.
const ARGUMENT: &str = "build-arg:";

/// Largest graph that is read.
pub(crate) const MAX_GRAPH: u64 = 16 << 20;

/// Build with a frontend, or a graph from standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the result goes: type=TYPE[,dest=PATH][,KEY=VALUE].
    #[arg(long, short, value_name = "OUTPUT")]
    output: Vec<String>,
    /// How the build is shown.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    progress: Mode,
    /// Offer a directory: NAME=DIRECTORY.
    #[arg(long, value_name = "LOCAL")]
    local: Vec<String>,
    /// Offer an OCI layout: NAME=DIRECTORY.
    #[arg(long, value_name = "LAYOUT")]
    oci_layout: Vec<String>,
    /// The frontend, such as dockerfile.v0; without it a graph is read from standard input.
    #[arg(long, value_name = "NAME", default_value = "")]
    frontend: String,
    /// An option of the frontend: KEY=VALUE.
    #[arg(long, value_name = "OPTION")]
    opt: Vec<String>,
    /// Run every step anew.
    #[arg(long)]
    no_cache: bool,
    /// Export the build cache: type=TYPE[,KEY=VALUE].
    #[arg(long, value_name = "CACHE")]
    export_cache: Vec<String>,
    /// Import a build cache: type=TYPE[,KEY=VALUE].
    #[arg(long, value_name = "CACHE")]
    import_cache: Vec<String>,
    /// Offer a secret: id=ID[,src=FILE|,env=NAME].
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Grant an entitlement: network.host or security.insecure.
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Offer an SSH agent, or keys: default or ID[=SOCKET|=KEY[,KEY]][,raw=BOOL].
    #[arg(long, value_name = "SSH")]
    ssh: Vec<String>,
    /// TLS for a registry's token server: host=HOST[,insecure=true][,ca=FILE][,cert=FILE,key=FILE].
    #[arg(long, value_name = "TLS")]
    registry_auth_tlscontext: Vec<String>,
    /// Write what is known of the result to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Rules for sources, a file of JSON.
    #[arg(long, value_name = "FILE")]
    source_policy_file: Option<PathBuf>,
    /// Write the build's name to a file.
    #[arg(long, value_name = "FILE")]
    ref_file: Option<PathBuf>,
    /// Write all progress to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write how much was found in the build cache to a file, `stdout` or `stderr`.
    #[arg(long, value_name = "FILE")]
    debug_json_cache_metrics: Option<PathBuf>,
    /// Let steps reach the network only through the daemon.
    #[arg(long)]
    proxy_network: bool,
}

/// Builds, and shows it.
pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<()> {
    let reference = random_id();
    let mut request = request(&arguments)?;
    request.reference = reference.clone();
    let is_question = request.attrs.contains_key("requestid");
    let mut display = Display::new(arguments.progress)?;
    if let Some(path) = &arguments.trace {
        display = display.copied_to(trace_file(path)?);
    }
    let metrics = Metrics::begin();
    if arguments.debug_json_cache_metrics.is_some() {
        display = display.counted_by(metrics.clone());
    }
    let style = Style {
        details: false,
        prefix: "error: ",
    };
    let built = solve::with_client(client, request, display, style).await;
    if let Some(path) = &arguments.ref_file {
        report::write(path, reference.as_bytes())?;
    }
    if let Some(path) = &arguments.debug_json_cache_metrics {
        metrics.write(path)?;
    }
    let response = built?;
    if let Some(path) = &arguments.metadata_file
        && !response.is_empty()
    {
        let text = serde_json::to_string_pretty(&report::metadata(&response))?;
        report::write(path, text.as_bytes())?;
    }
    if is_question {
        match response.get("result.txt") {
            Some(text) => print!("{text}"),
            None => {
                for (key, value) in response
                    .iter()
                    .filter(|(key, _)| key.starts_with("result."))
                {
                    println!("{key}\n{value}");
                }
            }
        }
    }
    Ok(())
}

/// Where progress is written to, behind what is there.
fn trace_file(path: &Path) -> anyhow::Result<File> {
    let opened = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    opened.with_context(|| format!("failed to open trace `{}`", path.display()))
}

fn request(arguments: &Arguments) -> anyhow::Result<Request> {
    let mut request = Request::of(Inputs::none());
    request.frontend = arguments.frontend.clone();
    request.attrs = options(&arguments.opt).context("invalid opt")?;
    request.directories = named(&arguments.local).context("invalid local")?;
    request.layouts = named(&arguments.oci_layout).context("invalid oci-layout")?;
    let secrets = arguments.secret.iter().map(|text| request::secret(text));
    request.secrets = secrets.collect::<Result<_, _>>()?;
    request.ssh = ssh::all(&arguments.ssh)?;
    request.auth_tls = auth_tls::hosts(&arguments.registry_auth_tlscontext)?;
    let outputs = arguments.output.iter().map(|text| output(text));
    request.outputs = outputs.collect::<Result<_, _>>()?;
    request.cache_imports = caches("--import-cache", &arguments.import_cache)?;
    request.cache_exports = caches("--export-cache", &arguments.export_cache)?;
    for cache in &mut request.cache_exports {
        let mode = cache.attrs.entry("mode".to_owned());
        mode.or_insert_with(|| "min".to_owned());
    }
    request.entitlements = arguments.allow.clone();
    request.proxy_network = arguments.proxy_network;
    if let Some(path) = &arguments.source_policy_file {
        let name = || format!("failed to read source-policy-file `{}`", path.display());
        let text = std::fs::read(path).with_context(name)?;
        request.source_policy = Some(SourcePolicy::from_json(&text).with_context(name)?);
    }
    if arguments.frontend.is_empty() {
        request.definition = Some(graph(arguments.no_cache)?);
    } else if arguments.no_cache {
        request.attrs.insert("no-cache".to_owned(), String::new());
    }
    Ok(request)
}

/// Reads the graph from standard input.
fn graph(ignore_cache: bool) -> anyhow::Result<Arc<llb::Graph>> {
    let input = std::io::stdin();
    // A terminal, or nothing at all.
    let status = rustix::fs::fstat(&input).context("failed to look at standard input")?;
    if rustix::fs::FileType::from_raw_mode(status.st_mode).is_char_device() {
        bail!("please specify --frontend or pipe LLB definition to stdin");
    }
    let mut bytes = Vec::new();
    let read = input.take(MAX_GRAPH + 1).read_to_end(&mut bytes);
    if read.context("failed to read standard input")? as u64 > MAX_GRAPH {
        bail!("the definition is larger than {} MiB", MAX_GRAPH >> 20);
    }
    let graph = read_graph(&bytes, ignore_cache)?;
    graph.context("empty definition sent to build. Specify --frontend instead?")
}

/// Options of the frontend. A build argument without a value has that of the environment, if any.
fn options(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        options.insert(format!("{ARGUMENT}SOURCE_DATE_EPOCH"), epoch);
    }
    for text in given {
        match (text.split_once('='), text.strip_prefix(ARGUMENT)) {
            (Some((key, value)), _) => {
                options.insert(key.to_owned(), value.to_owned());
            }
            (None, Some(name)) if !name.is_empty() => {
                if let Ok(value) = std::env::var(name) {
                    options.insert(text.clone(), value);
                }
            }
            (None, _) => bail!("invalid value {text}"),
        }
    }
    Ok(options)
}

/// Directories that are there, by name.
fn named(given: &[String]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let pair = |text: &String| {
        let named = text.split_once('=');
        let (name, path) = named.with_context(|| format!("invalid value {text}"))?;
        if !Path::new(path).is_dir() {
            bail!("`{path}` is no directory");
        }
        Ok((name.to_owned(), PathBuf::from(path)))
    };
    given.iter().map(pair).collect()
}

fn output(text: &str) -> anyhow::Result<Output> {
    let mut attrs: BTreeMap<String, String> = fields::pairs(text)?.into_iter().collect();
    let kind = attrs.remove("type").filter(|kind| !kind.is_empty());
    let kind = kind.context("--output requires type=<type>")?;
    if let Some(path) = attrs.get("output") {
        bail!("output={path} not supported for --output, you meant dest={path}?");
    }
    let destination = attrs.remove("dest");
    outputs::finish(&kind, attrs, destination.as_deref())
}

fn caches(flag: &str, given: &[String]) -> anyhow::Result<Vec<Cache>> {
    let caches = request::caches(given);
    caches.with_context(|| format!("{flag} requires type=<type>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_pairs_and_arguments_may_come_from_the_environment() {
        let given = ["a=b=c", "build-arg:X=1", "build-arg:NOBODY_SETS_THIS"];
        let given = given.map(ToOwned::to_owned);
        let read = options(&given).unwrap();
        assert_eq!(
            (read["a"].as_str(), read["build-arg:X"].as_str()),
            ("b=c", "1")
        );
        assert!(!read.contains_key("build-arg:NOBODY_SETS_THIS"));
        assert!(options(&["target".to_owned()]).is_err());
    }

    #[test]
    fn an_output_has_a_type() {
        let error = |text| output(text).unwrap_err().to_string();
        assert_eq!(error("dest=x"), "--output requires type=<type>");
        let meant = "output=x not supported for --output, you meant dest=x?";
        assert_eq!(error("type=tar,output=x"), meant);
    }
}
