//! The processes of a frontend: many of them share one stream.

use std::collections::HashMap;
use std::sync::Arc;

use frontend::{ContainerProcess, FrontendError, ProcessInput, ProcessOutput};
use proto::frontend as wire;
use rpc::status::{Detail, Failure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};
use wire::exec_message::Input as Kind;

use crate::build::Build;
use crate::{container, failure};

/// The most processes of one stream.
const MAX_PROCESSES: usize = 1000;

/// The exit code of a process that has none (BuildKit: `gateway/pb/exit.go`).
const UNKNOWN_EXIT: u32 = 255;

/// Where answers go.
pub(crate) type Answers = mpsc::Sender<Result<wire::ExecMessage, Status>>;

/// A process that its frontend talks to.
struct Talk {
    input: mpsc::Sender<ProcessInput>,
}

/// Serves a stream to its end, which is when the frontend has closed it and its processes have
/// ended. When it breaks, or the build ends, the processes end.
pub(crate) async fn serve(
    build: Arc<Build>,
    mut incoming: Streaming<wire::ExecMessage>,
    answers: Answers,
) {
    let mut running = JoinSet::new();
    let work = async {
        let mut processes = HashMap::new();
        while let Some(message) = incoming.message().await? {
            take(&build, message, &mut processes, &mut running, &answers).await?;
        }
        // Nobody feeds them any more.
        drop(processes);
        while running.join_next().await.is_some() {}
        Ok(())
    };
    let outcome: Result<(), Status> = tokio::select! {
        outcome = work => outcome,
        () = build.ended() => Err(Status::cancelled("context canceled")),
        () = answers.closed() => return,
    };
    if let Err(status) = outcome {
        // A frontend that is gone needs no answer.
        let _ = answers.send(Err(status)).await;
    }
}

async fn take(
    build: &Arc<Build>,
    message: wire::ExecMessage,
    processes: &mut HashMap<String, Talk>,
    running: &mut JoinSet<()>,
    answers: &Answers,
) -> Result<(), Status> {
    let id = message.process_id;
    if id.is_empty() {
        return Err(Status::invalid_argument("ProcessID required"));
    }
    if let Some(Kind::Init(init)) = message.input {
        if processes.contains_key(&id) {
            return Err(Status::already_exists(format!(
                "Process {id} already exists"
            )));
        }
        if processes.len() >= MAX_PROCESSES {
            let text = format!("a stream may have {MAX_PROCESSES} processes at most");
            return Err(Status::resource_exhausted(text));
        }
        let container = build.container(&init.container_id)?;
        let fds = init.fds.clone();
        let process = container.start(container::process(init)).await;
        let ContainerProcess { input, output } = process.map_err(|error| build.failed(&error))?;
        say(answers, &id, Kind::Started(wire::StartedMessage {})).await;
        processes.insert(id.clone(), Talk { input });
        running.spawn(relay(id, fds, output, answers.clone()));
        return Ok(());
    }
    let talk = processes
        .get(&id)
        .ok_or_else(|| Status::not_found(format!("IO for process \"{id}\" not found")))?;
    let input = match message.input {
        Some(Kind::File(file)) if file.fd != 0 => {
            let text = format!("fd {} of process \"{id}\" is not written to", file.fd);
            return Err(Status::not_found(text));
        }
        Some(Kind::File(file)) => {
            if !file.data.is_empty() {
                // One that has ended takes nothing any more.
                let _ = talk.input.send(ProcessInput::Stdin(file.data)).await;
            }
            match file.eof {
                true => ProcessInput::CloseStdin,
                false => return Ok(()),
            }
        }
        Some(Kind::Resize(size)) => ProcessInput::Resize {
            rows: size.rows,
            cols: size.cols,
        },
        Some(Kind::Signal(signal)) => {
            if !is_signal(&signal.name) {
                let text = format!("Unknown signal {}", signal.name);
                return Err(Status::invalid_argument(text));
            }
            ProcessInput::Signal(signal.name)
        }
        Some(Kind::Init(_) | Kind::Started(_) | Kind::Exit(_) | Kind::Done(_)) | None => {
            return Err(Status::invalid_argument(
                "a process takes only data, sizes and signals",
            ));
        }
    };
    let _ = talk.input.send(input).await;
    Ok(())
}

/// Whether there is such a signal (BuildKit knows them by Docker's `signal` package).
fn is_signal(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    NAMES.contains(&name.strip_prefix("SIG").unwrap_or(name))
}

/// Passes on what a process says until it has ended: output, exit, the ends of its streams, done.
async fn relay(
    id: String,
    fds: Vec<u32>,
    mut output: mpsc::Receiver<Result<ProcessOutput, FrontendError>>,
    answers: Answers,
) {
    let exit = loop {
        let (fd, data) = match output.recv().await {
            Some(Ok(ProcessOutput::Stdout(data))) => (1, data),
            Some(Ok(ProcessOutput::Stderr(data))) => (2, data),
            Some(Ok(ProcessOutput::Exit(code))) => break exited(code),
            Some(Err(error)) => break lost(&error),
            None => break lost(&FrontendError::invalid("the process is lost")),
        };
        let is_wanted = fds.contains(&fd);
        if is_wanted && !say(&answers, &id, file(fd, data, false)).await {
            return;
        }
    };
    say(&answers, &id, Kind::Exit(exit)).await;
    for fd in [1, 2] {
        if fds.contains(&fd) {
            say(&answers, &id, file(fd, bytes::Bytes::new(), true)).await;
        }
    }
    say(&answers, &id, Kind::Done(wire::DoneMessage {})).await;
}

fn file(fd: u32, data: bytes::Bytes, eof: bool) -> Kind {
    Kind::File(wire::FdMessage { fd, eof, data })
}

fn exited(code: i32) -> wire::ExitMessage {
    let code = u32::try_from(code).unwrap_or(UNKNOWN_EXIT);
    let failure = Failure::new(Code::Unknown, format!("exit code: {code}"));
    let failure = failure.with(Detail::Exit { code });
    wire::ExitMessage {
        code,
        error: (code != 0).then(|| failure.to_proto()),
    }
}

fn lost(error: &FrontendError) -> wire::ExitMessage {
    wire::ExitMessage {
        code: UNKNOWN_EXIT,
        error: Some(failure(error).to_proto()),
    }
}

async fn say(answers: &Answers, id: &str, input: Kind) -> bool {
    let message = wire::ExecMessage {
        process_id: id.to_owned(),
        input: Some(input),
    };
    answers.send(Ok(message)).await.is_ok()
}
