//! Outputs that the client decides on once it has seen the result.

use std::collections::BTreeMap;
use std::sync::Arc;

use frontend::{BuildResult, ErrorClass};
use session::{Session, SessionError, Sessions};

use crate::BuildError;
use crate::build::SESSION_WAIT;
use crate::request::{BuildRequest, ExporterKind, ExporterSpec};

/// What the client wants beside what it has asked for already. Until the build ends it can look
/// into the result, by the names that it is told.
pub(crate) async fn wanted(
    sessions: &Sessions,
    request: &BuildRequest,
    result: &BuildResult,
) -> Result<Vec<ExporterSpec>, BuildError> {
    let session = session(sessions, request).await?;
    let refs = result.all_refs().filter(|(_, r)| !r.is_scratch());
    let refs = refs.map(|(_, r)| r.id.clone()).collect();
    let wanted = session.find_exporters(&result.metadata, refs).await;
    let specs = wanted.map_err(refused)?.into_iter().map(|wanted| {
        Ok(ExporterSpec {
            kind: ExporterKind::parse(&wanted.kind)?,
            attrs: wanted.attrs,
        })
    });
    specs.collect()
}

/// Tells the client what came of all outputs.
pub(crate) async fn told(
    sessions: &Sessions,
    request: &BuildRequest,
    response: &BTreeMap<String, String>,
) -> Result<(), BuildError> {
    let session = session(sessions, request).await?;
    session.finalize_export(response).await.map_err(refused)
}

async fn session(sessions: &Sessions, request: &BuildRequest) -> Result<Arc<Session>, BuildError> {
    let found = sessions.get(&request.session, SESSION_WAIT).await;
    found.map_err(|error| BuildError::user(error.to_string()))
}

fn refused(error: SessionError) -> BuildError {
    let class = match error.is_gone() {
        true => ErrorClass::Canceled,
        false => ErrorClass::User,
    };
    BuildError::new(class, error.to_string())
}
