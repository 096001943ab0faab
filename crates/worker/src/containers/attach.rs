//! A caller at the streams of a container, or of a further process in it.

use std::sync::Arc;

use std::path::Path;

use executor::{Output, ProcessSpec, Stdio};
use proto::worker as wire;
use sys::root::RootDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use wire::attach_request::Request as In;
use wire::attach_response::Response as Out;

use super::create::set_env;
use super::log::MAX_FRAME;
use super::{Entry, Further, run, signal_number};
use crate::audience::{Audience, Rights};
use crate::failure::{Failure, chain};
use crate::sandbox::{self, Live, Started};
use crate::state::Shared;

/// How many pieces of output may wait for a slow caller.
const QUEUE: usize = 64;

/// The terminal of a caller that does not say how large its own is: lines and characters.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

type Sender = mpsc::Sender<Result<wire::AttachResponse, Status>>;

/// Attaches someone with `rights` to a container, or an engine to a sandbox; the first request says
/// to which.
pub(crate) async fn attach(
    shared: &Arc<Shared>,
    mut requests: Streaming<wire::AttachRequest>,
    audience: Audience,
    rights: Rights,
) -> Result<ReceiverStream<Result<wire::AttachResponse, Status>>, Status> {
    let first = requests
        .message()
        .await?
        .and_then(|message| message.request);
    let Some(In::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "the first request must name a container",
        ));
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let size = start.size.map(size);
    if let Some(process) = start.sandbox {
        audience.engines_only()?;
        let started = sandbox::start(shared, process, size.unwrap_or(DEFAULT_SIZE)).await?;
        let none = wire::StartContainerResponse::default();
        say(&sender, Out::Started(none)).await;
        tokio::spawn(serve_process(started, requests, sender));
        return Ok(ReceiverStream::new(receiver));
    }
    let entry = shared.containers.find(&start.container)?;
    entry.record().check(rights)?;
    match start.exec {
        Some(spec) => exec(&entry, spec, size, requests, sender).await?,
        None => {
            let reader = entry.log.read(true).map_err(Failure::host)?;
            if start.start_container {
                let started = run::start(shared, &entry, size).await?;
                say(&sender, Out::Started(started)).await;
            } else {
                say(
                    &sender,
                    Out::Started(wire::StartContainerResponse::default()),
                )
                .await;
            }
            tokio::spawn(follow(entry.clone(), reader, sender));
            tokio::spawn(feed_container(entry, requests));
        }
    }
    Ok(ReceiverStream::new(receiver))
}

fn size(size: wire::TerminalSize) -> (u16, u16) {
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    (clamp(size.rows), clamp(size.cols))
}

async fn say(sender: &Sender, response: Out) -> bool {
    sender
        .send(Ok(wire::AttachResponse {
            response: Some(response),
        }))
        .await
        .is_ok()
}

fn output(stream: i64, data: bytes::Bytes) -> Out {
    if stream == 2 {
        Out::Stderr(data)
    } else {
        Out::Stdout(data)
    }
}

