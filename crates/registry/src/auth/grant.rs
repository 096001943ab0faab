//! What satisfies a challenge: a header, for a time.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::token::{First, fetch_token};
use super::{CredentialsError, Login, Purpose, TokenRequest, denied};
use crate::error::{AuthorizeError, RegistryError};

/// The life of a token whose server does not say (as the distribution project's specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// How long a login is used before it is asked for again.
const LOGIN_LIFE: Duration = Duration::from_secs(300);

/// A header that a registry takes.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) header: HeaderValue,
    pub(super) expires: Instant,
}

/// The client's user name and password.
pub(super) async fn basic(purpose: &Purpose<'_>) -> Result<Grant, RegistryError> {
    let Some(Login::Password { username, secret }) = login(purpose).await? else {
        return Err(denied(purpose, "no basic auth credentials"));
    };
    let pair = STANDARD.encode(format!("{username}:{}", secret.expose()));
    Ok(Grant {
        header: secret_header(purpose, &format!("Basic {pair}"))?,
        expires: Instant::now() + LOGIN_LIFE,
    })
}

/// A token: the client's own if `by_client` and it can, else one that its login brings.
pub(super) async fn bearer(
    purpose: &Purpose<'_>,
    realm: &str,
    service: &str,
    scopes: Vec<String>,
    by_client: bool,
) -> Result<Grant, RegistryError> {
    let request = TokenRequest {
        host: purpose.host.to_owned(),
        realm: realm.to_owned(),
        service: service.to_owned(),
        scopes,
    };
    let fetched = match by_client {
        true => {
            let fetched = purpose.credentials.fetch_token(&request).await;
            fetched.map_err(AuthorizeError::Client)?
        }
        false => None,
    };
    let token = match fetched {
        Some(token) => token,
        None => {
            let login = login(purpose).await?;
            fetch_token(purpose.http, &request, login.as_ref(), First::Get)
                .await
                .map_err(|error| match login {
                    Some(_) => AuthorizeError::Login(error),
                    None => AuthorizeError::Anonymous(error),
                })?
        }
    };
    let life = token.life.unwrap_or(DEFAULT_LIFE);
    Ok(Grant {
        header: secret_header(purpose, &format!("Bearer {}", token.secret.expose()))?,
        // A token that ends while a request is under way is of no use: it is left a tenth early.
        expires: Instant::now() + life - life / 10,
    })
}

async fn login(purpose: &Purpose<'_>) -> Result<Option<Login>, RegistryError> {
    let login = purpose.credentials.credentials(purpose.host).await;
    login.map_err(|source: CredentialsError| RegistryError::Credentials(source))
}

fn secret_header(purpose: &Purpose<'_>, text: &str) -> Result<HeaderValue, RegistryError> {
    let mut header = HeaderValue::from_str(text).map_err(|_| {
        denied(
            purpose,
            "the credentials hold characters that no header can",
        )
    })?;
    header.set_sensitive(true);
    Ok(header)
}
