//! What a caller gives: logins and tokens of one client.

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;

use super::Authority;

/// A password or token: cannot be printed, and so cannot get into a log by accident.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for putting it on the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// What a client has for a registry.
#[derive(Clone)]
pub enum Login {
    /// User name and password.
    Password {
        /// The user.
        username: String,
        /// The password.
        secret: Secret,
    },
    /// A refresh token, exchanged at the token server.
    IdentityToken(Secret),
}

/// A wish for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The registry's host.
    pub host: String,
    /// The token server's URL.
    pub realm: String,
    /// The name under which the token server knows the registry.
    pub service: String,
    /// `repository:<path>:<actions>`, one each.
    pub scopes: Vec<String>,
}

/// A registry token.
#[derive(Clone)]
pub struct Token {
    /// The token.
    pub secret: Secret,
    /// For how long it can be used; `None` when the server does not say.
    pub life: Option<Duration>,
}

/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CredentialsError {
    message: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl CredentialsError {
    /// With the text `message`, caused by `source`.
    pub fn new(
        message: impl Into<String>,
        source: Option<Box<dyn Error + Send + Sync>>,
    ) -> CredentialsError {
        CredentialsError {
            message: message.into(),
            source,
        }
    }
}

/// Gives access to registries on behalf of one client.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Names whose credentials these are. Tokens are shared between uses of equal identity only.
    fn identity(&self) -> &str;

    /// The login for `host`; `None` to go without.
    async fn credentials(&self, host: &str) -> Result<Option<Login>, CredentialsError>;

    /// Who fetches tokens for `host`. A key is to depend on `salt`, so that it is of use here only.
    async fn authority(&self, _host: &str, _salt: &[u8]) -> Result<Authority, CredentialsError> {
        Ok(Authority::Nameless)
    }

    /// `question` with the signature by the client's key for `host` and `salt` in front; `None` when
    /// it has none.
    async fn sign(&self, _host: &str, _salt: &[u8], _question: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// A token that the client fetched itself; `None` when it cannot, and then its
    /// [`Credentials::credentials`] are used at the token server.
    async fn fetch_token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError>;
}

/// Goes without credentials.
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    fn identity(&self) -> &str {
        ""
    }

    async fn credentials(&self, _host: &str) -> Result<Option<Login>, CredentialsError> {
        Ok(None)
    }

    async fn fetch_token(&self, _: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        Ok(None)
    }
}
