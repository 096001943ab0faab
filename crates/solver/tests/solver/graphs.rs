//! Graphs for tests.

use std::sync::Arc;

use llb::{
    ActionInput, BuildOp, CopyAction, Definition, ExecOp, FileAction, FileActionKind, FileOp,
    Graph, Input, MergeOp, Meta, Mount, Op, OpKind, OpMetadata, SourceOp,
};

/// A definition in the making.
#[derive(Default)]
pub(crate) struct Builder {
    definition: Definition,
    ignore_cache: bool,
}

impl Builder {
    /// What is added from now on passes known results over.
    pub(crate) fn ignore_cache(&mut self, ignore_cache: bool) {
        self.ignore_cache = ignore_cache;
    }

    pub(crate) fn op(&mut self, inputs: &[Input], kind: OpKind) -> Input {
        let op = Op {
            inputs: inputs.to_vec(),
            kind,
            platform: None,
            constraints: None,
        };
        let metadata = OpMetadata {
            ignore_cache: self.ignore_cache,
            ..OpMetadata::default()
        };
        Input {
            digest: self.definition.push(&op, metadata),
            output: 0,
        }
    }

    pub(crate) fn source(&mut self, identifier: &str) -> Input {
        let source = SourceOp {
            identifier: identifier.into(),
            ..SourceOp::default()
        };
        self.op(&[], OpKind::Source(source))
    }

    /// Runs a command on top of `base`; output 1 is a second mount.
    pub(crate) fn run(&mut self, base: Input, command: &str) -> Input {
        let meta = Meta {
            args: vec![command.into()],
            ..Meta::default()
        };
        let root = Mount {
            input: Some(0),
            dest: "/".into(),
            output: Some(0),
            ..Mount::default()
        };
        let out = Mount {
            dest: "/out".into(),
            output: Some(1),
            ..Mount::default()
        };
        let exec = ExecOp {
            meta,
            mounts: vec![root, out],
            ..ExecOp::default()
        };
        self.op(&[base], OpKind::Exec(Box::new(exec)))
    }

    /// Copies `/src` of `from` to `/dest` of `base`.
    pub(crate) fn copy(&mut self, base: Input, from: Input) -> Input {
        let copy = CopyAction {
            src: "/src".into(),
            dest: "/dest".into(),
            ..CopyAction::default()
        };
        let action = FileAction {
            input: ActionInput::Input(0),
            secondary: ActionInput::Input(1),
            output: Some(0),
            kind: FileActionKind::Copy(copy),
        };
        self.op(
            &[base, from],
            OpKind::File(FileOp {
                actions: vec![action],
            }),
        )
    }

    pub(crate) fn merge(&mut self, inputs: &[Input]) -> Input {
        let indices = (0..u32::try_from(inputs.len()).unwrap())
            .map(Some)
            .collect();
        self.op(inputs, OpKind::Merge(MergeOp { inputs: indices }))
    }

    /// Stands for the result of the definition in `from`.
    pub(crate) fn build(&mut self, from: Input) -> Input {
        let inputs = [(BuildOp::DEFINITION.to_owned(), Some(0))].into();
        self.op(
            &[from],
            OpKind::Build(BuildOp {
                inputs,
                ..BuildOp::default()
            }),
        )
    }

    pub(crate) fn definition(mut self, result: Input) -> Definition {
        self.definition.finish(result);
        self.definition
    }

    pub(crate) fn graph(self, result: Input) -> Arc<Graph> {
        Arc::new(Graph::new(&self.definition(result)).unwrap())
    }
}

/// A source and `length` commands, each on top of the one before.
pub(crate) fn chain(length: usize) -> Arc<Graph> {
    let mut b = Builder::default();
    let mut last = b.source("docker-image://base");
    for number in 0..length {
        last = b.run(last, &format!("step {number}"));
    }
    b.graph(last)
}
