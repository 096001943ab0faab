//! Graphs for people: as JSON in the shape of BuildKit's Go types, and what to draw of them.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::Digest;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};
use proto::pb;
use serde_json::{Map, json};

use crate::ReadError;

/// Fields that Go's encoder of file actions writes also when they are zero.
const ALWAYS: [&str; 3] = ["input", "secondaryInput", "output"];

/// One op of a graph.
#[derive(Clone, Debug)]
pub struct DumpedOp {
    /// Its digest.
    pub digest: String,
    /// All of it, with what is said beside it.
    pub json: serde_json::Value,
    /// What it does, in a few words.
    pub label: String,
    /// The shape in which Graphviz draws it.
    pub shape: &'static str,
    /// The digests of its inputs, and where they are mounted if that is not the root.
    pub inputs: Vec<(String, String)>,
}

/// Reads a graph as `pb.Definition`, without asking whether it makes sense.
///
/// # Errors
/// When it is no such message.
pub fn dump_graph(bytes: &[u8]) -> Result<Vec<DumpedOp>, ReadError> {
    let definition = pb::Definition::decode(bytes)?;
    let ops = definition.def.iter().map(|bytes| {
        let op = pb::Op::decode(&bytes[..])?;
        let digest = Digest::of(bytes).to_string();
        let metadata = definition.metadata.get(&digest).cloned();
        let metadata = metadata.unwrap_or_default().encode_to_vec();
        let (label, shape) = drawn(&op, &digest);
        Ok(DumpedOp {
            json: json!({
                "Op": go_json("pb.Op", bytes),
                "Digest": digest,
                "OpMetadata": go_json("pb.OpMetadata", &metadata),
            }),
            inputs: inputs(&op),
            digest,
            label,
            shape,
        })
    });
    ops.collect()
}

fn inputs(op: &pb::Op) -> Vec<(String, String)> {
    let mounts = match &op.op {
        Some(pb::op::Op::Exec(exec)) => &exec.mounts[..],
        _ => &[],
    };
    let inputs = (0_i64..).zip(&op.inputs);
    let labelled = inputs.map(|(index, input)| {
        let mounted = mounts
            .iter()
            .rfind(|mount| mount.input == index && mount.dest != "/");
        let label = mounted.map_or(String::new(), |mount| mount.dest.clone());
        (input.digest.clone(), label)
    });
    labelled.collect()
}

/// The words and the shape for an op.
fn drawn(op: &pb::Op, digest: &str) -> (String, &'static str) {
    use pb::op::Op;
    match &op.op {
        Some(Op::Source(source)) => (source.identifier.clone(), "ellipse"),
        Some(Op::Exec(exec)) => {
            let meta = exec.meta.as_ref();
            (
                meta.map_or(String::new(), |meta| meta.args.join(" ")),
                "box",
            )
        }
        Some(Op::Build(_)) => ("build".to_owned(), "box3d"),
        Some(Op::Merge(_)) => ("merge".to_owned(), "invtriangle"),
        Some(Op::Diff(_)) => ("diff".to_owned(), "doublecircle"),
        Some(Op::File(file)) => {
            let actions = file.actions.iter().filter_map(|a| a.action.as_ref());
            let actions: Vec<String> = actions.map(action).collect();
            (actions.join(","), "note")
        }
        _ => (digest.to_owned(), "plaintext"),
    }
}

fn action(action: &pb::file_action::Action) -> String {
    use pb::file_action::Action;
    match action {
        Action::Copy(copy) => format!("copy{{src={}, dest={}}}", copy.src, copy.dest),
        Action::Mkfile(file) => format!("mkfile{{path={}}}", file.path),
        Action::Mkdir(directory) => format!("mkdir{{path={}}}", directory.path),
        Action::Rm(remove) => format!("rm{{path={}}}", remove.path),
        Action::Symlink(link) => {
            let (old, new) = (&link.oldpath, &link.newpath);
            format!("symlink{{oldpath={old}, newpath={new}}}")
        }
    }
}

/// A message as Go's `encoding/json` writes the generated type.
fn go_json(name: &str, bytes: &[u8]) -> serde_json::Value {
    static POOL: LazyLock<Option<DescriptorPool>> =
        LazyLock::new(|| DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).ok());
    let descriptor = POOL
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(name));
    let message = descriptor.and_then(|of| DynamicMessage::decode(of, bytes).ok());
    message.map_or(serde_json::Value::Null, |message| object(&message))
}

fn object(message: &DynamicMessage) -> serde_json::Value {
    let descriptor = message.descriptor();
    let is_action = descriptor.full_name() == "pb.FileAction";
    let mut written = Map::new();
    for field in descriptor.fields() {
        let set = message.has_field(&field);
        match field.containing_oneof() {
            Some(oneof) if !field.field_descriptor_proto().proto3_optional() => {
                let entry = written
                    .entry(capitalized(oneof.name()))
                    .or_insert_with(|| json!({}));
                if set && let Some(chosen) = entry.as_object_mut() {
                    let value = value(&message.get_field(&field));
                    // The only name that Go's encoder changes.
                    let name = match field.name() {
                        "byID" => "byId",
                        name => name,
                    };
                    chosen.insert(name.to_owned(), value);
                }
            }
            _ if set || (is_action && ALWAYS.contains(&field.name())) => {
                let value = value(&message.get_field(&field));
                written.insert(field.name().to_owned(), value);
            }
            _ => {}
        }
    }
    written.into()
}

fn capitalized(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

fn value(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(flag) => json!(flag),
        Value::I32(number) | Value::EnumNumber(number) => json!(number),
        Value::I64(number) => json!(number),
        Value::U32(number) => json!(number),
        Value::U64(number) => json!(number),
        Value::F32(number) => json!(number),
        Value::F64(number) => json!(number),
        Value::String(text) => json!(text),
        Value::Bytes(bytes) => json!(STANDARD.encode(bytes)),
        Value::Message(message) => object(message),
        Value::List(list) => list.iter().map(self::value).collect(),
        Value::Map(map) => {
            let mut pairs: Vec<_> = map
                .iter()
                .map(|(key, item)| {
                    let key = match key.as_str() {
                        Some(text) => text.to_owned(),
                        None => key.as_i64().unwrap_or_default().to_string(),
                    };
                    (key, self::value(item))
                })
                .collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            serde_json::Value::Object(pairs.into_iter().collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_is_written_as_go_writes_it() {
        let made = pb::file_action::Action::Mkfile(pb::FileActionMkFile {
            path: "/a".to_owned(),
            data: b"a".to_vec().into(),
            timestamp: -1,
            ..pb::FileActionMkFile::default()
        });
        let file = pb::FileOp {
            actions: vec![pb::FileAction {
                input: -1,
                secondary_input: -1,
                output: 0,
                action: Some(made),
            }],
        };
        let op = pb::Op {
            op: Some(pb::op::Op::File(file)),
            ..pb::Op::default()
        };
        let definition = pb::Definition {
            def: vec![op.encode_to_vec().into()],
            ..pb::Definition::default()
        };
        let ops = dump_graph(&definition.encode_to_vec()).unwrap();
        assert_eq!(ops[0].label, "mkfile{path=/a}");
        assert_eq!(
            ops[0].json["Op"].to_string(),
            r#"{"Op":{"file":{"actions":[{"input":-1,"secondaryInput":-1,"output":0,"Action":{"mkfile":{"path":"/a","data":"YQ==","timestamp":-1}}}]}}}"#
        );
        assert!(dump_graph(b"nothing like it").is_err());
    }
}
