//! Surroundings behind a [`Bridge`].

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use frontend::{
    Bridge, FileRange, FrontendError, LayoutStore, ResolveImage, ResolveSource, ResolvedImage,
    ResolvedSource, ResultRef, SolveGraph,
};
use llb::builder::{Builder, Defaults, HttpSource, LocalSource, Options as Vertex, State};
use llb::{Definition, Graph, Input, Op, OpKind, OpMetadata, SourceOp};
use oci::Reference;
use tokio::sync::{Mutex, OnceCell};

use super::fetched::{HTTP_FILE, internal};
use super::{
    CONTEXT, ContextError, DOCKERFILE, DOCKERFILE_DIR, Fetched, IGNORE_FILE, MainSource,
    NamedContext, SCRATCH, Surroundings, archive, know_ssh_hosts,
};
use crate::git::GitRef;
use crate::go;
use crate::options::Options;

/// The config of an input, in its metadata.
const IMAGE_CONFIG: &str = "containerimage.config";

/// Surroundings behind a [`Bridge`].
pub(crate) struct Client {
    bridge: Arc<dyn Bridge>,
    options: Arc<Options>,
    main: OnceCell<Main>,
    ignore: OnceCell<(String, Bytes)>,
    /// The keys of ssh servers, each asked for once.
    host_keys: Mutex<BTreeMap<String, Option<String>>>,
}

/// The main context and the Dockerfile's place.
struct Main {
    /// `None` is a directory of the client.
    context: Option<MainSource>,
    /// Where the Dockerfile is, when it is not in a directory of the client.
    dockerfile: Option<MainSource>,
    dockerfile_dir: String,
    filename: String,
}

/// The Dockerfile, and what brought it in.
pub(crate) struct Entrypoint {
    pub(crate) filename: String,
    pub(crate) data: Bytes,
    pub(crate) graph: Arc<Graph>,
}

impl Client {
    pub(crate) fn new(bridge: Arc<dyn Bridge>, options: Arc<Options>) -> Client {
        Client {
            bridge,
            options,
            main: OnceCell::new(),
            ignore: OnceCell::new(),
            host_keys: Mutex::default(),
        }
    }

    /// The session that serves a local directory.
    fn session(&self, name: &str) -> String {
        self.options
            .local_session(name)
            .unwrap_or_else(|| self.bridge.session_id())
            .to_owned()
    }

    fn graph(builder: &Builder, state: &State) -> Result<Arc<Graph>, ContextError> {
        let definition = builder.definition(state, &Defaults::default());
        Ok(Arc::new(Graph::new(&definition)?))
    }

    async fn solve(&self, graph: Arc<Graph>, evaluate: bool) -> Result<ResultRef, FrontendError> {
        let request = SolveGraph {
            graph,
            cache_imports: Vec::new(),
            evaluate,
        };
        self.bridge.solve(request).await
    }

    async fn main(&self) -> Result<&Main, ContextError> {
        self.main.get_or_try_init(|| self.find_main()).await
    }

    async fn find_main(&self) -> Result<Main, ContextError> {
        let options = &self.options;
        let filename = options.get("filename").unwrap_or(DOCKERFILE).to_owned();
        let dockerfile_dir = options.get("dockerfilekey");
        let mut main = Main {
            context: None,
            dockerfile: None,
            dockerfile_dir: dockerfile_dir.unwrap_or(DOCKERFILE_DIR).to_owned(),
            filename,
        };
        let key = options.get("contextkey").unwrap_or(CONTEXT);
        let text = options.get(key).unwrap_or_default();
        if let Some(git) = GitRef::parse(text) {
            let git = self.context_git(git?);
            main.context = Some(MainSource::Git {
                git,
                text: text.to_owned(),
            });
            main.dockerfile.clone_from(&main.context);
        } else if text.starts_with("http://") || text.starts_with("https://") {
            let archive = self.is_archive(text).await?;
            if !archive {
                HTTP_FILE.clone_into(&mut main.filename);
            }
            main.context = Some(MainSource::Http {
                url: text.to_owned(),
                archive,
            });
            main.dockerfile.clone_from(&main.context);
        } else {
            let inputs = self
                .bridge
                .inputs()
                .await
                .map_err(|source| ContextError::EngineAt {
                    what: "failed to get frontend inputs",
                    source,
                })?;
            let input = |name: &str| inputs.get(name).cloned().map(MainSource::Input);
            main.dockerfile = input(&main.dockerfile_dir);
            main.context = input(CONTEXT);
        }
        if dockerfile_dir.is_some() {
            main.dockerfile = None;
        }
        if let Some(dir) = options.get("contextsubdir") {
            main.context = main.context.map(|whole| MainSource::Sub {
                whole: Box::new(whole),
                dir: dir.to_owned(),
            });
        }
        Ok(main)
    }

