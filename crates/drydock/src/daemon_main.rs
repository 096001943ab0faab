//! `drydockd` and `buildkitd`: from arguments to a running daemon.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::config::flags::Flags;
use crate::config::{Config, Log};
use crate::paths::Family;
use crate::{daemon, error};

/// Runs the daemon until it is told to stop.
pub(crate) fn main(arguments: Vec<OsString>, family: Family) -> ExitCode {
    run(Flags::parse_from(arguments), family)
}

/// Runs the daemon as `flags` say.
pub(crate) fn run(flags: Flags, family: Family) -> ExitCode {
    if flags.version {
        println!("{}", version_line(family));
        return ExitCode::SUCCESS;
    }
    if flags.detached {
        // Fails for the leader of a process group, which then has no terminal to lose.
        let _ = rustix::process::setsid();
    }
    match flags
        .into_config(family)
        .map_err(Into::into)
        .and_then(serve)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => error::report(&failure),
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    start_logging(&config.log);
    // Most of its threads wait for the kernel: more arenas than processors are of no use.
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    sys::memory::limit_arenas(processors.max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("drydockd")
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(daemon::serve(config))
}

fn start_logging(log: &Log) {
    let level = match log.level.as_str() {
        "fatal" | "panic" => "error",
        "warning" => "warn",
        level => level,
    };
    let filter = EnvFilter::try_from_env("DRYDOCK_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},h2=info,hyper=info,rustls=info")));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if log.json {
        logs.json().init();
    } else {
        logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init();
    }
}

/// Four words, of which buildx reads the third.
fn version_line(family: Family) -> String {
    let (name, package) = match family {
        Family::Drydock => ("drydockd", "github.com/drydock-build/drydock"),
        Family::Buildkit => ("buildkitd", "github.com/drydock-build/drydock"),
    };
    format!(
        "{name} {package} {} {}",
        crate::buildkit_version(),
        crate::revision()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_has_four_words() {
        for family in [Family::Drydock, Family::Buildkit] {
            let line = version_line(family);
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words.len(), 4);
            assert!(words[2].starts_with("v0."), "{line}");
        }
    }
}
