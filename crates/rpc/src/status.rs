//! Errors on the wire: a code, a message and typed details.
//!
//! BuildKit puts details into the trailer `grpc-status-details-bin`: a `google.rpc.Status` whose
//! `Any`s hold JSON, not protobuf, under type URLs of its own (`util/grpcerrors`). What is not
//! known here is kept as it is, so that it can be passed on.

mod detail;
mod json;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

pub use detail::{
    CompatibilityFeature, Detail, Frame, IncompleteMaterial, Solve, Source, Stack, Subject,
};

/// Of a message this many bytes travel: it is part of the HTTP/2 headers, which have a limit.
const MAX_MESSAGE: usize = 64 << 10;

/// Details are part of the headers too; gRPC libraries take a few hundred kilobytes at most.
const MAX_DETAILS: usize = 256 << 10;

/// An error as it crosses the wire.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The gRPC code.
    pub code: Code,
    /// What went wrong, the whole chain of causes in one line.
    pub message: String,
    /// What else is known, from the outermost cause to the innermost.
    pub details: Details,
}

/// The details of one error.
#[derive(Clone, Debug, Default)]
pub struct Details(pub Vec<Detail>);

impl Details {
    /// The digest of the vertex that failed.
    #[must_use]
    pub fn vertex(&self) -> Option<&str> {
        self.0.iter().find_map(|detail| match detail {
            Detail::Vertex { digest } => Some(digest.as_str()),
            _ => None,
        })
    }

    /// The places in source files that the error is about.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().filter_map(|detail| match detail {
            Detail::Source(source) => Some(source),
            _ => None,
        })
    }

    /// What is left of the failed step, to look into.
    #[must_use]
    pub fn solve(&self) -> Option<&Solve> {
        self.0.iter().find_map(|detail| match detail {
            Detail::Solve(solve) => Some(solve.as_ref()),
            _ => None,
        })
    }

    /// The exit code of the process that failed.
    #[must_use]
    pub fn exit_code(&self) -> Option<u32> {
        self.0.iter().find_map(|detail| match detail {
            Detail::Exit { code } => Some(*code),
            _ => None,
        })
    }
}

impl Failure {
    /// A failure without details.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            details: Details::default(),
        }
    }

    /// Adds one detail, inside those that are there.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Failure {
        self.details.0.push(detail);
        self
    }

    /// Reads what arrived from a daemon, worker, frontend or client.
    #[must_use]
    pub fn from_status(status: &Status) -> Failure {
        let decoded = proto::rpc::Status::decode(status.details()).unwrap_or_default();
        Failure {
            code: status.code(),
            message: status.message().to_owned(),
            details: Details(decoded.details.into_iter().map(Detail::from_any).collect()),
        }
    }

    /// Reads an error that is part of a message.
    #[must_use]
    pub fn from_proto(status: proto::rpc::Status) -> Failure {
        Failure {
            code: Code::from_i32(status.code),
            message: status.message,
            details: Details(status.details.into_iter().map(Detail::from_any).collect()),
        }
    }

    /// The same as a message.
    #[must_use]
    pub fn to_proto(&self) -> proto::rpc::Status {
        proto::rpc::Status {
            code: self.code as i32,
            message: self.message.clone(),
            details: self.details.0.iter().map(Detail::to_any).collect(),
        }
    }

    /// The error to end a call with.
    ///
    /// What would not fit into the headers is left out: first the end of the message, then details
    /// from the largest on.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let mut encoded = self.to_proto();
        truncate(&mut encoded.message, MAX_MESSAGE);
        while encoded.encoded_len() > MAX_DETAILS {
            let sizes = encoded.details.iter().map(Any::encoded_len).enumerate();
            let Some((largest, _)) = sizes.max_by_key(|(_, size)| *size) else {
                break;
            };
            encoded.details.remove(largest);
        }
        if encoded.details.is_empty() {
            return Status::new(self.code, encoded.message);
        }
        let details = encoded.encode_to_vec();
        Status::with_details(self.code, encoded.message, details.into())
    }
}

