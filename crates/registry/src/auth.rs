//! Whose credentials are used, and the tokens that they bring.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::challenge::Challenge;
use crate::error::{RegistryError, TransportError};
use crate::request::{error_detail, read_bounded};

/// Grants kept at one time. Every client brings its own, so without a bound they would grow with
/// the number of builds done.
const MAX_GRANTS: usize = 1024;
/// What a token server's answer may measure; tokens of large providers have some kilobytes.
const TOKEN_LIMIT: u64 = 1 << 20;
/// The life of a token whose server does not say (as the distribution project's specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// How long a login is used before it is asked for again.
const LOGIN_LIFE: Duration = Duration::from_secs(300);

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

/// For whom and for what a request needs access.
pub(crate) struct Purpose<'a> {
    pub(crate) credentials: &'a dyn Credentials,
    /// The registry's host, as credentials are asked for it.
    pub(crate) host: &'a str,
    /// `repository:<path>:<actions>`, one each.
    pub(crate) scopes: Vec<String>,
    /// For asking the token server.
    pub(crate) http: &'a reqwest::Client,
}

/// Remembers what each host asked for, and the grants that satisfied it.
#[derive(Default)]
pub(crate) struct Authorizer {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    challenges: HashMap<Realm, Challenge>,
    grants: HashMap<(Realm, String), Arc<OnceCell<Grant>>>,
}

/// One client at one registry host.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Realm {
    identity: String,
    host: String,
}

#[derive(Clone)]
struct Grant {
    header: HeaderValue,
    expires: Instant,
}

impl Authorizer {
    /// The `Authorization` header for `purpose`, when its host is known to ask for one.
    pub(crate) async fn header(
        &self,
        purpose: &Purpose<'_>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let known = self.lock().challenges.get(&realm(purpose)).cloned();
        let Some(challenge) = known else {
            return Ok(None);
        };
        let (key, scopes) = match &challenge {
            Challenge::Basic => (String::new(), Vec::new()),
            Challenge::Bearer { scope, .. } => {
                let scopes = merge_scopes(&purpose.scopes, scope);
                (scopes.join(" "), scopes)
            }
        };
        let cell = self.cell(realm(purpose), key);
        let grant = cell
            .get_or_try_init(|| async {
                match &challenge {
                    Challenge::Basic => basic(purpose).await,
                    Challenge::Bearer { realm, service, .. } => {
                        bearer(purpose, realm, service, scopes).await
                    }
                }
            })
            .await?;
        Ok(Some(grant.header.clone()))
    }

