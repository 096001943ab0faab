//! Channels to a daemon.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};

use crate::BoxError;
use crate::address::Address;
use crate::helper::Helper;
use crate::tls::{TlsError, TlsFiles};

/// How long a daemon may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a daemon cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error("failed to connect to `{address}`")]
    Connect {
        /// Where it should be.
        address: Address,
        /// Why not.
        source: BoxError,
    },
    /// An `fd://` can be listened on but not called.
    #[error("cannot connect to `{0}`: it can only be listened on")]
    NotCallable(Address),
    /// A certificate or key cannot be used.
    #[error("failed to set up tls for `{address}`")]
    Tls {
        /// Where it should be.
        address: Address,
        /// Which file, and why.
        source: TlsError,
    },
}

/// Connects to `address`: with TLS if there is any, which only TCP takes.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(address: &Address, tls: Option<&TlsFiles>) -> Result<Channel, ConnectError> {
    let failed = |source: BoxError| ConnectError::Connect {
        address: address.clone(),
        source,
    };
    match address {
        Address::Unix(path) => {
            let path = path.clone();
            endpoint("http://localhost")
                .map_err(failed)?
                .connect_with_connector(tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
                }))
                .await
                .map_err(|error| failed(Box::new(error)))
        }
        Address::Tcp(host) => {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let mut endpoint = endpoint(&format!("{scheme}://{host}"))
                .map_err(failed)?
                .tcp_nodelay(true);
            if let Some(files) = tls {
                let tls_failed = |source| ConnectError::Tls {
                    address: address.clone(),
                    source,
                };
                let config: ClientTlsConfig = files.client().map_err(tls_failed)?;
                endpoint = endpoint
                    .tls_config(config)
                    .map_err(|error| failed(Box::new(error)))?;
            }
            endpoint
                .connect()
                .await
                .map_err(|error| failed(Box::new(error)))
        }
        Address::Fd(_) => Err(ConnectError::NotCallable(address.clone())),
    }
}

/// Connects through a program.
///
/// # Errors
/// It is not there, or no daemon answers at its other end.
pub async fn connect_through(helper: &Helper) -> Result<Channel, BoxError> {
    let helper = helper.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let piped = helper.start();
        async move { Ok::<_, io::Error>(TokioIo::new(piped?)) }
    });
    let endpoint = endpoint("http://localhost")?;
    Ok(endpoint.connect_with_connector(connector).await?)
}

fn endpoint(uri: &str) -> Result<Endpoint, BoxError> {
    Ok(Endpoint::from_shared(uri.to_owned())?.connect_timeout(CONNECT_TIMEOUT))
}
