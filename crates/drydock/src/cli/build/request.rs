//! What is asked of the daemon, made of the flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use client::SourcePolicy;
use registry::HostConfig;

use super::Arguments;
use super::context::{self, Inputs, Source};
use super::fields;
use super::outputs::{self, Output};
use super::ssh::{self, Ssh};
use crate::config::parse_bytes;
use crate::error::hinted;

/// A build, and what this program serves while it runs.
#[derive(Debug)]
pub(super) struct Request {
    /// Names the build; made up if empty.
    pub(super) reference: String,
    /// Empty to build `definition`.
    pub(super) frontend: String,
    pub(super) definition: Option<Arc<llb::Graph>>,
    pub(super) source_policy: Option<SourcePolicy>,
    pub(super) inputs: Inputs,
    pub(super) attrs: BTreeMap<String, String>,
    /// Directories offered, by name.
    pub(super) directories: BTreeMap<String, PathBuf>,
    /// OCI layouts offered, by name.
    pub(super) layouts: BTreeMap<String, PathBuf>,
    pub(super) secrets: Vec<Secret>,
    pub(super) ssh: Vec<Ssh>,
    /// TLS settings for token servers, by the registry's host.
    pub(super) auth_tls: BTreeMap<String, HostConfig>,
    pub(super) outputs: Vec<Output>,
    pub(super) cache_imports: Vec<Cache>,
    pub(super) cache_exports: Vec<Cache>,
    pub(super) entitlements: Vec<String>,
    /// Whether steps reach the network only through the daemon.
    pub(super) proxy_network: bool,
    /// Names this client and directory, so that files are not sent twice.
    pub(super) shared_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Secret {
    pub(super) id: String,
    pub(super) source: SecretSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SecretSource {
    File(PathBuf),
    Environment(String),
}

/// A build cache to import or export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    pub(super) kind: String,
    pub(super) attrs: BTreeMap<String, String>,
}

/// Largest secret that BuildKit takes.
const MAX_SECRET: u64 = 500 << 10;

/// The built-in frontend.
const FRONTEND: &str = "dockerfile.v0";

impl Request {
    /// A build of `inputs` that asks for nothing else.
    pub(super) fn of(inputs: Inputs) -> Request {
        Request {
            reference: String::new(),
            frontend: String::new(),
            definition: None,
            source_policy: None,
            inputs,
            attrs: BTreeMap::new(),
            directories: BTreeMap::new(),
            layouts: BTreeMap::new(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            auth_tls: BTreeMap::new(),
            outputs: Vec::new(),
            cache_imports: Vec::new(),
            cache_exports: Vec::new(),
            entitlements: Vec::new(),
            proxy_network: false,
            shared_key: String::new(),
        }
    }

    /// Reads `arguments`, and checks what can be checked here.
    pub(super) fn new(arguments: &Arguments) -> anyhow::Result<Request> {
        let inputs = context::inputs(&arguments.context, arguments.file.as_deref())?;
        let mut request = Request::of(inputs);
        request.frontend = FRONTEND.to_owned();
        request.attrs = attrs(arguments)?;
        let secrets = arguments.secret.iter().map(|text| secret(text));
        request.secrets = secrets.collect::<Result<_, _>>()?;
        request.ssh = ssh::all(&arguments.ssh)?;
        request.outputs = outputs::outputs(arguments)?;
        request.cache_imports = caches(&arguments.cache_from)?;
        request.cache_exports = caches(&arguments.cache_to)?;
        request.entitlements = arguments.allow.clone();
        request.add_inputs();
        for text in &arguments.build_context {
            request.add_context(text)?;
        }
        if arguments.network.as_deref() == Some("host") {
            request.entitlements.push("network.host".to_owned());
        }
        Ok(request)
    }

    fn add_inputs(&mut self) {
        match &self.inputs.context {
            Source::Directory(directory) => {
                self.directories
                    .insert("context".to_owned(), directory.clone());
                self.shared_key = shared_key(directory);
            }
            Source::Url(url) => {
                self.attrs.insert("context".to_owned(), url.clone());
            }
            // The upload's URL is known when the session is.
            Source::None | Source::Stdin(_) => {}
        }
        if let Some(directory) = &self.inputs.dockerfile {
            self.directories
                .insert("dockerfile".to_owned(), directory.clone());
            if !matches!(self.inputs.context, Source::Directory(_)) {
                // Not from the context, where the frontend would look.
                self.attrs
                    .insert("dockerfilekey".to_owned(), "dockerfile".to_owned());
            }
        }
        if let Some(filename) = &self.inputs.filename {
            self.attrs.insert("filename".to_owned(), filename.clone());
        }
    }

    /// `name=value`, where value is an image, a URL, an OCI layout or a directory.
    fn add_context(&mut self, text: &str) -> anyhow::Result<()> {
        let named = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty());
        let Some((name, value)) = named else {
            return Err(hinted(
                format!("`{text}` is no context"),
                "write NAME=CONTEXT",
            ));
        };
        let key = format!("context:{name}");
        let is_remote = value.starts_with("docker-image://") || value.starts_with("target:");
        if is_remote || context::is_url(value) {
            self.attrs.insert(key, value.to_owned());
            return Ok(());
        }
        if let Some(layout) = value.strip_prefix("oci-layout://") {
            let (path, reference) = match layout.rsplit_once('@') {
                Some((path, digest)) => (path, format!("@{digest}")),
                None => match layout.rsplit_once(':') {
                    Some((path, tag)) if !tag.contains('/') => (path, format!(":{tag}")),
                    _ => (layout, String::new()),
                },
            };
            self.attrs
                .insert(key, format!("oci-layout://{name}{reference}"));
            self.layouts.insert(name.to_owned(), PathBuf::from(path));
            return Ok(());
        }
        let path = Path::new(value);
        if !path.is_dir() {
            bail!("context `{name}`: `{value}` is no directory");
        }
        let local = match name {
            "context" | "dockerfile" => format!("_{name}"),
            name => name.to_owned(),
        };
        self.attrs.insert(key, format!("local:{local}"));
        self.attrs
            .insert(format!("sharedkey:localdir:{local}"), shared_key(path));
        self.directories.insert(local, path.to_owned());
        Ok(())
    }
}

/// The frontend's options that flags stand for.
fn attrs(arguments: &Arguments) -> anyhow::Result<BTreeMap<String, String>> {
    let mut attrs = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        attrs.insert(key.to_owned(), value);
    };
    for text in &arguments.build_arg {
        if let Some((name, value)) = build_argument(text) {
            set(&format!("build-arg:{name}"), value);
        }
    }
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH")
        && !arguments
            .build_arg
            .iter()
            .any(|text| text.starts_with("SOURCE_DATE_EPOCH"))
    {
        set("build-arg:SOURCE_DATE_EPOCH", epoch);
    }
    for label in &arguments.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        set(&format!("label:{key}"), value.to_owned());
    }
    if let Some(target) = &arguments.target {
        set("target", target.clone());
    }
    if !arguments.platform.is_empty() {
        for platform in &arguments.platform {
            platform
                .parse::<oci::Platform>()
                .context("failed to read `--platform`")?;
        }
        set("platform", arguments.platform.join(","));
    }
    if arguments.no_cache {
        set("no-cache", String::new());
    } else if !arguments.no_cache_filter.is_empty() {
        set("no-cache", arguments.no_cache_filter.join(","));
    }
    if arguments.pull {
        set("image-resolve-mode", "pull".to_owned());
    }
    match arguments.network.as_deref() {
        None | Some("" | "default") => {}
        Some(mode @ ("host" | "none")) => set("force-network-mode", mode.to_owned()),
        Some(other) => {
            let known = "write default, host or none";
            return Err(hinted(
                format!("network mode `{other}` is not known"),
                known,
            ));
        }
    }
    if !arguments.add_host.is_empty() {
        let hosts: Vec<_> = arguments.add_host.iter().map(|text| host(text)).collect();
        set(
            "add-hosts",
            hosts
                .into_iter()
                .collect::<anyhow::Result<Vec<_>>>()?
                .join(","),
        );
    }
    if let Some(size) = &arguments.shm_size {
        let bytes = binary_bytes(size).with_context(|| format!("`{size}` is no size"))?;
        set("shm-size", bytes.to_string());
    }
    if !arguments.ulimit.is_empty() {
        let limits: Vec<_> = arguments.ulimit.iter().map(|text| ulimit(text)).collect();
        set(
            "ulimit",
            limits
                .into_iter()
                .collect::<anyhow::Result<Vec<_>>>()?
                .join(","),
        );
    }
    if let Some(parent) = &arguments.cgroup_parent {
        set("cgroup-parent", parent.clone());
    }
    Ok(attrs)
}

