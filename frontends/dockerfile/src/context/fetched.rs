//! What was fetched, and the states it becomes.

use std::sync::Arc;

use bytes::Bytes;
use frontend::ResolveMode;
use llb::builder::{
    Builder, Copy, DeferredId, FileStep, HttpSource, ImageSource, LocalSource, Options as Vertex,
    State,
};
use llb::{CopyAction, Graph};
use oci::{ImageConfig, Reference};

use super::{CONTEXT, ContextError, NamedContext};
use crate::git::GitRef;
use crate::{go, image};

/// The main context, before its use is known.
#[derive(Clone, Debug)]
pub(crate) enum MainSource {
    /// A directory of the client.
    Local {
        session: String,
        excludes: Vec<String>,
    },
    /// A repository.
    Git { git: GitRef, text: String },
    /// A file behind an URL; the directory that it holds if it is an archive.
    Http { url: String, archive: bool },
    /// A graph that the client gives.
    Input(Arc<Graph>),
    /// A directory of another one.
    Sub { whole: Box<MainSource>, dir: String },
}

/// The file of an http context.
pub(crate) const HTTP_FILE: &str = "context";

/// `[internal] …`.
pub(crate) fn internal(name: &str) -> Vertex {
    Vertex::named(format!("[internal] {name}"))
}

impl MainSource {
    /// The state; of a local directory, only `follow_paths` (all when there are none).
    pub(crate) fn state(&self, builder: &mut Builder, follow_paths: &[String]) -> State {
        match self {
            MainSource::Local { session, excludes } => {
                let local = LocalSource {
                    name: CONTEXT.to_owned(),
                    session: session.clone(),
                    follow_paths: list(follow_paths),
                    exclude: list(excludes),
                    shared_key_hint: CONTEXT.to_owned(),
                    no_differ: false,
                };
                builder.local(&local, internal("load build context"))
            }
            MainSource::Git { git, text } => {
                builder.git(&git.source(), internal(&format!("load git source {text}")))
            }
            MainSource::Http { url, archive } => {
                let http = HttpSource {
                    url: url.clone(),
                    filename: HTTP_FILE.to_owned(),
                    checksum: String::new(),
                };
                let file = builder.http(&http, internal("load remote build context"));
                if !archive {
                    return file;
                }
                let action = CopyAction {
                    src: format!("/{HTTP_FILE}"),
                    dest: "/".to_owned(),
                    attempt_unpack: true,
                    ..CopyAction::default()
                };
                copy_out(builder, file, action)
            }
            MainSource::Input(graph) => builder.import(graph),
            MainSource::Sub { whole, dir } => {
                let whole = whole.state(builder, follow_paths);
                let action = CopyAction {
                    src: dir.clone(),
                    dest: "/".to_owned(),
                    dir_copy_contents: true,
                    ..CopyAction::default()
                };
                copy_out(builder, whole, action)
            }
        }
    }
}

fn copy_out(builder: &mut Builder, source: State, action: CopyAction) -> State {
    let step = FileStep::Copy(Box::new(Copy {
        source,
        action,
        owner: None,
    }));
    builder.file(&State::scratch(), vec![step], Vertex::default())
}

/// A JSON array, or nothing for no items.
fn list(items: &[String]) -> String {
    if items.is_empty() {
        String::new()
    } else {
        go::json_array(items)
    }
}

/// A named context, before its use is known.
#[derive(Clone, Debug)]
pub(crate) enum Fetched {
    Scratch,
    Image {
        /// The reference after source policies.
        reference: Reference,
        config: Bytes,
        /// Session and store of an OCI layout.
        layout: Option<(String, String)>,
    },
    Git {
        git: GitRef,
        text: String,
    },
    Http(String),
    Local {
        name: String,
        session: String,
        excludes: Vec<String>,
    },
    Input {
        graph: Arc<Graph>,
        config: Option<Bytes>,
    },
}

