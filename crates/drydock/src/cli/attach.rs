//! Standard streams, signals and terminal of this program, joined to a process in a container.

use std::io;

use anyhow::Context as _;
use bytes::Bytes;
use client::containers::{Attached, ExitStatus, Input, Output};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::terminal::{self, RawMode};

/// Bytes read from standard input at a time.
const CHUNK: usize = 32 << 10;

/// What is joined beside the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    pub(super) stdin: bool,
    pub(super) tty: bool,
    /// Whether signals to this program go to the process.
    pub(super) signals: bool,
}

/// Carries everything both ways until the process has ended.
pub(super) async fn carry(mut process: Attached, joined: Joined) -> anyhow::Result<ExitStatus> {
    let _raw = match joined.tty && joined.stdin {
        true => Some(RawMode::enter().context("failed to put the terminal into raw mode")?),
        false => None,
    };
    // Dropped at the end, which ends them.
    let mut tasks = tokio::task::JoinSet::new();
    if joined.stdin {
        tasks.spawn(send_stdin(process.input.clone()));
    }
    if joined.tty {
        tasks.spawn(send_size(process.input.clone()));
    }
    if joined.signals {
        for (kind, name) in forwarded_signals() {
            // Caught from here on: what the process prints first may be taken as leave to signal it.
            let signals = signal(kind).with_context(|| format!("failed to catch {name}"))?;
            tasks.spawn(send_signals(process.input.clone(), signals, name));
        }
    }
    loop {
        match process.next().await? {
            Some(Output::Started(_)) => {}
            Some(Output::Stdout(data)) => write(io::stdout(), &data)?,
            Some(Output::Stderr(data)) => write(io::stderr(), &data)?,
            Some(Output::Exit(exit)) => return Ok(exit),
            None => anyhow::bail!("the connection to the process was lost"),
        }
    }
}

/// The code this program ends with for a process that ended so.
pub(super) fn code(exit: ExitStatus) -> u8 {
    // A shell's codes fit; anything else is a failure.
    u8::try_from(exit.code).unwrap_or(crate::error::FAILURE)
}

fn forwarded_signals() -> [(SignalKind, &'static str); 6] {
    [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::quit(), "SIGQUIT"),
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
    ]
}

fn write(mut out: impl io::Write, data: &[u8]) -> anyhow::Result<()> {
    out.write_all(data)
        .and_then(|()| out.flush())
        .context("failed to write output")
}

async fn send_stdin(input: mpsc::Sender<Input>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        let message = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => Input::StdinEof,
            Ok(count) => Input::Stdin(Bytes::copy_from_slice(&buffer[..count])),
        };
        let is_end = matches!(message, Input::StdinEof);
        if input.send(message).await.is_err() || is_end {
            return;
        }
    }
}

async fn send_size(input: mpsc::Sender<Input>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    while changes.recv().await.is_some() {
        let Some((rows, columns)) = terminal::size() else {
            continue;
        };
        if input.send(Input::Resize { rows, columns }).await.is_err() {
            return;
        }
    }
}

async fn send_signals(input: mpsc::Sender<Input>, mut signals: Signal, name: &'static str) {
    while signals.recv().await.is_some() {
        if input.send(Input::Signal(name.to_owned())).await.is_err() {
            return;
        }
    }
}
