//! Where clients reach the daemon.

use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use rpc::address::Address;
use rpc::calls::Calls;
use rpc::listen::{ListenOptions, Listener, group_id, listen};
use rpc::tls::TlsFiles;
use spans::Serving;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Server, ServerTlsConfig};

use crate::config::Config;

/// Flow control windows in bytes: contexts and layers flow through them.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How often clients on other machines are asked whether they are there, and how long they may take to
/// answer.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Headers hold errors with all their details.
const MAX_HEADERS: u32 = 1 << 20;

/// Bound addresses.
pub(super) struct Listeners {
    plain: Vec<Listener>,
    /// TCP, where certificates are given.
    secured: Vec<Listener>,
    tls: Option<ServerTlsConfig>,
}

/// Binds all addresses of `config`.
pub(super) async fn bind(config: &Config) -> anyhow::Result<Listeners> {
    let owner = &config.socket_owner;
    let group = owner.group.as_deref().map(group_id).transpose()?;
    let options = ListenOptions {
        group: group.or(owner.gid),
        ..ListenOptions::default()
    };
    let tls = config.tls.as_ref().map(|tls| TlsFiles {
        ca: tls.client_ca.clone(),
        cert: Some(tls.cert.clone()),
        key: Some(tls.key.clone()),
        server_name: None,
    });
    let tls = tls.map(|files| files.server()).transpose()?;
    let (mut plain, mut secured) = (Vec::new(), Vec::new());
    for text in &config.addresses {
        let address: Address = text
            .parse()
            .with_context(|| format!("invalid address `{text}`"))?;
        for listener in listen(&address, &options).await? {
            match listener.address() {
                Some(bound) => tracing::info!(address = %bound, "listening"),
                None => tracing::info!(%address, "listening"),
            }
            match (&listener, &tls) {
                (Listener::Tcp(_), Some(_)) => secured.push(listener),
                (Listener::Tcp(_), None) => {
                    tracing::warn!(%address, "anybody who reaches this address can use the daemon: no TLS is set up");
                    plain.push(listener);
                }
                (Listener::Unix(_), _) => plain.push(listener),
            }
        }
    }
    if let Some(uid) = owner.uid {
        for listener in &plain {
            if let Some(Address::Unix(path)) = listener.address() {
                std::os::unix::fs::chown(&path, Some(uid), None).with_context(|| {
                    format!("failed to give `{}` to user {uid}", path.display())
                })?;
            }
        }
    }
    Ok(Listeners {
        plain,
        secured,
        tls,
    })
}

impl Listeners {
    /// Serves `routes` until `stop`; calls that run then are finished or cut off by the caller. All
    /// are counted in `calls`, and recorded by `serving` if they belong to a trace.
    pub(super) async fn serve(
        self,
        routes: Routes,
        calls: Calls,
        serving: Serving,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let plain = self.plain.into_iter().map(|listener| (listener, None));
        let tls = self.tls;
        let secured = self
            .secured
            .into_iter()
            .map(|listener| (listener, tls.clone()));
        let serving = plain.chain(secured).map(|(listener, tls)| {
            let (routes, calls, stop) = (routes.clone(), calls.clone(), stop.clone());
            let serving = serving.clone();
            async move {
                let mut server = Server::builder();
                if matches!(listener, Listener::Tcp(_)) {
                    // A machine that is gone does not say so.
                    server = server
                        .http2_keepalive_interval(Some(KEEPALIVE))
                        .http2_keepalive_timeout(Some(KEEPALIVE));
                }
                if let Some(tls) = tls {
                    server = server.tls_config(tls).context("failed to set up TLS")?;
                }
                let stopped = pin!(stop.cancelled());
                server
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .http2_max_header_list_size(MAX_HEADERS)
                    .layer(calls)
                    .layer(serving)
                    .add_routes(routes)
                    .serve_with_incoming_shutdown(listener.incoming(), stopped)
                    .await
                    .context("failed to serve")
            }
        });
        try_join_all(serving).await?;
        Ok(())
    }
}
