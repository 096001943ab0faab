//! What is attested of a build's results: what its frontend says, and where it comes from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use frontend::{Attestation, BuildResult};
use worker_client::ExportAttestation;

use crate::bridge::{self, Shared};
use crate::provenance::{Ask, Provenance};
use crate::{BuildError, BuildRequest};

/// The most bytes of a statement that a frontend makes (BuildKit: `exporter/containerimage`).
const MAX_STATEMENT: u64 = 40 << 20;

/// The part of an in-toto statement that is carried over.
#[derive(serde::Deserialize)]
struct Statement {
    #[serde(rename = "predicateType", default)]
    predicate_type: String,
    #[serde(default)]
    predicate: serde_json::Value,
}

/// What is known of where the results come from.
pub(crate) fn provenance(
    shared: &Shared,
    request: &BuildRequest,
    result: &BuildResult,
    started: SystemTime,
) -> Provenance {
    let called = shared.called.get().cloned();
    let driven = request.frontend.is_empty() && called.is_some();
    let (frontend, args) =
        called.unwrap_or_else(|| (request.frontend.clone(), request.attrs.clone()));
    let results = result.all_refs();
    let ask = Ask::parse(&request.attrs).ok().flatten();
    Provenance {
        frontend,
        args,
        root: driven.then(|| request.attrs.clone()),
        locals: shared.sources.locals(),
        results: results
            .map(|(key, of)| (key.to_owned(), of.graph.clone()))
            .collect(),
        builder_platform: shared.worker.description().platforms[0].clone(),
        invocation: request.build_ref.clone(),
        started,
        finished: SystemTime::now(),
        builder_id: ask.map(|ask| ask.builder_id).unwrap_or_default(),
    }
}

/// All that is to be carried out with the results, by platform id.
pub(crate) async fn all(
    shared: &Arc<Shared>,
    request: &BuildRequest,
    result: &BuildResult,
    provenance: &Provenance,
) -> Result<BTreeMap<String, Vec<ExportAttestation>>, BuildError> {
    let mut all = BTreeMap::new();
    let ask = Ask::parse(&request.attrs)?;
    if ask.is_none() && result.attestations.is_empty() {
        return Ok(all);
    }
    for (key, _) in result.all_refs() {
        let mut attested = Vec::new();
        for attestation in of_frontend(result, key) {
            statements(shared, attestation, &mut attested).await?;
        }
        if let Some(ask) = &ask {
            let predicate = provenance.of(key, ask);
            attested.push(ExportAttestation {
                predicate_type: predicate.kind.to_owned(),
                predicate: predicate.value.to_string().into(),
                inline_only: ask.inline_only,
                file_name: ask.file_name.clone(),
            });
        }
        all.insert(key.to_owned(), attested);
    }
    Ok(all)
}

/// What the frontend attests of a result. Of a single one it says so under its platform's name.
fn of_frontend<'a>(
    result: &'a BuildResult,
    key: &str,
) -> impl Iterator<Item = &'a Attestation> + use<'a> {
    let found = match result.attestations.get(key) {
        None if key.is_empty() => result.attestations.values().next(),
        found => found,
    };
    found.into_iter().flatten()
}

/// Reads the statements of an attestation.
async fn statements(
    shared: &Arc<Shared>,
    attestation: &Attestation,
    all: &mut Vec<ExportAttestation>,
) -> Result<(), BuildError> {
    let Some(id) = shared.realize(&attestation.result).await? else {
        return Ok(());
    };
    let (job, directory) = (&shared.worker_job, attestation.path.trim_end_matches('/'));
    let mut paths = vec![attestation.path.clone()];
    if attestation.bundle {
        let place = if directory.is_empty() { "/" } else { directory };
        let entries = shared.worker.read_dir(job, id, place, "").await;
        let entries = entries.map_err(bridge::step_error)?;
        let names = entries.into_iter().map(|entry| entry.path);
        paths = names.map(|name| format!("{directory}/{name}")).collect();
    }
    for path in paths {
        let read = shared.worker.read_file(job, id, &path, 0, 0).await;
        let bytes: Bytes = read.map_err(bridge::step_error)?;
        if bytes.len() as u64 > MAX_STATEMENT {
            return Err(BuildError::user(format!(
                "attestation {path} has {} bytes, more than {MAX_STATEMENT}",
                bytes.len()
            )));
        }
        let (predicate_type, predicate) = if attestation.bundle {
            let statement: Statement = serde_json::from_slice(&bytes).map_err(|error| {
                BuildError::user(format!("attestation {path} is no statement: {error}"))
            })?;
            let predicate = Bytes::from(statement.predicate.to_string());
            (statement.predicate_type, predicate)
        } else {
            (attestation.predicate_type.clone(), bytes)
        };
        all.push(ExportAttestation {
            predicate_type,
            predicate,
            inline_only: false,
            file_name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        });
    }
    Ok(())
}
