//! What a worker's refusal means.

use std::sync::Arc;

use oci::Digest;
use solver::ErrorClass;

/// A call to a worker failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct WorkerError {
    /// The whole chain of causes in one line.
    pub message: String,
    /// Who has to act.
    pub class: ErrorClass,
    /// The exit code of the process that failed.
    pub exit_code: Option<i32>,
    /// What the mounts of a failed step began with, and what they hold now.
    pub remains: Option<Arc<Remains>>,
    code: tonic::Code,
}

/// What is left of a failed step, mount by mount; `None` is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    /// What each mount began with.
    pub inputs: Vec<Option<Digest>>,
    /// What each holds now.
    pub mounts: Vec<Option<Digest>>,
}

impl WorkerError {
    /// The worker broke the protocol.
    pub(crate) fn protocol(message: impl Into<String>) -> WorkerError {
        WorkerError {
            message: message.into(),
            class: ErrorClass::Bug,
            exit_code: None,
            remains: None,
            code: tonic::Code::Internal,
        }
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.code == tonic::Code::NotFound
    }
}

impl From<tonic::Status> for WorkerError {
    fn from(status: tonic::Status) -> WorkerError {
        use tonic::Code;
        let code = status.code();
        // Every code is named by the worker: `worker::status` is the other side of this table.
        let class = match code {
            Code::Cancelled => ErrorClass::Canceled,
            Code::Unavailable | Code::Aborted => ErrorClass::Transient,
            Code::Internal | Code::DataLoss => ErrorClass::Bug,
            Code::ResourceExhausted | Code::DeadlineExceeded => ErrorClass::Host,
            Code::Ok
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => ErrorClass::User,
        };
        let failure = rpc::status::Failure::from_status(&status);
        let exit_code = failure
            .details
            .exit_code()
            .and_then(|code| i32::try_from(code).ok());
        let ids = |ids: &[String]| ids.iter().map(|id| id.parse().ok()).collect();
        let remains = failure.details.solve().map(|solve| {
            Arc::new(Remains {
                inputs: ids(&solve.input_ids),
                mounts: ids(&solve.mount_ids),
            })
        });
        WorkerError {
            message: status.message().to_owned(),
            class,
            exit_code,
            remains,
            code,
        }
    }
}

impl From<WorkerError> for solver::OpError {
    fn from(error: WorkerError) -> solver::OpError {
        let mut op = solver::OpError::new(error.class, error.message.clone());
        op.exit_code = error.exit_code;
        op.with_source(error)
    }
}
