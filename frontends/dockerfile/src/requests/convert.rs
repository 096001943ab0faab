//! `frontend.convertllb`: the graph as JSON.

use frontend::{BuildResult, FrontendError};
use llb::{
    ActionInput, CacheSharing, ContentMatching, Definition, ExecOp, FileAction, FileActionKind,
    Graph, Mount, MountKind, NetMode, Op, OpKind, Owner, SecurityMode, UserRef,
};
use oci::Platform;
use serde_json::{Map, Value, json};

use super::json::{self, object};

/// The request.
pub(super) const NAME: &str = "frontend.convertllb";
const VERSION: &str = "0.1.0";

pub(super) fn answer(definition: &Definition) -> Result<BuildResult, FrontendError> {
    let mut ops = Map::new();
    if !definition.is_empty() {
        let graph = Graph::new(definition)
            .map_err(|error| FrontendError::invalid(crate::lower::chain(&error)))?;
        for vertex in graph.vertices() {
            ops.insert(vertex.digest().to_string(), op(vertex.op()));
        }
        let result = graph.result();
        let input = object([
            ("digest", result.digest.to_string().into()),
            ("index", number(i64::from(result.output))),
        ]);
        let last = definition
            .ops
            .last()
            .map(|op| oci::Digest::of(op).to_string());
        ops.insert(last.unwrap_or_default(), json!({"inputs": [input]}));
    }
    let metadata = definition.metadata.iter();
    let metadata: Map<String, Value> = metadata
        .map(|(digest, item)| (digest.to_string(), json::op_metadata(item)))
        .collect();
    let report = json!({
        "def": ops,
        "metadata": metadata,
        "source": definition.source.as_ref().map_or(json!({}), json::source_map),
    });
    Ok(super::metadata(&[
        ("result.json", &json::pretty(&report)),
        ("version", VERSION),
    ]))
}

/// 64-bit numbers are strings in protobuf's JSON, and left out when they are 0.
fn number(value: i64) -> Value {
    if value == 0 {
        Value::Null
    } else {
        value.to_string().into()
    }
}

/// −1 stands for none.
fn index(value: Option<u32>) -> Value {
    number(value.map_or(-1, i64::from))
}

fn texts(values: &[String]) -> Value {
    values.iter().map(String::as_str).collect()
}

fn op(op: &Op) -> Value {
    let inputs = op.inputs.iter().map(|input| {
        object([
            ("digest", input.digest.to_string().into()),
            ("index", number(i64::from(input.output))),
        ])
    });
    let inputs: Value = inputs.collect();
    let (name, kind) = match &op.kind {
        OpKind::Exec(exec) => ("exec", exec_op(exec)),
        OpKind::Source(source) => {
            let attrs = source.attrs.iter();
            let attrs: Map<String, Value> = attrs
                .map(|(key, value)| (key.clone(), value.as_str().into()))
                .collect();
            let attrs = if attrs.is_empty() {
                Value::Null
            } else {
                Value::Object(attrs)
            };
            let identifier = source.identifier.as_str().into();
            (
                "source",
                object([("identifier", identifier), ("attrs", attrs)]),
            )
        }
        OpKind::File(file) => {
            let count = op.inputs.len();
            let actions = file.actions.iter().map(|action| file_action(action, count));
            ("file", object([("actions", actions.collect())]))
        }
        OpKind::Build(_) => ("build", json!({"builder": "-1"})),
        OpKind::Merge(merge) => {
            let inputs = merge
                .inputs
                .iter()
                .map(|input| object([("input", index(*input))]));
            ("merge", object([("inputs", inputs.collect())]))
        }
        OpKind::Diff(diff) => {
            let side = |input| object([("input", index(input))]);
            (
                "diff",
                json!({"lower": side(diff.lower), "upper": side(diff.upper)}),
            )
        }
        OpKind::Passthrough(passthrough) => {
            let outputs = passthrough.outputs.iter().map(|output| output.to_string());
            let outputs: Value = outputs.collect();
            let id = passthrough.id.as_str().into();
            ("passthrough", object([("id", id), ("outputs", outputs)]))
        }
    };
    let constraints = op
        .constraints
        .as_ref()
        .map(|filter| object([("filter", texts(filter))]));
    object([
        ("inputs", inputs),
        (name, kind),
        (
            "platform",
            op.platform.as_ref().map_or(Value::Null, platform),
        ),
        ("constraints", constraints.unwrap_or_default()),
    ])
}

