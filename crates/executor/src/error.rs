//! What can go wrong with a container.

use std::io;

use oci_spec::OciSpecError;

use crate::network::NetworkError;
use crate::seccomp::CompileError;

/// A spec that is not valid, or asks for what is not supported.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A part that must be there.
    #[error("container spec has no `{0}`")]
    Missing(&'static str),
    /// A wish nobody can grant.
    #[error("container spec asks for an unsupported {0}")]
    Unsupported(String),
    /// A working directory that begins nowhere.
    #[error("working directory `{0}` is not absolute")]
    Relative(String),
    /// Text the kernel cannot take.
    #[error("`{0}` has a NUL byte")]
    Nul(String),
    /// A path that is not text.
    #[error("a path in `{0}` is not UTF-8")]
    NotUtf8(&'static str),
    /// A kernel setting that is not one.
    #[error("`{0}` is not a sysctl")]
    Sysctl(String),
    /// A limit that is not one.
    #[error("`{0}` is not a ulimit")]
    Ulimit(String),
    /// The source of a bind mount.
    #[error("failed to take the source of the mount `{path}`")]
    Bind {
        /// Where it goes.
        path: String,
        /// Cause.
        source: io::Error,
    },
    /// The system call filter.
    #[error("failed to compile the seccomp profile")]
    Seccomp {
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part the library that builds specs refused.
    #[error("failed to build the container spec")]
    Build {
        /// Cause.
        #[from]
        source: OciSpecError,
    },
}

impl From<CompileError> for SpecError {
    fn from(error: CompileError) -> SpecError {
        SpecError::Seccomp {
            source: Box::new(error),
        }
    }
}

/// Why there is no launcher.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the container launcher: {what}")]
pub struct StartError {
    /// The step that failed.
    pub what: &'static str,
    /// Cause.
    pub source: io::Error,
}

/// The launcher is gone, and every container with it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the container launcher has ended")]
pub struct LostError;

/// Why there is no container, or no further process in one.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The request is at fault.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The program cannot be executed: the words of runc, for users who know them.
    #[error("{message}")]
    Exec {
        /// Like `exec: "x": executable file not found in $PATH`.
        message: String,
        /// There is no such program; else it is there but cannot be executed.
        missing: bool,
    },
    /// A step of making the container failed.
    #[error("{0}")]
    Setup(String),
    /// There is no network for it.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The container it was to join has ended.
    #[error("container has ended")]
    Ended,
    /// The launcher is gone.
    #[error(transparent)]
    Lost(#[from] LostError),
    /// The launcher was gone, and there is no other.
    #[error(transparent)]
    Restart(#[from] StartError),
    /// The daemon could not do its part.
    #[error("failed to {what}")]
    Host {
        /// The step that failed.
        what: &'static str,
        /// Cause.
        source: io::Error,
    },
}

impl CreateError {
    /// Where the program could not be executed, the exit code a shell gives for that: 127 where it is
    /// missing, 126 where it is not executable.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            CreateError::Exec { missing, .. } => Some(if *missing { 127 } else { 126 }),
            CreateError::Spec(_)
            | CreateError::Setup(_)
            | CreateError::Network(_)
            | CreateError::Ended
            | CreateError::Lost(_)
            | CreateError::Restart(_)
            | CreateError::Host { .. } => None,
        }
    }

    pub(crate) fn host(what: &'static str) -> impl FnOnce(io::Error) -> CreateError {
        move |source| CreateError::Host { what, source }
    }
}
