//! What a record says of its build.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use engine::Finished;
use oci::{Digest, redact_url};
use proto::control::{BuildHistoryRecord, BuildResultInfo, Descriptor, Exporter, SolveRequest};

/// The media type of what is attested.
const IN_TOTO: &str = "application/vnd.in-toto+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// The record of a build that is asked for.
pub(crate) fn of_request(request: &SolveRequest) -> BuildHistoryRecord {
    let attrs = request.frontend_attrs.iter();
    let mut exporters = request.exporters.clone();
    if exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        exporters.push(Exporter {
            r#type: request.exporter_deprecated.clone(),
            attrs: request.exporter_attrs_deprecated.clone(),
        });
    }
    BuildHistoryRecord {
        r#ref: request.r#ref.clone(),
        frontend: request.frontend.clone(),
        frontend_attrs: attrs.map(|(k, v)| (k.clone(), redact_url(v))).collect(),
        exporters,
        ..BuildHistoryRecord::default()
    }
}

/// Adds what the build gave, and answers the blobs that are to be kept with the record.
pub(super) fn add_results(
    record: &mut BuildHistoryRecord,
    finished: &Finished,
) -> Vec<(Digest, Bytes)> {
    record.exporter_response = finished.response.clone();
    let mut results = BTreeMap::new();
    for (index, exported) in (0_i64..).zip(&finished.exports) {
        if let Some(descriptor) = root(&exported.response) {
            results.insert(
                index,
                Descriptor {
                    media_type: descriptor.media_type.clone(),
                    digest: descriptor.digest.to_string(),
                    size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
                    annotations: descriptor.annotations.clone(),
                },
            );
        }
    }
    if !results.is_empty() {
        record.result = Some(BuildResultInfo {
            result_deprecated: results.values().next().cloned(),
            results,
            ..BuildResultInfo::default()
        });
    }
    let mut blobs = attest(record, finished);
    let exports = finished.exports.iter();
    let documents = exports
        .flat_map(|exported| &exported.documents)
        .map(|bytes| (Digest::of(bytes), bytes.clone()));
    blobs.extend(documents);
    blobs
}

/// Adds where the results come from, and answers the blobs that say it.
fn attest(record: &mut BuildHistoryRecord, finished: &Finished) -> Vec<(Digest, Bytes)> {
    let Some(provenance) = &finished.provenance else {
        return Vec::new();
    };
    let mut blobs = Vec::new();
    for key in provenance.results() {
        let predicate = provenance.whole(key);
        let Ok(bytes) = serde_json::to_vec_pretty(&predicate.value) else {
            continue;
        };
        let digest = Digest::of(&bytes);
        let mut descriptor = super::descriptor(IN_TOTO, &digest, bytes.len() as u64);
        let kind = predicate.kind.to_owned();
        descriptor
            .annotations
            .insert(PREDICATE_TYPE.to_owned(), kind);
        let result = match key {
            "" => record.result.get_or_insert_default(),
            key => record.results.entry(key.to_owned()).or_default(),
        };
        result.attestations.push(descriptor);
        blobs.push((digest, bytes.into()));
    }
    blobs
}

/// The descriptor of the image that an exporter made.
fn root(response: &BTreeMap<String, String>) -> Option<oci::Descriptor> {
    let json = STANDARD
        .decode(response.get("containerimage.descriptor")?)
        .ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_what_a_client_asked_for_are_left_out() {
        let mut request = SolveRequest::default();
        let context = "https://token@h/x.git#a".to_owned();
        request.frontend_attrs.insert("context".to_owned(), context);
        let record = of_request(&request);
        assert_eq!(record.frontend_attrs["context"], "https://xxxxx@h/x.git#a");
    }
}
