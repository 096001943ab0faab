//! The command line of `drydock`: one file a command.

mod attach;
pub(crate) mod build;
mod daemon;
mod du;
mod exec;
mod images;
mod info;
mod inspect;
mod kill;
mod lint;
mod load;
mod logs;
mod ps;
mod pull;
mod push;
mod rm;
mod run;
mod save;
mod stop;
mod tag;
mod terminal;
mod transfer;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use client::Client;
use client::containers::Containers;

use crate::autostart;
use crate::error::{self, WithHint as _};
use crate::paths::Family;

/// Build images and run containers.
#[derive(Debug, Parser)]
#[command(
    name = "drydock",
    version,
    arg_required_else_help = true,
    subcommand_required = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// Address of the daemon. A daemon is started on a unix socket where there is none.
    #[arg(
        long,
        short = 'H',
        global = true,
        env = "DRYDOCK_HOST",
        value_name = "ADDR"
    )]
    host: Option<String>,
    /// Tell more.
    #[arg(long, short = 'D', global = true)]
    debug: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(Box<build::Arguments>),
    Lint(lint::Arguments),
    Outline(lint::OutlineArguments),
    Run(Box<run::Arguments>),
    Exec(exec::Arguments),
    Ps(ps::Arguments),
    Logs(logs::Arguments),
    Stop(stop::Arguments),
    Kill(kill::Arguments),
    Rm(rm::Arguments),
    Images(images::Arguments),
    Rmi(images::RemoveArguments),
    Tag(tag::Arguments),
    Pull(pull::Arguments),
    Push(push::Arguments),
    Save(save::Arguments),
    Load(load::Arguments),
    Inspect(inspect::Arguments),
    Du(du::Arguments),
    Prune(du::PruneArguments),
    /// Show the versions of this program and the daemon.
    Version,
    /// Show what the daemon can do.
    Info,
    #[command(subcommand)]
    Daemon(daemon::Command),
}

/// Runs `drydock`.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let Cli { global, command } = Cli::parse_from(arguments);
    // The one command that is not a client: it makes a runtime of its own.
    let command = match command {
        Command::Daemon(daemon::Command::Run(flags)) => {
            return crate::daemon_main::run(*flags, Family::Drydock);
        }
        command => command,
    };
    let is_container = matches!(command, Command::Run(_) | Command::Exec(_));
    match block_on(run(&global, command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = error::report(&failure);
            let told = failure.downcast_ref::<error::Exit>().is_some();
            if is_container && !told {
                ExitCode::from(error::DAEMON_FAILURE)
            } else {
                code
            }
        }
    }
}

async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Build(arguments) => build::run(global, *arguments).await,
        Command::Lint(arguments) => lint::run(&arguments),
        Command::Outline(arguments) => lint::outline(&arguments),
        Command::Run(arguments) => run::run(global, *arguments).await,
        Command::Exec(arguments) => exec::run(global, arguments).await,
        Command::Ps(arguments) => ps::run(global, &arguments).await,
        Command::Logs(arguments) => logs::run(global, &arguments).await,
        Command::Stop(arguments) => stop::run(global, &arguments).await,
        Command::Kill(arguments) => kill::run(global, &arguments).await,
        Command::Rm(arguments) => rm::run(global, &arguments).await,
        Command::Images(arguments) => images::run(global, &arguments).await,
        Command::Rmi(arguments) => images::remove(global, &arguments).await,
        Command::Tag(arguments) => tag::run(global, &arguments).await,
        Command::Pull(arguments) => pull::run(global, &arguments).await,
        Command::Push(arguments) => push::run(global, &arguments).await,
        Command::Save(arguments) => save::run(global, arguments).await,
        Command::Load(arguments) => load::run(global, &arguments).await,
        Command::Inspect(arguments) => inspect::run(global, &arguments).await,
        Command::Du(arguments) => du::run(global, &arguments).await,
        Command::Prune(arguments) => du::prune(global, arguments).await,
        Command::Version => info::version(global).await,
        Command::Info => info::run(global).await,
        Command::Daemon(command) => daemon::run(global, command).await,
    }
}

/// Runs `work` to its end on a runtime of its own.
pub(crate) fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let result = runtime.block_on(work);
    // A read of standard input may never return.
    runtime.shutdown_background();
    result
}

impl Global {
    /// The daemon's address, and whether it was chosen for BuildKit's clients.
    fn address(&self) -> (String, bool) {
        if let Some(host) = self.host.clone().filter(|host| !host.is_empty()) {
            return (with_scheme(host), false);
        }
        match std::env::var("BUILDKIT_HOST") {
            Ok(host) if !host.is_empty() => (host, true),
            _ => (
                format!("unix://{}", Family::Drydock.socket().display()),
                false,
            ),
        }
    }

    /// Connects to the daemon; starts one if there is none. A daemon named by `BUILDKIT_HOST` is
    /// somebody else's and is not started.
    async fn connect(&self) -> anyhow::Result<Client> {
        let (address, is_buildkits) = self.address();
        if !is_buildkits {
            let place = address.clone();
            tokio::task::spawn_blocking(move || autostart::ensure(&place))
                .await
                .context("the start of the daemon was given up")?
                .context("failed to start a daemon")?;
        }
        Client::connect(&address).await.hint(
            format!("failed to connect to the daemon at `{address}`"),
            "is a daemon listening there? `drydock` starts one by itself on its own socket only",
        )
    }

    async fn containers(&self) -> anyhow::Result<Containers> {
        Ok(Containers::new(self.connect().await?.channel()))
    }
}

fn with_scheme(host: String) -> String {
    if host.starts_with('/') {
        format!("unix://{host}")
    } else {
        host
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_path_is_a_unix_socket() {
        assert_eq!(with_scheme("/run/x.sock".into()), "unix:///run/x.sock");
        assert_eq!(with_scheme("tcp://h:1".into()), "tcp://h:1");
    }
}
