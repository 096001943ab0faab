//! Why a build failed.

use std::sync::Arc;

use frontend::{ErrorClass, FrontendError, SourceLocation};
use oci::Digest;

/// Why a build failed, with all that a client can show of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// The whole chain of causes in one line, as BuildKit prints it.
    pub message: String,
    /// Who has to act.
    pub class: ErrorClass,
    /// The vertex that failed.
    pub vertex: Option<Digest>,
    /// The exit code of the process that failed.
    pub exit_code: Option<i32>,
    /// The places in the sources that it is about.
    pub locations: Vec<SourceLocation>,
    /// A typed refusal that clients know.
    pub refusal: Option<Refusal>,
    /// The error of a frontend outside the daemon, with what only the wire knows of it.
    #[source]
    pub foreign: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// Refusals that clients act upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `errdefs.FrontendCap`.
    FrontendCapability(String),
    /// `errdefs.Subrequest`.
    Subrequest(String),
}

impl BuildError {
    /// What was asked for is wrong.
    pub fn user(message: impl Into<String>) -> BuildError {
        BuildError::new(ErrorClass::User, message)
    }

    /// An error without details.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> BuildError {
        BuildError {
            message: message.into(),
            class,
            vertex: None,
            exit_code: None,
            locations: Vec::new(),
            refusal: None,
            foreign: None,
        }
    }

    /// The build was cancelled.
    pub fn canceled() -> BuildError {
        BuildError::new(ErrorClass::Canceled, "context canceled")
    }
}

impl From<FrontendError> for BuildError {
    fn from(error: FrontendError) -> BuildError {
        let (vertex, exit_code) = match &error {
            FrontendError::Step {
                vertex, exit_code, ..
            } => (*vertex, *exit_code),
            _ => (None, None),
        };
        let refusal = match &error {
            FrontendError::UnsupportedCapability(name) => {
                Some(Refusal::FrontendCapability(name.clone()))
            }
            FrontendError::UnsupportedSubrequest(name) => Some(Refusal::Subrequest(name.clone())),
            _ => None,
        };
        let foreign = match &error {
            FrontendError::Foreign { received, .. } => Some(received.clone()),
            _ => None,
        };
        BuildError {
            message: error.to_string(),
            class: error.class(),
            vertex,
            exit_code,
            locations: error.locations().to_vec(),
            refusal,
            foreign,
        }
    }
}
