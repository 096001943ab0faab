//! The engine's errors on the wire.

use engine::{BuildError, Refusal};
use frontend::ErrorClass;
use rpc::status::{Detail, Failure, Source};
use tonic::{Code, Status};

use crate::status::{ranges, source_info};

/// A failed build, with all that clients can show of it.
pub(crate) fn status(error: &BuildError) -> Status {
    // What a client returned as its frontend goes back with all it had.
    let foreign = error.foreign.as_ref();
    if let Some(failure) = foreign.and_then(|source| source.downcast_ref::<Failure>()) {
        let mut failure = failure.clone();
        failure.message.clone_from(&error.message);
        return with_places(failure, error).to_status();
    }
    // BuildKit's errors are of no class, except where its clients act on the code.
    let code = match error.class {
        ErrorClass::User | ErrorClass::Host => Code::Unknown,
        ErrorClass::Transient => Code::Unavailable,
        ErrorClass::Canceled => Code::Cancelled,
        ErrorClass::Bug => Code::Internal,
    };
    let mut failure = with_places(Failure::new(code, &error.message), error);
    if let Some(vertex) = error.vertex {
        failure = failure.with(Detail::Vertex {
            digest: vertex.to_string(),
        });
    }
    if let Some(code) = error.exit_code {
        failure = failure.with(Detail::Exit {
            code: code.cast_unsigned(),
        });
    }
    match &error.refusal {
        Some(Refusal::FrontendCapability(name)) => {
            failure.code = Code::Unimplemented;
            failure = failure.with(Detail::FrontendCap { name: name.clone() });
        }
        Some(Refusal::Subrequest(name)) => {
            failure.code = Code::Unimplemented;
            failure = failure.with(Detail::Subrequest { name: name.clone() });
        }
        None => {}
    }
    failure.to_status()
}

/// With the places in the sources that the error is about.
fn with_places(failure: Failure, error: &BuildError) -> Failure {
    error.locations.iter().fold(failure, |failure, location| {
        failure.with(Detail::Source(Source {
            info: Some(source_info(location)),
            ranges: ranges(location),
        }))
    })
}
