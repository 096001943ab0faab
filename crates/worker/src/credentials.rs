//! Registry credentials: of the client whose session an op may use, or given with a call.

use async_trait::async_trait;
use registry::{Credentials, CredentialsError, Login, Secret, Token, TokenRequest};
use session::{FetchToken, SessionError};

use crate::sessions::Sessions;

/// Asks the sessions of an op.
pub(crate) struct SessionCredentials {
    sessions: Sessions,
    identity: String,
}

impl SessionCredentials {
    pub(crate) fn new(sessions: Sessions) -> SessionCredentials {
        // Tokens are shared within a session only: two clients may have different rights.
        let identity = sessions.ids().first().cloned().unwrap_or_default();
        SessionCredentials { sessions, identity }
    }
}

fn refused(error: SessionError) -> CredentialsError {
    CredentialsError::new(
        "failed to ask the client for credentials",
        Some(Box::new(error)),
    )
}

#[async_trait]
impl Credentials for SessionCredentials {
    fn identity(&self) -> &str {
        &self.identity
    }

    async fn credentials(&self, host: &str) -> Result<Option<Login>, CredentialsError> {
        for id in self.sessions.ids() {
            let Ok(calls) = self.sessions.calls(&id) else {
                continue;
            };
            match calls.credentials(host).await {
                Ok(Some(login)) if login.username.is_empty() => {
                    return Ok(Some(Login::IdentityToken(Secret::new(login.secret))));
                }
                Ok(Some(login)) => {
                    return Ok(Some(Login::Password {
                        username: login.username,
                        secret: Secret::new(login.secret),
                    }));
                }
                Ok(None) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(None)
    }

    async fn fetch_token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        let ask = FetchToken {
            host: request.host.clone(),
            realm: request.realm.clone(),
            service: request.service.clone(),
            scopes: request.scopes.clone(),
        };
        for id in self.sessions.ids() {
            let Ok(calls) = self.sessions.calls(&id) else {
                continue;
            };
            match calls.fetch_token(&ask).await {
                Ok(Some(token)) => {
                    let life = u64::try_from(token.expires_in)
                        .ok()
                        .filter(|seconds| *seconds > 0);
                    return Ok(Some(Token {
                        secret: Secret::new(token.token),
                        life: life.map(std::time::Duration::from_secs),
                    }));
                }
                Ok(None) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(None)
    }
}

/// One login, given by the caller for the one registry that is spoken to.
pub(crate) struct GivenCredentials {
    username: String,
    secret: String,
}

impl GivenCredentials {
    pub(crate) fn new(auth: Option<proto::worker::RegistryAuth>) -> GivenCredentials {
        let auth = auth.unwrap_or_default();
        GivenCredentials {
            username: auth.username,
            secret: auth.secret,
        }
    }
}

#[async_trait]
impl Credentials for GivenCredentials {
    fn identity(&self) -> &str {
        &self.username
    }

    async fn credentials(&self, _: &str) -> Result<Option<Login>, CredentialsError> {
        if self.secret.is_empty() {
            return Ok(None);
        }
        let secret = Secret::new(self.secret.clone());
        Ok(Some(if self.username.is_empty() {
            Login::IdentityToken(secret)
        } else {
            Login::Password {
                username: self.username.clone(),
                secret,
            }
        }))
    }

    async fn fetch_token(&self, _: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        Ok(None)
    }
}