    /// A main context's repository with the options that hold for it.
    fn context_git(&self, mut git: GitRef) -> GitRef {
        let keep = self.options.get("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        if keep.and_then(go::parse_bool) == Some(true) {
            git.keep_git_dir = Some(true);
        }
        let epoch = self.options.build_args.get("SOURCE_DATE_EPOCH");
        if git.mtime.is_empty() && epoch.is_some_and(|epoch| !epoch.is_empty()) {
            "commit".clone_into(&mut git.mtime);
        }
        git
    }

    /// Whether what is behind an URL is an archive.
    async fn is_archive(&self, url: &str) -> Result<bool, ContextError> {
        /// What archives are told by: magic numbers, and the first header of a tar.
        const HEAD: u64 = 1024;
        let graph = self.http_graph(url)?;
        let at = |what| move |source| ContextError::EngineAt { what, source };
        let result = self
            .solve(graph, false)
            .await
            .map_err(at("failed to resolve httpcontext"))?;
        let range = FileRange {
            offset: 0,
            length: HEAD,
        };
        let head = self.bridge.read_file(&result, HTTP_FILE, Some(range)).await;
        Ok(archive::is_archive(
            &head.map_err(at("failed to read downloaded context"))?,
        ))
    }

    fn http_graph(&self, url: &str) -> Result<Arc<Graph>, ContextError> {
        let mut builder = Builder::new();
        let filename = HTTP_FILE.to_owned();
        let http = HttpSource {
            url: url.to_owned(),
            filename,
            checksum: String::new(),
        };
        let state = builder.http(&http, internal("load remote build context"));
        Client::graph(&builder, &state)
    }

    /// Reads the Dockerfile.
    pub(crate) async fn entrypoint(&self) -> Result<Entrypoint, ContextError> {
        let main = self.main().await?;
        let filename = main.filename.clone();
        let ignore = format!("{filename}{IGNORE_FILE}");
        let lower = (go::base(&filename) == DOCKERFILE).then(|| {
            let dir = filename.strip_suffix(DOCKERFILE).unwrap_or_default();
            go::join(&[dir, &DOCKERFILE.to_lowercase()])
        });
        let mut builder = Builder::new();
        let state = match &main.dockerfile {
            Some(source) => source.state(&mut builder, &[]),
            None => {
                let mut names = vec![filename.clone(), ignore.clone()];
                names.extend(lower.clone());
                let local = LocalSource {
                    name: main.dockerfile_dir.clone(),
                    session: self.session(&main.dockerfile_dir),
                    follow_paths: go::json_array(&names),
                    exclude: String::new(),
                    shared_key_hint: main.dockerfile_dir.clone(),
                    no_differ: true,
                };
                builder.local(
                    &local,
                    internal(&format!("load build definition from {filename}")),
                )
            }
        };
        know_ssh_hosts(&mut builder, self).await;
        let graph = Client::graph(&builder, &state)?;
        let at = |what| move |source| ContextError::EngineAt { what, source };
        let result = self
            .solve(graph.clone(), false)
            .await
            .map_err(at("failed to resolve dockerfile"))?;
        let mut read = self.bridge.read_file(&result, &filename, None).await;
        if let (Err(_), Some(lower)) = (&read, &lower)
            && let Ok(data) = self.bridge.read_file(&result, lower, None).await
        {
            read = Ok(data);
        }
        let data = read
            .map_err(not_code)
            .map_err(at("failed to read dockerfile"))?;
        if let Ok(patterns) = self.bridge.read_file(&result, &ignore, None).await {
            // Set once: nothing else can have asked for it before the Dockerfile was read.
            let _ = self.ignore.set((ignore, patterns));
        }
        Ok(Entrypoint {
            filename,
            data,
            graph,
        })
    }

    /// Reads the ignore file of a local directory; empty when there is none.
    async fn read_ignore(
        &self,
        local: &LocalSource,
        vertex: Vertex,
        evaluate: bool,
    ) -> Result<Bytes, ContextError> {
        let mut builder = Builder::new();
        let state = builder.local(local, vertex);
        let result = self
            .solve(Client::graph(&builder, &state)?, evaluate)
            .await?;
        Ok(self
            .bridge
            .read_file(&result, IGNORE_FILE, None)
            .await
            .unwrap_or_default())
    }

