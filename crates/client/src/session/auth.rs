//! `Auth`: the user's credentials for registries, and tokens fetched with them.
//!
//! A daemon that keeps tokens knows this client again by a key, which is made of a seed that lies
//! beside docker's configuration and of the daemon's salt. BuildKit's clients use the same file.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::filesync::auth_server::{Auth, AuthServer};
use proto::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use registry::{First, HostConfig, Login, Secret, TokenRequest};
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tonic::{Request, Response, Status};

use crate::docker_config::{self, Credentials};
use crate::token_seed;

/// The life of a token whose server does not say, in seconds.
const DEFAULT_LIFE: i64 = 60;
/// Set to a true value, it leaves fetching tokens to the daemon.
const NO_TOKENS: &str = "BUILDKIT_NO_CLIENT_TOKEN";
/// What token servers see.
const USER_AGENT: &str = concat!("drydock/", env!("CARGO_PKG_VERSION"));

/// How token servers are spoken to.
#[derive(Clone, Debug, Default)]
pub struct AuthOptions {
    /// TLS settings for the token servers of registries, by the registry's host.
    pub tls: BTreeMap<String, HostConfig>,
}

/// Answers from docker's configuration.
pub(super) struct DockerConfig(Arc<AuthOptions>);

pub(super) fn server(options: AuthOptions) -> AuthServer<DockerConfig> {
    AuthServer::new(DockerConfig(Arc::new(options)))
}

#[tonic::async_trait]
impl Auth for DockerConfig {
    /// Both empty if there are none: the registry is then asked as nobody.
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let found = look_up(request.into_inner().host).await?;
        Ok(Response::new(CredentialsResponse {
            username: found.username,
            secret: found.secret,
        }))
    }

    async fn fetch_token(
        &self,
        request: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        let request = request.into_inner();
        let found = look_up(request.host.clone()).await?;
        let answer = |token: &str, expires_in| FetchTokenResponse {
            token: token.to_owned(),
            expires_in,
            issued_at: 0,
        };
        if !found.registry_token.is_empty() {
            return Ok(Response::new(answer(&found.registry_token, DEFAULT_LIFE)));
        }
        let failed = |what: &str, error: &(dyn std::error::Error + 'static)| {
            Status::unknown(format!("{what}{}", rpc::status::chain(error)))
        };
        let tls = self.0.tls.get(&request.host).cloned().unwrap_or_default();
        let http = registry::http_client_for(&tls, USER_AGENT);
        let http = http.map_err(|error| failed("", &error))?;
        let login = found.login();
        let ask = TokenRequest {
            host: request.host,
            realm: request.realm,
            service: request.service,
            scopes: request.scopes,
        };
        // Forms first: a query may end in a server's log.
        let token = registry::fetch_token(&http, &ask, login.as_ref(), First::Post).await;
        let token = token.map_err(|error| match login {
            Some(_) => failed("failed to fetch oauth token: ", &error),
            None => failed("failed to fetch anonymous token: ", &error),
        })?;
        let life = token
            .life
            .and_then(|life| i64::try_from(life.as_secs()).ok());
        Ok(Response::new(answer(
            token.secret.expose(),
            life.unwrap_or(DEFAULT_LIFE),
        )))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let key = key(request.host, &request.salt).await?;
        Ok(Response::new(GetTokenAuthorityResponse {
            public_key: key.public_key().as_ref().to_vec().into(),
        }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let key = key(request.host, &request.salt).await?;
        let mut signed = key.sign(&request.payload).as_ref().to_vec();
        signed.extend_from_slice(&request.payload);
        Ok(Response::new(VerifyTokenAuthorityResponse {
            signed: signed.into(),
        }))
    }
}

impl Credentials {
    fn login(&self) -> Option<Login> {
        let secret = Secret::new(self.secret.clone());
        match (self.username.as_str(), self.secret.as_str()) {
            (_, "") => None,
            ("", _) => Some(Login::IdentityToken(secret)),
            (username, _) => Some(Login::Password {
                username: username.to_owned(),
                secret,
            }),
        }
    }
}

async fn look_up(host: String) -> Result<Credentials, Status> {
    blocking(move || docker_config::credentials(&host)).await
}

/// The key for `host` that a daemon of that salt knows this user by. All who have no login have the
/// same.
async fn key(host: String, salt: &[u8]) -> Result<Ed25519KeyPair, Status> {
    let declines = std::env::var(NO_TOKENS);
    if declines.is_ok_and(|set| matches!(set.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
    {
        return Err(Status::unavailable("client side tokens disabled"));
    }
    let found = look_up(host.clone()).await?;
    let mut seed = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, salt));
    if !found.secret.is_empty() {
        seed.update(&blocking(move || token_seed::of(&host)).await?);
    }
    Ed25519KeyPair::from_seed_unchecked(seed.sign().as_ref())
        .map_err(|error| Status::internal(format!("no key can be made: {error}")))
}

async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Status>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Status::internal("the look-up was given up"))?
        .map_err(|error| Status::unknown(rpc::status::chain(&error)))
}
