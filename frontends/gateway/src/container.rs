//! The containers of a frontend on the wire.

use bytes::Bytes;
use frontend::{OpenContainer, StartProcess};
use oci::Digest;
use prost::Message as _;
use proto::frontend as wire;
use proto::pb;
use tonic::Status;

use crate::build::Build;

/// The most mounts of a container: far above what any step has.
const MAX_MOUNTS: usize = 1000;

/// Of a mount only what is read here counts, as in BuildKit (`frontend/gateway/gateway.go`).
pub(crate) fn open(
    build: &Build,
    request: wire::NewContainerRequest,
) -> Result<OpenContainer, Status> {
    if request.mounts.len() > MAX_MOUNTS {
        let text = format!("a container may have {MAX_MOUNTS} mounts at most");
        return Err(Status::invalid_argument(text));
    }
    let (mut inputs, mut names) = (Vec::new(), Vec::new());
    let mut mounts = Vec::with_capacity(request.mounts.len());
    for mount in request.mounts {
        let mut input = -1;
        if let Some(found) = build.mounted(&mount.result_id)? {
            input = i64::try_from(inputs.len()).unwrap_or(-1);
            inputs.push(found);
            names.push(pb::Input {
                digest: Digest::of(&mount.result_id).to_string(),
                index: 0,
            });
        }
        mounts.push(pb::Mount {
            input,
            output: -1,
            result_id: String::new(),
            ..mount
        });
    }
    let exec = pb::ExecOp {
        meta: Some(pb::Meta {
            // A process comes later; an op must have one.
            args: vec!["true".to_owned()],
            hostname: request.hostname,
            extra_hosts: request.extra_hosts,
            ..pb::Meta::default()
        }),
        mounts,
        network: request.network,
        ..pb::ExecOp::default()
    };
    Ok(OpenContainer {
        name: request.container_id,
        op: encode(exec, names),
        inputs,
    })
}

/// A process that a frontend wants to run.
pub(crate) fn process(init: wire::InitMessage) -> StartProcess {
    let exec = pb::ExecOp {
        meta: init.meta,
        mounts: vec![pb::Mount {
            input: -1,
            output: -1,
            dest: "/".to_owned(),
            ..pb::Mount::default()
        }],
        security: init.security,
        secretenv: init.secretenv,
        ..pb::ExecOp::default()
    };
    StartProcess {
        op: encode(exec, Vec::new()),
        tty: init.tty,
        stdin: init.fds.contains(&0),
    }
}

pub(crate) fn encode(exec: pb::ExecOp, inputs: Vec<pb::Input>) -> Bytes {
    let op = pb::Op {
        inputs,
        op: Some(pb::op::Op::Exec(exec)),
        ..pb::Op::default()
    };
    op.encode_to_vec().into()
}

/// Names a result among the inputs of an op; what counts is its place.
pub(crate) fn input_name(result: &frontend::ResultRef) -> pb::Input {
    pb::Input {
        digest: Digest::of(&result.id).to_string(),
        index: 0,
    }
}

/// The place of a mount in its container.
pub(crate) fn index(index: i32) -> Result<u32, Status> {
    let text = || Status::invalid_argument(format!("invalid mount index {index}"));
    u32::try_from(index).map_err(|_| text())
}
