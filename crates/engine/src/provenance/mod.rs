//! Provenance: what a result was made of, and how, as SLSA says it.

mod ask;
mod steps;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use llb::{Graph, MountKind, NetMode, OpKind};
use oci::{Platform, Reference, redact_url};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use ask::{Ask, Mode, Version};

const TYPE_1: &str = "https://slsa.dev/provenance/v1";
const TYPE_02: &str = "https://slsa.dev/provenance/v0.2";
const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";

/// The version of the Dockerfile language that the built-in frontend reads.
pub const DOCKERFILE_VERSION: &str = "1.26.0";

/// The compatibility version that builds here follow.
const COMPATIBILITY: i64 = 30;

/// What is known of a build for provenance. Cheap to make: it is put into words when asked for.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The frontend that made the result, and what it was told.
    pub(crate) frontend: String,
    pub(crate) args: BTreeMap<String, String>,
    /// What the client asked of the daemon, if it called the frontend itself.
    pub(crate) root: Option<BTreeMap<String, String>>,
    /// The client's directories that were read.
    pub(crate) locals: BTreeSet<String>,
    /// The results, by platform id.
    pub(crate) results: Vec<(String, Option<Arc<Graph>>)>,
    pub(crate) builder_platform: Platform,
    pub(crate) invocation: String,
    pub(crate) started: SystemTime,
    pub(crate) finished: SystemTime,
    /// The builder that the client named.
    pub(crate) builder_id: String,
}

/// Provenance in words.
#[derive(Clone, Debug)]
pub struct Predicate {
    /// Its type, a URI.
    pub kind: &'static str,
    /// What it says.
    pub value: Value,
}

impl Provenance {
    /// The platform ids of the results that there is something to say of.
    pub fn results(&self) -> impl Iterator<Item = &str> {
        let results = self.results.iter();
        results.filter_map(|(key, graph)| graph.as_ref().map(|_| key.as_str()))
    }

    /// All that can be said of a result, as the history of builds keeps it.
    pub fn whole(&self, key: &str) -> Predicate {
        let builder_id = self.builder_id.clone();
        self.of(
            key,
            &Ask {
                builder_id,
                usage: true,
                ..Ask::max()
            },
        )
    }

    /// What is said of the result for the platform `key`.
    pub fn of(&self, key: &str, ask: &Ask) -> Predicate {
        let found = self.results.iter().find(|(of, _)| of == key);
        let graph = found.and_then(|(_, graph)| graph.as_deref());
        let facts = Facts::of(graph);
        match ask.version {
            Version::V1 => Predicate {
                kind: TYPE_1,
                value: self.version_1(graph, &facts, ask),
            },
            Version::V02 => Predicate {
                kind: TYPE_02,
                value: self.version_02(graph, &facts, ask),
            },
        }
    }

    fn is_complete(&self, facts: &Facts) -> bool {
        self.locals.is_empty() && !facts.incomplete
    }

    /// Whether all arguments are told.
    fn is_request_complete(&self, ask: &Ask) -> bool {
        let scrubbed = |args: &BTreeMap<String, String>| args.keys().any(|key| is_argument(key));
        let hidden = scrubbed(&self.args) || self.root.as_ref().is_some_and(scrubbed);
        !self.frontend.is_empty() && (ask.mode == Mode::Max || !hidden)
    }

    fn version_1(&self, graph: Option<&Graph>, facts: &Facts, ask: &Ask) -> Value {
        let mut external = Map::new();
        external.insert("configSource".to_owned(), config_source(&self.args, "path"));
        external.insert("request".to_owned(), self.request(facts, ask));
        let mut internal = Map::new();
        internal.insert(
            "builderPlatform".to_owned(),
            json!(self.builder_platform.to_string()),
        );
        let mut details = self.details(ask);
        if self.frontend == "dockerfile.v0" {
            internal.insert("dockerfileVersion".to_owned(), json!(DOCKERFILE_VERSION));
        }
        if let (Mode::Max, Some(graph)) = (ask.mode, graph) {
            let (config, source) = build_config(graph);
            internal.insert("buildConfig".to_owned(), config);
            details.insert("source".to_owned(), source);
        }
        let mut definition = Map::new();
        definition.insert("buildType".to_owned(), json!(BUILD_TYPE_1));
        if !facts.materials.is_empty() {
            definition.insert("resolvedDependencies".to_owned(), json!(facts.materials));
        }
        definition.insert("externalParameters".to_owned(), Value::Object(external));
        definition.insert("internalParameters".to_owned(), Value::Object(internal));
        let complete = self.is_complete(facts);
        let mut metadata = json!({
            "invocationId": self.invocation,
            "startedOn": stamp(self.started),
            "finishedOn": stamp(self.finished),
            "buildkit_metadata": details,
            "buildkit_completeness": {
                "request": self.is_request_complete(ask),
                "resolvedDependencies": complete,
            },
        });
        if complete && !facts.network {
            metadata["buildkit_hermetic"] = json!(true);
        }
        if ask.reproducible {
            metadata["buildkit_reproducible"] = json!(true);
        }
        json!({
            "buildDefinition": definition,
            "runDetails": { "builder": { "id": ask.builder_id }, "metadata": metadata },
        })
    }