/// A name and its value; none for a name that the environment does not have.
fn build_argument(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text)
            .ok()
            .map(|value| (text.to_owned(), value)),
    }
}

/// `host:ip` or `host=ip`, as the frontend wants it.
fn host(text: &str) -> anyhow::Result<String> {
    let (host, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .with_context(|| format!("`{text}` adds no host: write HOST:IP"))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || address.parse::<std::net::IpAddr>().is_err() {
        bail!("`{text}` adds no host: `{address}` is no address");
    }
    Ok(format!("{host}={address}"))
}

/// Docker reads sizes of memory in binary units, whatever they are called.
fn binary_bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let unit = lower.trim_end_matches("ib").trim_end_matches('b');
    if unit.ends_with(|char: char| char.is_ascii_digit()) {
        return parse_bytes(unit);
    }
    parse_bytes(&format!("{unit}ib"))
}

/// `name=soft[:hard]`, checked.
fn ulimit(text: &str) -> anyhow::Result<String> {
    let invalid = || hinted(format!("`{text}` is no limit"), "write NAME=SOFT[:HARD]");
    let (name, values) = text.split_once('=').ok_or_else(invalid)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let soft: i64 = soft.parse().map_err(|_| invalid())?;
    let hard: i64 = hard.parse().map_err(|_| invalid())?;
    if name.is_empty() || (hard != -1 && (soft == -1 || soft > hard)) {
        return Err(invalid());
    }
    Ok(format!("{name}={soft}:{hard}"))
}

