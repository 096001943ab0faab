//! Details as JSON under type URLs.
//!
//! All but one are written as Go's encoding/json writes the generated structs: fields under their
//! names in the `.proto` file, bytes in base64, numbers as numbers. `errdefs.Solve` alone is
//! written by the protobuf JSON mapping.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use prost_types::Any;
use serde::{Deserialize, Serialize};

use super::detail::{Detail, IncompleteMaterial, Solve, Source, Subject, is_default};

const PREFIX: &str = "github.com/moby/buildkit/";
const SUFFIX: &str = "+json";

/// `errdefs.Solve` as the protobuf JSON mapping needs it.
static SOLVE: LazyLock<Option<MessageDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).ok()?;
    pool.get_message_by_name("errdefs.Solve")
});

pub(super) fn encode(detail: &Detail) -> Any {
    match detail {
        Detail::Vertex { digest } => any(
            "errdefs.Vertex",
            &Vertex {
                digest: digest.clone(),
            },
        ),
        Detail::Source(source) => any("errdefs.Source", &SourceJson::from(source)),
        Detail::Frontend { name, source } => any(
            "errdefs.Frontend",
            &Named {
                name: name.clone(),
                source: source.clone(),
            },
        ),
        Detail::FrontendCap { name } => any("errdefs.FrontendCap", &Named::new(name)),
        Detail::Subrequest { name } => any("errdefs.Subrequest", &Named::new(name)),
        Detail::Solve(solve) => raw("errdefs.Solve", encode_solve(solve)),
        Detail::Exit { code } => any("gatewayapi.ExitMessage", &Exit { code: *code }),
        Detail::CompatibilityFeature(feature) => any("errdefs.CompatibilityFeature", feature),
        Detail::Incomplete(incomplete) => any(
            "errdefs.ProvenanceMaterialsIncomplete",
            &Incomplete {
                incomplete: incomplete.clone(),
            },
        ),
        Detail::Stack(stack) => any("stack.Stack", stack),
        Detail::Denied { messages } => {
            let deny_messages = messages.iter().map(|message| DenyMessage {
                message: message.clone(),
            });
            let decision = Decision {
                action: DENY,
                deny_messages: deny_messages.collect(),
            };
            any("policysession.DecisionResponse", &decision)
        }
        Detail::Other(any) => any.clone(),
    }
}