    fn version_02(&self, graph: Option<&Graph>, facts: &Facts, ask: &Ask) -> Value {
        let complete = self.is_complete(facts);
        let mut details = self.details(ask);
        let mut value = json!({
            "builder": { "id": ask.builder_id },
            "buildType": BUILD_TYPE_02,
            "materials": facts.materials,
            "invocation": {
                "configSource": config_source(&self.args, "entryPoint"),
                "parameters": self.request(facts, ask),
                "environment": { "platform": self.builder_platform.to_string() },
            },
        });
        if let (Mode::Max, Some(graph)) = (ask.mode, graph) {
            let (config, source) = build_config(graph);
            value["buildConfig"] = config;
            details.insert("source".to_owned(), source);
        }
        let mut metadata = json!({
            "buildInvocationID": self.invocation,
            "buildStartedOn": stamp(self.started),
            "buildFinishedOn": stamp(self.finished),
            "completeness": {
                "parameters": self.is_request_complete(ask),
                "environment": true,
                "materials": complete,
            },
            "reproducible": ask.reproducible,
            "https://mobyproject.org/buildkit@v1#metadata": details,
        });
        if complete && !facts.network {
            metadata["https://mobyproject.org/buildkit@v1#hermetic"] = json!(true);
        }
        value["metadata"] = metadata;
        value
    }

    /// What was asked for.
    fn request(&self, facts: &Facts, ask: &Ask) -> Value {
        let mut request = parameters(&self.frontend, &self.args, ask);
        if ask.mode == Mode::Max {
            if !facts.secrets.is_empty() {
                request.insert("secrets".to_owned(), named(&facts.secrets));
            }
            if !facts.ssh.is_empty() {
                request.insert("ssh".to_owned(), named(&facts.ssh));
            }
        }
        if !self.locals.is_empty() {
            let locals = self.locals.iter().map(|name| json!({ "name": name }));
            request.insert("locals".to_owned(), locals.collect());
        }
        // What a client asks for that drives its build is told where it says more than what it then had
        // done.
        if let Some(root) = &self.root
            && root.keys().any(|key| is_told(key))
        {
            let asked = parameters("", root, ask);
            let root = json!({ "configSource": config_source(root, "path"), "request": asked });
            request.insert("root".to_owned(), root);
        }
        request.insert("compatibilityVersion".to_owned(), json!(COMPATIBILITY));
        Value::Object(request)
    }

    /// What else is known: the repository that the client builds from, and how busy the machine is.
    fn details(&self, ask: &Ask) -> Map<String, Value> {
        let vcs: Map<String, Value> = self
            .args
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .filter_map(|(key, value)| {
                Some((
                    key.strip_prefix("vcs:")?.to_owned(),
                    json!(redact_url(value)),
                ))
            })
            .collect();
        let mut details = Map::new();
        if !vcs.is_empty() {
            details.insert("vcs".to_owned(), Value::Object(vcs));
        }
        if ask.usage {
            details.insert("sysUsage".to_owned(), json!([usage::sample()]));
        }
        details
    }
}

/// The steps of a graph, and the files that they are written in.
fn build_config(graph: &Graph) -> (Value, Value) {
    let steps = steps::describe(graph);
    let config = json!({
        "llbDefinition": steps.definition,
        "digestMapping": steps.mapping,
    });
    let source = match steps.infos.is_empty() {
        true => json!({}),
        false => json!({ "locations": steps.locations, "infos": steps.infos }),
    };
    (config, source)
}

fn is_argument(key: &str) -> bool {
    key.starts_with("build-arg:") || key.starts_with("label:")
}

/// Arguments that say something of the machine and not of the build, or that are told elsewhere.
fn is_told(key: &str) -> bool {
    let left_out = [
        "cgroup-parent",
        "image-resolve-mode",
        "platform",
        "cache-imports",
        "frontend.caps",
        "filename",
        "context",
    ];
    let prefixes = ["attest:", "build-arg:BUILDKIT_ATTEST_", "vcs:"];
    !left_out.contains(&key) && !prefixes.iter().any(|prefix| key.starts_with(prefix))
}

fn parameters(frontend: &str, args: &BTreeMap<String, String>, ask: &Ask) -> Map<String, Value> {
    let args: Map<String, Value> = args
        .iter()
        .filter(|(key, _)| is_told(key) && (ask.mode == Mode::Max || !is_argument(key)))
        .map(|(key, value)| (key.clone(), json!(redact_url(value))))
        .collect();
    let mut told = Map::new();
    if !frontend.is_empty() {
        told.insert("frontend".to_owned(), json!(frontend));
    }
    if !args.is_empty() {
        told.insert("args".to_owned(), Value::Object(args));
    }
    told
}

