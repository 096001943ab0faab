//! Carries a request out: a session that serves what it names, and a display of how it goes.

use client::progress::Progress;
use client::session::{AuthOptions, Session, Target, random_id};
use client::{BuildError, CacheEntry, Client, Exporter, SolveRequest, SolveResponse};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::context::Source;
use super::local_cache;
use super::outputs::{Destination, Output};
use super::report::{self, Response};
use super::request::{Cache, Request, SecretSource};
use super::ssh::Ssh;
use crate::cli::Global;
use crate::error::{Exit, INTERRUPTED};
use crate::progress::{Display, Mode, REFRESH_INTERVAL, print_warnings};

/// Messages that wait to be shown. More makes the stream wait.
const PROGRESS_QUEUE: usize = 64;

/// Builds `request`, shown as `mode` says, and gives what the exporters answered.
pub(super) async fn solve(
    global: &Global,
    request: Request,
    mode: Mode,
) -> anyhow::Result<Response> {
    let display = Display::new(mode)?;
    let client = global.connect().await?;
    if request.outputs.is_empty() && display.is_for_people() {
        eprintln!(
            "WARNING: no output is asked for; the result stays in the build cache. \
             Name it with `-t`, or use `--load`, `--push` or `-o`."
        );
    }
    let style = Style {
        details: global.debug,
        prefix: "ERROR: failed to build: ",
    };
    with_client(&client, request, display, style).await
}

/// How the end of a build is told.
pub(super) struct Style {
    /// Whether warnings are shown in full.
    pub(super) details: bool,
    /// What is in front of an error.
    pub(super) prefix: &'static str,
}

/// Builds `request` at `client`, shown by `display`.
pub(super) async fn with_client(
    client: &Client,
    request: Request,
    display: Display,
    style: Style,
) -> anyhow::Result<Response> {
    let is_for_people = display.is_for_people();
    let written = local_cache::destinations(&request.cache_exports);
    let (result, warnings) = tokio::select! {
        done = drive(client, request, display) => done?,
        _ = tokio::signal::ctrl_c() => {
            // Everything in flight is dropped, which cancels the build.
            eprintln!("ERROR: canceled");
            return Err(Exit(INTERRUPTED).into());
        }
    };
    if is_for_people {
        print_warnings(std::io::stderr(), &warnings, style.details);
    }
    match result {
        Ok(response) => {
            local_cache::note(&written, &response.exporters)?;
            Ok(response.exporters)
        }
        Err(error) => Err(report::failure(
            style.prefix,
            &error.sources,
            &error.message,
        )),
    }
}

type Outcome = (
    Result<SolveResponse, BuildError>,
    Vec<client::progress::VertexWarning>,
);

/// Builds and shows until both have come to their end.
async fn drive(client: &Client, request: Request, mut display: Display) -> anyhow::Result<Outcome> {
    let (sender, mut messages) = mpsc::channel::<Progress>(PROGRESS_QUEUE);
    let (solve, session, _inputs) = prepare(request)?;
    let building = client.solve(solve, session, sender);
    let mut building = std::pin::pin!(building);
    let mut result = None;
    let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            done = &mut building, if result.is_none() => result = Some(done),
            message = messages.recv() => match (message, result.take()) {
                (Some(message), done) => {
                    result = done;
                    display.update(message);
                }
                // All is told; the sender is gone with the call.
                (None, Some(result)) => return Ok((result, display.finish())),
                (None, None) => {
                    let result = (&mut building).await;
                    return Ok((result, display.finish()));
                }
            },
            _ = refresh.tick() => display.refresh(),
        }
    }
}

/// What is asked of the daemon, and what is served to it. The third must live as long as the build.
fn prepare(request: Request) -> anyhow::Result<(SolveRequest, Session, super::context::Inputs)> {
    let mut attrs = request.attrs;
    let mut session = Session {
        name: request.shared_key.clone(),
        shared_key: request.shared_key,
        directories: request.directories,
        layouts: request.layouts,
        ssh: request
            .ssh
            .into_iter()
            .map(Ssh::open)
            .collect::<anyhow::Result<_>>()?,
        auth: AuthOptions {
            tls: request.auth_tls,
        },
        ..Session::default()
    };
    for secret in request.secrets {
        let source = match secret.source {
            SecretSource::File(path) => client::session::SecretSource::File(path),
            SecretSource::Environment(name) => client::session::SecretSource::Environment(name),
        };
        session.secrets.insert(secret.id, source);
    }
    if let Source::Stdin(head) = &request.inputs.context {
        let name = random_id();
        attrs.insert(
            "context".to_owned(),
            format!("http://buildkit-session/{name}"),
        );
        let head = std::io::Cursor::new(head.clone());
        let stream = tokio::io::AsyncReadExt::chain(head, tokio::io::stdin());
        session.uploads.insert(name, Box::pin(stream));
    }
    let mut exporters = Vec::new();
    for output in request.outputs {
        let Output {
            kind,
            attrs,
            destination,
        } = output;
        exporters.push(Exporter { kind, attrs });
        session.targets.push(match destination {
            Destination::None => Target::None,
            Destination::Directory(path) => Target::Directory(path),
            Destination::File(path) => Target::File(path),
            Destination::Stdout => Target::Stream(Box::pin(tokio::io::stdout())),
        });
    }
    let imports = local_cache::imports(request.cache_imports, &mut session.caches);
    let exports = local_cache::exports(request.cache_exports, &mut session.caches)?;
    let cache = |cache: Cache| CacheEntry {
        kind: cache.kind,
        attrs: cache.attrs,
    };
    let solve = SolveRequest {
        reference: request.reference,
        frontend: request.frontend,
        definition: request.definition,
        source_policy: request.source_policy,
        attrs,
        exporters,
        cache_imports: imports.into_iter().map(cache).collect(),
        cache_exports: exports.into_iter().map(cache).collect(),
        entitlements: request.entitlements,
        proxy_network: request.proxy_network,
        ..SolveRequest::default()
    };
    Ok((solve, session, request.inputs))
}
