//! `Secrets`: what a build may use and must not keep.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use proto::secrets::secrets_server::{Secrets, SecretsServer};
use proto::secrets::{GetSecretRequest, GetSecretResponse};
use tonic::{Request, Response, Status};

use super::Shared;

/// Largest secret that BuildKit takes.
const MAX_SECRET: u64 = 500 << 10;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable of this process's environment.
    Environment(String),
}

/// The secrets offered, by id.
pub(super) struct Offered(Shared<BTreeMap<String, SecretSource>>);

pub(super) fn server(secrets: BTreeMap<String, SecretSource>) -> SecretsServer<Offered> {
    SecretsServer::new(Offered(Arc::new(secrets)))
}

#[tonic::async_trait]
impl Secrets for Offered {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let missing = || Status::not_found(format!("secret {id}: not found"));
        let data = match self.0.get(&id).ok_or_else(missing)? {
            SecretSource::Environment(name) => std::env::var_os(name)
                .map(std::os::unix::ffi::OsStringExt::into_vec)
                .unwrap_or_default(),
            SecretSource::File(path) => {
                let read = || {
                    let mut data = Vec::new();
                    std::fs::File::open(path)?
                        .take(MAX_SECRET + 1)
                        .read_to_end(&mut data)?;
                    std::io::Result::Ok(data)
                };
                read().map_err(|error| {
                    Status::unknown(format!("failed to read secret {id}: {error}"))
                })?
            }
        };
        if data.len() as u64 > MAX_SECRET {
            return Err(Status::invalid_argument(format!(
                "secret {id} is too large"
            )));
        }
        Ok(Response::new(GetSecretResponse { data: data.into() }))
    }
}
