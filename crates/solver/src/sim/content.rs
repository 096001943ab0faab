//! What results hold, and a naive evaluator that knows no keys.

use std::collections::{BTreeMap, HashMap};

use llb::{ActionInput, FileActionKind, Graph, Input, OpKind, Selector, Vertex};
use oci::Digest;

use super::universe::Universe;

/// The files of a result: paths and what is in them.
pub(super) type Content = BTreeMap<String, u64>;

/// Which version of each changing source a job sees.
pub(super) type Versions = BTreeMap<String, u64>;

/// What selectors see of a content. Where a file lies does not count, as in a real digest of a
/// path, but which file of a directory it is does.
pub(super) fn digest(content: &Content, selectors: &[Selector]) -> Digest {
    let mut text = String::new();
    for selector in selectors {
        for (path, value) in content {
            let prefix = selector.path.trim_end_matches('/');
            if let Some(rest) = path.strip_prefix(prefix)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                text.push_str(&format!("{rest}={value};"));
            }
        }
        text.push('|');
    }
    Digest::of(text)
}

fn number(text: &str) -> u64 {
    let raw = Digest::of(text);
    u64::from_le_bytes(
        raw.as_raw()[..8]
            .try_into()
            .expect("eight of 32 bytes are eight bytes"),
    )
}

/// What a source holds for a job.
pub(super) fn of_source(identifier: &str, versions: &Versions) -> Content {
    let version = versions.get(identifier).copied().unwrap_or(0);
    // Most files are the same in most versions.
    ["/p/f", "/q/f", "/p/g", "/h"]
        .into_iter()
        .enumerate()
        .map(|(at, path)| {
            let changed = if version % 4 == at as u64 { version } else { 0 };
            (
                path.to_owned(),
                number(&format!("{identifier} {path} {changed}")),
            )
        })
        .collect()
}

/// What an op makes of its inputs; one content for each output.
pub(super) fn carry_out(vertex: &Vertex, inputs: &[Option<Content>]) -> Vec<Content> {
    let empty = Content::new();
    let input = |index: Option<u32>| {
        index
            .and_then(|index| inputs[index as usize].as_ref())
            .unwrap_or(&empty)
    };
    match &vertex.op().kind {
        OpKind::Exec(exec) => {
            let mut seen = exec.meta.args.join(" ");
            for mount in &exec.mounts {
                let selector = Selector {
                    path: mount.selector.clone(),
                    ..Selector::default()
                };
                seen.push_str(&digest(input(mount.input), &[selector]).to_string());
            }
            let outputs = exec.mounts.iter().filter(|mount| mount.output.is_some());
            outputs
                .map(|mount| {
                    let mut content = input(mount.input).clone();
                    let made = number(&format!("{} {seen}", mount.dest));
                    content.insert("/p/made".into(), made);
                    content
                })
                .collect()
        }
        OpKind::File(file) => {
            let mut outputs = Vec::new();
            for action in &file.actions {
                let of = |from| match from {
                    ActionInput::Input(index) => input(Some(index)),
                    ActionInput::Empty | ActionInput::Action(_) => &empty,
                };
                let mut content = of(action.input).clone();
                let FileActionKind::Copy(copy) = &action.kind else {
                    continue;
                };
                let value = of(action.secondary).get(&copy.src).copied().unwrap_or(0);
                content.insert(copy.dest.clone(), value);
                outputs.push(content);
            }
            outputs
        }
        OpKind::Merge(merge) => {
            let mut content = Content::new();
            for index in &merge.inputs {
                content.extend(input(*index).clone());
            }
            vec![content]
        }
        OpKind::Diff(diff) => {
            let (lower, mut upper) = (input(diff.lower), input(diff.upper).clone());
            upper.retain(|path, value| lower.get(path) != Some(value));
            vec![upper]
        }
        OpKind::Source(_) | OpKind::Build(_) | OpKind::Passthrough(_) => Vec::new(),
    }
}

/// What the result of a graph holds: everything is carried out, in order, each time.
pub(super) fn evaluate(graph: &Graph, universe: &Universe, versions: &Versions) -> Content {
    let mut made: HashMap<Digest, Vec<Content>> = HashMap::new();
    for vertex in graph.vertices() {
        let get = |input: &Input| made[&input.digest][input.output as usize].clone();
        let inputs: Vec<_> = vertex
            .inputs()
            .iter()
            .map(|input| Some(get(input)))
            .collect();
        let outputs = match &vertex.op().kind {
            OpKind::Source(source) => vec![of_source(&source.identifier, versions)],
            OpKind::Passthrough(op) => op
                .outputs
                .iter()
                .map(|at| get(&vertex.inputs()[*at as usize]))
                .collect(),
            OpKind::Build(op) => {
                let inner = universe.definition(op.filename());
                let inner = Graph::new(&inner).expect("definitions of the universe are legal");
                vec![evaluate(&inner, universe, versions)]
            }
            OpKind::Exec(_) | OpKind::File(_) | OpKind::Merge(_) | OpKind::Diff(_) => {
                carry_out(vertex, &inputs)
            }
        };
        made.insert(vertex.digest(), outputs);
    }
    let result = graph.result();
    made[&result.digest][result.output as usize].clone()
}
