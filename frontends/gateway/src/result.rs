//! Results of builds on the wire, in both directions.

use std::collections::BTreeMap;

use bytes::Bytes;
use frontend::{Attestation, BuildResult, ResultRef};
use proto::frontend as wire;
use serde::Deserialize;
use tonic::Status;
use wire::result::Result as Shape;

use crate::build::Build;

/// The most platforms of one result: BuildKit's platforms together are a few dozen.
const MAX_REFS: usize = 1000;

/// Tells the frontend of a result, whose refs it may name from now on. An old frontend
/// (`with_definitions` false) knows only names.
pub(crate) fn to_wire(
    build: &Build,
    result: &BuildResult,
    with_definitions: bool,
) -> Result<wire::Result, Status> {
    for (_, result) in result.all_refs() {
        build.keep(result)?;
    }
    for attestation in result.attestations.values().flatten() {
        build.keep(&attestation.result)?;
    }
    let reference = |result: &ResultRef| wire::Ref {
        id: result.id.clone(),
        def: result.graph.as_ref().map(|graph| graph.to_definition()),
    };
    let single = result.single.clone().unwrap_or_default();
    let several = !result.refs.is_empty();
    let refs = result.refs.iter();
    let shape = match (several, with_definitions) {
        (true, true) => Shape::Refs(wire::RefMap {
            refs: refs.map(|(k, r)| (k.clone(), reference(r))).collect(),
        }),
        (true, false) => Shape::RefsDeprecated(wire::RefMapDeprecated {
            refs: refs.map(|(k, r)| (k.clone(), r.id.clone())).collect(),
        }),
        (false, true) => Shape::Ref(reference(&single)),
        (false, false) => Shape::RefDeprecated(single.id),
    };
    let attestation = |a: &Attestation| wire::Attestation {
        kind: match a.bundle {
            true => wire::AttestationKind::Bundle.into(),
            false => wire::AttestationKind::InToto.into(),
        },
        metadata: a.metadata.clone(),
        r#ref: Some(reference(&a.result)),
        path: a.path.clone(),
        in_toto_predicate_type: a.predicate_type.clone(),
        in_toto_subjects: Vec::new(),
    };
    let attestations = result.attestations.iter().map(|(key, all)| {
        let attestation = all.iter().map(attestation).collect();
        (key.clone(), wire::Attestations { attestation })
    });
    Ok(wire::Result {
        result: Some(shape),
        metadata: result.metadata.clone(),
        attestations: attestations.collect(),
    })
}

/// The result that a frontend returns.
pub(crate) fn from_wire(build: &Build, result: wire::Result) -> Result<BuildResult, Status> {
    let mut answer = BuildResult {
        metadata: result.metadata,
        ..BuildResult::default()
    };
    let named: BTreeMap<String, String> = match result.result {
        None => BTreeMap::new(),
        Some(Shape::Ref(reference)) => {
            answer.single = Some(build.find(&reference.id)?);
            BTreeMap::new()
        }
        Some(Shape::RefDeprecated(id)) => {
            answer.single = Some(build.find(&id)?);
            BTreeMap::new()
        }
        Some(Shape::Refs(map)) => map.refs.into_iter().map(|(k, r)| (k, r.id)).collect(),
        Some(Shape::RefsDeprecated(map)) => map.refs,
    };
    if named.len() > MAX_REFS {
        return Err(Status::invalid_argument(format!(
            "a result may be for {MAX_REFS} platforms at most"
        )));
    }
    for (key, id) in in_order(named, &answer.metadata) {
        answer.refs.push((key, build.find(&id)?));
    }
    for (key, all) in result.attestations {
        let all = all.attestation.into_iter();
        let all = all
            .map(|a| attestation(build, a))
            .collect::<Result<_, _>>()?;
        answer.attestations.insert(key, all);
    }
    Ok(answer)
}

fn attestation(build: &Build, wire: wire::Attestation) -> Result<Attestation, Status> {
    let bundle = match wire::AttestationKind::try_from(wire.kind) {
        Ok(wire::AttestationKind::Bundle) => true,
        Ok(wire::AttestationKind::InToto) => false,
        Err(_) => {
            let text = format!("unknown attestation kind {}", wire.kind);
            return Err(Status::invalid_argument(text));
        }
    };
    Ok(Attestation {
        bundle,
        metadata: wire.metadata,
        result: build.find(&wire.r#ref.unwrap_or_default().id)?,
        path: wire.path,
        predicate_type: wire.in_toto_predicate_type,
    })
}

/// A map has no order on the wire; the metadata `refs.platforms` has.
fn in_order(
    mut named: BTreeMap<String, String>,
    metadata: &BTreeMap<String, Bytes>,
) -> Vec<(String, String)> {
    #[derive(Deserialize, Default)]
    struct Platforms {
        #[serde(rename = "Platforms", default)]
        platforms: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "ID")]
        id: String,
    }
    let json = metadata.get("refs.platforms");
    let order: Platforms = json
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default();
    let mut all: Vec<_> = order
        .platforms
        .iter()
        .filter_map(|entry| named.remove_entry(&entry.id))
        .collect();
    // What the metadata do not name comes last.
    all.extend(named);
    all
}
