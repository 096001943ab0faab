//! `buildctl`: what builders and operators ask of a daemon, in the words of BuildKit's client.

mod format;
mod graph;
mod history;
mod metadata;
mod table;
mod usage;
mod workers;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{io, thread};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use client::{Client, TlsFiles};

use crate::cli::build;
use crate::error;
use crate::paths::Family;

/// Bytes that are carried at once: as many as a pipe holds.
const BUFFER: usize = 64 << 10;

/// Speaks to a build daemon.
#[derive(Debug, Parser)]
#[command(name = "buildctl", disable_version_flag = true)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// Tell more.
    #[arg(long, hide = true)]
    debug: bool,
    #[arg(long, hide = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Print the version.
    #[arg(long, short = 'v')]
    version: bool,
    #[command(subcommand)]
    command: Option<Buildctl>,
}

#[derive(Debug, clap::Args)]
struct Connection {
    /// Address of the daemon.
    #[arg(long, env = "BUILDKIT_HOST", value_name = "ADDR")]
    addr: Option<String>,
    /// Name in the daemon's certificate.
    #[arg(long, value_name = "NAME")]
    tlsservername: Option<String>,
    /// Authority of the daemon's certificate.
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Certificate of this client.
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Key of this client.
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Directory with ca.pem, cert.pem and key.pem, or ca.crt, tls.crt and tls.key.
    #[arg(long, value_name = "DIR")]
    tlsdir: Option<PathBuf>,
    /// Seconds to wait for the daemon.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    timeout: u64,
    /// Wait for a daemon that does not answer yet.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Subcommand)]
enum Buildctl {
    /// Carry standard input and output to the daemon's socket.
    #[command(hide = true)]
    DialStdio,
    #[command(alias = "b")]
    Build(Box<build::buildctl::Arguments>),
    Du(usage::Du),
    Prune(usage::Prune),
    PruneHistories(history::PruneHistories),
    /// Look into the daemon.
    Debug {
        #[command(subcommand)]
        command: Option<Debug>,
    },
}

#[derive(Debug, Subcommand)]
enum Debug {
    DumpLlb(graph::DumpLlb),
    DumpMetadata(metadata::DumpMetadata),
    Workers(workers::Workers),
    Info(workers::Info),
    Histories(history::Histories),
    Logs(history::Logs),
    Ctl(history::Ctl),
    Get(history::Get),
    Monitor(history::Monitor),
}

/// Runs `buildctl`.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    match run(Arguments::parse_from(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => error::report(&failure),
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.version {
        let package = "github.com/drydock-build/drydock";
        println!(
            "buildctl {package} {} {}",
            crate::buildkit_version(),
            crate::revision()
        );
        return Ok(());
    }
    let connection = arguments.connection;
    let command = match arguments.command {
        None => return help(&[]),
        Some(Buildctl::Debug { command: None }) => return help(&["debug"]),
        Some(command) => command,
    };
    if matches!(command, Buildctl::DialStdio) {
        return dial_stdio(&connection.address());
    }
    if let Buildctl::Debug {
        command: Some(Debug::DumpLlb(arguments)),
    } = &command
    {
        return graph::dump(arguments);
    }
    if let Buildctl::Debug {
        command: Some(Debug::DumpMetadata(arguments)),
    } = &command
    {
        return metadata::dump(arguments);
    }
    crate::cli::block_on(async move {
        let client = connection.connect().await?;
        match command {
            Buildctl::DialStdio => Ok(()),
            Buildctl::Build(arguments) => build::buildctl::run(&client, *arguments).await,
            Buildctl::Du(arguments) => usage::du(&client, arguments).await,
            Buildctl::Prune(arguments) => usage::prune(&client, arguments).await,
            Buildctl::PruneHistories(arguments) => history::prune(&client, arguments).await,
            Buildctl::Debug { command } => match command {
                None | Some(Debug::DumpLlb(_) | Debug::DumpMetadata(_)) => Ok(()),
                Some(Debug::Histories(arguments)) => history::list(&client, arguments).await,
                Some(Debug::Logs(arguments)) => history::logs(&client, arguments).await,
                Some(Debug::Ctl(arguments)) => history::ctl(&client, arguments).await,
                Some(Debug::Get(arguments)) => history::get(&client, arguments).await,
                Some(Debug::Monitor(arguments)) => history::monitor(&client, arguments).await,
                Some(Debug::Workers(arguments)) => workers::list(&client, arguments).await,
                Some(Debug::Info(arguments)) => workers::info(&client, arguments).await,
            },
        }
    })
}

