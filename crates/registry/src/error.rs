//! What can go wrong between here and a registry.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use http::StatusCode;
use oci::Digest;

use crate::auth::{CredentialsError, TokenError};

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The user: a wrong name, no access.
    User,
    /// The machine or the registry: broken or misconfigured.
    Host,
    /// Nobody: it may work when tried again.
    Transient,
    /// The author of this program.
    Bug,
}

/// Why the settings for registries cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file of certificates or keys is not there or holds none.
    #[error("failed to read certificates or key from `{}`", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The TLS library refuses a client's certificate and key.
    #[error("failed to use the client certificate `{}`", path.display())]
    ClientCertificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The TLS library cannot be set up.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error("failed to set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Why a registry was of no help.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No host has it.
    #[error("{subject}: not found")]
    NotFound {
        /// The reference, or the blob's URL.
        subject: String,
    },
    /// No answer came.
    #[error("failed to do request: {method} \"{url}\"")]
    Request {
        /// `Get`, `Head`, …
        method: &'static str,
        /// Where.
        url: String,
        /// Why.
        source: TransportError,
    },
    /// The answer is an error.
    #[error("unexpected status from {method} request to {url}: {status}{detail}")]
    Status {
        /// `GET`, `HEAD`, …
        method: String,
        /// Where.
        url: String,
        /// The status.
        status: StatusCode,
        /// What the registry says, with `: ` in front, or nothing.
        detail: String,
    },
    /// The registry does not let this client in.
    #[error(
        "{verb} access denied, repository does not exist or may require authorization: {detail}"
    )]
    Denied {
        /// `pull` or `push`.
        verb: &'static str,
        /// What the registry says.
        detail: String,
    },
    /// The client's credentials could not be had.
    #[error(transparent)]
    Credentials(CredentialsError),
    /// No token could be had.
    #[error("failed to authorize")]
    Authorize(#[from] AuthorizeError),
    /// The bytes are not those that were asked for.
    #[error("digest mismatch for {subject}: got {got}, want {want}")]
    Digest {
        /// What was read.
        subject: String,
        /// What its digest should be.
        want: Digest,
        /// What it is.
        got: Digest,
    },
    /// There are more or fewer bytes than were asked for.
    #[error("size mismatch for {subject}: got {got} bytes, want {want}")]
    Size {
        /// What was read.
        subject: String,
        /// The size that its descriptor says.
        want: u64,
        /// The bytes that came.
        got: u64,
    },
    /// An answer has more bytes than its kind may have.
    #[error("{subject} is larger than {limit} bytes")]
    TooLarge {
        /// What was read.
        subject: String,
        /// The bound.
        limit: u64,
    },
    /// An answer that makes no sense.
    #[error("invalid answer to {subject}: {detail}")]
    Invalid {
        /// The request.
        subject: String,
        /// What is wrong.
        detail: String,
    },
    /// What is to be pushed cannot be read.
    #[error("failed to read {digest} to push it")]
    Source {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A registry's name makes no URL.
    #[error("invalid registry host `{0}`")]
    Host(String),
    /// The settings cannot be used.
    #[error("failed to set up the connection to `{host}`")]
    Setup {
        /// The registry.
        host: String,
        /// Why.
        source: SetupError,
    },
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// The token server gave none to the client's user.
    #[error("failed to fetch oauth token")]
    Login(#[source] TokenError),
    /// It gave none to nobody.
    #[error("failed to fetch anonymous token")]
    Anonymous(#[source] TokenError),
    /// The client fetches its tokens itself, and failed.
    #[error(transparent)]
    Client(CredentialsError),
}

impl AuthorizeError {
    fn class(&self) -> Class {
        match self {
            AuthorizeError::Login(error) | AuthorizeError::Anonymous(error) => {
                if error.is_refusal() {
                    Class::User
                } else if error.is_passing() {
                    Class::Transient
                } else {
                    Class::Host
                }
            }
            AuthorizeError::Client(_) => Class::User,
        }
    }
}

/// The failure at one of several hosts that says most: that of the host which got furthest. A host
/// that cannot be reached says least, one that does not have it more (as containerd's resolver).
#[derive(Default)]
pub(crate) struct Telling(Option<RegistryError>);

impl Telling {
    /// Takes in what another host has said.
    pub(crate) fn add(&mut self, error: RegistryError) {
        let rank = |error: &RegistryError| match error {
            RegistryError::Request { .. } => 1,
            RegistryError::NotFound { .. } => 2,
            _ => 3,
        };
        if self.0.as_ref().is_none_or(|told| rank(told) < rank(&error)) {
            self.0 = Some(error);
        }
    }

    /// What is told in the end of `subject`, which nobody is known to have.
    pub(crate) fn of(self, subject: String) -> RegistryError {
        match self.0 {
            None | Some(RegistryError::NotFound { .. }) => RegistryError::NotFound { subject },
            Some(error) => error,
        }
    }
}

impl RegistryError {
    /// Who has to act.
    pub fn class(&self) -> Class {
        match self {
            RegistryError::NotFound { .. } | RegistryError::Denied { .. } => Class::User,
            RegistryError::Request { .. } => Class::Transient,
            RegistryError::Status { status, .. } if is_passing(*status) => Class::Transient,
            RegistryError::Status { .. }
            | RegistryError::Digest { .. }
            | RegistryError::Size { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::Invalid { .. }
            | RegistryError::Source { .. }
            | RegistryError::Setup { .. } => Class::Host,
            RegistryError::Authorize(error) => error.class(),
            RegistryError::Credentials(_) | RegistryError::Host(_) => Class::User,
        }
    }

    /// Whether the registry was reached and has no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, RegistryError::NotFound { .. })
    }
}

/// Whether the same request may be answered otherwise later.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// Why a request got no answer, or an answer broke off.
#[derive(Clone, Debug)]
pub struct TransportError {
    text: String,
    /// Whether the other side speaks something that is not TLS.
    pub(crate) not_tls: bool,
}

impl TransportError {
    /// Flattens `error`, whose chain names the URL and the layers of the HTTP library, to what a
    /// person needs: `dial tcp host:port: connect: connection refused`.
    pub fn of(error: &reqwest::Error, address: &str) -> TransportError {
        let mut text = error.to_string();
        let mut not_tls = false;
        let mut next: Option<&(dyn Error + 'static)> = Error::source(error);
        while let Some(cause) = next {
            text = cause.to_string();
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                if let Some(known) = io_text(io) {
                    known.clone_into(&mut text);
                }
                // `source` of an `io::Error` passes over the error that it wraps.
                if let Some(inner) = io.get_ref() {
                    next = Some(inner);
                    continue;
                }
            }
            if let Some(rustls::Error::InvalidMessage(_)) = cause.downcast_ref() {
                not_tls = true;
                "server gave an answer that is not TLS".clone_into(&mut text);
            }
            next = cause.source();
        }
        if error.is_timeout() {
            text = "i/o timeout".to_owned();
        } else if error.is_connect() {
            text = match text.strip_prefix("failed to lookup address information: ") {
                Some(reason) => {
                    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                    format!("dial tcp: lookup {host}: {}", lookup_text(reason))
                }
                None if text.starts_with("connection ") => {
                    format!("dial tcp {address}: connect: {text}")
                }
                None => format!("dial tcp {address}: {text}"),
            };
        }
        TransportError { text, not_tls }
    }

    /// What `text` says.
    pub fn new(text: impl Into<String>) -> TransportError {
        TransportError {
            text: text.into(),
            not_tls: false,
        }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for TransportError {}

/// Why a name has no address, in the words that scripts look for.
fn lookup_text(reason: &str) -> &str {
    match reason {
        "Name or service not known" | "No address associated with hostname" => "no such host",
        other => other,
    }
}

fn io_text(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some("connection refused"),
        io::ErrorKind::ConnectionReset => Some("connection reset by peer"),
        io::ErrorKind::ConnectionAborted => Some("connection aborted"),
        io::ErrorKind::UnexpectedEof => Some("unexpected EOF"),
        io::ErrorKind::TimedOut => Some("i/o timeout"),
        _ => None,
    }
}
