//! Which definitions are legal.

use bytes::Bytes;
use llb::{
    BuildOp, Definition, DiffOp, ExecOp, FileOp, Graph, Input, MergeOp, Mount, MountKind, Op,
    OpKind, OpMetadata, PassthroughOp,
};
use oci::Digest;

use crate::{Builder, copy, exec, root};

fn refused(definition: &Definition) -> String {
    Graph::new(definition).unwrap_err().to_string()
}

/// The error for an op on one source.
fn refused_op(kind: OpKind) -> String {
    let mut b = Builder::default();
    let source = b.source("docker-image://a");
    let op = b.op(&[source], kind);
    refused(&b.finish(op))
}

fn refused_exec(exec: ExecOp) -> String {
    refused_op(OpKind::Exec(Box::new(exec)))
}

#[test]
fn definitions_without_a_result_are_refused_in_buildkits_words() {
    assert_eq!(refused(&Definition::default()), "invalid empty definition");
    let mut b = Builder::default();
    let source = b.source("local://a");
    assert_eq!(refused(&b.0), "invalid LLB with 1 vertexes");
    b.source("local://b");
    assert_eq!(refused(&b.0), "invalid LLB with no inputs on last vertex");
    let missing = Input {
        digest: Digest::of("x"),
        output: 0,
    };
    let definition = b.finish(missing);
    assert_eq!(
        refused(&definition),
        format!("invalid missing input digest {}", missing.digest)
    );
    let mut b = Builder::default();
    b.source("local://a");
    let definition = b.finish(Input {
        output: 1,
        ..source
    });
    assert_eq!(
        refused(&definition),
        format!("invalid output index 1 of {}", source.digest)
    );
}