    /// Takes in that a request was answered with 401; `sent` is the header that it had.
    ///
    /// # Errors
    /// When the answer does not say how to do better.
    pub(crate) fn refused(
        &self,
        purpose: &Purpose<'_>,
        headers: &HeaderMap,
        sent: Option<&HeaderValue>,
    ) -> Result<(), String> {
        let challenge = Challenge::of(headers).ok_or("the registry asks for no credentials")?;
        let mut state = self.lock();
        if let Some(sent) = sent {
            state
                .grants
                .retain(|_, cell| cell.get().is_none_or(|grant| grant.header != *sent));
        }
        // The scope of an earlier request is of no use for another repository.
        let challenge = match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
                error,
            } if !scope_is_of(&scope, &purpose.scopes) => {
                let _ = scope;
                Challenge::Bearer {
                    realm,
                    service,
                    scope: String::new(),
                    error,
                }
            }
            other => other,
        };
        state.challenges.insert(realm(purpose), challenge);
        Ok(())
    }

    fn cell(&self, realm: Realm, key: String) -> Arc<OnceCell<Grant>> {
        let now = Instant::now();
        let mut state = self.lock();
        let alive = |cell: &Arc<OnceCell<Grant>>| cell.get().is_none_or(|g| g.expires > now);
        if state.grants.len() >= MAX_GRANTS {
            state.grants.retain(|_, cell| alive(cell));
            if state.grants.len() >= MAX_GRANTS {
                state.grants.clear();
                state.challenges.clear();
            }
        }
        let cell = state.grants.entry((realm, key)).or_default();
        if !alive(cell) {
            *cell = Arc::default();
        }
        cell.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while the lock is held; were it so, the maps would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn realm(purpose: &Purpose<'_>) -> Realm {
    Realm {
        identity: purpose.credentials.identity().to_owned(),
        host: purpose.host.to_owned(),
    }
}

async fn login(purpose: &Purpose<'_>) -> Result<Option<Login>, RegistryError> {
    purpose
        .credentials
        .credentials(purpose.host)
        .await
        .map_err(|source| credentials(purpose, source))
}

fn credentials(purpose: &Purpose<'_>, source: CredentialsError) -> RegistryError {
    RegistryError::Credentials {
        host: purpose.host.to_owned(),
        source,
    }
}

async fn basic(purpose: &Purpose<'_>) -> Result<Grant, RegistryError> {
    let Some(Login::Password { username, secret }) = login(purpose).await? else {
        return Err(denied(purpose, "no basic auth credentials"));
    };
    let header = basic_header(purpose, &username, &secret)?;
    Ok(Grant {
        header,
        expires: Instant::now() + LOGIN_LIFE,
    })
}

fn basic_header(
    purpose: &Purpose<'_>,
    username: &str,
    secret: &Secret,
) -> Result<HeaderValue, RegistryError> {
    let pair = STANDARD.encode(format!("{username}:{}", secret.expose()));
    secret_header(purpose, &format!("Basic {pair}"))
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

async fn bearer(
    purpose: &Purpose<'_>,
    realm: &str,
    service: &str,
    scopes: Vec<String>,
) -> Result<Grant, RegistryError> {
    let request = TokenRequest {
        host: purpose.host.to_owned(),
        realm: realm.to_owned(),
        service: service.to_owned(),
        scopes,
    };
    let fetched = purpose.credentials.fetch_token(&request).await;
    let token = match fetched.map_err(|source| credentials(purpose, source))? {
        Some(token) => token,
        None => ask_token_server(purpose, &request, login(purpose).await?).await?,
    };
    let life = token.life.unwrap_or(DEFAULT_LIFE);
    // A token that ends while a request is under way is of no use: it is left a tenth early.
    let expires = Instant::now() + life - life / 10;
    let header = secret_header(purpose, &format!("Bearer {}", token.secret.expose()))?;
    Ok(Grant { header, expires })
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

async fn ask_token_server(
    purpose: &Purpose<'_>,
    request: &TokenRequest,
    login: Option<Login>,
) -> Result<Token, RegistryError> {
    let failed = |detail: String| RegistryError::Token {
        realm: request.realm.clone(),
        detail,
    };
    let mut url = url::Url::parse(&request.realm).map_err(|e| failed(e.to_string()))?;
    let call = match &login {
        Some(Login::IdentityToken(token)) => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token.expose())
                .append_pair("service", &request.service)
                .append_pair("client_id", "drydock")
                .append_pair("scope", &request.scopes.join(" "));
            purpose
                .http
                .post(url)
                .header(
                    http::header::CONTENT_TYPE,
                    "application/x-www-form-urlencoded",
                )
                .body(form.finish())
        }
        other => {
            if !request.service.is_empty() {
                url.query_pairs_mut()
                    .append_pair("service", &request.service);
            }
            for scope in &request.scopes {
                url.query_pairs_mut().append_pair("scope", scope);
            }
            let call = purpose.http.get(url);
            match other {
                Some(Login::Password { username, secret }) => call.header(
                    http::header::AUTHORIZATION,
                    basic_header(purpose, username, secret)?,
                ),
                _ => call,
            }
        }
    };
    let answer = call
        .send()
        .await
        .map_err(|e| failed(TransportError::of(&e, &request.realm).to_string()))?;
    let status = answer.status();
    let body = read_bounded(answer, TOKEN_LIMIT)
        .await
        .map_err(|e| failed(e.to_string()))?;
    if !status.is_success() {
        let detail = format!("{status}{}", error_detail(&body));
        return Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                denied(purpose, &format!("authorization failed: {detail}"))
            }
            _ => failed(detail),
        });
    }
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| failed("the answer is not JSON".into()))?;
    let secret = answer
        .token
        .filter(|t| !t.is_empty())
        .or(answer.access_token);
    let secret = secret.ok_or_else(|| failed("the answer has no token".into()))?;
    let life = answer
        .expires_in
        .filter(|s| *s > 0)
        .map(Duration::from_secs);
    Ok(Token {
        secret: Secret::new(secret),
        life,
    })
}

pub(crate) fn denied(purpose: &Purpose<'_>, detail: &str) -> RegistryError {
    let push = purpose.scopes.iter().any(|scope| scope.ends_with(",push"));
    RegistryError::Denied {
        verb: if push { "push" } else { "pull" },
        detail: detail.to_owned(),
    }
}

/// Whether all that `challenge` names is among the resources of `scopes`.
fn scope_is_of(challenge: &str, scopes: &[String]) -> bool {
    let resource = |scope: &str| scope.rsplit_once(':').map(|(r, _)| r.to_owned());
    challenge
        .split_whitespace()
        .all(|wanted| scopes.iter().any(|own| resource(own) == resource(wanted)))
}

/// The scopes `own` and those of a challenge, one entry for each resource, sorted.
fn merge_scopes(own: &[String], challenge: &str) -> Vec<String> {
    let mut actions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for scope in own
        .iter()
        .map(String::as_str)
        .chain(challenge.split_whitespace())
    {
        let (resource, verbs) = scope.rsplit_once(':').unwrap_or((scope, ""));
        actions
            .entry(resource)
            .or_default()
            .extend(verbs.split(','));
    }
    actions
        .into_iter()
        .map(|(resource, verbs)| {
            format!(
                "{resource}:{}",
                verbs.into_iter().collect::<Vec<_>>().join(",")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_one_resource_are_joined() {
        let own = [
            "repository:b:pull".to_owned(),
            "repository:a:pull".to_owned(),
        ];
        let merged = merge_scopes(&own, "repository:a:push,pull registry:catalog:*");
        assert_eq!(
            merged,
            [
                "registry:catalog:*",
                "repository:a:pull,push",
                "repository:b:pull"
            ]
        );
    }
}
