//! Why an op or a solve failed.

use std::sync::Arc;

use oci::Digest;

/// Who has to act on an error; decides whether it is worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// What was asked for is wrong.
    User,
    /// The machine or a peer failed.
    Host,
    /// It may work when tried again: a ref has vanished, a worker is restarting.
    Transient,
    /// It was cancelled.
    Canceled,
    /// drydock is wrong.
    Bug,
}

/// Why a worker could not carry out an op.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// The whole chain of causes in one line.
    pub message: String,
    /// The exit code of the process that failed.
    pub exit_code: Option<i32>,
    class: ErrorClass,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl OpError {
    /// An error without a cause of its own.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> OpError {
        OpError {
            message: message.into(),
            exit_code: None,
            class,
            source: None,
        }
    }

    /// The same error with what carries its details, e.g. a gRPC status. It is not printed.
    pub fn with_source(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> OpError {
        self.source = Some(Arc::new(source));
        self
    }

    /// What carries its details, if anything does.
    pub fn carrier(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.source.as_deref()
    }

    /// Who has to act.
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// The same error, with what was being done in front.
    #[must_use]
    pub fn while_doing(mut self, what: &str) -> OpError {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The work was stopped because nobody waits for it any more.
    pub fn canceled() -> OpError {
        OpError::new(ErrorClass::Canceled, "context canceled")
    }
}

/// Why a graph could not be solved.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct SolveError {
    /// What went wrong.
    pub error: Arc<OpError>,
    /// The vertex it went wrong at; `None` if it is about no vertex, as when the job has ended.
    pub vertex: Option<Digest>,
}

impl SolveError {
    /// Who has to act.
    pub fn class(&self) -> ErrorClass {
        self.error.class()
    }

    pub(crate) fn at(vertex: Digest, error: OpError) -> SolveError {
        SolveError {
            error: Arc::new(error),
            vertex: Some(vertex),
        }
    }

    pub(crate) fn canceled() -> SolveError {
        SolveError {
            error: Arc::new(OpError::canceled()),
            vertex: None,
        }
    }
}
