//! The frontend's options: `SolveRequest.FrontendAttrs`, read once.

mod limits;

use std::collections::BTreeMap;

use frontend::{CacheImport, ResolveMode};
use llb::{HostIp, LinuxResources, NetMode, Ulimit};
use oci::{Platform, Reference};

use crate::lint::{LintOptions, LintOptionsError};
use crate::{go, platform};
use limits::{read_hosts, read_resources, read_ulimits};

/// What a build is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Everything as it came.
    pub(crate) raw: BTreeMap<String, String>,
    pub(crate) build_args: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) target: String,
    pub(crate) cache_namespace: String,
    pub(crate) cgroup_parent: String,
    pub(crate) extra_hosts: Vec<HostIp>,
    pub(crate) hostname: String,
    pub(crate) resolve_mode: ResolveMode,
    pub(crate) network: NetMode,
    pub(crate) shm_size: i64,
    pub(crate) ulimits: Vec<Ulimit>,
    pub(crate) linux_resources: Option<LinuxResources>,
    /// Lint options that replace those of the file.
    pub(crate) lint: Option<LintOptions>,
    pub(crate) cache_imports: Vec<CacheImport>,
    /// Empty is the platform of the worker.
    pub(crate) target_platforms: Vec<Platform>,
    pub(crate) build_platform: Platform,
    pub(crate) multi_platform: bool,
    /// Stages without known results; `Some` of nothing is all of them.
    pub(crate) no_cache: Option<Vec<String>>,
    /// The scanner and its parameters.
    pub(crate) sbom: Option<Sbom>,
}

/// The scanner of an SBOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sbom {
    pub(crate) generator: Reference,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// An option that cannot be read. The variants say where; the text in them is BuildKit's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionsError {
    /// An option of BuildKit's past.
    #[error("{0}")]
    Removed(&'static str),
    /// A platform.
    #[error("failed to parse target platform {text}")]
    Platform {
        /// What was given.
        text: String,
        /// What is wrong.
        source: platform::PlatformError,
    },
    /// `image-resolve-mode`.
    #[error("invalid image-resolve-mode: {0}")]
    ResolveMode(String),
    /// `force-network-mode`.
    #[error("invalid netmode {0}")]
    NetMode(String),
    /// `multi-platform`.
    #[error("invalid boolean value for multi-platform: {0}")]
    MultiPlatform(String),
    /// Several platforms without `multi-platform`.
    #[error("conflicting config: returning multiple target platforms is not allowed")]
    SinglePlatform,
    /// A group of options, and what is wrong in it.
    #[error("{what}: {why}")]
    In {
        /// The group.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// `BUILDKIT_DOCKERFILE_CHECK`.
    #[error("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK")]
    Lint(#[source] LintOptionsError),
    /// An attestation of another type.
    #[error("unknown attestation type {}", go::quote(.0))]
    Attestation(String),
}

const BUILD_ARG: &str = "build-arg:";

impl Options {
    /// Reads the options of a build on a worker of platform `build_platform`.
    pub(crate) fn read(
        raw: &BTreeMap<String, String>,
        build_platform: Platform,
    ) -> Result<Options, OptionsError> {
        let mut raw = raw.clone();
        refuse_removed(&raw)?;
        let get = |key: &str| raw.get(key).map(String::as_str).unwrap_or_default();
        let target_platforms = read_platforms(get("platform"))?;
        let resolve_mode = match get("image-resolve-mode") {
            "" | "default" => ResolveMode::Default,
            "pull" => ResolveMode::ForcePull,
            "local" => ResolveMode::PreferLocal,
            other => return Err(OptionsError::ResolveMode(other.to_owned())),
        };
        let extra_hosts =
            read_hosts(get("add-hosts")).map_err(in_group("failed to parse additional hosts"))?;
        let shm_size = match get("shm-size") {
            "" => 0,
            text => go::parse_i64(text, 64)
                .map_err(|e| in_group("failed to parse shm size")(e.to_string()))?,
        };
        let ulimits = read_ulimits(get("ulimit")).map_err(in_group("failed to parse ulimit"))?;
        let linux_resources =
            read_resources(&raw).map_err(in_group("failed to parse resource limits"))?;
        let network = match get("force-network-mode") {
            "" | "sandbox" => NetMode::Sandbox,
            "none" => NetMode::None,
            "host" => NetMode::Host,
            other => return Err(OptionsError::NetMode(other.to_owned())),
        };
        let no_cache = raw.get("no-cache").map(|stages| {
            let stages = stages.split(',').filter(|_| !stages.is_empty());
            stages.map(str::to_owned).collect()
        });
        if let Some(value) = raw.get("build-arg:BUILDKIT_MULTI_PLATFORM").cloned()
            && !value.is_empty()
        {
            raw.insert("multi-platform".to_owned(), value);
        }
        let multi_platform = read_multi_platform(&raw, target_platforms.len())?;
        let cache_imports = read_cache_imports(&raw)?;
        let sbom = read_attestations(&raw)?;
        if let Some(name) = raw.get("build-arg:BUILDKIT_SANDBOX_HOSTNAME").cloned()
            && !name.is_empty()
        {
            raw.insert("hostname".to_owned(), name);
        }
        let lint = raw
            .get("build-arg:BUILDKIT_DOCKERFILE_CHECK")
            .map(|text| LintOptions::parse(text))
            .transpose()
            .map_err(OptionsError::Lint)?;
        let text = |key: &str| raw.get(key).cloned().unwrap_or_default();
        Ok(Options {
            build_args: with_prefix(&raw, BUILD_ARG),
            labels: with_prefix(&raw, "label:"),
            target: text("target"),
            cache_namespace: text("build-arg:BUILDKIT_CACHE_MOUNT_NS"),
            cgroup_parent: text("cgroup-parent"),
            hostname: text("hostname"),
            extra_hosts,
            resolve_mode,
            network,
            shm_size,
            ulimits,
            linux_resources,
            lint,
            cache_imports,
            target_platforms,
            build_platform,
            multi_platform,
            no_cache,
            sbom,
            raw,
        })
    }

    /// Whether known results of a stage are passed over.
    pub(crate) fn is_no_cache(&self, stage: &str) -> bool {
        self.no_cache.as_ref().is_some_and(|stages| {
            stages.is_empty()
                || stages
                    .iter()
                    .any(|name| name.to_lowercase() == stage.to_lowercase())
        })
    }

    /// An option as it came; empty when it is not there.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.raw.get(key).map(String::as_str)
    }

    /// The session that serves the local directory `name`, where it is not the build's own.
    pub(crate) fn local_session(&self, name: &str) -> Option<&str> {
        self.get(&format!("local-sessionid:{name}"))
    }
}

fn in_group<E: ToString>(what: &str) -> impl FnOnce(E) -> OptionsError {
    let what = what.to_owned();
    move |why: E| OptionsError::In {
        what,
        why: why.to_string(),
    }
}

fn with_prefix(raw: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    raw.iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone())))
        .collect()
}

