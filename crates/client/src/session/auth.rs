//! `Auth`: the user's credentials for registries.

use proto::filesync::auth_server::{Auth, AuthServer};
use proto::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use tonic::{Request, Response, Status};

use crate::docker_config;

/// Answers from docker's configuration.
pub(super) struct DockerConfig;

pub(super) fn server() -> AuthServer<DockerConfig> {
    AuthServer::new(DockerConfig)
}

#[tonic::async_trait]
impl Auth for DockerConfig {
    /// Both empty if there are none: the registry is then asked as nobody.
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let found = tokio::task::spawn_blocking(move || docker_config::credentials(&host))
            .await
            .map_err(|_| Status::internal("the look-up was given up"))?
            .map_err(|error| Status::unknown(rpc::status::chain(&error)))?;
        let (username, secret) = found.unwrap_or_default();
        Ok(Response::new(CredentialsResponse { username, secret }))
    }

    // Tokens are fetched by the daemon: these methods are not among those offered.

    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented("tokens are not fetched here"))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are not fetched here"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are not fetched here"))
    }
}
