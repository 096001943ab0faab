//! Asking a token server.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder, Response};
use serde::Deserialize;
use url::Url;

use super::{Login, Secret, Token, TokenRequest};
use crate::error::{TransportError, is_passing};
use crate::request::{address, error_detail, read_bounded};

/// What a token server's answer may measure; tokens of large providers have some kilobytes.
const TOKEN_LIMIT: u64 = 1 << 20;
/// How much of an answer that is no list of errors is shown (as BuildKit).
const SHOWN: usize = 256;
/// The name under which token servers know who asks.
const CLIENT_ID: &str = "buildkit-client";

/// Which way a token server is asked first. Some know one way only, and not the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The distribution project's: a query. Docker Hub knows no other.
    Get,
    /// OAuth 2: a form.
    Post,
}

/// Why a token server gave no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The registry names something that is no URL.
    #[error("parse \"{realm}\"")]
    Realm {
        /// What it names.
        realm: String,
        /// What is wrong with it.
        source: url::ParseError,
    },
    /// No answer came.
    #[error("{method} \"{url}\"")]
    Request {
        /// `Get` or `Post`.
        method: &'static str,
        /// Where.
        url: String,
        /// Why.
        source: TransportError,
    },
    /// The answer is an error.
    #[error("unexpected status from {method} request to {url}: {status}{detail}")]
    Status {
        /// `GET` or `POST`.
        method: &'static str,
        /// Where.
        url: String,
        /// The status.
        status: StatusCode,
        /// What the server says, with `: ` in front, or nothing.
        detail: String,
    },
    /// The answer makes no sense.
    #[error("unable to decode token response")]
    Answer(#[source] serde_json::Error),
    /// The answer has no token.
    #[error("authorization server did not include a token in the response")]
    Empty,
    /// The login cannot be sent.
    #[error("the credentials hold characters that no header can")]
    Characters,
}

impl TokenError {
    /// Whether another login could help.
    pub(crate) fn is_refusal(&self) -> bool {
        let refusals = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        matches!(self, TokenError::Status { status, .. } if refusals.contains(status))
    }

    /// Whether the same request may be answered otherwise later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            TokenError::Request { .. } => true,
            TokenError::Status { status, .. } => is_passing(*status),
            TokenError::Realm { .. }
            | TokenError::Answer(_)
            | TokenError::Empty
            | TokenError::Characters => false,
        }
    }

    /// Whether the server may know the other way. Those that do not know `POST` answer 404, 405 or
    /// 401, and some that do not know `GET` the same.
    fn is_of_the_way(&self) -> bool {
        matches!(self, TokenError::Status { status, .. } if [
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::UNAUTHORIZED,
        ]
        .contains(status))
    }
}

/// Fetches the token that `request` asks for, as the holder of `login` or as nobody.
///
/// # Errors
/// What the server answered.
pub async fn fetch_token(
    http: &Client,
    request: &TokenRequest,
    login: Option<&Login>,
    first: First,
) -> Result<Token, TokenError> {
    let Some(login) = login else {
        return get(http, request, None).await;
    };
    let fetched = match first {
        First::Get => get(http, request, Some(login)).await,
        First::Post => post(http, request, login).await,
    };
    match (fetched, first) {
        (Err(error), First::Get) if error.is_of_the_way() => post(http, request, login).await,
        (Err(error), First::Post) if error.is_of_the_way() => get(http, request, Some(login)).await,
        (fetched, _) => fetched,
    }
}

async fn get(
    http: &Client,
    request: &TokenRequest,
    login: Option<&Login>,
) -> Result<Token, TokenError> {
    let mut url = parse(&request.realm)?;
    {
        let mut query = url.query_pairs_mut();
        for scope in &request.scopes {
            query.append_pair("scope", scope);
        }
        if !request.service.is_empty() {
            query.append_pair("service", &request.service);
        }
    }
    let call = http.get(url.clone());
    let call = match login {
        Some(login) => {
            let (username, secret) = parts(login);
            let pair = STANDARD.encode(format!("{username}:{}", secret.expose()));
            let mut header = http::HeaderValue::from_str(&format!("Basic {pair}"))
                .map_err(|_| TokenError::Characters)?;
            header.set_sensitive(true);
            call.header(AUTHORIZATION, header)
        }
        None => call,
    };
    send(call, ["GET", "Get"], &url, login.is_some()).await
}

async fn post(http: &Client, request: &TokenRequest, login: &Login) -> Result<Token, TokenError> {
    let url = parse(&request.realm)?;
    let form = form(request, login);
    let kind = "application/x-www-form-urlencoded; charset=utf-8";
    let call = http.post(url.clone()).header(CONTENT_TYPE, kind);
    send(call.body(form), ["POST", "Post"], &url, true).await
}

fn form(request: &TokenRequest, login: &Login) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("scope", &request.scopes.join(" "))
        .append_pair("service", &request.service)
        .append_pair("client_id", CLIENT_ID);
    match login {
        Login::IdentityToken(token) => form
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", token.expose()),
        Login::Password { username, secret } => form
            .append_pair("grant_type", "password")
            .append_pair("username", username)
            .append_pair("password", secret.expose()),
    };
    form.finish()
}

fn parse(realm: &str) -> Result<Url, TokenError> {
    Url::parse(realm).map_err(|source| TokenError::Realm {
        realm: realm.to_owned(),
        source,
    })
}

fn parts(login: &Login) -> (&str, &Secret) {
    match login {
        Login::Password { username, secret } => (username, secret),
        Login::IdentityToken(token) => ("", token),
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Sends a request and reads the token of its answer. What an error's body says is of interest to
/// who has a login.
async fn send(
    call: RequestBuilder,
    [method, verb]: [&'static str; 2],
    url: &Url,
    detailed: bool,
) -> Result<Token, TokenError> {
    let lost = |source| TokenError::Request {
        method: verb,
        url: url.to_string(),
        source,
    };
    let answer: Response = call
        .send()
        .await
        .map_err(|error| lost(TransportError::of(&error, &address(url))))?;
    let status = answer.status();
    let body = read_bounded(answer, TOKEN_LIMIT).await.map_err(lost)?;
    if !status.is_success() {
        let detail = if detailed { said(&body) } else { String::new() };
        return Err(TokenError::Status {
            method,
            url: url.to_string(),
            status,
            detail,
        });
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(TokenError::Answer)?;
    let given = |text: &String| !text.is_empty();
    let secret = answer.access_token.filter(given);
    let secret = secret.or(answer.token.filter(given));
    let life = answer.expires_in.filter(|seconds| *seconds > 0);
    Ok(Token {
        secret: Secret::new(secret.ok_or(TokenError::Empty)?),
        life: life.map(Duration::from_secs),
    })
}

/// What the body of an error says, with `: ` in front.
fn said(body: &[u8]) -> String {
    let errors = error_detail(body);
    if !errors.is_empty() || body.is_empty() {
        return errors;
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => {
            let more = text.len() - end;
            format!(": {}... ({more} bytes truncated)", &text[..end])
        }
        None => format!(": {text}"),
    }
}
