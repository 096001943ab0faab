//! The steps of a graph, as provenance tells them: BuildKit's ops as JSON.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use llb::{
    ActionInput, ExecOp, FileAction, FileActionKind, FileOp, Graph, Mount, MountKind, NetMode,
    OpKind, SecurityMode, SourceOp, Vertex,
};
use oci::Digest;
use serde_json::{Map, Value, json};

/// Adds `value` under `key` unless it says nothing.
fn put(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let value = value.into();
    let empty = match &value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(true) => false,
    };
    if !empty {
        object.insert(key.to_owned(), value);
    }
}

/// The steps of a graph, inputs first, and which step each vertex is.
pub(super) struct Steps {
    pub(super) definition: Vec<Value>,
    pub(super) mapping: BTreeMap<String, String>,
    pub(super) locations: Map<String, Value>,
    pub(super) infos: Vec<Value>,
}

/// Describes all steps of a graph.
pub(super) fn describe(graph: &Graph) -> Steps {
    let mut names: HashMap<Digest, String> = HashMap::new();
    let mut steps = Steps {
        definition: Vec::new(),
        mapping: BTreeMap::new(),
        locations: Map::new(),
        infos: infos(graph),
    };
    for (index, vertex) in graph.vertices().enumerate() {
        let name = format!("step{index}");
        let inputs: Vec<Value> = vertex
            .op()
            .inputs
            .iter()
            .filter_map(|input| Some(format!("{}:{}", names.get(&input.digest)?, input.output)))
            .map(Value::from)
            .collect();
        let mut step = Map::new();
        put(&mut step, "id", name.clone());
        put(&mut step, "op", op(vertex));
        put(&mut step, "inputs", inputs);
        steps.definition.push(Value::Object(step));
        let digest = vertex.digest();
        steps.mapping.insert(digest.to_string(), name.clone());
        let locations = locations(graph, &digest);
        steps.locations.insert(name.clone(), locations);
        names.insert(digest, name);
    }
    // The last op of a definition names its result.
    let result = graph.result();
    if let Some(name) = names.get(&result.digest) {
        let last = format!("step{}", steps.definition.len());
        let input = format!("{name}:{}", result.output);
        let op = json!({ "Op": {} });
        steps
            .definition
            .push(json!({ "id": last, "inputs": [input], "op": op }));
        let digest = Digest::of(llb::encode_terminal(result));
        steps.mapping.insert(digest.to_string(), last);
    }
    steps
}

fn infos(graph: &Graph) -> Vec<Value> {
    let infos = graph.source_infos().iter();
    infos
        .map(|info| {
            let mut value = Map::new();
            put(&mut value, "filename", info.filename.clone());
            put(&mut value, "language", info.language.clone());
            put(&mut value, "data", STANDARD.encode(&info.data));
            // How the file itself came in.
            let graph = info.definition.as_deref().map(Graph::new);
            if let Some(Ok(graph)) = graph {
                let steps = describe(&graph);
                put(&mut value, "llbDefinition", steps.definition);
                put(&mut value, "digestMapping", json!(steps.mapping));
            }
            Value::Object(value)
        })
        .collect()
}

fn locations(graph: &Graph, vertex: &Digest) -> Value {
    let position = |line: i32, character: i32| {
        let mut value = Map::new();
        put(&mut value, "line", line);
        put(&mut value, "character", character);
        Value::Object(value)
    };
    let locations = graph.locations(vertex).iter().map(|location| {
        let ranges: Vec<Value> = location
            .ranges
            .iter()
            .map(|range| {
                let (start, end) = (range.start, range.end);
                json!({
                    "start": position(start.line, start.character),
                    "end": position(end.line, end.character),
                })
            })
            .collect();
        let mut value = Map::new();
        put(&mut value, "sourceIndex", location.source_index);
        put(&mut value, "ranges", ranges);
        Value::Object(value)
    });
    let mut value = Map::new();
    put(&mut value, "locations", locations.collect::<Vec<_>>());
    Value::Object(value)
}