fn refuse_removed(raw: &BTreeMap<String, String>) -> Result<(), OptionsError> {
    if raw
        .get("override-copy-image")
        .is_some_and(|value| !value.is_empty())
    {
        let text = "support for \"override-copy-image\" was removed in BuildKit 0.11";
        return Err(OptionsError::Removed(text));
    }
    let fileop = raw.get("build-arg:BUILDKIT_DISABLE_FILEOP");
    if fileop
        .and_then(|value| go::parse_bool(value))
        .unwrap_or(false)
    {
        let text = "support for \"BUILDKIT_DISABLE_FILEOP\" build-arg was removed in BuildKit 0.11";
        return Err(OptionsError::Removed(text));
    }
    Ok(())
}

fn read_platforms(text: &str) -> Result<Vec<Platform>, OptionsError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|text| match platform::parse(text) {
            Ok(platform) => Ok(platform.normalized()),
            Err(source) => Err(OptionsError::Platform {
                text: text.to_owned(),
                source,
            }),
        })
        .collect()
}

fn read_multi_platform(
    raw: &BTreeMap<String, String>,
    platforms: usize,
) -> Result<bool, OptionsError> {
    let Some(text) = raw.get("multi-platform").filter(|text| !text.is_empty()) else {
        return Ok(platforms > 1);
    };
    let wanted = go::parse_bool(text).ok_or_else(|| OptionsError::MultiPlatform(text.clone()))?;
    if !wanted && platforms > 1 {
        return Err(OptionsError::SinglePlatform);
    }
    Ok(wanted)
}

fn fields(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    go::csv_fields(text).map_err(|error| error.to_string())
}