pub(super) fn decode(any: &Any) -> Option<Detail> {
    let name = any.type_url.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let json = &any.value[..];
    Some(match name {
        "errdefs.Vertex" => Detail::Vertex {
            digest: parse::<Vertex>(json)?.digest,
        },
        "errdefs.Source" => Detail::Source(parse::<SourceJson>(json)?.into_source()?),
        "errdefs.Frontend" => {
            let Named { name, source } = parse(json)?;
            Detail::Frontend { name, source }
        }
        "errdefs.FrontendCap" => Detail::FrontendCap {
            name: parse::<Named>(json)?.name,
        },
        "errdefs.Subrequest" => Detail::Subrequest {
            name: parse::<Named>(json)?.name,
        },
        "errdefs.Solve" => Detail::Solve(Box::new(decode_solve(json)?)),
        "gatewayapi.ExitMessage" => Detail::Exit {
            code: parse::<Exit>(json)?.code,
        },
        "errdefs.CompatibilityFeature" => Detail::CompatibilityFeature(parse(json)?),
        "errdefs.ProvenanceMaterialsIncomplete" => {
            Detail::Incomplete(parse::<Incomplete>(json)?.incomplete)
        }
        "stack.Stack" => Detail::Stack(parse(json)?),
        "policysession.DecisionResponse" => {
            let decision = parse::<Decision>(json)?;
            let messages = decision
                .deny_messages
                .into_iter()
                .map(|deny| deny.message)
                .collect();
            Detail::Denied { messages }
        }
        _ => return None,
    })
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

fn any(name: &str, value: &impl Serialize) -> Any {
    // Strings, numbers and lists of them: there is nothing in these types that JSON cannot say.
    raw(name, serde_json::to_vec(value).unwrap_or_default())
}

fn raw(name: &str, value: Vec<u8>) -> Any {
    Any {
        type_url: format!("{PREFIX}{name}{SUFFIX}"),
        value,
    }
}

fn encode_solve(solve: &Solve) -> Vec<u8> {
    let message = proto::errdefs::Solve {
        input_i_ds: solve.input_ids.clone(),
        mount_i_ds: solve.mount_ids.clone(),
        op: solve.op.clone(),
        subject: solve.subject.map(|subject| match subject {
            Subject::File(index) => {
                proto::errdefs::solve::Subject::File(proto::errdefs::FileAction { index })
            }
            Subject::Cache(index) => {
                proto::errdefs::solve::Subject::Cache(proto::errdefs::ContentCache { index })
            }
        }),
        description: solve.description.clone(),
    };
    let dynamic = SOLVE.clone().and_then(|descriptor| {
        DynamicMessage::decode(descriptor, &message.encode_to_vec()[..]).ok()
    });
    dynamic
        .and_then(|dynamic| serde_json::to_vec(&dynamic).ok())
        .unwrap_or_else(|| b"{}".to_vec())
}

fn decode_solve(json: &[u8]) -> Option<Solve> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let dynamic =
        DynamicMessage::deserialize_with_options(SOLVE.clone()?, &mut reader, &options).ok()?;
    let message = proto::errdefs::Solve::decode(&dynamic.encode_to_vec()[..]).ok()?;
    Some(Solve {
        input_ids: message.input_i_ds,
        mount_ids: message.mount_i_ds,
        op: message.op,
        subject: message.subject.map(|subject| match subject {
            proto::errdefs::solve::Subject::File(action) => Subject::File(action.index),
            proto::errdefs::solve::Subject::Cache(cache) => Subject::Cache(cache.index),
        }),
        description: message.description,
    })
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Vertex {
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    source: String,
}

impl Named {
    fn new(name: &str) -> Named {
        Named {
            name: name.to_owned(),
            source: String::new(),
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Exit {
    #[serde(rename = "Code", skip_serializing_if = "is_default")]
    code: u32,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Incomplete {
    incomplete: Vec<IncompleteMaterial>,
}

/// `PolicyAction` DENY.
const DENY: i32 = 1;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Decision {
    #[serde(skip_serializing_if = "is_default")]
    action: i32,
    #[serde(rename = "denyMessages", skip_serializing_if = "Vec::is_empty")]
    deny_messages: Vec<DenyMessage>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct DenyMessage {
    message: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct SourceJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<InfoJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeJson>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct InfoJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    filename: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct RangeJson {
    start: Option<PositionJson>,
    end: Option<PositionJson>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct PositionJson {
    #[serde(skip_serializing_if = "is_default")]
    line: i32,
    #[serde(skip_serializing_if = "is_default")]
    character: i32,
}

impl From<&Source> for SourceJson {
    fn from(source: &Source) -> SourceJson {
        let position = |position: &Option<proto::pb::Position>| {
            position.map(|position| PositionJson {
                line: position.line,
                character: position.character,
            })
        };
        SourceJson {
            info: source.info.as_ref().map(|info| InfoJson {
                filename: info.filename.clone(),
                data: STANDARD.encode(&info.data),
                language: info.language.clone(),
            }),
            ranges: source
                .ranges
                .iter()
                .map(|range| RangeJson {
                    start: position(&range.start),
                    end: position(&range.end),
                })
                .collect(),
        }
    }
}

impl SourceJson {
    fn into_source(self) -> Option<Source> {
        let position = |position: Option<PositionJson>| {
            position.map(|position| proto::pb::Position {
                line: position.line,
                character: position.character,
            })
        };
        let info = match self.info {
            Some(info) => Some(proto::pb::SourceInfo {
                filename: info.filename,
                data: STANDARD.decode(info.data).ok()?.into(),
                definition: None,
                language: info.language,
            }),
            None => None,
        };
        let ranges = self.ranges.into_iter().map(|range| proto::pb::Range {
            start: position(range.start),
            end: position(range.end),
        });
        Some(Source {
            info,
            ranges: ranges.collect(),
        })
    }
}