/// What can be given to a command that needs more.
fn help(path: &[&str]) -> anyhow::Result<()> {
    let mut command = <Arguments as clap::CommandFactory>::command();
    let mut wanted = &mut command;
    for name in path {
        wanted = wanted
            .find_subcommand_mut(name)
            .context("no such command")?;
    }
    wanted.print_help().context("failed to print")
}

impl Connection {
    fn address(&self) -> String {
        let default = || format!("unix://{}", Family::Buildkit.socket().display());
        self.addr.clone().unwrap_or_else(default)
    }

    async fn connect(&self) -> anyhow::Result<Client> {
        let address = self.address();
        let tls = self.tls();
        let limit = Duration::from_secs(self.timeout);
        let connecting = async {
            loop {
                match Client::connect_with(&address, tls.as_ref()).await {
                    Err(_) if self.wait => tokio::time::sleep(Duration::from_millis(100)).await,
                    connected => return connected,
                }
            }
        };
        let connected = if self.wait {
            connecting.await
        } else {
            let timeout = || format!("no daemon answers at `{address}` in {limit:?}");
            let answer = tokio::time::timeout(limit, connecting).await;
            answer.with_context(timeout)?
        };
        connected.context("failed to connect")
    }

    /// What is given for TLS, if anything.
    fn tls(&self) -> Option<TlsFiles> {
        let in_directory = |names: [&str; 2]| {
            let directory: &Path = self.tlsdir.as_deref()?;
            let files = names.into_iter().map(|name| directory.join(name));
            files.into_iter().find(|file| file.exists())
        };
        let files = TlsFiles {
            ca: self
                .tlscacert
                .clone()
                .or_else(|| in_directory(["ca.pem", "ca.crt"])),
            cert: self
                .tlscert
                .clone()
                .or_else(|| in_directory(["cert.pem", "tls.crt"])),
            key: self
                .tlskey
                .clone()
                .or_else(|| in_directory(["key.pem", "tls.key"])),
            server_name: self.tlsservername.clone(),
        };
        let is_given = files.ca.is_some() || files.cert.is_some() || files.key.is_some();
        is_given.then_some(files)
    }
}

/// Both directions until the daemon has closed its side.
fn dial_stdio(address: &str) -> anyhow::Result<()> {
    let name = || format!("failed to connect to `{address}`");
    if let Some(path) = address.strip_prefix("unix://") {
        let socket = UnixStream::connect(path).with_context(name)?;
        let sender = socket.try_clone().with_context(name)?;
        return carry(socket, sender, |socket| socket.shutdown(Shutdown::Write));
    }
    let host = address
        .strip_prefix("tcp://")
        .with_context(|| format!("address `{address}` is neither unix:// nor tcp://"))?;
    let socket = TcpStream::connect(host).with_context(name)?;
    let sender = socket.try_clone().with_context(name)?;
    carry(socket, sender, |socket| socket.shutdown(Shutdown::Write))
}

fn carry<S: Read + Write + Send + 'static>(
    mut socket: S,
    mut sender: S,
    end: fn(&S) -> io::Result<()>,
) -> anyhow::Result<()> {
    // As files: the standard library's own hold lines back until they are whole.
    let own = |end: BorrowedFd<'_>| end.try_clone_to_owned().map(File::from);
    let mut input = own(io::stdin().as_fd()).context("failed to open standard input")?;
    let mut output = own(io::stdout().as_fd()).context("failed to open standard output")?;
    thread::spawn(move || {
        // An error here shows as an end on the other direction.
        let _ = pass_on(&mut input, &mut sender);
        let _ = end(&sender);
    });
    pass_on(&mut socket, &mut output).context("failed to carry the daemon's answer")
}

/// Carries what comes until nothing will.
///
/// The standard library's `copy` has the kernel do it, which keeps the pipe at the other end locked while it
/// waits: who reads from it then waits for what comes next.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Arguments::command().debug_assert();
    }
}
