//! What the solver itself costs: graphs of many shapes and sizes with a worker that does nothing.
//!
//! Run with `cargo run --release -p drydock-solver --example cost`. Per shape and number of
//! vertices it prints microseconds of CPU per vertex to check the definition, to build it all, and
//! to find it all built. A number that grows with the size is a cost that is not linear.

#![expect(clippy::print_stdout, reason = "the numbers are the output")]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use llb::{
    ActionInput, CopyAction, Definition, ExecOp, FileAction, FileActionKind, FileOp, Graph, Input,
    MergeOp, Meta, MkFileAction, Mount, Op, OpKind, OpMetadata, PassthroughOp, SourceOp,
};
use oci::Digest;
use solver::{
    DigestRequest, ErrorClass, JobId, JobOptions, KeyIndex, OpError, Options, PinRequest, Pinned,
    RunRequest, Solver, Worker,
};

/// Has what it was asked to make.
#[derive(Default)]
struct Idle(Mutex<HashSet<Digest>>);

impl Idle {
    fn with<T>(&self, change: impl FnOnce(&mut HashSet<Digest>) -> T) -> T {
        change(&mut self.0.lock().expect("nothing panics with the lock"))
    }
}

#[async_trait]
impl Worker for Idle {
    async fn pin(&self, request: PinRequest) -> Result<Pinned, OpError> {
        Ok(Pinned {
            ids: vec![request.vertex.digest()],
        })
    }

    async fn exists(&self, _job: &JobId, ids: &[Digest]) -> Result<Vec<bool>, OpError> {
        Ok(self.with(|made| ids.iter().map(|id| made.contains(id)).collect()))
    }

    async fn digest(&self, request: DigestRequest) -> Result<Digest, OpError> {
        Ok(request.id)
    }

    async fn run(&self, request: RunRequest) -> Result<(), OpError> {
        self.with(|made| made.extend(request.output_ids));
        Ok(())
    }

    async fn load_definition(&self, _: &JobId, _: Digest, _: &str) -> Result<Bytes, OpError> {
        Err(OpError::new(ErrorClass::User, "there is none"))
    }
}

/// Forgets no link, and keeps no times.
#[derive(Default)]
struct Links(Mutex<HashMap<Digest, Digest>>);

impl KeyIndex for Links {
    fn link(&self, key: &Digest) -> Option<Digest> {
        let links = self.0.lock().expect("nothing panics with the lock");
        links.get(key).copied()
    }

    fn set_link(&self, key: Digest, id: Digest) {
        let mut links = self.0.lock().expect("nothing panics with the lock");
        links.insert(key, id);
    }

    fn duration(&self, _op: &Digest) -> Option<Duration> {
        None
    }

    fn set_duration(&self, _op: Digest, _duration: Duration) {}
}

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
        // As much is said about each op of a Dockerfile.
        let name = (
            "llb.customname".to_owned(),
            "[1/1] RUN a command".to_owned(),
        );
        let caps = ["constraints", "file.base", "meta.description", "platform"];
        let metadata = OpMetadata {
            description: [name].into(),
            caps: caps.map(|cap| (cap.to_owned(), true)).into(),
            ..OpMetadata::default()
        };
        let digest = self.0.push(&op, metadata);
        Input { digest, output: 0 }
    }

    fn source(&mut self, number: usize) -> Input {
        let source = SourceOp {
            identifier: format!("docker-image://image{number}"),
            ..SourceOp::default()
        };
        self.op(&[], OpKind::Source(source))
    }

    fn run(&mut self, inputs: &[Input], number: usize) -> Input {
        let mount = |at: usize| Mount {
            input: u32::try_from(at).ok(),
            dest: if at == 0 {
                "/".into()
            } else {
                format!("/mnt/{at}")
            },
            output: (at == 0).then_some(0),
            readonly: at > 0,
            ..Mount::default()
        };
        let exec = ExecOp {
            meta: Meta {
                args: vec!["step".into(), number.to_string()],
                ..Meta::default()
            },
            mounts: (0..inputs.len()).map(mount).collect(),
            ..ExecOp::default()
        };
        self.op(inputs, OpKind::Exec(Box::new(exec)))
    }

    fn file(&mut self, inputs: &[Input], kind: FileActionKind) -> Input {
        let secondary = match inputs.len() {
            1 => ActionInput::Empty,
            _ => ActionInput::Input(1),
        };
        let action = FileAction {
            input: ActionInput::Input(0),
            secondary,
            output: Some(0),
            kind,
        };
        let actions = vec![action];
        self.op(inputs, OpKind::File(FileOp { actions }))
    }

    fn copy(&mut self, base: Input, from: Input, number: usize) -> Input {
        let copy = CopyAction {
            src: format!("/src/{number}"),
            dest: "/dest".into(),
            ..CopyAction::default()
        };
        self.file(&[base, from], FileActionKind::Copy(copy))
    }

    fn write(&mut self, base: Input, number: usize) -> Input {
        let file = MkFileAction {
            path: format!("/file{number}"),
            ..MkFileAction::default()
        };
        self.file(&[base], FileActionKind::MkFile(file))
    }

    fn merge(&mut self, inputs: &[Input]) -> Input {
        let indices = (0..).map(Some).take(inputs.len()).collect();
        self.op(inputs, OpKind::Merge(MergeOp { inputs: indices }))
    }
}