    async fn main_ignore(&self) -> Result<&(String, Bytes), ContextError> {
        self.ignore
            .get_or_try_init(|| async {
                let local = LocalSource {
                    name: CONTEXT.to_owned(),
                    session: self.session(CONTEXT),
                    follow_paths: go::json_array(&[IGNORE_FILE.to_owned()]),
                    exclude: String::new(),
                    shared_key_hint: format!("{CONTEXT}-{IGNORE_FILE}"),
                    no_differ: true,
                };
                let vertex = internal(&format!("load {IGNORE_FILE}"));
                let data = self.read_ignore(&local, vertex, false).await?;
                Ok((IGNORE_FILE.to_owned(), data))
            })
            .await
    }

    async fn named_image(&self, context: &NamedContext, text: &str) -> Fetch {
        let text = text.strip_prefix("//").unwrap_or(text);
        if text == SCRATCH {
            return Ok(Fetched::Scratch);
        }
        let reference = Reference::parse(text)?.with_default_tag();
        let resolved = self
            .bridge
            .resolve_image(ResolveImage {
                reference: reference.to_string(),
                platform: context.platform.clone(),
                mode: self.options.resolve_mode,
                log_name: format!("[context {}] load metadata for {text}", context.found_as),
                layout: None,
            })
            .await?;
        let reference = Reference::parse(&resolved.reference)?.with_default_tag();
        Ok(Fetched::Image {
            reference,
            config: resolved.config,
            layout: None,
        })
    }

    async fn named_layout(&self, context: &NamedContext, text: &str) -> Fetch {
        let text = text.strip_prefix("//").unwrap_or(text);
        let layout = |source| ContextError::Layout {
            text: text.to_owned(),
            source,
        };
        let (store, _) = text.split_once('@').unwrap_or((text, ""));
        let store = match store.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => store,
        };
        let digest = Reference::parse(text).map_err(layout)?.digest;
        let digest = digest.ok_or_else(|| ContextError::LayoutDigest(text.to_owned()))?;
        // Shown in names only: the store's own name may say nothing.
        let mut reference = Reference::parse(&context.name).map_err(layout)?;
        reference.digest = Some(digest);
        let session = self.bridge.session_id().to_owned();
        let resolved = self
            .bridge
            .resolve_image(ResolveImage {
                reference: reference.to_string(),
                platform: context.platform.clone(),
                mode: self.options.resolve_mode,
                log_name: format!(
                    "[context {}] load metadata for {reference}",
                    context.found_as
                ),
                layout: Some(LayoutStore {
                    session: session.clone(),
                    store: store.to_owned(),
                }),
            })
            .await?;
        let layout = Some((session, store.to_owned()));
        Ok(Fetched::Image {
            reference,
            config: resolved.config,
            layout,
        })
    }

    async fn named_local(&self, context: &NamedContext, name: &str) -> Fetch {
        let found_as = &context.found_as;
        let session = self.session(name);
        let local = LocalSource {
            name: name.to_owned(),
            session: session.clone(),
            follow_paths: go::json_array(&[IGNORE_FILE.to_owned()]),
            exclude: String::new(),
            shared_key_hint: format!("context:{found_as}-{IGNORE_FILE}"),
            no_differ: true,
        };
        let vertex = Vertex::named(format!("[context {found_as}] load {IGNORE_FILE}"));
        let data = self.read_ignore(&local, vertex, true).await?;
        let excludes = parse_ignore(IGNORE_FILE, &data)?;
        Ok(Fetched::Local {
            name: name.to_owned(),
            session,
            excludes,
        })
    }

    async fn named_input(&self, context: &NamedContext, name: &str) -> Fetch {
        let mut inputs = self.bridge.inputs().await?;
        let graph = inputs.remove(name).ok_or_else(|| ContextError::Input {
            input: name.to_owned(),
            name: context.found_as.clone(),
        })?;
        let mut config = None;
        if let Some(text) = self.options.get(&format!("input-metadata:{name}")) {
            // Values are bytes, which JSON has as base64.
            let error = |source| ContextError::Config {
                what: format!("failed to parse input metadata {text}"),
                source,
            };
            let metadata: BTreeMap<String, String> = serde_json::from_str(text).map_err(error)?;
            if let Some(encoded) = metadata.get(IMAGE_CONFIG) {
                let input = name.to_owned();
                let error = |_| ContextError::Input {
                    input,
                    name: context.found_as.clone(),
                };
                config = Some(Bytes::from(STANDARD.decode(encoded).map_err(error)?));
            }
        }
        Ok(Fetched::Input { graph, config })
    }
}