fn op(vertex: &Vertex) -> Value {
    let op = vertex.op();
    let kind = match &op.kind {
        OpKind::Source(source) => json!({ "source": self::source(source) }),
        OpKind::Exec(exec) => json!({ "exec": self::exec(exec) }),
        OpKind::File(file) => json!({ "file": self::file(file, op.inputs.len()) }),
        OpKind::Merge(merge) => {
            let inputs = merge
                .inputs
                .iter()
                .map(|input| json!({ "input": input.map_or(-1, i64::from) }));
            json!({ "merge": { "inputs": inputs.collect::<Vec<_>>() } })
        }
        OpKind::Diff(diff) => json!({ "diff": {
            "lower": { "input": diff.lower.map_or(-1, i64::from) },
            "upper": { "input": diff.upper.map_or(-1, i64::from) },
        } }),
        OpKind::Build(build) => json!({ "build": { "attrs": build.attrs } }),
        OpKind::Passthrough(_) => json!({ "passthrough": {} }),
    };
    let mut value = Map::new();
    value.insert("Op".to_owned(), kind);
    if let Some(platform) = &op.platform {
        let mut told = Map::new();
        put(&mut told, "Architecture", platform.architecture.clone());
        put(&mut told, "OS", platform.os.clone());
        put(&mut told, "Variant", platform.variant.clone());
        value.insert("platform".to_owned(), Value::Object(told));
    }
    value.insert("constraints".to_owned(), json!({}));
    Value::Object(value)
}

fn source(source: &SourceOp) -> Value {
    let mut value = Map::new();
    put(
        &mut value,
        "identifier",
        oci::redact_url(&source.identifier),
    );
    let attrs: Map<String, Value> = source
        .attrs
        .iter()
        // They name the client's session of this one build.
        .filter(|(key, _)| *key != "local.session" && *key != "local.unique")
        .map(|(key, attr)| (key.clone(), Value::from(oci::redact_url(attr))))
        .collect();
    put(&mut value, "attrs", attrs);
    Value::Object(value)
}

fn exec(exec: &ExecOp) -> Value {
    let mut meta = Map::new();
    put(&mut meta, "args", exec.meta.args.clone());
    put(&mut meta, "env", exec.meta.env.clone());
    put(&mut meta, "cwd", exec.meta.cwd.clone());
    put(&mut meta, "user", exec.meta.user.clone());
    put(&mut meta, "hostname", exec.meta.hostname.clone());
    put(&mut meta, "cgroupParent", exec.meta.cgroup_parent.clone());
    let stubs = exec.meta.remove_mount_stubs_recursive;
    put(&mut meta, "removeMountStubsRecursive", stubs);
    let mut value = Map::new();
    put(&mut value, "meta", meta);
    let mounts: Vec<Value> = exec.mounts.iter().map(mount).collect();
    put(&mut value, "mounts", mounts);
    let network = match exec.network {
        NetMode::Host => 1,
        NetMode::None => 2,
        NetMode::Sandbox => 0,
    };
    put(&mut value, "network", network);
    put(
        &mut value,
        "security",
        i32::from(exec.security == SecurityMode::Insecure),
    );
    let secrets = exec.secret_env.iter().map(|secret| {
        let mut value = Map::new();
        put(&mut value, "ID", secret.id.clone());
        put(&mut value, "name", secret.name.clone());
        put(&mut value, "optional", secret.optional);
        Value::Object(value)
    });
    put(&mut value, "secretenv", secrets.collect::<Vec<_>>());
    Value::Object(value)
}