type Shape = fn(&mut Builder, usize) -> Input;

/// One file after the other.
fn files(b: &mut Builder, count: usize) -> Input {
    let base = b.source(0);
    (1..count).fold(base, |last, number| b.write(last, number))
}

/// One command after the other.
fn chain(b: &mut Builder, count: usize) -> Input {
    let base = b.source(0);
    (1..count).fold(base, |last, number| b.run(&[last], number))
}

/// Copies that are matched by content, one on top of the other.
fn copies(b: &mut Builder, count: usize) -> Input {
    let from = b.source(0);
    let base = b.source(1);
    (2..count).fold(base, |last, number| b.copy(last, from, number))
}

/// Commands side by side that meet in one merge.
fn fan(b: &mut Builder, count: usize) -> Input {
    let base = b.source(0);
    let runs: Vec<Input> = (2..count).map(|number| b.run(&[base], number)).collect();
    b.merge(&runs)
}

/// Sources side by side that meet in one merge.
fn sources(b: &mut Builder, count: usize) -> Input {
    let all: Vec<Input> = (1..count).map(|number| b.source(number)).collect();
    b.merge(&all)
}

/// Layers of ten commands, each of which uses all of the layer before.
fn grid(b: &mut Builder, count: usize) -> Input {
    let mut layer = vec![b.source(0)];
    for from in (1..count).step_by(10) {
        layer = (from..from + 10).map(|n| b.run(&layer, n)).collect();
    }
    b.merge(&layer)
}

/// A chain of ops that stand for others, each by two ways.
fn aliases(b: &mut Builder, count: usize) -> Input {
    let base = b.source(0);
    let mut last = [base, base];
    for number in 1..count {
        let op = PassthroughOp {
            id: number.to_string(),
            outputs: vec![1, 0],
        };
        let first = b.op(&last, OpKind::Passthrough(op));
        last = [first, Input { output: 1, ..first }];
    }
    b.run(&last, count)
}

/// CPU time of this thread so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

async fn build(worker: &Arc<Idle>, links: &Arc<Links>, graph: &Arc<Graph>) {
    let solver = Solver::new(worker.clone(), links.clone(), Options::default());
    let (job, mut events) = solver.job(JobOptions {
        id: "job".into(),
        sessions: Vec::new(),
        foreign: None,
    });
    let result = job.realize(graph).await;
    result.expect("a worker that does nothing does not fail");
    drop(job);
    while events.next().await.is_some() {}
    solver.shutdown().await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let shapes: [(&str, Shape); 7] = [
        ("files", files),
        ("chain", chain),
        ("copies", copies),
        ("fan", fan),
        ("sources", sources),
        ("grid", grid),
        ("aliases", aliases),
    ];
    println!("shape      count  check   build   again  µs per vertex;  total ms");
    for (name, shape) in shapes {
        for count in [500, 2_000, 10_000, 40_000] {
            let mut b = Builder::default();
            let result = shape(&mut b, count);
            b.0.finish(result);
            let wire = b.0.to_pb();
            let mut times = [Duration::ZERO; 3];
            // The kernel's clock of CPU time is coarse.
            let rounds = 40_000 / count;
            let began = cpu();
            let graphs: Vec<Graph> = (0..rounds)
                .map(|_| Graph::from_definition(&wire).expect("the shapes are legal"))
                .collect();
            times[0] = cpu() - began;
            let graphs = graphs.into_iter().map(Arc::new);
            let worlds: Vec<_> = graphs
                .map(|graph| (Arc::default(), Arc::default(), graph))
                .collect();
            for time in &mut times[1..] {
                let began = cpu();
                for (worker, links, graph) in &worlds {
                    build(worker, links, graph).await;
                }
                *time = cpu() - began;
            }
            let times = times.map(|time| time.as_secs_f64() / rounds as f64);
            let [check, first, again] = times.map(|time| time * 1e6 / count as f64);
            let total = (times[0] + times[1]) * 1e3;
            println!("{name:9} {count:6} {check:6.2}  {first:6.2}  {again:6.2}  {total:8.1}");
        }
    }
}