fn truncate(message: &mut String, length: usize) {
    if message.len() > length {
        let end = (0..=length)
            .rev()
            .find(|&at| message.is_char_boundary(at))
            .unwrap_or(0);
        message.truncate(end);
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::from_status(&status)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        failure.to_status()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error and all its causes in one line, as BuildKit writes them: `outer: inner: innermost`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = plain(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = plain(cause);
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What an error says. What the kernel says is written as in other messages, in small letters and
/// without its number, which helps nobody who reads it: scripts look for `no such file or directory`.
fn plain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    if text == "unexpected end of file" || text == "failed to fill whole buffer" {
        return "unexpected EOF".to_owned();
    }
    let Some(kernel) = text
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once(" (os error "))
        .and_then(|(_, number)| number.parse().ok())
        .map(|number| std::io::Error::from_raw_os_error(number).to_string())
    else {
        return text;
    };
    let start = text.len().saturating_sub(kernel.len());
    if text.ends_with(&kernel) {
        text[start..=start].make_ascii_lowercase();
    }
    text.truncate(text.rfind(" (os error ").unwrap_or(text.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_in_small_letters_without_numbers() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(chain(&error), "no such file or directory");
        let error = std::io::Error::other(format!("open /x: {error}"));
        assert_eq!(chain(&error), "open /x: no such file or directory");
    }

    fn survives(detail: Detail) -> Detail {
        let failure = Failure::new(Code::Unknown, "broken").with(detail);
        let mut back = Failure::from_status(&failure.to_status());
        assert_eq!(back.message, "broken");
        back.details.0.remove(0)
    }

    #[test]
    fn every_detail_survives_the_wire() {
        let source = Source {
            info: Some(proto::pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: "FROM scratch\n".into(),
                language: "Dockerfile".into(),
                definition: None,
            }),
            ranges: vec![proto::pb::Range {
                start: Some(proto::pb::Position {
                    line: 1,
                    character: 0,
                }),
                end: Some(proto::pb::Position {
                    line: 2,
                    character: 5,
                }),
            }],
        };
        let solve = Solve {
            input_ids: vec!["in".into()],
            mount_ids: vec!["out".into(), String::new()],
            op: Some(proto::pb::Op {
                inputs: vec![proto::pb::Input {
                    digest: "sha256:1".into(),
                    index: 3,
                }],
                op: Some(proto::pb::op::Op::Exec(proto::pb::ExecOp {
                    meta: Some(proto::pb::Meta {
                        args: vec!["/bin/false".into()],
                        ..Default::default()
                    }),
                    mounts: vec![proto::pb::Mount {
                        output: -1,
                        ..Default::default()
                    }],
                    ..Default::default()
                })),
                ..Default::default()
            }),
            subject: Some(Subject::File(7)),
            description: [("a".to_owned(), "b".to_owned())].into(),
        };
        for detail in [
            Detail::Vertex {
                digest: "sha256:0".into(),
            },
            Detail::Source(source),
            Detail::Frontend {
                name: "dockerfile.v0".into(),
                source: String::new(),
            },
            Detail::FrontendCap { name: "cap".into() },
            Detail::Subrequest {
                name: "frontend.outline".into(),
            },
            Detail::Solve(Box::new(solve)),
            Detail::Exit { code: 3 },
            Detail::CompatibilityFeature(CompatibilityFeature {
                version: 20,
                feature: "x".into(),
            }),
            Detail::Incomplete(vec![IncompleteMaterial {
                final_uri: "https://x".into(),
                ..IncompleteMaterial::default()
            }]),
            Detail::Stack(Stack {
                frames: vec![Frame {
                    name: "f".into(),
                    file: "x.go".into(),
                    line: 3,
                }],
                ..Stack::default()
            }),
            Detail::Denied {
                messages: vec!["no".into()],
            },
        ] {
            assert_eq!(survives(detail.clone()), detail);
        }
    }

    #[test]
    fn details_have_the_shape_that_go_writes() {
        let any = Detail::Exit { code: 1 }.to_any();
        assert_eq!(
            any.type_url,
            "github.com/moby/buildkit/gatewayapi.ExitMessage+json"
        );
        assert_eq!(any.value, br#"{"Code":1}"#);
        let any = Detail::Solve(Box::new(Solve {
            input_ids: vec!["x".into()],
            subject: Some(Subject::Cache(2)),
            ..Solve::default()
        }));
        let json = String::from_utf8(any.to_any().value).unwrap();
        assert_eq!(json, r#"{"inputIDs":["x"],"cache":{"index":"2"}}"#);
    }

    #[test]
    fn an_unknown_detail_is_passed_on() {
        let any = Any {
            type_url: "example.com/x".into(),
            value: vec![1, 2],
        };
        assert_eq!(survives(Detail::Other(any.clone())), Detail::Other(any));
    }

    #[test]
    fn broken_json_is_kept_and_not_trusted() {
        let any = Any {
            type_url: "github.com/moby/buildkit/errdefs.Vertex+json".into(),
            value: b"{".to_vec(),
        };
        assert_eq!(Detail::from_any(any.clone()), Detail::Other(any));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let large = Any {
            type_url: "x".into(),
            value: vec![0; MAX_DETAILS],
        };
        let status = Failure::new(Code::Internal, "ä".repeat(MAX_MESSAGE))
            .with(Detail::Other(large))
            .with(Detail::Exit { code: 1 })
            .to_status();
        assert!(status.message().len() <= MAX_MESSAGE);
        assert_eq!(Failure::from_status(&status).details.exit_code(), Some(1));
    }

    #[test]
    fn a_chain_is_written_once() {
        let inner = std::io::Error::other("inner");
        let outer = Wrapped(inner);
        assert_eq!(chain(&outer), "outer: inner");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Wrapped(#[source] std::io::Error);
}