fn mount(mount: &Mount) -> Value {
    let mut value = Map::new();
    put(&mut value, "input", mount.input.map_or(-1, i64::from));
    put(&mut value, "selector", mount.selector.clone());
    put(&mut value, "dest", mount.dest.clone());
    put(&mut value, "output", mount.output.map_or(-1, i64::from));
    put(&mut value, "readonly", mount.readonly);
    match &mount.kind {
        MountKind::Secret(secret) => {
            value.insert("mountType".to_owned(), json!(1));
            let optional = secret.optional;
            value.insert(
                "secretOpt".to_owned(),
                json!({ "ID": secret.id, "optional": optional }),
            );
        }
        MountKind::Ssh(ssh) => {
            value.insert("mountType".to_owned(), json!(2));
            let optional = ssh.optional;
            value.insert(
                "SSHOpt".to_owned(),
                json!({ "ID": ssh.id, "optional": optional }),
            );
        }
        MountKind::Cache(cache) => {
            value.insert("mountType".to_owned(), json!(3));
            value.insert("cacheOpt".to_owned(), json!({ "ID": cache.id }));
        }
        MountKind::Tmpfs { .. } => {
            value.insert("mountType".to_owned(), json!(4));
        }
        MountKind::Bind => {}
    }
    Value::Object(value)
}

fn file(file: &FileOp, inputs: usize) -> Value {
    let actions = file.actions.iter().map(|told| action(told, inputs));
    json!({ "actions": actions.collect::<Vec<_>>() })
}

/// An action of an op with so many `inputs`: what actions make is numbered after those.
fn action(action: &FileAction, inputs: usize) -> Value {
    let input = |input: &ActionInput| match input {
        ActionInput::Empty => -1,
        ActionInput::Input(index) => i64::from(*index),
        ActionInput::Action(index) => {
            i64::try_from(inputs).map_or(-1, |inputs| inputs + i64::from(*index))
        }
    };
    let mut told = Map::new();
    let kind = match &action.kind {
        FileActionKind::Copy(copy) => {
            put(&mut told, "src", copy.src.clone());
            put(&mut told, "dest", copy.dest.clone());
            put(&mut told, "mode", copy.mode.map_or(-1, i64::from));
            put(&mut told, "followSymlink", copy.follow_symlink);
            put(&mut told, "dirCopyContents", copy.dir_copy_contents);
            put(
                &mut told,
                "attemptUnpackDockerCompatibility",
                copy.attempt_unpack,
            );
            put(&mut told, "createDestPath", copy.create_dest_path);
            put(&mut told, "allowWildcard", copy.allow_wildcard);
            put(&mut told, "allowEmptyWildcard", copy.allow_empty_wildcard);
            put(&mut told, "timestamp", copy.timestamp.unwrap_or(-1));
            put(&mut told, "includePatterns", copy.include.clone());
            put(&mut told, "excludePatterns", copy.exclude.clone());
            "copy"
        }
        FileActionKind::MkFile(file) => {
            put(&mut told, "path", file.path.clone());
            put(&mut told, "mode", file.mode);
            put(&mut told, "data", STANDARD.encode(&file.data));
            put(&mut told, "timestamp", file.timestamp.unwrap_or(-1));
            "mkfile"
        }
        FileActionKind::MkDir(directory) => {
            put(&mut told, "path", directory.path.clone());
            put(&mut told, "mode", directory.mode);
            put(&mut told, "makeParents", directory.make_parents);
            put(&mut told, "timestamp", directory.timestamp.unwrap_or(-1));
            "mkdir"
        }
        FileActionKind::Rm(remove) => {
            put(&mut told, "path", remove.path.clone());
            put(&mut told, "allowNotFound", remove.allow_not_found);
            put(&mut told, "allowWildcard", remove.allow_wildcard);
            "rm"
        }
        FileActionKind::Symlink(link) => {
            put(&mut told, "oldpath", link.oldpath.clone());
            put(&mut told, "newpath", link.newpath.clone());
            put(&mut told, "timestamp", link.timestamp.unwrap_or(-1));
            "symlink"
        }
    };
    json!({
        "Action": { kind: told },
        "input": input(&action.input),
        "secondaryInput": input(&action.secondary),
        "output": action.output.map_or(-1, i64::from),
    })
}
