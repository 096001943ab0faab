//! The ops that jobs choose from.

use std::collections::BTreeSet;

use llb::{
    ActionInput, BuildOp, CopyAction, Definition, DiffOp, ExecOp, FileAction, FileActionKind,
    FileOp, Input, MergeOp, Meta, Mount, Op, OpKind, OpMetadata, PassthroughOp, SourceOp,
};
use oci::Digest;

use super::rng::Rng;

/// Ops, each of which builds on earlier ones.
pub(super) struct Universe {
    ops: Vec<(Op, Vec<usize>, u32)>,
}

impl Universe {
    pub(super) fn random(rng: &mut Rng, size: usize) -> Universe {
        let mut universe = Universe { ops: Vec::new() };
        for at in 0..size {
            let choice = if at < 2 { 0 } else { rng.below(20) };
            match choice {
                0..3 => universe.source(rng, at),
                3..10 => universe.exec(rng, at),
                10..15 => universe.copy(rng),
                15..17 => universe.merge(rng),
                17 => universe.diff(rng),
                18 => universe.passthrough(rng, at),
                _ => universe.build(rng),
            }
        }
        universe
    }

    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }

    fn add(&mut self, inputs: &[(usize, u32)], kind: OpKind, outputs: u32) {
        let to_input = |&(at, output): &(usize, u32)| Input {
            digest: Digest::of(self.ops[at].0.encode()),
            output,
        };
        let op = Op {
            inputs: inputs.iter().map(to_input).collect(),
            kind,
            platform: None,
            constraints: None,
        };
        self.ops
            .push((op, inputs.iter().map(|input| input.0).collect(), outputs));
    }

    /// An output of some op, sooner a late one than an early one.
    fn any(&self, rng: &mut Rng) -> (usize, u32) {
        let len = self.ops.len();
        let at = rng.below(len).max(rng.below(len));
        (
            at,
            u32::try_from(rng.below(self.ops[at].2 as usize)).unwrap_or(0),
        )
    }

    fn source(&mut self, rng: &mut Rng, at: usize) {
        let scheme = if rng.per_mille(400) {
            "local"
        } else {
            "docker-image"
        };
        let source = SourceOp {
            identifier: format!("{scheme}://{at}"),
            ..SourceOp::default()
        };
        self.add(&[], OpKind::Source(source), 1);
    }

    fn exec(&mut self, rng: &mut Rng, at: usize) {
        let mut inputs = vec![self.any(rng)];
        let root = Mount {
            input: Some(0),
            dest: "/".into(),
            output: Some(0),
            ..Mount::default()
        };
        let mut mounts = vec![root];
        for number in 0..rng.below(3) {
            inputs.push(self.any(rng));
            mounts.push(Mount {
                input: u32::try_from(inputs.len() - 1).ok(),
                selector: (*rng.pick(&["", "/p", "/q", "/p/f"])).into(),
                dest: format!("/mnt/{number}"),
                readonly: true,
                ..Mount::default()
            });
        }
        let outputs = if rng.per_mille(250) {
            mounts.push(Mount {
                dest: "/out".into(),
                output: Some(1),
                ..Mount::default()
            });
            2
        } else {
            1
        };
        // The same command in several places: equal ids by different ways.
        let args = vec![format!("step {}", at % 7)];
        let meta = Meta {
            args,
            ..Meta::default()
        };
        let exec = ExecOp {
            meta,
            mounts,
            ..ExecOp::default()
        };
        self.add(&inputs, OpKind::Exec(Box::new(exec)), outputs);
    }

    fn copy(&mut self, rng: &mut Rng) {
        let inputs = [self.any(rng), self.any(rng)];
        let copy = CopyAction {
            src: (*rng.pick(&["/p/f", "/q/f", "/p/g", "/h", "/p/made"])).into(),
            dest: (*rng.pick(&["/d", "/p/f", "/q/g"])).into(),
            ..CopyAction::default()
        };
        let action = FileAction {
            input: ActionInput::Input(0),
            secondary: ActionInput::Input(1),
            output: Some(0),
            kind: FileActionKind::Copy(copy),
        };
        self.add(
            &inputs,
            OpKind::File(FileOp {
                actions: vec![action],
            }),
            1,
        );
    }

    fn merge(&mut self, rng: &mut Rng) {
        let inputs: Vec<_> = (0..rng.between(1, 4)).map(|_| self.any(rng)).collect();
        let indices = (0..u32::try_from(inputs.len()).unwrap_or(0))
            .map(Some)
            .collect();
        self.add(&inputs, OpKind::Merge(MergeOp { inputs: indices }), 1);
    }

    fn diff(&mut self, rng: &mut Rng) {
        let inputs = [self.any(rng), self.any(rng)];
        let lower = rng.per_mille(700).then_some(0);
        self.add(
            &inputs,
            OpKind::Diff(DiffOp {
                lower,
                upper: Some(1),
            }),
            1,
        );
    }

    fn passthrough(&mut self, rng: &mut Rng, at: usize) {
        let inputs = [self.any(rng), self.any(rng)];
        let op = PassthroughOp {
            id: format!("p{at}"),
            outputs: vec![1, 0],
        };
        self.add(&inputs, OpKind::Passthrough(op), 2);
    }

    fn build(&mut self, rng: &mut Rng) {
        let (inner, output) = self.any(rng);
        let op = BuildOp {
            inputs: [(BuildOp::DEFINITION.to_owned(), Some(0))].into(),
            attrs: [(
                BuildOp::FILENAME_ATTR.to_owned(),
                format!("{inner}.{output}"),
            )]
            .into(),
        };
        self.add(&[self.any(rng)], OpKind::Build(op), 1);
    }

    /// The definition in a file that a build op names.
    pub(super) fn definition(&self, filename: &str) -> Definition {
        let (at, output) = filename
            .split_once('.')
            .expect("file names are written above");
        let at = at.parse().expect("file names are written above");
        let output = output.parse().expect("file names are written above");
        self.graph((at, output), |_| false)
    }

    /// A random output.
    pub(super) fn pick(&self, rng: &mut Rng) -> (usize, u32) {
        self.any(rng)
    }

    /// The definition of an output; known results are passed over where `ignores` says so.
    pub(super) fn graph(
        &self,
        (at, output): (usize, u32),
        mut ignores: impl FnMut(usize) -> bool,
    ) -> Definition {
        let mut needed = BTreeSet::from([at]);
        let mut stack = vec![at];
        while let Some(at) = stack.pop() {
            stack.extend(self.ops[at].1.iter().filter(|input| needed.insert(**input)));
        }
        let mut definition = Definition::default();
        for at in needed {
            let metadata = OpMetadata {
                ignore_cache: ignores(at),
                ..OpMetadata::default()
            };
            definition.push(&self.ops[at].0, metadata);
        }
        let digest = Digest::of(self.ops[at].0.encode());
        definition.finish(Input { digest, output });
        definition
    }
}
