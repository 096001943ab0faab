//! Why a session could not serve.

use tonic::{Code, Status};

/// A transfer of files failed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// On the way in.
    #[error(transparent)]
    Receive(#[from] filesync::ReceiveError),
    /// On the way out.
    #[error(transparent)]
    Send(#[from] filesync::SendError),
}

/// A session, or a call to one, failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is no session of that name.
    #[error("no active session for {0}: context deadline exceeded")]
    NotFound(String),
    /// The client's metadata are not those of a session.
    #[error("invalid session: {0}")]
    Invalid(&'static str),
    /// The HTTP/2 connection inside the stream could not be made.
    #[error("failed to connect to session {id}")]
    Connect {
        /// The session.
        id: String,
        /// What failed.
        source: tonic::transport::Error,
    },
    /// The client refused a call.
    #[error("{}", status.message())]
    Call {
        /// Its answer.
        status: Box<Status>,
    },
    /// The files that the client sends are not a tree, or could not be written.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A local file or socket failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What failed.
        source: std::io::Error,
    },
}

impl SessionError {
    /// Whether the client does not have what was asked for, or cannot serve such a call.
    pub fn is_not_found(&self) -> bool {
        match self {
            SessionError::NotFound(_) => false,
            SessionError::Call { status } => {
                matches!(status.code(), Code::NotFound | Code::Unimplemented)
            }
            SessionError::Invalid(_)
            | SessionError::Connect { .. }
            | SessionError::Files(_)
            | SessionError::Io { .. } => false,
        }
    }

    /// Whether the client does not serve such calls.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, SessionError::Call { status } if status.code() == Code::Unimplemented)
    }

    /// Whether the client has it already and wants nothing more.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, SessionError::Call { status } if status.code() == Code::AlreadyExists)
    }

    /// Whether the client is gone.
    pub fn is_gone(&self) -> bool {
        match self {
            SessionError::NotFound(_) | SessionError::Connect { .. } => true,
            SessionError::Call { status } => {
                matches!(status.code(), Code::Unavailable | Code::Cancelled)
            }
            SessionError::Invalid(_) | SessionError::Files(_) | SessionError::Io { .. } => false,
        }
    }
}

impl From<Status> for SessionError {
    fn from(status: Status) -> SessionError {
        SessionError::Call {
            status: Box::new(status),
        }
    }
}
