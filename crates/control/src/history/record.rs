//! What a record says of its build.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use engine::Finished;
use oci::Digest;
use proto::control::{BuildHistoryRecord, BuildResultInfo, Descriptor, Exporter, SolveRequest};

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
        frontend_attrs: attrs.map(|(k, v)| (k.clone(), redact(v))).collect(),
        exporters,
        ..BuildHistoryRecord::default()
    }
}

/// A value without the password of a URL.
fn redact(value: &str) -> String {
    let mut found = None;
    if let Some((scheme, rest)) = value.split_once("://") {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if let Some((user, _)) = authority.rsplit_once('@')
            && let Some((name, _)) = user.split_once(':')
        {
            found = Some(format!("{scheme}://{name}:xxxxx{}", &rest[user.len()..]));
        }
    }
    found.unwrap_or_else(|| value.to_owned())
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
    let exports = finished.exports.iter();
    exports
        .flat_map(|exported| &exported.documents)
        .map(|bytes| (Digest::of(bytes), bytes.clone()))
        .collect()
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
    fn passwords_of_urls_are_left_out() {
        for (value, wanted) in [
            ("https://me:pw@h/x.git#a", "https://me:xxxxx@h/x.git#a"),
            ("https://h/a:b@c", "https://h/a:b@c"),
            ("linux/amd64", "linux/amd64"),
        ] {
            assert_eq!(redact(value), wanted);
        }
    }
}
