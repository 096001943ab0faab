//! What a call can fail with.

use rpc::status::Failure;
use tonic::{Code, Status};

use crate::progress::SourceExcerpt;

/// A daemon cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailed {
    /// The address makes no sense.
    #[error("cannot connect to `{address}`")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        source: rpc::address::AddressError,
    },
    /// There is no program for the address.
    #[error("cannot connect")]
    Helper(#[from] rpc::helper::HelperError),
    /// Nobody answers at the other end of the program.
    #[error("no daemon answers at `{address}`")]
    Through {
        /// As it was given.
        address: String,
        /// Why not.
        source: rpc::BoxError,
    },
    /// Nobody answers there.
    #[error("no daemon answers")]
    Connect(#[from] rpc::connect::ConnectError),
}

/// A call that the daemon refused or that did not reach it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CallFailed {
    /// What went wrong, in the daemon's words.
    pub message: String,
}

impl From<Status> for CallFailed {
    fn from(status: Status) -> CallFailed {
        CallFailed {
            message: status.message().to_owned(),
        }
    }
}

/// A build that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// What went wrong, in the daemon's words, with all its causes.
    pub message: String,
    /// Whether the build was cancelled.
    pub is_canceled: bool,
    /// Whether the daemon was lost while it built.
    pub is_lost: bool,
    /// The lines that the failure is about, the outermost first.
    pub sources: Vec<SourceExcerpt>,
    /// Digest of the step that failed.
    pub vertex: Option<String>,
    /// Exit code of the process that failed.
    pub exit_code: Option<u32>,
}

impl From<Status> for BuildError {
    fn from(status: Status) -> BuildError {
        let failure = Failure::from_status(&status);
        let excerpt = |source: &rpc::status::Source| {
            Some(SourceExcerpt::new(
                source.info.clone()?,
                source.ranges.clone(),
            ))
        };
        BuildError {
            is_canceled: failure.code == Code::Cancelled,
            is_lost: failure.code == Code::Unavailable,
            sources: failure.details.sources().filter_map(excerpt).collect(),
            vertex: failure.details.vertex().map(ToOwned::to_owned),
            exit_code: failure.details.exit_code(),
            message: failure.message,
        }
    }
}
