//! Errors of a frontend, with the places in the sources that they are about.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use oci::Digest;

/// Who has to act on an error; decides the gRPC code and whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// What was asked for is wrong.
    User,
    /// The machine or a peer failed.
    Host,
    /// It may work when tried again.
    Transient,
    /// The build was cancelled.
    Canceled,
    /// drydock is wrong.
    Bug,
}

/// Lines of a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file, e.g. `Dockerfile`.
    pub filename: String,
    /// The file's language, e.g. `Dockerfile`.
    pub language: String,
    /// The whole file.
    pub data: Arc<[u8]>,
    /// `(line, character)` pairs of start and end; lines count from 1, characters from 0.
    pub ranges: Vec<((i32, i32), (i32, i32))>,
}

/// What is left of a step whose process failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// The op as it travels.
    pub op: Bytes,
    /// What was said about the vertex.
    pub description: BTreeMap<String, String>,
    /// What each mount of the op began with; `None` is nothing.
    pub inputs: Vec<Option<Digest>>,
    /// What each mount holds now.
    pub mounts: Vec<Option<Digest>>,
}

/// Why a frontend could not build.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FrontendError {
    /// The description is wrong.
    #[error("{message}")]
    Invalid {
        /// What is wrong, in BuildKit's words.
        message: String,
        /// Where.
        locations: Vec<SourceLocation>,
    },
    /// A file that was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// A step of the build failed.
    #[error("{message}")]
    Step {
        /// The whole chain of causes in one line, as BuildKit prints it.
        message: String,
        /// Who has to act.
        class: ErrorClass,
        /// The vertex that failed.
        vertex: Option<Digest>,
        /// The exit code of the process that failed.
        exit_code: Option<i32>,
        /// Where the step is written.
        locations: Vec<SourceLocation>,
        /// What is left of the step, to look into.
        remains: Option<Arc<Remains>>,
    },
    /// The frontend lacks a capability that the caller requires (`errdefs.FrontendCap`).
    #[error("unsupported frontend capability {0}")]
    UnsupportedCapability(String),
    /// The frontend does not know the subrequest (`errdefs.Subrequest`).
    #[error("unsupported request {0}")]
    UnsupportedSubrequest(String),
    /// Something that the engine cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// A frontend outside the daemon failed; what only the wire knows of it is in the source.
    #[error("{message}")]
    Foreign {
        /// What went wrong, the whole chain of causes in one line.
        message: String,
        /// Who has to act.
        class: ErrorClass,
        /// The error as it was received; its message is in `message` already.
        received: Arc<dyn std::error::Error + Send + Sync>,
        /// The places that led to the frontend, beside those that it names itself.
        locations: Vec<SourceLocation>,
    },
}

impl FrontendError {
    /// An error in the description without a place.
    pub fn invalid(message: impl Into<String>) -> FrontendError {
        FrontendError::Invalid {
            message: message.into(),
            locations: Vec::new(),
        }
    }

    /// The same error, with what was being done in front where it has a message of its own.
    #[must_use]
    pub fn within(mut self, what: &str) -> FrontendError {
        match &mut self {
            FrontendError::Invalid { message, .. }
            | FrontendError::NotFound(message)
            | FrontendError::Step { message, .. }
            | FrontendError::Unsupported(message)
            | FrontendError::Foreign { message, .. } => *message = format!("{what}: {message}"),
            // These are typed for clients, which look at the name only.
            FrontendError::UnsupportedCapability(_) | FrontendError::UnsupportedSubrequest(_) => {}
        }
        self
    }

    /// Who has to act.
    pub fn class(&self) -> ErrorClass {
        match self {
            FrontendError::Step { class, .. } | FrontendError::Foreign { class, .. } => *class,
            FrontendError::Invalid { .. }
            | FrontendError::NotFound(_)
            | FrontendError::UnsupportedCapability(_)
            | FrontendError::UnsupportedSubrequest(_)
            | FrontendError::Unsupported(_) => ErrorClass::User,
        }
    }

    /// The places that the error is about.
    pub fn locations(&self) -> &[SourceLocation] {
        match self {
            FrontendError::Invalid { locations, .. }
            | FrontendError::Step { locations, .. }
            | FrontendError::Foreign { locations, .. } => locations,
            FrontendError::NotFound(_)
            | FrontendError::UnsupportedCapability(_)
            | FrontendError::UnsupportedSubrequest(_)
            | FrontendError::Unsupported(_) => &[],
        }
    }
}
