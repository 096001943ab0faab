//! Why an op failed, on its way to the caller.

use std::error::Error;

pub(crate) use rpc::status::chain;

use rpc::status::{Detail, Solve};
use tonic::{Code, Status};

/// Who has to act on a failure. `worker-client` reads it back from the status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// What was asked for is wrong.
    User,
    /// What was asked for is not there.
    NotFound,
    /// It is there already.
    Exists,
    /// It is there and must not be used.
    Denied,
    /// The machine failed.
    Host,
    /// It may work when tried again, e.g. a ref that has been thrown away meanwhile.
    Transient,
    /// The caller went away.
    Canceled,
    /// This program is wrong.
    Bug,
}

/// Why an op failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) class: Class,
    /// The whole chain of causes in one line.
    pub(crate) message: String,
    /// The exit code of the process that failed.
    pub(crate) exit_code: Option<i32>,
    /// What the mounts of a failed step began with and hold now, by id.
    pub(crate) remains: Option<Box<Remains>>,
}

/// What is left of a failed step, mount by mount; an empty id is nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remains {
    pub(crate) inputs: Vec<String>,
    pub(crate) mounts: Vec<String>,
}

impl Failure {
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Failure {
        Failure {
            class,
            message: message.into(),
            exit_code: None,
            remains: None,
        }
    }

    /// What was asked for is wrong.
    pub(crate) fn user(message: impl Into<String>) -> Failure {
        Failure::new(Class::User, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(Class::NotFound, message)
    }

    /// It is there and must not be used, or not by this caller.
    pub(crate) fn denied(message: impl Into<String>) -> Failure {
        Failure::new(Class::Denied, message)
    }

    pub(crate) fn bug(message: impl Into<String>) -> Failure {
        Failure::new(Class::Bug, message)
    }

    /// The machine failed: the error and its causes in one line.
    pub(crate) fn host(error: impl Error) -> Failure {
        Failure::new(Class::Host, chain(&error))
    }

    /// With what was being done in front.
    pub(crate) fn context(mut self, what: impl AsRef<str>) -> Failure {
        self.message = format!("{}: {}", what.as_ref(), self.message);
        self
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let code = match failure.class {
            Class::User => Code::InvalidArgument,
            Class::NotFound => Code::NotFound,
            Class::Exists => Code::AlreadyExists,
            Class::Denied => Code::PermissionDenied,
            Class::Host => Code::ResourceExhausted,
            Class::Transient => Code::Unavailable,
            Class::Canceled => Code::Cancelled,
            Class::Bug => Code::Internal,
        };
        let mut status = rpc::status::Failure::new(code, failure.message);
        if let Some(remains) = failure.remains {
            status = status.with(Detail::Solve(Box::new(Solve {
                input_ids: remains.inputs,
                mount_ids: remains.mounts,
                ..Solve::default()
            })));
        }
        match failure.exit_code.and_then(|code| u32::try_from(code).ok()) {
            Some(code) => status.with(Detail::Exit { code }),
            None => status,
        }
        .to_status()
    }
}

/// Runs blocking filesystem work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => {
            Err(Failure::new(Class::Canceled, "the worker is shutting down"))
        }
        Err(error) => Err(Failure::bug(format!(
            "a task of the worker panicked: {error}"
        ))),
    }
}
