//! `drydock exec`: another process in a running container.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use client::containers::{AttachTo, ExecProcess};

use super::{Global, attach, terminal};
use crate::error::{Exit, hinted};

/// Run a command in a running container.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep standard input open.
    #[arg(long, short)]
    interactive: bool,
    /// Give the process a terminal.
    #[arg(long, short)]
    tty: bool,
    /// Set an environment variable.
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Run as this user.
    #[arg(long, short, default_value = "")]
    user: String,
    /// Run in this directory.
    #[arg(long, short, default_value = "", value_name = "DIR")]
    workdir: String,
    container: String,
    /// Program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the command and ends with its code.
pub(super) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<()> {
    if arguments.tty && arguments.interactive && !std::io::stdin().is_terminal() {
        return Err(hinted("standard input is no terminal", "leave out `-t`"));
    }
    let process = ExecProcess {
        args: arguments.command,
        env: super::run::environment(&arguments.env, &[])?,
        user: arguments.user,
        cwd: arguments.workdir,
        tty: arguments.tty,
        open_stdin: arguments.interactive,
    };
    let name = arguments.container.clone();
    let to = AttachTo::Exec {
        container: arguments.container,
        process,
    };
    let size = terminal::size().filter(|_| arguments.tty);
    let containers = global.containers().await?;
    let attached = containers.attach(to, size).await;
    let attached = attached.with_context(|| format!("failed to run in container `{name}`"))?;
    let joined = attach::Joined {
        stdin: arguments.interactive,
        tty: arguments.tty,
        signals: false,
    };
    let exit = attach::carry(attached, joined).await?;
    match attach::code(exit) {
        0 => Ok(()),
        code => Err(Exit(code).into()),
    }
}
