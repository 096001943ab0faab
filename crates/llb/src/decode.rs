//! Bytes to ops: the door behind which an op can be trusted.

use bytes::Bytes;
use oci::{Digest, ParseDigestError, Platform};
use prost::Message as _;
use proto::pb;

mod exec;
mod file;

use crate::{
    BuildOp, DiffOp, Input, MergeOp, Op, OpKind, PassthroughOp, SourceOp, UnknownCapability,
};

/// Why a definition is refused. The texts are BuildKit's where BuildKit has one.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The definition has no op.
    #[error("invalid empty definition")]
    Empty,
    /// The definition has no op beside the last.
    #[error("invalid LLB with {0} vertexes")]
    TooFew(usize),
    /// The definition has more ops than [`crate::Graph::MAX_OPS`].
    #[error("invalid LLB with {0} vertexes, more than the limit")]
    TooMany(usize),
    /// The last op names no result.
    #[error("invalid LLB with no inputs on last vertex")]
    NoResult,
    /// An input is no op of the definition.
    #[error("invalid missing input digest {0}")]
    MissingInput(Digest),
    /// An input names an output that its op does not have.
    #[error("invalid output index {output} of {digest}")]
    NoSuchOutput {
        /// The op.
        digest: Digest,
        /// The output.
        output: u32,
    },
    /// An input's output index is out of range.
    #[error("invalid input {input} output index {index}")]
    InputIndex {
        /// Which input.
        input: usize,
        /// Its index as received.
        index: i64,
    },
    /// Ops depend on each other in a circle.
    #[error("invalid LLB with a loop at {0}")]
    Loop(Digest),
    /// An op's bytes are no message.
    #[error("failed to parse llb proto op")]
    Parse(#[source] prost::DecodeError),
    /// A definition's bytes are no message.
    #[error("failed to parse llb definition")]
    ParseDefinition(#[source] prost::DecodeError),
    /// A digest in the definition is not one.
    #[error("failed to parse a digest in the definition")]
    Digest(#[source] ParseDigestError),
    /// A vertex needs a capability that is not known.
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    /// An op is not legal.
    #[error("{0}")]
    Op(#[from] InvalidOp),
}

/// Why an op is not legal. The texts are BuildKit's where BuildKit has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOp {
    /// The op says nothing, or something this version does not know.
    #[error("invalid op of unknown type")]
    Unknown,
    /// A required part is not there.
    #[error("invalid {op} op with no {part}")]
    Missing {
        /// The kind of op.
        op: &'static str,
        /// The part.
        part: &'static str,
    },
    /// A diff lacks a side.
    #[error("invalid diff op with nil lower or upper input")]
    DiffSide,
    /// An enum has a value that is not known.
    #[error("invalid {field} {value}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// Its value as received.
        value: i32,
    },
    /// An index is out of range.
    #[error("invalid {what} index {index}")]
    Index {
        /// What is numbered.
        what: &'static str,
        /// The index as received.
        index: i64,
    },
    /// The mount at `/` is not of a result.
    #[error("invalid mount type {0} for /")]
    RootMount(&'static str),
    /// A mount lacks the options of its type.
    #[error("invalid {0} mount options")]
    MountOptions(&'static str),
    /// A mount asks for content matching where that would give wrong results.
    #[error("invalid mount cache content for {dest}")]
    ContentMatching {
        /// Where it is mounted.
        dest: String,
    },
    /// Two actions claim one output.
    #[error("duplicate output {0}")]
    DuplicateOutput(i64),
    /// Outputs are not numbered without gaps.
    #[error("missing output index {0}")]
    MissingOutput(usize),
    /// No action has an output.
    #[error("no outputs specified")]
    NoOutputs,
    /// Actions depend on each other in a circle.
    #[error("loop from index {0}")]
    ActionLoop(usize),
    /// A build op asks for a builder other than LLB.
    #[error("only LLB builder is currently allowed")]
    Builder,
    /// A build op names no definition.
    #[error("no llb definition input {} found", BuildOp::DEFINITION)]
    NoDefinition,
}

/// An op as received, of which only the inputs have been looked at.
pub(crate) struct Received {
    pub(crate) inputs: Vec<Input>,
    pub(crate) op: pb::Op,
}

/// Parses the bytes of an op and checks its inputs, which is all that is asked of an op that
/// turns out not to be reachable.
pub(crate) fn receive(bytes: &Bytes) -> Result<Received, DecodeError> {
    let mut op = pb::Op::decode(bytes.clone()).map_err(DecodeError::Parse)?;
    let mut inputs = Vec::with_capacity(op.inputs.len());
    for (number, input) in std::mem::take(&mut op.inputs).into_iter().enumerate() {
        let output = u32::try_from(input.index).map_err(|_| DecodeError::InputIndex {
            input: number,
            index: input.index,
        })?;
        inputs.push(Input {
            digest: digest(&input.digest)?,
            output,
        });
    }
    Ok(Received { inputs, op })
}

pub(crate) fn digest(text: &str) -> Result<Digest, DecodeError> {
    text.parse().map_err(DecodeError::Digest)
}

impl Received {
    /// The op, once everything in it has been checked.
    pub(crate) fn check(self) -> Result<Op, InvalidOp> {
        let count = self.inputs.len();
        let kind = match self.op.op.ok_or(InvalidOp::Unknown)? {
            pb::op::Op::Exec(op) => OpKind::Exec(Box::new(exec::decode(op, count)?)),
            pb::op::Op::Source(op) => OpKind::Source(SourceOp {
                identifier: op.identifier,
                attrs: op.attrs,
            }),
            pb::op::Op::File(op) => OpKind::File(file::decode(op, count)?),
            pb::op::Op::Build(op) => OpKind::Build(build(op, count)?),
            pb::op::Op::Merge(op) => OpKind::Merge(MergeOp {
                inputs: op
                    .inputs
                    .iter()
                    .map(|input| optional_index("merge input", input.input, count))
                    .collect::<Result<_, _>>()?,
            }),
            pb::op::Op::Diff(op) => {
                let (Some(lower), Some(upper)) = (op.lower, op.upper) else {
                    return Err(InvalidOp::DiffSide);
                };
                OpKind::Diff(DiffOp {
                    lower: optional_index("diff input", lower.input, count)?,
                    upper: optional_index("diff input", upper.input, count)?,
                })
            }
            pb::op::Op::Passthrough(op) => OpKind::Passthrough(passthrough(op, count)?),
        };
        Ok(Op {
            inputs: self.inputs,
            kind,
            platform: self.op.platform.map(platform),
            constraints: self.op.constraints.map(|constraints| constraints.filter),
        })
    }
}

pub(crate) fn platform(platform: pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture,
        os: platform.os,
        os_version: platform.os_version,
        os_features: platform.os_features,
        variant: platform.variant,
    }
}

fn build(op: pb::BuildOp, count: usize) -> Result<BuildOp, InvalidOp> {
    if op.builder != -1 {
        return Err(InvalidOp::Builder);
    }
    let mut inputs = std::collections::BTreeMap::new();
    for (name, input) in op.inputs {
        inputs.insert(name, optional_index("build input", input.input, count)?);
    }
    let op = BuildOp {
        inputs,
        attrs: op.attrs,
    };
    if op.definition_input().is_none() {
        return Err(InvalidOp::NoDefinition);
    }
    Ok(op)
}

fn passthrough(op: pb::PassthroughOp, count: usize) -> Result<PassthroughOp, InvalidOp> {
    if op.id.is_empty() {
        return Err(InvalidOp::Missing {
            op: "passthrough",
            part: "id",
        });
    }
    if op.outputs.is_empty() {
        return Err(InvalidOp::Missing {
            op: "passthrough",
            part: "outputs",
        });
    }
    let outputs = op
        .outputs
        .iter()
        .map(|&index| {
            optional_index("passthrough output input", index, count)?.ok_or(InvalidOp::Index {
                what: "passthrough output input",
                index,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(PassthroughOp { id: op.id, outputs })
}

/// An index below `count`, or −1 for none.
fn optional_index(what: &'static str, index: i64, count: usize) -> Result<Option<u32>, InvalidOp> {
    if index == -1 {
        return Ok(None);
    }
    match (u32::try_from(index), usize::try_from(index)) {
        (Ok(small), Ok(wide)) if wide < count => Ok(Some(small)),
        _ => Err(InvalidOp::Index { what, index }),
    }
}
