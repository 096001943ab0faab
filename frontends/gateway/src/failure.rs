//! Errors of builds on the wire, in both directions.

use std::sync::Arc;

use frontend::{ErrorClass, FrontendError, Remains, SourceLocation};
use oci::Digest;
use prost::Message as _;
use proto::pb;
use rpc::status::{Detail, Failure, Solve, Source};
use tonic::{Code, Status};

/// An error as BuildKit's clients know it. One that came over the wire goes back with all it had.
pub fn failure(error: &FrontendError) -> Failure {
    if let FrontendError::Foreign {
        message, received, ..
    } = error
        && let Some(failure) = received.downcast_ref::<Failure>()
    {
        let mut failure = failure.clone();
        failure.message.clone_from(message);
        return with_places(failure, error);
    }
    let mut failure = with_places(Failure::new(code(error), error.to_string()), error);
    match error {
        FrontendError::Step {
            vertex,
            exit_code,
            remains,
            ..
        } => {
            if let Some(remains) = remains {
                failure = failure.with(Detail::Solve(Box::new(solve(remains))));
            }
            if let Some(vertex) = vertex {
                let digest = vertex.to_string();
                failure = failure.with(Detail::Vertex { digest });
            }
            if let Some(code) = exit_code {
                let code = code.cast_unsigned();
                failure = failure.with(Detail::Exit { code });
            }
        }
        FrontendError::UnsupportedCapability(name) => {
            failure = failure.with(Detail::FrontendCap { name: name.clone() });
        }
        FrontendError::UnsupportedSubrequest(name) => {
            failure = failure.with(Detail::Subrequest { name: name.clone() });
        }
        FrontendError::Invalid { .. }
        | FrontendError::NotFound(_)
        | FrontendError::Unsupported(_)
        | FrontendError::Foreign { .. } => {}
    }
    failure
}

fn with_places(failure: Failure, error: &FrontendError) -> Failure {
    error.locations().iter().fold(failure, |failure, location| {
        failure.with(Detail::Source(Source {
            info: Some(source_info(location)),
            ranges: ranges(location),
        }))
    })
}

/// What is left of a step; its filesystems are named by their ids.
fn solve(remains: &Remains) -> Solve {
    let name = |id: &Option<Digest>| id.map(|id| id.to_string()).unwrap_or_default();
    Solve {
        input_ids: remains.inputs.iter().map(name).collect(),
        mount_ids: remains.mounts.iter().map(name).collect(),
        op: pb::Op::decode(remains.op.clone()).ok(),
        subject: None,
        description: remains.description.clone(),
    }
}

/// BuildKit's errors are of no class, except where its clients act on the code. They would show any
/// other in front of the message.
fn code(error: &FrontendError) -> Code {
    match error {
        FrontendError::NotFound(_) => Code::Unknown,
        FrontendError::UnsupportedCapability(_) | FrontendError::UnsupportedSubrequest(_) => {
            Code::Unimplemented
        }
        FrontendError::Invalid { .. }
        | FrontendError::Step { .. }
        | FrontendError::Unsupported(_)
        | FrontendError::Foreign { .. } => match error.class() {
            ErrorClass::User | ErrorClass::Host => Code::Unknown,
            ErrorClass::Transient => Code::Unavailable,
            ErrorClass::Canceled => Code::Cancelled,
            ErrorClass::Bug => Code::Internal,
        },
    }
}

pub(crate) fn status(error: &FrontendError) -> Status {
    failure(error).to_status()
}

/// An error that a frontend returns, kept whole.
pub(crate) fn returned(status: proto::rpc::Status) -> FrontendError {
    let failure = Failure::from_proto(status);
    FrontendError::Foreign {
        message: failure.message.clone(),
        class: match failure.code {
            Code::Cancelled => ErrorClass::Canceled,
            Code::Unavailable => ErrorClass::Transient,
            _ => ErrorClass::User,
        },
        received: Arc::new(failure),
        locations: Vec::new(),
    }
}

fn source_info(location: &SourceLocation) -> pb::SourceInfo {
    pb::SourceInfo {
        filename: location.filename.clone(),
        data: location.data.to_vec().into(),
        definition: None,
        language: location.language.clone(),
    }
}

fn ranges(location: &SourceLocation) -> Vec<pb::Range> {
    let position = |(line, character)| pb::Position { line, character };
    let range = |(start, end): &(_, _)| pb::Range {
        start: Some(position(*start)),
        end: Some(position(*end)),
    };
    location.ranges.iter().map(range).collect()
}
