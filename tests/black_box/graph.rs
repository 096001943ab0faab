//! Graphs written op by op, as they travel.

use oci::Digest;
use prost::Message as _;
use proto::pb::{self, op::Op as Kind};

/// A graph that grows; ops are named by their place in it.
#[derive(Default)]
pub(crate) struct Graph {
    ops: Vec<Vec<u8>>,
}

impl Graph {
    /// Adds an op on the results (op, output) of others.
    pub(crate) fn add(&mut self, kind: Kind, inputs: &[(usize, i64)]) -> usize {
        let op = pb::Op {
            inputs: inputs.iter().map(|input| self.input(*input)).collect(),
            op: Some(kind),
            ..pb::Op::default()
        };
        self.ops.push(op.encode_to_vec());
        self.ops.len() - 1
    }

    /// The digest of an op.
    pub(crate) fn digest(&self, op: usize) -> Digest {
        Digest::of(&self.ops[op])
    }

    fn input(&self, (op, index): (usize, i64)) -> pb::Input {
        pb::Input {
            digest: self.digest(op).to_string(),
            index,
        }
    }

    /// The definition of an op's result.
    pub(crate) fn definition(&self, (op, output): (usize, i64)) -> pb::Definition {
        let last = pb::Op {
            inputs: vec![self.input((op, output))],
            ..pb::Op::default()
        };
        let ops = self.ops.iter().cloned().chain([last.encode_to_vec()]);
        pb::Definition {
            def: ops.map(Into::into).collect(),
            ..pb::Definition::default()
        }
    }
}

/// An image's filesystem.
pub(crate) fn image(reference: &str) -> Kind {
    source(&format!("docker-image://{reference}"), &[])
}

/// A source with attributes.
pub(crate) fn source(identifier: &str, attrs: &[(&str, &str)]) -> Kind {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Kind::Source(pb::SourceOp {
        identifier: identifier.to_owned(),
        attrs: attrs.iter().map(owned).collect(),
    })
}

/// A file in an empty filesystem.
pub(crate) fn file(path: &str, content: &str) -> Kind {
    let action = pb::FileActionMkFile {
        path: path.to_owned(),
        mode: 0o644,
        data: content.to_owned().into(),
        timestamp: -1,
        ..pb::FileActionMkFile::default()
    };
    Kind::File(pb::FileOp {
        actions: vec![pb::FileAction {
            input: -1,
            secondary_input: -1,
            output: 0,
            action: Some(pb::file_action::Action::Mkfile(action)),
        }],
    })
}

/// A shell command on the op's only input, which it may change.
pub(crate) fn shell(command: &str) -> Kind {
    Kind::Exec(pb::ExecOp {
        meta: Some(meta(&["sh", "-c", command])),
        mounts: vec![pb::Mount {
            dest: "/".to_owned(),
            ..pb::Mount::default()
        }],
        ..pb::ExecOp::default()
    })
}

/// A process.
pub(crate) fn meta(args: &[&str]) -> pb::Meta {
    pb::Meta {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["PATH=/bin:/sbin:/usr/bin:/usr/sbin".to_owned()],
        cwd: "/".to_owned(),
        ..pb::Meta::default()
    }
}