/// Reads one `--secret`. A file is checked at once: a missing one would be found late.
pub(super) fn secret(text: &str) -> anyhow::Result<Secret> {
    let (mut id, mut kind, mut path, mut variable) = (None, None, None, None);
    for (key, value) in fields::pairs(text)? {
        let field = match key.as_str() {
            "id" => &mut id,
            "type" => &mut kind,
            "src" | "source" => &mut path,
            "env" => &mut variable,
            other => bail!("`{other}` in `{text}` is no field of a secret"),
        };
        *field = Some(value);
    }
    if let Some(kind) = kind
        .as_deref()
        .filter(|kind| !matches!(*kind, "file" | "env"))
    {
        bail!("type `{kind}` of secret `{text}` is not known");
    }
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = path.take();
    }
    let id = id.or_else(|| path.clone()).or_else(|| variable.clone());
    let id = id.ok_or_else(|| hinted(format!("secret `{text}` has no id"), "add id=ID"))?;
    let source = match (path, variable) {
        (_, Some(variable)) => SecretSource::Environment(variable),
        (Some(path), None) => SecretSource::File(path.into()),
        (None, None) if kind.as_deref() != Some("file") && std::env::var_os(&id).is_some() => {
            SecretSource::Environment(id.clone())
        }
        (None, None) => SecretSource::File(PathBuf::from(&id)),
    };
    if let SecretSource::File(path) = &source {
        let metadata = std::fs::metadata(path)
            .with_context(|| format!("failed to read secret `{id}` at `{}`", path.display()))?;
        if metadata.len() > MAX_SECRET {
            bail!("secret `{id}` is larger than {} KiB", MAX_SECRET >> 10);
        }
    }
    Ok(Secret { id, source })
}

pub(super) fn caches(given: &[String]) -> anyhow::Result<Vec<Cache>> {
    let cache = |text: &String| -> anyhow::Result<Cache> {
        if !text.contains('=') {
            let attrs = [("ref".to_owned(), text.clone())].into();
            return Ok(Cache {
                kind: "registry".to_owned(),
                attrs,
            });
        }
        let mut attrs: BTreeMap<String, String> = fields::pairs(text)?.into_iter().collect();
        let kind = attrs.remove("type");
        let kind =
            kind.ok_or_else(|| hinted(format!("cache `{text}` has no type"), "add type=TYPE"))?;
        Ok(Cache { kind, attrs })
    };
    given.iter().map(cache).collect()
}

/// The directory's name, and something that tells this machine and user from others.
fn shared_key(directory: &Path) -> String {
    let absolute = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let base = absolute
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let user = rustix::process::getuid().as_raw();
    let node = oci::Digest::of(format!("{machine}:{user}:{}", absolute.display()).as_bytes());
    let node = node.to_string();
    let node = node
        .rsplit(':')
        .next()
        .and_then(|hex| hex.get(..16))
        .unwrap_or_default();
    format!("{}:{node}", base.as_deref().unwrap_or("/"))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
