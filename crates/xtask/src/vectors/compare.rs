//! What a case expects against what came out. Each function gives the first difference in a line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frontend::{BuildResult, FrontendError};
use llb::{Definition, Graph, OpMetadata};
use oci::Digest;
use serde_json::{Map, Value, json};

use super::{Case, Op, Warning};

pub(super) fn difference(
    case: &Case,
    outcome: Result<BuildResult, FrontendError>,
    found: &[frontend::Warning],
) -> Option<String> {
    let differs = match (&case.error, outcome) {
        (Some(expected), Err(error)) => {
            let error = error.to_string();
            (*expected != error).then(|| format!("fails with {error:?} instead of {expected:?}"))
        }
        (Some(expected), Ok(_)) => Some(format!("does not fail with {expected:?}")),
        (None, Err(error)) => Some(format!("fails with {:?}", error.to_string())),
        (None, Ok(result)) => results(case, &result).or_else(|| metadata(case, &result)),
    };
    differs.or_else(|| warnings(case, found))
}

fn results(case: &Case, result: &BuildResult) -> Option<String> {
    let ours = result.all_refs().filter(|(_, r)| !r.is_scratch());
    let mut ours: Vec<&str> = ours.map(|(key, _)| key).collect();
    ours.sort_unstable();
    let theirs = case.results.iter().filter(|(_, ops)| !ops.is_empty());
    let theirs: Vec<&str> = theirs.map(|(key, _)| key.as_str()).collect();
    if ours != theirs {
        return Some(format!("results {ours:?} instead of {theirs:?}"));
    }
    result.all_refs().find_map(|(key, reference)| {
        let definition = reference.graph.as_deref()?.definition();
        ops(case.results.get(key)?, &definition).map(|differs| format!("result `{key}`, {differs}"))
    })
}

fn ops(expected: &[Op], definition: &Definition) -> Option<String> {
    let ours = &definition.ops;
    let (mut our_groups, mut their_groups) = (Groups::default(), Groups::default());
    let pairs = expected.iter().zip(ours).enumerate();
    for (index, (expected, ours)) in pairs {
        if STANDARD.encode(ours) != expected.raw {
            let ours = show(definition, index);
            return Some(format!("op {index}: {ours} instead of {}", expected.op));
        }
        let said = definition.metadata.get(&Digest::of(ours));
        let said = our_groups.number(said.map(metadata_json).unwrap_or_default());
        let expected = their_groups.number(expected.metadata.clone());
        if said != expected {
            return Some(format!(
                "metadata of op {index}: {said} instead of {expected}"
            ));
        }
    }
    (expected.len() != ours.len())
        .then(|| format!("{} ops instead of {}", ours.len(), expected.len()))
}

/// Progress groups in the order in which they come. Their ids are arbitrary: what counts is which
/// ops have the same.
#[derive(Default)]
struct Groups(Vec<Value>);

impl Groups {
    /// `metadata` with a number as the id of its group.
    fn number(&mut self, mut metadata: Value) -> Value {
        if let Some(id) = metadata.pointer_mut("/progress_group/id") {
            let known = self.0.iter().position(|known| known == id);
            let number = known.unwrap_or_else(|| {
                self.0.push(id.clone());
                self.0.len() - 1
            });
            *id = json!(number);
        }
        metadata
    }
}

/// An op for people to read.
fn show(definition: &Definition, index: usize) -> String {
    let vertex = Graph::new(definition).ok().and_then(|graph| {
        let digest = Digest::of(definition.ops.get(index)?);
        graph.vertex(&digest).cloned()
    });
    vertex.map_or_else(|| "no op".to_owned(), |vertex| format!("{:?}", vertex.op()))
}

/// An op's metadata as `pb.OpMetadata` is in Go's JSON: without what is unset.
fn metadata_json(metadata: &OpMetadata) -> Value {
    let mut object = Map::new();
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    if metadata.ignore_cache {
        set("ignore_cache", Value::Bool(true));
    }
    if !metadata.description.is_empty() {
        set("description", json!(metadata.description));
    }
    if let Some(export) = metadata.export_cache {
        set("export_cache", json!({ "Value": export }));
    }
    if !metadata.caps.is_empty() {
        set("caps", json!(metadata.caps));
    }
    if let Some(group) = &metadata.progress_group {
        let group = json!({"id": group.id, "name": group.name, "weak": group.weak});
        set("progress_group", present(group));
    }
    if let Some(limits) = &metadata.linux_resources {
        let limits = json!({
            "memory": limits.memory,
            "memorySwap": limits.memory_swap,
            "cpuShares": limits.cpu_shares,
            "cpuPeriod": limits.cpu_period,
            "cpuQuota": limits.cpu_quota,
            "cpusetCpus": limits.cpuset_cpus,
            "cpusetMems": limits.cpuset_mems,
        });
        set("linux_resources", present(limits));
    }
    Value::Object(object)
}

/// An object without the members that have their type's zero.
fn present(object: Value) -> Value {
    let unset = [json!(0), json!(""), json!(false)];
    match object {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !unset.contains(value))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

fn metadata(case: &Case, result: &BuildResult) -> Option<String> {
    let ours: Vec<&String> = result.metadata.keys().collect();
    let theirs: Vec<&String> = case.metadata.keys().collect();
    if ours != theirs {
        return Some(format!("metadata {ours:?} instead of {theirs:?}"));
    }
    case.metadata.iter().find_map(|(key, expected)| {
        let bytes = result.metadata.get(key)?;
        let ours = serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()));
        (ours != *expected).then(|| format!("`{key}` is {ours} instead of {expected}"))
    })
}

fn warnings(case: &Case, found: &[frontend::Warning]) -> Option<String> {
    let mut ours: Vec<Warning> = found.iter().map(warning).collect();
    ours.sort_by(|a, b| (a.line, &a.short).cmp(&(b.line, &b.short)));
    (ours != case.warnings).then(|| {
        let differs = ours.iter().zip(&case.warnings).find(|(a, b)| a != b);
        match differs {
            Some((ours, expected)) => format!("warns {ours:?} instead of {expected:?}"),
            None => format!("{} warnings instead of {}", ours.len(), case.warnings.len()),
        }
    })
}

fn warning(found: &frontend::Warning) -> Warning {
    let place = found.location.as_ref();
    let start = place.and_then(|place| place.ranges.first());
    Warning {
        short: found.short.clone(),
        detail: found.detail.clone(),
        url: found.url.clone(),
        line: start.map_or(0, |((line, _), _)| *line),
    }
}
