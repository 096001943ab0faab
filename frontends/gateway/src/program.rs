//! Frontends that are programs: they call back over their standard streams.
//!
//! The program is the gRPC client and the daemon the server, without any greeting: HTTP/2 from the
//! first byte. What it writes to its standard error goes to the daemon's log, and its end into the
//! error of a program that fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use frontend::{
    Bridge, BuildResult, ContainerInput, ContainerProcess, FrontendError, OpenContainer,
    ProcessInput, ProcessOutput, ResultRef, SolveGraph, StartProcess,
};
use llb::builder::{Builder, Defaults, FileStep, Options, State};
use llb::{Graph, MkFileAction, OpMetadata};
use prost::Message as _;
use proto::pb;
use rpc::tunnel::{self, Outgoing, Tunnel};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::build::{Build, Facts};
use crate::container;
use crate::service::Service;

/// Chunks of the program's output that wait to be read.
const QUEUE: usize = 16;

/// How much of what a program says last is told when it fails, in bytes.
const TAIL: usize = 2 << 10;

/// How long a program that has returned its result and closed the connection may take to end.
const LEAVE: Duration = Duration::from_secs(10);

/// Where a frontend finds what it is itself.
const METADATA: &str = "/run/config/buildkit/metadata";

/// A frontend that is a program.
#[derive(Clone, Debug)]
pub struct Program {
    /// The image that it came from, for people.
    pub name: String,
    /// Its files. What it writes is thrown away.
    pub files: Arc<Graph>,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables, beside those by which it is told what to build.
    pub env: Vec<String>,
    /// Where it starts.
    pub cwd: String,
    /// Whether it has a network.
    pub network: bool,
}

/// Ends what runs for a frontend when that is over.
struct Ended(Arc<Build>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Runs a frontend over `bridge` until it has ended, and answers what it returned.
///
/// # Errors
/// The error that the frontend returned, or why there is nothing that it returned.
pub async fn run(
    bridge: Arc<dyn Bridge>,
    facts: Facts,
    program: Program,
) -> Result<BuildResult, FrontendError> {
    let env = environment(&*bridge, &facts, &program);
    let files = solve(&*bridge, program.files.clone()).await?;
    let metadata = solve(&*bridge, metadata(&program)?).await?;
    let opened = bridge.open_container(container(&program, files, metadata));
    let opened = opened.await?;
    let mut process = opened.start(start(&program, env)).await?;
    let build = Arc::new(Build::new(bridge, facts));
    let _ended = Ended(build.clone());
    let code = converse(&build, &mut process).await?;
    match (build.take_outcome(), code) {
        (Some(Err(error)), _) => Err(error),
        (_, Err(failed)) => Err(FrontendError::invalid(failed)),
        (Some(Ok(result)), Ok(())) => Ok(result),
        (None, Ok(())) => Err(FrontendError::invalid("no result for incomplete build")),
    }
}

async fn solve(bridge: &dyn Bridge, graph: Arc<Graph>) -> Result<ResultRef, FrontendError> {
    let request = SolveGraph {
        graph,
        cache_imports: Vec::new(),
        evaluate: true,
    };
    bridge.solve(request).await
}

/// The variables that tell a frontend what to build.
fn environment(bridge: &dyn Bridge, facts: &Facts, program: &Program) -> Vec<String> {
    let mut env = program.env.clone();
    let options = bridge.options().iter().enumerate();
    env.extend(
        options.map(|(at, (key, value))| format!("BUILDKIT_FRONTEND_OPT_{at}={key}={value}")),
    );
    env.push(format!("BUILDKIT_SESSION_ID={}", bridge.session_id()));
    let platforms: Vec<_> = facts.platforms.iter().map(platform).collect();
    let workers = json!([{
        "id": facts.worker,
        "labels": facts.labels,
        "platforms": platforms,
    }]);
    env.push(format!("BUILDKIT_WORKERS={workers}"));
    env.push("BUILDKIT_EXPORTEDPRODUCT=buildkit".to_owned());
    env
}

fn platform(platform: &oci::Platform) -> serde_json::Value {
    let mut value = BTreeMap::from([
        ("architecture", json!(platform.architecture)),
        ("os", json!(platform.os)),
    ]);
    if !platform.variant.is_empty() {
        value.insert("variant", json!(platform.variant));
    }
    json!(value)
}

/// The frontend's own graph in a file, with which a frontend can start itself again.
fn metadata(program: &Program) -> Result<Arc<Graph>, FrontendError> {
    let mut builder = Builder::new();
    let file = FileStep::MkFile(MkFileAction {
        path: "/frontend.bin".to_owned(),
        mode: 0o400,
        data: program.files.to_definition().encode_to_vec().into(),
        owner: None,
        timestamp: None,
    });
    let options = Options {
        metadata: OpMetadata::default().as_internal(),
        ..Options::default()
    };
    let state = builder.file(&State::scratch(), vec![file], options);
    let definition = builder.definition(&state, &Defaults::default());
    let graph = Graph::new(&definition);
    graph
        .map(Arc::new)
        .map_err(|error| FrontendError::invalid(format!("failed to describe a frontend: {error}")))
}

fn container(program: &Program, files: ResultRef, metadata: ResultRef) -> OpenContainer {
    let mount = |input, dest: &str, readonly| pb::Mount {
        input,
        output: -1,
        dest: dest.to_owned(),
        readonly,
        ..pb::Mount::default()
    };
    let exec = pb::ExecOp {
        meta: Some(pb::Meta {
            args: program.args.clone(),
            ..pb::Meta::default()
        }),
        mounts: vec![mount(0, "/", false), mount(1, METADATA, true)],
        network: match program.network {
            true => pb::NetMode::Unset.into(),
            false => pb::NetMode::None.into(),
        },
        ..pb::ExecOp::default()
    };
    let names = [&files, &metadata].map(container::input_name);
    // A frontend may run several times in a build, for its platforms and subrequests.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    OpenContainer {
        name: format!("frontend {} {number}", program.name),
        op: container::encode(exec, names.into()),
        inputs: vec![
            ContainerInput::Result(files),
            ContainerInput::Result(metadata),
        ],
    }
}

