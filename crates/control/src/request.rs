//! A client's request, checked once, at the door.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{
    AllowedEntitlements, BuildError, BuildRequest, CacheSpec, Entitlements, ExporterKind,
    ExporterSpec,
};
use proto::control as wire;
use proto::pb;

/// The most entries in any list or map of a request: far above what a client sends, far below what
/// would hurt.
const MAX_ENTRIES: usize = 10_000;

/// Compatibility versions that clients may ask for (BuildKit: `util/compat`); 0 is the newest.
const COMPATIBILITY: [i64; 4] = [0, 10, 20, 30];

/// Turns a wire request into one the engine takes.
pub(crate) fn build_request(
    mut request: wire::SolveRequest,
    allowed: AllowedEntitlements,
) -> Result<BuildRequest, BuildError> {
    if request.r#ref.is_empty() {
        return Err(BuildError::user("invalid solve request: no ref given"));
    }
    if !COMPATIBILITY.contains(&request.compatibility_version) {
        return Err(BuildError::user(format!(
            "unsupported compatibility-version {}: upgrade buildkit (max supported: 30)",
            request.compatibility_version
        )));
    }
    if request.frontend_attrs.len() > MAX_ENTRIES || request.frontend_inputs.len() > MAX_ENTRIES {
        return Err(BuildError::user(format!(
            "invalid solve request: more than {MAX_ENTRIES} frontend options"
        )));
    }
    let policies = request.source_policy.take().map(gateway::read_policy);
    let policies = policies.transpose()?.into_iter().collect();
    let entitlements = Entitlements::grant(&request.entitlements, allowed)?;
    let exporters = exporters(&request)?;
    let (cache_imports, cache_exports) = caches(&request)?;
    Ok(BuildRequest {
        build_ref: request.r#ref,
        session: request.session,
        trace_parent: None,
        frontend: request.frontend,
        attrs: request.frontend_attrs,
        definition: request.definition.map(graph).transpose()?.flatten(),
        inputs: inputs(request.frontend_inputs)?,
        exporters,
        ask_for_exporters: request.enable_session_exporter,
        cache_imports,
        cache_exports,
        entitlements,
        policies,
        policy_session: request.source_policy_session,
    })
}

fn exporters(request: &wire::SolveRequest) -> Result<Vec<ExporterSpec>, BuildError> {
    let listed = request
        .exporters
        .iter()
        .map(|e| (e.r#type.as_str(), &e.attrs));
    let old = Some((
        request.exporter_deprecated.as_str(),
        &request.exporter_attrs_deprecated,
    ))
    .filter(|(kind, _)| !kind.is_empty() && request.exporters.is_empty());
    listed
        .chain(old)
        .map(|(kind, attrs)| {
            Ok(ExporterSpec {
                kind: ExporterKind::parse(kind)?,
                attrs: attrs.clone(),
            })
        })
        .collect()
}

/// The build caches that are to be read and written, each once.
fn caches(request: &wire::SolveRequest) -> Result<(Vec<CacheSpec>, Vec<CacheSpec>), BuildError> {
    let Some(cache) = &request.cache else {
        return Ok(Default::default());
    };
    let spec = |entry: &wire::CacheOptionsEntry| CacheSpec {
        kind: entry.r#type.clone(),
        attrs: entry.attrs.clone(),
    };
    let old = |reference: &str, attrs: &BTreeMap<String, String>| {
        let mut attrs = attrs.clone();
        attrs.insert("ref".to_owned(), reference.to_owned());
        CacheSpec {
            kind: "registry".to_owned(),
            attrs,
        }
    };
    let mut imports: Vec<CacheSpec> = cache.imports.iter().map(spec).collect();
    for reference in &cache.import_refs_deprecated {
        imports.push(old(reference, &BTreeMap::new()));
    }
    let mut exports: Vec<CacheSpec> = cache.exports.iter().map(spec).collect();
    if !cache.export_ref_deprecated.is_empty() && exports.is_empty() {
        exports.push(old(
            &cache.export_ref_deprecated,
            &cache.export_attrs_deprecated,
        ));
    }
    Ok((imports, CacheSpec::exports(exports)?))
}

fn inputs(
    definitions: BTreeMap<String, pb::Definition>,
) -> Result<BTreeMap<String, Arc<llb::Graph>>, BuildError> {
    let mut inputs = BTreeMap::new();
    for (name, definition) in definitions {
        // An input without a definition is an empty filesystem, which has no graph.
        if let Some(graph) = graph(definition)? {
            inputs.insert(name, graph);
        }
    }
    Ok(inputs)
}

/// A definition's graph; an empty definition is the empty filesystem.
pub(crate) fn graph(definition: pb::Definition) -> Result<Option<Arc<llb::Graph>>, BuildError> {
    if definition.def.is_empty() {
        return Ok(None);
    }
    let graph = llb::Graph::from_definition(&definition)
        .map_err(|error| BuildError::user(error.to_string()))?;
    Ok(Some(Arc::new(graph)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut wire::SolveRequest)) -> Result<BuildRequest, String> {
        let mut request = wire::SolveRequest {
            r#ref: "r".to_owned(),
            ..Default::default()
        };
        change(&mut request);
        build_request(request, AllowedEntitlements::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn deprecated_fields_are_translated() {
        let request = check(|r| r.exporter_deprecated = "oci".to_owned()).unwrap();
        assert_eq!(request.exporters[0].kind, ExporterKind::Oci);
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_named() {
        let exporter = wire::Exporter {
            r#type: "x".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            check(|r| r.exporters.push(exporter)).unwrap_err(),
            "exporter \"x\" could not be found"
        );
        assert_eq!(
            check(|r| r.compatibility_version = 31).unwrap_err(),
            "unsupported compatibility-version 31: upgrade buildkit (max supported: 30)"
        );
        let entry = wire::CacheOptionsEntry {
            r#type: "gha".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            check(|r| r.cache.get_or_insert_default().exports.push(entry)).unwrap_err(),
            "unknown cache exporter: \"gha\""
        );
        assert!(check(|r| r.r#ref.clear()).is_err());
    }
}