fn platform(platform: &Platform) -> Value {
    object([
        ("Architecture", platform.architecture.as_str().into()),
        ("OS", platform.os.as_str().into()),
        ("Variant", platform.variant.as_str().into()),
        ("OSVersion", platform.os_version.as_str().into()),
        ("OSFeatures", texts(&platform.os_features)),
    ])
}

fn exec_op(exec: &ExecOp) -> Value {
    let meta = &exec.meta;
    let proxy = meta.proxy_env.as_ref().map(|proxy| {
        object([
            ("httpProxy", proxy.http_proxy.as_str().into()),
            ("httpsProxy", proxy.https_proxy.as_str().into()),
            ("ftpProxy", proxy.ftp_proxy.as_str().into()),
            ("noProxy", proxy.no_proxy.as_str().into()),
            ("allProxy", proxy.all_proxy.as_str().into()),
        ])
    });
    let hosts = meta.extra_hosts.iter().map(|line| {
        object([
            ("Host", line.host.as_str().into()),
            ("IP", line.ip.as_str().into()),
        ])
    });
    let ulimits = meta.ulimits.iter().map(|limit| {
        object([
            ("Name", limit.name.as_str().into()),
            ("Soft", number(limit.soft)),
            ("Hard", number(limit.hard)),
        ])
    });
    let meta = object([
        ("args", texts(&meta.args)),
        ("env", texts(&meta.env)),
        ("cwd", meta.cwd.as_str().into()),
        ("user", meta.user.as_str().into()),
        ("proxyEnv", proxy.unwrap_or_default()),
        ("extraHosts", hosts.collect()),
        ("hostname", meta.hostname.as_str().into()),
        ("ulimit", ulimits.collect()),
        ("cgroupParent", meta.cgroup_parent.as_str().into()),
        (
            "removeMountStubsRecursive",
            meta.remove_mount_stubs_recursive.into(),
        ),
        (
            "validExitCodes",
            meta.valid_exit_codes.iter().copied().collect(),
        ),
    ]);
    let secrets = exec.secret_env.iter().map(|secret| {
        object([
            ("ID", secret.id.as_str().into()),
            ("name", secret.name.as_str().into()),
            ("optional", secret.optional.into()),
        ])
    });
    let devices = exec.devices.iter().map(|device| {
        object([
            ("name", device.name.as_str().into()),
            ("optional", device.optional.into()),
        ])
    });
    let network = match exec.network {
        NetMode::Sandbox => "",
        NetMode::Host => "HOST",
        NetMode::None => "NONE",
    };
    let security = match exec.security {
        SecurityMode::Sandbox => "",
        SecurityMode::Insecure => "INSECURE",
    };
    object([
        ("meta", meta),
        ("mounts", exec.mounts.iter().map(mount).collect()),
        ("network", network.into()),
        ("security", security.into()),
        ("secretenv", secrets.collect()),
        ("cdiDevices", devices.collect()),
    ])
}

fn mount(mount: &Mount) -> Value {
    let (kind, name, options) = match &mount.kind {
        MountKind::Bind => ("", "", Value::Null),
        MountKind::Tmpfs { size: None } => ("TMPFS", "", Value::Null),
        MountKind::Tmpfs { size: Some(size) } => {
            ("TMPFS", "TmpfsOpt", object([("size", number(*size))]))
        }
        MountKind::Cache(cache) => {
            let sharing = match cache.sharing {
                CacheSharing::Shared => "",
                CacheSharing::Private => "PRIVATE",
                CacheSharing::Locked => "LOCKED",
            };
            let id = cache.id.as_str().into();
            (
                "CACHE",
                "cacheOpt",
                object([("ID", id), ("sharing", sharing.into())]),
            )
        }
        MountKind::Secret(secret) => {
            let file = [secret.uid, secret.gid, secret.mode];
            (
                "SECRET",
                "secretOpt",
                file_options(&secret.id, file, secret.optional),
            )
        }
        MountKind::Ssh(ssh) => {
            let file = [ssh.uid, ssh.gid, ssh.mode];
            ("SSH", "SSHOpt", file_options(&ssh.id, file, ssh.optional))
        }
    };
    let content = match mount.content {
        ContentMatching::Default => "",
        ContentMatching::On => "ON",
        ContentMatching::Off => "OFF",
    };
    // What a session offers has no number of its own in the op either.
    let output = match mount.kind {
        MountKind::Secret(_) | MountKind::Ssh(_) => Value::Null,
        _ => index(mount.output),
    };
    object([
        ("input", index(mount.input)),
        ("selector", mount.selector.as_str().into()),
        ("dest", mount.dest.as_str().into()),
        ("output", output),
        ("readonly", mount.readonly.into()),
        ("mountType", kind.into()),
        (name, options),
        ("resultID", mount.result_id.as_str().into()),
        ("contentCache", content.into()),
    ])
}

