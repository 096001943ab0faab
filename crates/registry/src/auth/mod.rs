//! Whose credentials are used, and the tokens that they bring.

mod authority;
mod authorizer;
mod credentials;
mod grant;
mod scopes;
mod token;

pub use authority::Authority;
pub(crate) use authorizer::Authorizer;
pub use credentials::{
    Anonymous, Credentials, CredentialsError, Login, Secret, Token, TokenRequest,
};
pub use token::{First, TokenError, fetch_token};

use crate::error::RegistryError;

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

pub(crate) fn denied(purpose: &Purpose<'_>, detail: &str) -> RegistryError {
    let push = purpose.scopes.iter().any(|scope| scope.ends_with(",push"));
    RegistryError::Denied {
        verb: if push { "push" } else { "pull" },
        detail: detail.to_owned(),
    }
}