fn start(program: &Program, env: Vec<String>) -> StartProcess {
    let exec = pb::ExecOp {
        meta: Some(pb::Meta {
            args: program.args.clone(),
            env,
            cwd: program.cwd.clone(),
            ..pb::Meta::default()
        }),
        mounts: vec![pb::Mount {
            input: -1,
            output: -1,
            dest: "/".to_owned(),
            ..pb::Mount::default()
        }],
        ..pb::ExecOp::default()
    };
    StartProcess {
        op: container::encode(exec, Vec::new()),
        tty: false,
        stdin: true,
    }
}

/// How a program ended; what it says when that was not well.
type Ending = Result<(), String>;

/// Serves the program until it has ended.
async fn converse(
    build: &Arc<Build>,
    process: &mut ContainerProcess,
) -> Result<Ending, FrontendError> {
    let (outgoing, told) = tunnel::outgoing::<Bytes>();
    let (heard, incoming) = mpsc::channel(QUEUE);
    let serving = serve(build.clone(), ReceiverStream::new(incoming), outgoing);
    let feeding = feed(told, process.input.clone());
    let attending = async {
        tokio::join!(serving, feeding);
        if !build.has_returned() {
            return Err("frontend grpc server closed unexpectedly".to_owned());
        }
        // What it is to do is done.
        tokio::time::sleep(LEAVE).await;
        Ok(())
    };
    tokio::select! {
        ended = follow(&mut process.output, heard) => ended,
        ending = attending => Ok(ending),
    }
}

/// Serves the calls of the program, until it closes the connection.
async fn serve(
    build: Arc<Build>,
    incoming: ReceiverStream<Result<Bytes, Status>>,
    outgoing: Outgoing<Bytes>,
) {
    let service = Service::of(build).server();
    if let Err(error) = tunnel::serve_over(Tunnel::new(incoming, outgoing), service).await {
        tracing::debug!(error, "the connection to a frontend broke");
    }
}

/// Passes on what the program is told.
async fn feed(mut told: ReceiverStream<Bytes>, input: mpsc::Sender<ProcessInput>) {
    while let Some(data) = told.next().await {
        if input.send(ProcessInput::Stdin(data)).await.is_err() {
            return;
        }
    }
    // One that has ended needs no end of its input.
    let _ = input.send(ProcessInput::CloseStdin).await;
}

/// Passes on what the program says, until it has ended.
async fn follow(
    output: &mut mpsc::Receiver<Result<ProcessOutput, FrontendError>>,
    heard: mpsc::Sender<Result<Bytes, Status>>,
) -> Result<Ending, FrontendError> {
    let mut tail = Vec::new();
    loop {
        match output.recv().await {
            // After the connection is closed nobody listens any more.
            Some(Ok(ProcessOutput::Stdout(data))) => drop(heard.send(Ok(data)).await),
            Some(Ok(ProcessOutput::Stderr(data))) => note(&mut tail, &data),
            Some(Ok(ProcessOutput::Exit(0))) => return Ok(Ok(())),
            Some(Ok(ProcessOutput::Exit(code))) => return Ok(Err(failed(code, &tail))),
            Some(Err(error)) => return Err(error),
            None => return Ok(Err("the frontend was lost".to_owned())),
        }
    }
}

/// Keeps the end of what the program says to people.
fn note(tail: &mut Vec<u8>, data: &[u8]) {
    tracing::info!(text = %String::from_utf8_lossy(data).trim_end(), "a frontend says");
    tail.extend_from_slice(data);
    let excess = tail.len().saturating_sub(TAIL);
    tail.drain(..excess);
}

/// BuildKit tells the exit code alone.
fn failed(code: i32, tail: &[u8]) -> String {
    let said = String::from_utf8_lossy(tail);
    match said.trim() {
        "" => format!("exit code: {code}"),
        said => format!("exit code: {code}: {said}"),
    }
}