type Fetch = Result<Fetched, ContextError>;

#[async_trait]
impl Surroundings for Client {
    async fn resolve_image(&self, request: ResolveImage) -> Result<ResolvedImage, FrontendError> {
        self.bridge.resolve_image(request).await
    }

    async fn resolve_source(
        &self,
        request: ResolveSource,
    ) -> Result<ResolvedSource, FrontendError> {
        self.bridge.resolve_source(request).await
    }

    async fn ignore_patterns(&self) -> Result<Vec<String>, ContextError> {
        if self.main().await?.context.is_some() {
            return Ok(Vec::new());
        }
        let (name, data) = self.main_ignore().await?;
        parse_ignore(name, data)
    }

    async fn main_source(&self) -> Result<MainSource, ContextError> {
        if let Some(context) = &self.main().await?.context {
            return Ok(context.clone());
        }
        let excludes = self.ignore_patterns().await?;
        Ok(MainSource::Local {
            session: self.session(CONTEXT),
            excludes,
        })
    }

    async fn named_source(&self, context: &NamedContext) -> Result<Fetched, ContextError> {
        let input = &context.input;
        let (scheme, rest) = input
            .split_once(':')
            .ok_or_else(|| ContextError::Specifier {
                input: input.clone(),
                name: context.found_as.clone(),
            })?;
        let git = || match GitRef::parse(input) {
            None => Ok(None),
            Some(Err(error)) => Err(ContextError::GitRef(error)),
            Some(Ok(git)) => Ok(Some(Fetched::Git {
                git,
                text: input.clone(),
            })),
        };
        match scheme {
            "docker-image" => self.named_image(context, rest).await,
            "oci-layout" => self.named_layout(context, rest).await,
            "local" => self.named_local(context, rest).await,
            "input" => self.named_input(context, rest).await,
            "http" | "https" => Ok(git()?.unwrap_or_else(|| Fetched::Http(input.clone()))),
            _ if scheme == "git" || scheme.starts_with("git@") => {
                git()?.ok_or_else(|| ContextError::Git(input.clone()))
            }
            _ => Err(ContextError::Scheme {
                scheme: scheme.to_owned(),
                name: context.found_as.clone(),
            }),
        }
    }

    async fn ssh_host_key(&self, host: &str) -> Option<String> {
        let mut known = self.host_keys.lock().await;
        if let Some(line) = known.get(host) {
            return line.clone();
        }
        let line = self.bridge.ssh_host_key(host).await;
        known.insert(host.to_owned(), line.clone());
        line
    }

    async fn archive_time(&self, source: &ResolveSource) -> Result<Option<i64>, ContextError> {
        let Some(filename) = source.attrs.get("http.filename") else {
            return Ok(None);
        };
        let op = Op {
            inputs: Vec::new(),
            kind: OpKind::Source(SourceOp {
                identifier: source.identifier.clone(),
                attrs: source.attrs.clone(),
            }),
            platform: source.platform.clone(),
            constraints: Some(Vec::new()),
        };
        let mut definition = Definition::default();
        let digest = definition.push(&op, OpMetadata::default());
        definition.finish(Input { digest, output: 0 });
        let graph = Arc::new(Graph::new(&definition)?);
        let result = self.solve(graph, false).await?;
        let data = self.bridge.read_file(&result, filename, None).await?;
        let time = tokio::task::spawn_blocking(move || archive::newest(&data)).await;
        // What is no archive has no time, and neither has one that cannot be read.
        Ok(time.unwrap_or_default())
    }
}

fn parse_ignore(name: &str, data: &[u8]) -> Result<Vec<String>, ContextError> {
    fstree::dockerignore::parse(data).map_err(|source| ContextError::Ignore {
        name: name.to_owned(),
        source,
    })
}

/// A Dockerfile that is not there is a mistake of the request: clients are not told that the build
/// itself was not found.
fn not_code(error: FrontendError) -> FrontendError {
    match error {
        FrontendError::NotFound(message) => FrontendError::invalid(message),
        other => other,
    }
}
