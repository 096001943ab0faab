//! One build: a session, the solve in it, and what is told of it meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::control as wire;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::progress::Progress;
use crate::session::{Session, random_id};
use crate::{BuildError, Client, SourcePolicy};

/// When the build is over and nothing more is told for so long, no more is waited for.
const QUIET_END: Duration = Duration::from_secs(5);

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct SolveRequest {
    /// Names the build; made up if empty.
    pub reference: String,
    /// `dockerfile.v0`, `gateway.v0`, or empty to build `definition`.
    pub frontend: String,
    /// Options of the frontend.
    pub attrs: BTreeMap<String, String>,
    /// The graph to build, without a frontend.
    pub definition: Option<Arc<llb::Graph>>,
    /// Where the result goes. An exporter that sends something to this client sends it to the
    /// session's target of the same position.
    pub exporters: Vec<Exporter>,
    /// Build caches to look into.
    pub cache_imports: Vec<CacheEntry>,
    /// Build caches to write.
    pub cache_exports: Vec<CacheEntry>,
    /// Which sources may be used.
    pub source_policy: Option<SourcePolicy>,
    /// What the build may do that builds usually may not.
    pub entitlements: Vec<String>,
    /// Whether steps reach the network only through the daemon.
    pub proxy_network: bool,
    /// Whether the build leaves no history.
    pub is_internal: bool,
}

/// One way out for a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exporter {
    /// `image`, `oci`, `docker`, `tar` or `local`.
    pub kind: String,
    /// Its options.
    pub attrs: BTreeMap<String, String>,
}

/// A build cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheEntry {
    /// `registry`, `local`, `inline` and so on.
    pub kind: String,
    /// Its options.
    pub attrs: BTreeMap<String, String>,
}

/// How a build ended well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SolveResponse {
    /// What the exporters answered, such as `containerimage.digest`.
    pub exporters: BTreeMap<String, String>,
}

impl Client {
    /// Builds `request`, and serves `session` meanwhile. What is told of the build goes to
    /// `progress`. Dropping the future cancels the build.
    pub async fn solve(
        &self,
        request: SolveRequest,
        session: Session,
        progress: mpsc::Sender<Progress>,
    ) -> Result<SolveResponse, BuildError> {
        let session_id = random_id();
        let host = session.open(self, &session_id).await?;
        // Ends with this call, however it ends.
        let mut host = AbortOnDropHandle::new(tokio::spawn(host));
        let request = request.into_wire(session_id);
        let status = self.clone().watch(request.r#ref.clone(), progress);
        let mut status = AbortOnDropHandle::new(tokio::spawn(status));
        let mut control = self.control();
        let solved = control.solve(request);
        let mut solved = std::pin::pin!(solved);
        let result = tokio::select! {
            result = &mut solved => result,
            // The daemon gets a moment to say why.
            _ = &mut host => match tokio::time::timeout(QUIET_END, solved).await {
                Ok(result) => result,
                Err(_) => Err(tonic::Status::unavailable("the session was lost")),
            },
        };
        // It ends by itself when all is told; how, is told by the solve.
        let _ = (&mut status).await;
        let response = result?.into_inner();
        Ok(SolveResponse {
            exporters: response.exporter_response,
        })
    }

    /// Carries what is told of a build to `progress`, until it is all or nothing comes any more.
    async fn watch(self, reference: String, progress: mpsc::Sender<Progress>) {
        let request = wire::StatusRequest { r#ref: reference };
        let mut messages = match self.control().status(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                tracing::debug!(%status, "nothing is told of the build");
                return;
            }
        };
        while let Ok(Some(message)) = messages.message().await {
            if progress.send(message.into()).await.is_err() {
                return;
            }
        }
    }
}

impl SolveRequest {
    fn into_wire(self, session: String) -> wire::SolveRequest {
        let cache = |entry: CacheEntry| wire::CacheOptionsEntry {
            r#type: entry.kind,
            attrs: entry.attrs,
        };
        let exporter = |exporter: Exporter| wire::Exporter {
            r#type: exporter.kind,
            attrs: exporter.attrs,
        };
        wire::SolveRequest {
            r#ref: if self.reference.is_empty() {
                random_id()
            } else {
                self.reference
            },
            definition: self.definition.map(|graph| graph.to_definition()),
            session,
            frontend: self.frontend,
            frontend_attrs: self.attrs,
            cache: Some(wire::CacheOptions {
                exports: self.cache_exports.into_iter().map(cache).collect(),
                imports: self.cache_imports.into_iter().map(cache).collect(),
                ..wire::CacheOptions::default()
            }),
            source_policy: self.source_policy.map(|policy| policy.0),
            entitlements: self.entitlements,
            internal: self.is_internal,
            proxy_network: self.proxy_network,
            exporters: self.exporters.into_iter().map(exporter).collect(),
            ..wire::SolveRequest::default()
        }
    }
}