fn read_cache_imports(raw: &BTreeMap<String, String>) -> Result<Vec<CacheImport>, OptionsError> {
    /// An entry as clients write it.
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(alias = "type", rename = "Type", default)]
        kind: String,
        #[serde(alias = "attrs", rename = "Attrs", default)]
        attrs: Option<BTreeMap<String, String>>,
    }
    let mut imports = Vec::new();
    if let Some(text) = raw.get("cache-imports").filter(|text| !text.is_empty()) {
        let entries: Vec<Entry> = serde_json::from_str(text).map_err(|error| {
            let what = format!("failed to unmarshal cache-imports ({})", go::quote(text));
            in_group(&what)(error.to_string())
        })?;
        imports.extend(entries.into_iter().map(|entry| CacheImport {
            kind: entry.kind,
            attrs: entry.attrs.unwrap_or_default(),
        }));
    }
    if let Some(text) = raw.get("cache-from").filter(|text| !text.is_empty()) {
        imports.extend(text.split(',').map(|reference| CacheImport {
            kind: "registry".to_owned(),
            attrs: [("ref".to_owned(), reference.to_owned())].into(),
        }));
    }
    Ok(imports)
}

const SCANNER: &str = "docker/buildkit-syft-scanner:stable-1";

fn read_attestations(raw: &BTreeMap<String, String>) -> Result<Option<Sbom>, OptionsError> {
    let mut sbom = None;
    for (key, value) in raw {
        let kind = key
            .strip_prefix("attest:")
            .or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"))
            .map(str::to_lowercase);
        let Some(kind) = kind else { continue };
        let fields = fields(value).map_err(in_group(&format!("failed to parse {kind}")))?;
        match kind.as_str() {
            "provenance" => {}
            "sbom" => sbom = Some(fields),
            _ => return Err(OptionsError::Attestation(kind)),
        }
    }
    let Some(fields) = sbom else { return Ok(None) };
    let mut generator = SCANNER.to_owned();
    let mut parameters = BTreeMap::new();
    for field in fields {
        let (key, value) = field.split_once('=').unwrap_or((field.as_str(), ""));
        if key == "generator" {
            value.clone_into(&mut generator);
        } else {
            parameters.insert(key.to_owned(), value.to_owned());
        }
    }
    let reference = Reference::parse(&generator).map_err(in_group(&format!(
        "failed to parse sbom scanner {generator}"
    )))?;
    Ok(Some(Sbom {
        generator: reference.with_default_tag(),
        parameters,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let raw = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Options::read(&raw, Platform::host()).map_err(|error| {
            let source = std::error::Error::source(&error);
            source.map_or(error.to_string(), |source| format!("{error}: {source}"))
        })
    }

    #[test]
    fn options_are_read_once() {
        let options = read(&[
            ("platform", "linux/arm64/v8,linux/arm"),
            ("add-hosts", "A=1.2.3.4,b=::1"),
            ("ulimit", "nofile=10:20,nproc=5"),
            ("no-cache", "a,b"),
            ("build-arg:BUILDKIT_SANDBOX_HOSTNAME", "h"),
            ("cache-from", "x,y"),
            ("cpusetcpus", "0-1, 3"),
        ])
        .unwrap();
        assert!(options.multi_platform);
        assert_eq!(options.target_platforms[1].variant, "v7");
        assert_eq!(options.extra_hosts[0].host, "a");
        assert_eq!(options.ulimits[1].hard, 5);
        assert!(options.is_no_cache("A") && !options.is_no_cache("c"));
        assert_eq!(options.hostname, "h");
        assert_eq!(options.cache_imports.len(), 2);
        assert!(read(&[("no-cache", "")]).unwrap().is_no_cache("x"));
    }

    #[test]
    fn wrong_options_are_refused_in_buildkits_words() {
        for (pair, want) in [
            (
                ("platform", "foo"),
                "failed to parse target platform foo: \"foo\": unknown operating system or architecture: invalid argument",
            ),
            (("image-resolve-mode", "x"), "invalid image-resolve-mode: x"),
            (
                ("add-hosts", "a=x"),
                "failed to parse additional hosts: failed to parse IP x",
            ),
            (
                ("ulimit", "x=1"),
                "failed to parse ulimit: invalid ulimit type: x",
            ),
            (
                ("memory", "0"),
                "failed to parse resource limits: invalid memory value: 0: must be > 0",
            ),
            (("force-network-mode", "x"), "invalid netmode x"),
            (("attest:foo", ""), "unknown attestation type \"foo\""),
        ] {
            assert_eq!(read(&[pair]).unwrap_err(), want);
        }
    }
}
