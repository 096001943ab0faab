//! Registry credentials: of the client whose session an op may use, or given with a call.

use async_trait::async_trait;
use registry::{Authority, Credentials, CredentialsError, Login, Secret, Token, TokenRequest};
use session::{FetchToken, SessionError};

use crate::failure::{Class, Failure};
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

#[async_trait]
impl Credentials for SessionCredentials {
    fn identity(&self) -> &str {
        &self.identity
    }

    async fn credentials(&self, host: &str) -> Result<Option<Login>, CredentialsError> {
        let login = self.sessions.first(|calls| {
            let host = host.to_owned();
            async move { given(calls.credentials(&host).await) }
        });
        let Some(login) = answered(login.await)? else {
            return Ok(None);
        };
        let secret = Secret::new(login.secret);
        Ok(Some(match login.username.is_empty() {
            true => Login::IdentityToken(secret),
            false => Login::Password {
                username: login.username,
                secret,
            },
        }))
    }

    async fn authority(&self, host: &str, salt: &[u8]) -> Result<Authority, CredentialsError> {
        let told = self.sessions.first(|calls| {
            let (host, salt) = (host.to_owned(), salt.to_vec());
            async move { given(calls.token_authority(&host, &salt).await.map(Some)) }
        });
        Ok(match answered(told.await)? {
            Some(session::Authority::Key(key)) => {
                let length = key.len();
                let key = key.try_into().map_err(|_| {
                    CredentialsError::new(format!("invalid pubkey length {length}"), None)
                })?;
                Authority::Key(key)
            }
            Some(session::Authority::Declined) => Authority::Daemon,
            Some(session::Authority::Unknown) | None => Authority::Nameless,
        })
    }

    async fn sign(&self, host: &str, salt: &[u8], question: &[u8]) -> Option<Vec<u8>> {
        let signed = self.sessions.first(|calls| {
            let (host, salt, question) = (host.to_owned(), salt.to_vec(), question.to_vec());
            async move { given(calls.sign(&host, &salt, &question).await.map(Some)) }
        });
        // Who cannot sign is somebody else, whatever the reason.
        signed.await.ok()
    }

    async fn fetch_token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        let token = self.sessions.first(|calls| {
            let ask = FetchToken {
                host: request.host.clone(),
                realm: request.realm.clone(),
                service: request.service.clone(),
                scopes: request.scopes.clone(),
            };
            async move { given(calls.fetch_token(&ask).await) }
        });
        let Some(token) = answered(token.await)? else {
            return Ok(None);
        };
        let life = u64::try_from(token.expires_in).ok();
        let life = life.filter(|seconds| *seconds > 0);
        Ok(Some(Token {
            secret: Secret::new(token.token),
            life: life.map(std::time::Duration::from_secs),
        }))
    }
}

/// What a client has for the question; one that has nothing, or is gone, leaves it to the next.
fn given<T>(answer: Result<Option<T>, SessionError>) -> Result<T, Failure> {
    match answer {
        Ok(Some(given)) => Ok(given),
        Ok(None) => Err(Failure::not_found("the client has nothing to say")),
        Err(error) if error.is_gone() => Err(Failure::not_found("the client is gone")),
        Err(error) => Err(Failure::from(error)),
    }
}

fn answered<T>(answer: Result<T, Failure>) -> Result<Option<T>, CredentialsError> {
    match answer {
        Ok(given) => Ok(Some(given)),
        Err(failure) if failure.class == Class::NotFound => Ok(None),
        Err(failure) => Err(CredentialsError::new(failure.message, None)),
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