#[test]
fn bytes_that_are_no_op_are_refused() {
    let mut b = Builder::default();
    let source = b.source("local://a");
    let mut definition = b.finish(source);
    definition.ops.insert(0, Bytes::from_static(b"\xff\xff"));
    assert_eq!(refused(&definition), "failed to parse llb proto op");
    // An op of no known kind is harmless as long as nothing depends on it.
    definition.ops[0] = Bytes::from_static(b"\x52\x00");
    assert!(Graph::new(&definition).is_ok());
    let unknown = Input {
        digest: Digest::of(&definition.ops[0]),
        output: 0,
    };
    definition.finish(unknown);
    assert_eq!(refused(&definition), "invalid op of unknown type");
    // Input index −1.
    let mut raw = b"\x0a\x54\x0a\x47".to_vec();
    raw.extend_from_slice(source.digest.to_string().as_bytes());
    raw.extend_from_slice(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    definition.ops[0] = raw.into();
    assert_eq!(refused(&definition), "invalid input 0 output index -1");
}

#[test]
fn ops_that_are_not_legal_are_refused() {
    let no_root = Mount {
        dest: "/x".into(),
        ..root()
    };
    let tmpfs = Mount {
        kind: MountKind::Tmpfs { size: None },
        ..root()
    };
    let bad_input = Mount {
        input: Some(1),
        ..root()
    };
    let empty = PassthroughOp {
        id: "x".into(),
        outputs: vec![],
    };
    let cases = [
        (
            refused_exec(exec("true", vec![])),
            "invalid exec op with no mounts",
        ),
        (
            refused_exec(ExecOp::default()),
            "invalid exec op with no args",
        ),
        (
            refused_exec(exec("true", vec![no_root])),
            "invalid exec op with no rootfs",
        ),
        (
            refused_exec(exec("true", vec![tmpfs])),
            "invalid mount type TMPFS for /",
        ),
        (
            refused_exec(exec("true", vec![bad_input])),
            "invalid mount input index 1",
        ),
        (
            refused_op(OpKind::File(FileOp::default())),
            "invalid file op with no actions",
        ),
        (refused_op(OpKind::File(copy("/a"))), "loop from index 0"),
        (
            refused_op(OpKind::Merge(MergeOp {
                inputs: vec![Some(7)],
            })),
            "invalid merge input index 7",
        ),
        (
            refused_op(OpKind::Diff(DiffOp {
                lower: None,
                upper: Some(1),
            })),
            "invalid diff input index 1",
        ),
        (
            refused_op(OpKind::Passthrough(PassthroughOp::default())),
            "invalid passthrough op with no id",
        ),
        (
            refused_op(OpKind::Passthrough(empty)),
            "invalid passthrough op with no outputs",
        ),
        (
            refused_op(OpKind::Build(BuildOp::default())),
            "no llb definition input buildkit.llb.definition found",
        ),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
}

#[test]
fn file_ops_number_their_outputs_without_gaps_and_do_not_go_in_circles() {
    let check = |change: fn(&mut FileOp)| {
        let mut b = Builder::default();
        let source = b.source("docker-image://a");
        let mut op = copy("/a");
        op.actions.push(op.actions[0].clone());
        op.actions[1].output = None;
        change(&mut op);
        let op = b.op(&[source, source], OpKind::File(op));
        Graph::new(&b.finish(op))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(check(|_| ()), Ok(()));
    assert_eq!(
        check(|op| op.actions[0].output = None),
        Err("no outputs specified".into())
    );
    assert_eq!(
        check(|op| op.actions[0].output = Some(1)),
        Err("missing output index 0".into())
    );
    assert_eq!(
        check(|op| op.actions[1].output = Some(0)),
        Err("duplicate output 0".into())
    );
    assert_eq!(
        check(|op| op.actions[0].output = Some(2)),
        Err("invalid output index 2".into())
    );
    // An earlier action may build on a later one.
    assert_eq!(
        check(|op| op.actions[0].input = llb::ActionInput::Action(1)),
        Ok(())
    );
    assert_eq!(
        check(|op| {
            op.actions[0].input = llb::ActionInput::Action(1);
            op.actions[1].secondary = llb::ActionInput::Action(0);
        }),
        Err("loop from index 0".into())
    );
}

#[test]
fn unknown_capabilities_are_refused() {
    let mut b = Builder::default();
    let source = b.source("docker-image://a");
    let mut definition = b.finish(source);
    let metadata = definition.metadata.get_mut(&source.digest).unwrap();
    metadata.caps.insert("source.image".into(), true);
    assert!(Graph::new(&definition).is_ok());
    let metadata = definition.metadata.get_mut(&source.digest).unwrap();
    metadata.caps.insert("source.future".into(), true);
    assert_eq!(refused(&definition), "unknown API capability source.future");
}

#[test]
fn a_graph_holds_what_its_result_needs_inputs_first() {
    let mut b = Builder::default();
    let base = b.source("docker-image://a");
    b.source("docker-image://unused");
    let run = b.exec(&[base], exec("sh -c true", vec![root()]));
    let again = b.exec(&[run], exec("sh -c true", vec![root()]));
    let mut definition = b.finish(again);
    let graph = Graph::new(&definition).unwrap();
    let order = |graph: &Graph| {
        graph
            .vertices()
            .map(|vertex| vertex.digest())
            .collect::<Vec<_>>()
    };
    assert_eq!(order(&graph), [base.digest, run.digest, again.digest]);
    assert_eq!(graph.result(), again);

    // A definition in another order is the same graph.
    definition.ops[..4].reverse();
    assert_eq!(order(&Graph::new(&definition).unwrap()), order(&graph));

    let out = graph.definition();
    assert_eq!(out.ops.len(), 4);
    assert_eq!(order(&Graph::new(&out).unwrap()), order(&graph));
    assert_eq!(Definition::decode(out.encode().into()).unwrap(), out);
}

#[test]
fn ops_that_come_before_their_inputs_are_moved_and_no_others() {
    let mut b = Builder::default();
    let sources: Vec<_> = (0..4)
        .map(|number| b.source(&format!("docker-image://{number}")))
        .collect();
    let step = b.exec(&sources[..1], exec("sh", vec![root()]));
    let mut inputs = vec![step];
    inputs.extend(&sources);
    let indices = (0..5).map(Some).collect();
    let merge = b.op(&inputs, OpKind::Merge(MergeOp { inputs: indices }));
    let mut definition = b.finish(merge);
    definition.ops[..5].reverse();
    let graph = Graph::new(&definition).unwrap();
    let order: Vec<_> = graph.vertices().map(|vertex| vertex.digest()).collect();
    let [s0, s1, s2, s3] = [0, 1, 2, 3].map(|number: usize| sources[number].digest);
    assert_eq!(order, [s3, s2, s1, s0, step.digest, merge.digest]);
}

#[test]
fn vertices_are_named_as_the_client_says_or_by_what_they_do() {
    let mut b = Builder::default();
    let base = b.source("docker-image://a");
    let run = b.exec(&[base], exec("sh -c true", vec![root()]));
    let file = b.op(&[base, run], OpKind::File(copy("/a")));
    let diff = b.op(
        &[file],
        OpKind::Diff(DiffOp {
            lower: None,
            upper: Some(0),
        }),
    );
    let merge = b.op(
        &[run, diff],
        OpKind::Merge(MergeOp {
            inputs: vec![Some(0), Some(1)],
        }),
    );
    let mut definition = b.finish(merge);
    let graph = Graph::new(&definition).unwrap();
    let names: Vec<_> = graph.vertices().map(|vertex| vertex.name()).collect();
    assert_eq!(
        names,
        [
            "docker-image://a",
            "sh -c true",
            "copy /a /dest",
            "diff scratch -> (copy /a /dest)",
            "merge (sh -c true, diff scratch -> (copy /a /dest))",
        ]
    );
    let metadata = definition.metadata.get_mut(&run.digest).unwrap();
    metadata
        .description
        .insert("llb.customname".into(), "RUN true".into());
    let graph = Graph::new(&definition).unwrap();
    assert_eq!(graph.vertex(&run.digest).unwrap().name(), "RUN true");
}

#[test]
fn names_of_nested_merges_stay_short() {
    let mut b = Builder::default();
    let mut last = b.source("docker-image://a");
    for _ in 0..200 {
        last = b.op(
            &[last, last],
            OpKind::Merge(MergeOp {
                inputs: vec![Some(0), Some(1)],
            }),
        );
    }
    let graph = Graph::new(&b.finish(last)).unwrap();
    assert!(graph.vertices().all(|vertex| vertex.name().len() < 4096));
}

#[test]
fn a_replaced_source_renames_what_depends_on_it() {
    let mut b = Builder::default();
    let base = b.source("docker-image://a");
    let other = b.source("docker-image://b");
    let run = b.exec(&[base], exec("true", vec![root()]));
    let both = b.op(
        &[run, other],
        OpKind::Merge(MergeOp {
            inputs: vec![Some(0), Some(1)],
        }),
    );
    let graph = Graph::new(&b.finish(both)).unwrap();

    let pin = |from: &str, to: &str| {
        graph
            .map_ops(|vertex| {
                let OpKind::Source(source) = &vertex.op().kind else {
                    return Ok(None);
                };
                let mut new = source.clone();
                new.identifier = to.to_owned();
                let wanted = source.identifier == from;
                Ok::<_, ()>(wanted.then_some(OpKind::Source(new)))
            })
            .unwrap()
    };
    let pinned = pin("docker-image://a", "docker-image://a@sha256:1");
    assert!(pinned.vertex(&base.digest).is_none() && pinned.vertex(&run.digest).is_none());
    assert!(pinned.vertex(&other.digest).is_some());
    assert_ne!(pinned.result(), graph.result());
    // What is left is a legal graph, and the same as if it had been written so.
    let again = Graph::new(&pinned.definition()).unwrap();
    assert_eq!(again.result(), pinned.result());
    assert_eq!(pin("docker-image://none", "x").result(), graph.result());
    assert_eq!(pin("docker-image://a", "docker-image://b").len(), 3);
}

#[test]
fn mounts_without_a_number_of_their_own_are_numbered_in_order() {
    let mut b = Builder::default();
    let base = b.source("docker-image://a");
    let scratch = Mount {
        dest: "/out".into(),
        output: Some(0),
        ..Mount::default()
    };
    let run = b.exec(&[base], exec("true", vec![root(), scratch]));
    let graph = Graph::new(&b.finish(Input { output: 1, ..run })).unwrap();
    let OpKind::Exec(exec) = &graph.result_vertex().op().kind else {
        panic!()
    };
    assert_eq!(
        exec.mounts
            .iter()
            .map(|mount| mount.output)
            .collect::<Vec<_>>(),
        [Some(0), Some(1)]
    );
}

#[test]
fn build_ops_name_their_file() {
    let attrs = [(BuildOp::FILENAME_ATTR.to_owned(), "def".to_owned())].into();
    let inputs = [(BuildOp::DEFINITION.to_owned(), Some(0))].into();
    let op = BuildOp { inputs, attrs };
    assert_eq!((op.definition_input(), op.filename()), (Some(0), "def"));
    let op = Op {
        inputs: vec![],
        kind: OpKind::Build(op),
        platform: None,
        constraints: None,
    };
    let error = llb::Vertex::decode(op.encode().into(), OpMetadata::default()).unwrap_err();
    assert_eq!(error.to_string(), "invalid build input index 0");
}