fn file_options(id: &str, [uid, gid, mode]: [u32; 3], optional: bool) -> Value {
    object([
        ("ID", id.into()),
        ("uid", uid.into()),
        ("gid", gid.into()),
        ("mode", mode.into()),
        ("optional", optional.into()),
    ])
}

fn action_index(input: ActionInput, inputs: usize) -> Value {
    number(match input {
        ActionInput::Empty => -1,
        ActionInput::Input(index) => i64::from(index),
        ActionInput::Action(index) => i64::from(index) + i64::try_from(inputs).unwrap_or(i64::MAX),
    })
}

fn owner(owner: Option<&Owner>, inputs: usize) -> Value {
    let user = |user: &Option<UserRef>| match user {
        None => Value::Null,
        Some(UserRef::ById(id)) => json!({"byID": id}),
        Some(UserRef::ByName { name, input }) => {
            let input = action_index(*input, inputs);
            json!({"byName": object([("name", name.as_str().into()), ("input", input)])})
        }
    };
    owner.map_or(Value::Null, |owner| {
        object([("user", user(&owner.user)), ("group", user(&owner.group))])
    })
}

fn file_action(action: &FileAction, inputs: usize) -> Value {
    let time = |time: Option<i64>| number(time.unwrap_or(-1));
    let (name, kind) = match &action.kind {
        FileActionKind::Copy(copy) => {
            let mode = copy.mode.map_or(-1, i64::from);
            let copy = object([
                ("src", copy.src.as_str().into()),
                ("dest", copy.dest.as_str().into()),
                ("owner", owner(copy.owner.as_ref(), inputs)),
                ("mode", mode.into()),
                ("followSymlink", copy.follow_symlink.into()),
                ("dirCopyContents", copy.dir_copy_contents.into()),
                (
                    "attemptUnpackDockerCompatibility",
                    copy.attempt_unpack.into(),
                ),
                ("createDestPath", copy.create_dest_path.into()),
                ("allowWildcard", copy.allow_wildcard.into()),
                ("allowEmptyWildcard", copy.allow_empty_wildcard.into()),
                ("timestamp", time(copy.timestamp)),
                ("includePatterns", texts(&copy.include)),
                ("excludePatterns", texts(&copy.exclude)),
                ("alwaysReplaceExistingDestPaths", copy.always_replace.into()),
                ("modeStr", copy.mode_str.as_str().into()),
                ("requiredPaths", texts(&copy.required)),
            ]);
            ("copy", copy)
        }
        FileActionKind::MkFile(file) => {
            let data = if file.data.is_empty() {
                Value::Null
            } else {
                json::bytes(&file.data)
            };
            let file = object([
                ("path", file.path.as_str().into()),
                ("mode", file.mode.into()),
                ("data", data),
                ("owner", owner(file.owner.as_ref(), inputs)),
                ("timestamp", time(file.timestamp)),
            ]);
            ("mkfile", file)
        }
        FileActionKind::MkDir(dir) => {
            let dir = object([
                ("path", dir.path.as_str().into()),
                ("mode", dir.mode.into()),
                ("makeParents", dir.make_parents.into()),
                ("owner", owner(dir.owner.as_ref(), inputs)),
                ("timestamp", time(dir.timestamp)),
            ]);
            ("mkdir", dir)
        }
        FileActionKind::Rm(rm) => {
            let rm = object([
                ("path", rm.path.as_str().into()),
                ("allowNotFound", rm.allow_not_found.into()),
                ("allowWildcard", rm.allow_wildcard.into()),
            ]);
            ("rm", rm)
        }
        FileActionKind::Symlink(link) => {
            let link = object([
                ("oldpath", link.oldpath.as_str().into()),
                ("newpath", link.newpath.as_str().into()),
                ("owner", owner(link.owner.as_ref(), inputs)),
                ("timestamp", time(link.timestamp)),
            ]);
            ("symlink", link)
        }
    };
    object([
        ("input", action_index(action.input, inputs)),
        ("secondaryInput", action_index(action.secondary, inputs)),
        ("output", index(action.output)),
        (name, kind),
    ])
}