/// Where the description of the build comes from; `path` is the key of its file.
fn config_source(args: &BTreeMap<String, String>, path: &str) -> Value {
    let mut source = Map::new();
    let given = |key: &str| args.get(key).filter(|value| !value.is_empty());
    if let Some(context) = given("context") {
        source.insert("uri".to_owned(), json!(redact_url(context)));
    }
    if let Some(file) = given("filename") {
        source.insert(path.to_owned(), json!(file));
    }
    Value::Object(source)
}

/// What a graph says of its result.
#[derive(Default)]
struct Facts {
    materials: Vec<Value>,
    /// Id and whether the build goes on without it.
    secrets: BTreeMap<String, bool>,
    ssh: BTreeMap<String, bool>,
    /// Whether a step could reach the network.
    network: bool,
    /// Whether something was used that is not told.
    incomplete: bool,
}

impl Facts {
    fn of(graph: Option<&Graph>) -> Facts {
        let mut facts = Facts::default();
        for vertex in graph.into_iter().flat_map(Graph::vertices) {
            match &vertex.op().kind {
                OpKind::Source(source) => {
                    facts.add_source(&source.identifier, &source.attrs, vertex.platform());
                }
                OpKind::Exec(exec) => {
                    facts.network |= exec.network != NetMode::None;
                    for secret in &exec.secret_env {
                        facts.secrets.insert(secret.id.clone(), secret.optional);
                    }
                    for mount in &exec.mounts {
                        match &mount.kind {
                            MountKind::Secret(secret) => {
                                facts.secrets.insert(secret.id.clone(), secret.optional);
                            }
                            MountKind::Ssh(ssh) => {
                                facts.ssh.insert(ssh.id.clone(), ssh.optional);
                            }
                            MountKind::Bind | MountKind::Cache(_) | MountKind::Tmpfs { .. } => {}
                        }
                    }
                }
                OpKind::Build(_) => facts.incomplete = true,
                OpKind::File(_) | OpKind::Merge(_) | OpKind::Diff(_) | OpKind::Passthrough(_) => {}
            }
        }
        facts
    }

    fn add_source(
        &mut self,
        identifier: &str,
        attrs: &BTreeMap<String, String>,
        platform: &Platform,
    ) {
        let Some((scheme, rest)) = identifier.split_once("://") else {
            return;
        };
        let material = match scheme {
            "docker-image" => image("docker", rest, Some(platform)),
            "oci-layout" => image("oci", rest, Some(platform)),
            "http" | "https" => {
                let mut material = json!({ "uri": redact_url(identifier) });
                match attrs
                    .get("http.checksum")
                    .and_then(|sum| sum.split_once(':'))
                {
                    Some((algorithm, hex)) => material["digest"] = json!({ algorithm: hex }),
                    None => self.incomplete = true,
                }
                Some(material)
            }
            "git" => {
                self.incomplete = true;
                let url = attrs.get("git.fullurl").map_or(rest, String::as_str);
                Some(json!({ "uri": redact_url(url) }))
            }
            _ => None,
        };
        self.materials.extend(material);
    }
}

/// An image as a package URL, with its digest.
fn image(kind: &str, reference: &str, platform: Option<&Platform>) -> Option<Value> {
    let reference = Reference::parse(reference).ok()?;
    let mut short = reference.clone();
    (short.tag, short.digest) = (None, None);
    let mut url = format!("pkg:{kind}/{}", short.familiar().replace(':', "%3A"));
    let mut qualifiers = Vec::new();
    match (&reference.tag, &reference.digest) {
        (Some(tag), _) => url.push_str(&format!("@{tag}")),
        (None, Some(digest)) => qualifiers.push(format!("digest={digest}")),
        (None, None) => url.push_str("@latest"),
    }
    if let Some(platform) = platform {
        let platform = platform.to_string().replace('/', "%2F");
        qualifiers.push(format!("platform={platform}"));
    }
    if !qualifiers.is_empty() {
        url.push_str(&format!("?{}", qualifiers.join("&")));
    }
    let mut material = json!({ "uri": url });
    if let Some(digest) = &reference.digest {
        material["digest"] = json!({ "sha256": digest.hex() });
    }
    Some(material)
}

fn named(ids: &BTreeMap<String, bool>) -> Value {
    let ids = ids.iter().map(|(id, optional)| match optional {
        true => json!({ "id": id, "optional": true }),
        false => json!({ "id": id }),
    });
    ids.collect()
}

fn stamp(time: SystemTime) -> String {
    // Fails only for years of five digits.
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .unwrap_or_default()
}
