//! The crate seen from outside.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod bytes_of_buildkit;
mod graphs;
mod keys;

use llb::{
    ActionInput, CopyAction, Definition, ExecOp, FileAction, FileActionKind, FileOp, Input, Meta,
    Mount, Op, OpKind, OpMetadata, SourceOp,
};

/// A definition in the making.
#[derive(Default)]
struct Builder(Definition);

impl Builder {
    fn op(&mut self, inputs: &[Input], kind: OpKind) -> Input {
        let op = Op {
            inputs: inputs.to_vec(),
            kind,
            platform: None,
            constraints: None,
        };
        Input {
            digest: self.0.push(&op, OpMetadata::default()),
            output: 0,
        }
    }

    fn source(&mut self, identifier: &str) -> Input {
        let source = SourceOp {
            identifier: identifier.into(),
            ..SourceOp::default()
        };
        self.op(&[], OpKind::Source(source))
    }

    fn exec(&mut self, inputs: &[Input], exec: ExecOp) -> Input {
        self.op(inputs, OpKind::Exec(Box::new(exec)))
    }

    fn finish(mut self, result: Input) -> Definition {
        self.0.finish(result);
        self.0
    }
}

fn exec(args: &str, mounts: Vec<Mount>) -> ExecOp {
    let meta = Meta {
        args: args.split(' ').map(str::to_owned).collect(),
        ..Meta::default()
    };
    ExecOp {
        meta,
        mounts,
        ..ExecOp::default()
    }
}

fn root() -> Mount {
    Mount {
        input: Some(0),
        dest: "/".into(),
        output: Some(0),
        ..Mount::default()
    }
}

fn copy(src: &str) -> FileOp {
    FileOp {
        actions: vec![FileAction {
            input: ActionInput::Input(0),
            secondary: ActionInput::Input(1),
            output: Some(0),
            kind: FileActionKind::Copy(CopyAction {
                src: src.into(),
                dest: "/dest".into(),
                ..CopyAction::default()
            }),
        }],
    }
}
