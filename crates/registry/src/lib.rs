//! The OCI distribution protocol: resolve, pull, push and mount, with mirrors and authorization.
//!
//! Owns everything that is said to a registry. Knows nothing of where blobs are kept or how layers
//! are unpacked: a blob arrives and leaves as a stream of bytes. Whose credentials are used is
//! decided by the caller, through [`Credentials`].
//!
//! Start at [`Registry`], which is made once for a process; [`Registry::repository`] gives a
//! [`Repository`], one repository seen with one client's credentials.

mod auth;
mod body;
mod challenge;
mod endpoint;
mod error;
mod hosts;
mod origin;
mod progress;
mod pull;
mod push;
mod request;
mod resolve;
mod retry;
mod tls;

use std::sync::Arc;

use oci::Reference;

pub use auth::{
    Anonymous, Authority, Credentials, CredentialsError, First, Login, Secret, Token, TokenError,
    TokenRequest, fetch_token,
};
pub use body::{BlobSource, BlobStream, Providers};
pub use endpoint::{http_client, http_client_for};
pub use error::{AuthorizeError, Class, RegistryError, SetupError, TransportError};
pub use hosts::{HostConfig, HostsConfig, KeyPair};
pub use origin::{Origin, ParseOriginError};
pub use progress::{Item, Progress, Tracked};
pub use pull::BlobReader;
pub use push::Pushed;
pub use retry::RetryPolicy;

use auth::Authorizer;
use endpoint::{Endpoint, Endpoints};

/// The largest manifest or index that is read, in bytes. The specification asks registries to
/// take 4 MiB; twice that leaves room for those that take more.
pub const MANIFEST_LIMIT: u64 = 8 << 20;

/// What every call of a process shares.
#[derive(Clone, Debug)]
pub struct Options {
    /// Settings per registry host, by name and port.
    pub hosts: HostsConfig,
    /// The `User-Agent` that registries see.
    pub user_agent: String,
    /// Transfers that run at one time with one host.
    pub max_concurrency: usize,
    /// How failures that may pass are retried.
    pub retry: RetryPolicy,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            hosts: HostsConfig::new(),
            user_agent: concat!("drydock/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_concurrency: 4,
            retry: RetryPolicy::default(),
        }
    }
}

/// The registries of the world, as one process sees them.
///
/// Keeps connections, tokens and the limits on transfers; cheap to clone.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Endpoints,
    authorizer: Authorizer,
    retry: RetryPolicy,
}

/// What a [`Repository`] will be used for: it decides the scope of the tokens asked for and which
/// hosts are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Resolve and pull; mirrors are tried before the origin.
    Pull,
    /// Push, pull and mount; only the origin is used.
    Push,
    /// As `Push`, without checking certificates and with plain HTTP where there is no TLS.
    PushInsecure,
}

impl Registry {
    /// Prepares for talking to registries; connects to none.
    ///
    /// # Errors
    /// When a file of certificates or keys that `options` names cannot be read.
    pub fn new(options: Options) -> Result<Registry, SetupError> {
        let retry = options.retry;
        Ok(Registry {
            shared: Arc::new(Shared {
                endpoints: Endpoints::new(options)?,
                authorizer: Authorizer::default(),
                retry,
            }),
        })
    }

    /// The repository that `reference` names, used as the holder of `credentials`.
    ///
    /// # Errors
    /// When the name of the registry makes no URL.
    pub fn repository(
        &self,
        reference: &Reference,
        access: Access,
        credentials: Arc<dyn Credentials>,
    ) -> Result<Repository, RegistryError> {
        let hosts = self.shared.endpoints.of(&reference.domain, access)?;
        let verbs = if access == Access::Pull {
            "pull"
        } else {
            "pull,push"
        };
        Ok(Repository {
            shared: self.shared.clone(),
            hosts,
            scope: format!("repository:{}:{verbs}", reference.path),
            reference: reference.clone(),
            credentials,
        })
    }
}

/// One repository of one registry, seen with one client's credentials.
#[derive(Clone)]
pub struct Repository {
    shared: Arc<Shared>,
    /// In the order in which they are tried; never empty.
    hosts: Arc<[Arc<Endpoint>]>,
    scope: String,
    reference: Reference,
    credentials: Arc<dyn Credentials>,
}

impl Repository {
    /// The reference that the repository was opened for.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The origin, the last of the hosts.
    fn origin(&self) -> &Endpoint {
        self.hosts
            .last()
            .expect("the origin is always among the hosts")
    }
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository")
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}