/// Passes on what a container prints, and then how it ended.
async fn follow(entry: Arc<Entry>, mut reader: super::log::Reader, sender: Sender) {
    loop {
        let next = tokio::select! {
            next = reader.next() => next,
            () = sender.closed() => return,
        };
        match next {
            Ok(Some(frame)) => {
                if !say(&sender, output(frame.stream, frame.data)).await {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                let _ = sender.send(Err(Failure::host(error).into())).await;
                return;
            }
        }
    }
    let exit = entry.wait().await;
    say(&sender, Out::Exit(exit)).await;
}

/// Passes on what the caller types, and its signals, to a container's first process.
async fn feed_container(entry: Arc<Entry>, mut requests: Streaming<wire::AttachRequest>) {
    while let Ok(Some(message)) = requests.message().await {
        match message.request {
            Some(In::Stdin(data)) => {
                let mut stdin = entry.stdin.lock().await;
                if let Some(input) = stdin.as_mut()
                    && input.write_all(&data).await.is_err()
                {
                    *stdin = None;
                }
            }
            Some(In::StdinEof(true)) => *entry.stdin.lock().await = None,
            Some(In::Resize(to)) => {
                let (rows, cols) = size(to);
                if let Some(container) = entry.live() {
                    let _ = container.resize(rows, cols);
                }
            }
            Some(In::Signal(name)) => {
                if let Ok(signal) = signal_number(&name) {
                    // One that has just ended takes no signal any more.
                    let _ = entry.signal(signal);
                }
            }
            Some(In::StdinEof(false) | In::Start(_)) | None => {}
        }
    }
}

async fn exec(
    entry: &Arc<Entry>,
    spec: wire::ExecSpec,
    size: Option<(u16, u16)>,
    requests: Streaming<wire::AttachRequest>,
    sender: Sender,
) -> Result<(), Failure> {
    let name = entry.record().name.clone();
    let container = entry
        .live()
        .ok_or_else(|| Failure::user(format!("container `{name}` is not running")))?;
    if spec.args.is_empty() {
        return Err(Failure::user("no command to run in the container is given"));
    }
    let (rows, cols) = size.unwrap_or(DEFAULT_SIZE);
    let stdio = if spec.tty {
        Stdio::Tty { rows, cols }
    } else {
        Stdio::Pipes {
            stdin: spec.open_stdin,
        }
    };
    let process = process_spec(&container, &entry.further, spec)?;
    let process = container.exec(&process, stdio).await;
    let mut process = process.map_err(run::create_failure)?;
    let started = Started {
        stdin: process.stdin.take(),
        stdout: process.stdout.take(),
        stderr: process.stderr.take(),
        live: Live::Further(Box::new(process)),
    };
    say(
        &sender,
        Out::Started(wire::StartContainerResponse::default()),
    )
    .await;
    tokio::spawn(serve_process(started, requests, sender));
    Ok(())
}

/// A process as the container's own, with what the caller wants otherwise.
fn process_spec(
    container: &executor::Container,
    further: &Further,
    spec: wire::ExecSpec,
) -> Result<ProcessSpec, Failure> {
    let pid = container
        .pid()
        .ok_or_else(|| Failure::user("the container has ended"))?;
    let root = RootDir::open(Path::new(&format!("/proc/{pid}/root"))).map_err(Failure::host)?;
    let or = |given: String, own: &String| if given.is_empty() { own.clone() } else { given };
    let user = or(spec.user, &further.user);
    let user = executor::user::lookup(&root, &user).map_err(|e| Failure::user(chain(&e)))?;
    let mut env = further.env.clone();
    if spec.tty {
        set_env(&mut env, "TERM=xterm".to_owned());
    }
    for entry in spec.env {
        set_env(&mut env, entry);
    }
    let step = executor::spec::StepSpec {
        args: spec.args,
        env,
        cwd: or(spec.cwd, &further.cwd),
        user,
        hostname: String::new(),
        ulimits: Vec::new(),
        limits: sys::cgroup::Limits::default(),
        security: executor::spec::Security::Sandbox,
        readonly_rootfs: false,
        shm_size_bytes: 0,
        oom_score_adj: None,
    };
    let spec = executor::spec::step(step).map_err(|e| Failure::user(chain(&e)))?;
    let process = spec.process().clone();
    process.ok_or_else(|| Failure::bug("a step without a process"))
}

/// Carries the streams of a process until it has ended or the caller is gone; then it is killed.
async fn serve_process(
    started: Started,
    mut requests: Streaming<wire::AttachRequest>,
    sender: Sender,
) {
    let Started {
        live: process,
        mut stdin,
        stdout,
        stderr,
    } = started;
    let out = pump(stdout, 1, sender.clone());
    let err = pump(stderr, 2, sender.clone());
    let feed = async {
        while let Ok(Some(message)) = requests.message().await {
            match message.request {
                Some(In::Stdin(data)) => {
                    if let Some(input) = stdin.as_mut()
                        && input.write_all(&data).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Some(In::StdinEof(true)) => stdin = None,
                Some(In::Resize(to)) => {
                    let (rows, cols) = size(to);
                    process.resize(rows, cols);
                }
                Some(In::Signal(name)) => {
                    if let Ok(signal) = signal_number(&name) {
                        process.signal(signal);
                    }
                }
                Some(In::StdinEof(false) | In::Start(_)) | None => {}
            }
        }
        // A caller that has no more to say may still listen.
        std::future::pending::<()>().await;
    };
    let ended = async {
        let (exit, (), ()) = tokio::join!(process.wait(), out, err);
        exit
    };
    let exit = tokio::select! {
        exit = ended => exit,
        () = feed => return process.kill(),
        () = sender.closed() => return process.kill(),
    };
    let response = match exit {
        Ok(exit) => Ok(wire::AttachResponse {
            response: Some(Out::Exit(wire::ExitStatus {
                code: exit.code,
                oom_killed: exit.oom,
            })),
        }),
        Err(failure) => Err(failure.into()),
    };
    let _ = sender.send(response).await;
}

async fn pump(from: Option<Output>, stream: i64, sender: Sender) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; MAX_FRAME];
    while let Ok(length) = from.read(&mut buffer).await {
        let data = bytes::Bytes::copy_from_slice(&buffer[..length]);
        if length == 0 || !say(&sender, output(stream, data)).await {
            return;
        }
    }
}