/// The state of a named context, and the config of its image.
#[derive(Debug)]
pub(crate) struct LoadedContext {
    pub(crate) state: State,
    pub(crate) image: Option<ImageConfig>,
    /// A local directory, which is taken once it is known what of it is used.
    pub(crate) local: Option<(DeferredId, LocalSource, Vertex)>,
}

impl LoadedContext {
    fn of(state: State) -> LoadedContext {
        LoadedContext {
            state,
            image: None,
            local: None,
        }
    }
}

impl Fetched {
    /// The state.
    pub(crate) fn load(
        &self,
        builder: &mut Builder,
        context: &NamedContext,
    ) -> Result<LoadedContext, ContextError> {
        let name = &context.found_as;
        match self {
            Fetched::Scratch => Ok(LoadedContext::of(State::scratch())),
            Fetched::Image {
                reference,
                config,
                layout,
            } => {
                let shown = match layout {
                    Some(_) => format!("[context {name}] OCI load from client"),
                    None => {
                        let text = context.input.trim_start_matches("docker-image:");
                        let text = text.strip_prefix("//").unwrap_or(text);
                        format!("[context {name}] {text}")
                    }
                };
                let what = match layout {
                    Some(_) => "could not parse oci-layout image config".to_owned(),
                    None => "failed to parse image config".to_owned(),
                };
                let mut image =
                    image::read(config).map_err(|source| ContextError::Config { what, source })?;
                image.created = None;
                let source = ImageSource {
                    reference: reference.clone(),
                    resolve_mode: String::new(),
                    layout: layout.clone(),
                };
                let mut vertex = Vertex::named(shown);
                vertex.platform.clone_from(&context.platform);
                let mut state = builder.image(&source, vertex);
                state.apply_image(&image);
                Ok(LoadedContext {
                    state,
                    image: Some(image),
                    local: None,
                })
            }
            Fetched::Git { git, text } => {
                let vertex = internal(&format!("load git source {text}"));
                Ok(LoadedContext::of(builder.git(&git.source(), vertex)))
            }
            Fetched::Http(url) => {
                let http = HttpSource {
                    url: url.clone(),
                    filename: HTTP_FILE.to_owned(),
                    checksum: String::new(),
                };
                let vertex = Vertex::named(format!("[context {name}] {url}"));
                Ok(LoadedContext::of(builder.http(&http, vertex)))
            }
            Fetched::Local {
                name: local,
                session,
                excludes,
            } => {
                let source = LocalSource {
                    name: local.clone(),
                    session: session.clone(),
                    follow_paths: String::new(),
                    exclude: list(excludes),
                    shared_key_hint: format!("context:{name}-{}", context.shared_key),
                    no_differ: false,
                };
                let vertex = Vertex::named(format!("[context {name}] load from client"));
                let (id, state) = builder.defer();
                Ok(LoadedContext {
                    state,
                    image: None,
                    local: Some((id, source, vertex)),
                })
            }
            Fetched::Input { graph, config } => {
                let mut loaded = LoadedContext::of(builder.import(graph));
                if let Some(config) = config {
                    let what = format!("failed to parse image config for {name}");
                    let image = image::read(config)
                        .map_err(|source| ContextError::Config { what, source })?;
                    loaded.state.apply_image(&image);
                    loaded.image = Some(image);
                }
                Ok(loaded)
            }
        }
    }
}

/// `local.followpaths` for the paths that are used; everything when the root is.
pub(crate) fn follow_paths<'a>(paths: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut follow = Vec::new();
    for path in paths {
        if path == "/" {
            return Vec::new();
        }
        follow.push(go::join(&[".", path.as_str().trim_start_matches('/')]));
    }
    follow.sort();
    follow
}

/// The same as a JSON array.
pub(crate) fn follow_list<'a>(paths: impl IntoIterator<Item = &'a String>) -> String {
    list(&follow_paths(paths))
}

/// `image.resolvemode` of a mode.
pub(crate) fn mode_name(mode: ResolveMode) -> &'static str {
    match mode {
        ResolveMode::Default => "default",
        ResolveMode::ForcePull => "pull",
        ResolveMode::PreferLocal => "local",
    }
}
