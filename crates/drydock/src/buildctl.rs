//! The part of `buildctl` that builders need of a daemon's image.

use std::ffi::OsString;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::{io, thread};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

use crate::error;
use crate::paths::Family;

/// Speaks to a build daemon.
#[derive(Debug, Parser)]
#[command(name = "buildctl", disable_version_flag = true)]
struct Arguments {
    /// Address of the daemon.
    #[arg(long, env = "BUILDKIT_HOST", global = true, value_name = "ADDR")]
    addr: Option<String>,
    /// Print the version.
    #[arg(long, short = 'v')]
    version: bool,
    #[command(subcommand)]
    command: Option<Buildctl>,
}

#[derive(Debug, Subcommand)]
enum Buildctl {
    /// Carry standard input and output to the daemon's socket.
    #[command(hide = true)]
    DialStdio,
    /// Look into the daemon.
    #[command(subcommand)]
    Debug(Debug),
}

#[derive(Debug, Subcommand)]
enum Debug {
    /// List workers.
    Workers,
    /// Show the daemon's version.
    Info,
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
    let address = arguments
        .addr
        .unwrap_or_else(|| format!("unix://{}", Family::Buildkit.socket().display()));
    match arguments.command {
        Some(Buildctl::DialStdio) => dial_stdio(&address),
        Some(Buildctl::Debug(Debug::Workers)) => crate::cli::block_on(workers(&address)),
        Some(Buildctl::Debug(Debug::Info)) => crate::cli::block_on(info(&address)),
        None => bail!("no command given; see `buildctl --help`"),
    }
}

/// Both directions until the daemon has closed its side.
fn dial_stdio(address: &str) -> anyhow::Result<()> {
    let path = address
        .strip_prefix("unix://")
        .with_context(|| format!("address `{address}` is no unix socket"))?;
    let name = || format!("failed to connect to `{path}`");
    let mut socket = UnixStream::connect(path).with_context(name)?;
    let mut sender = socket.try_clone().with_context(name)?;
    thread::spawn(move || {
        // An error here shows as an end on the other direction.
        let _ = io::copy(&mut io::stdin(), &mut sender);
        let _ = sender.shutdown(Shutdown::Write);
    });
    io::copy(&mut socket, &mut io::stdout()).context("failed to carry the daemon's answer")?;
    Ok(())
}

async fn workers(address: &str) -> anyhow::Result<()> {
    let client = client::Client::connect(address)
        .await
        .context("failed to connect")?;
    println!("ID\tPLATFORMS");
    for worker in client
        .list_workers()
        .await
        .context("failed to list workers")?
    {
        println!("{}\t{}", worker.id, worker.platforms.join(","));
    }
    Ok(())
}

async fn info(address: &str) -> anyhow::Result<()> {
    let client = client::Client::connect(address)
        .await
        .context("failed to connect")?;
    let version = client
        .info()
        .await
        .context("failed to ask for the version")?;
    println!(
        "BuildKit: {} {} {}",
        version.package, version.version, version.revision
    );
    Ok(())
}
