//! Everything the project does to itself: checks, tests, the demo, measurements.
//!
//! `cargo xtask <command>`. Light on purpose, so that it is built in seconds; a command that needs
//! the project's own crates runs this program anew with a feature.

#[cfg(feature = "bench")]
mod bench;
mod ci;
mod demo;
mod heavy;
mod layers;
mod needs;
mod shell;
mod standin;
mod test;
#[cfg(feature = "vectors")]
mod vectors;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Checks, tests, demo and measurements")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that CI runs.
    Ci,
    /// Prove that crates depend only on crates of lower rank.
    Layers,
    /// Install what the tests need, and run them all.
    Test {
        /// Arguments for `cargo nextest run`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build and run a web application from its Dockerfile, and fetch its page.
    Demo,
    /// Measure, and compare with another daemon; `language` measures how the time for a Dockerfile
    /// grows with it.
    Bench {
        /// `language`, or see `cargo xtask bench -- --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run the solver's simulator.
    Sim(heavy::Sim),
    /// Put cases of what a Dockerfile becomes to the frontend.
    Vectors {
        /// Files of cases, one JSON object a line.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Say how long the frontend takes for the cases that can be built, instead.
        #[arg(long)]
        time: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Ci => ci::run(),
        Command::Layers => layers::run(),
        Command::Test { arguments } => test::run(&arguments),
        Command::Demo => demo::run(),
        #[cfg(feature = "vectors")]
        Command::Bench { arguments } if is_language(&arguments) => vectors::growth::run(),
        #[cfg(not(feature = "vectors"))]
        Command::Bench { arguments } if is_language(&arguments) => heavy::growth(),
        #[cfg(feature = "bench")]
        Command::Bench { arguments } => bench::run(arguments),
        #[cfg(not(feature = "bench"))]
        Command::Bench { arguments } => heavy::bench(&arguments),
        Command::Sim(sim) => heavy::sim(&sim),
        #[cfg(feature = "vectors")]
        Command::Vectors { files, time: true } => vectors::time(&files),
        #[cfg(feature = "vectors")]
        Command::Vectors { files, time: false } => vectors::run(&files),
        #[cfg(not(feature = "vectors"))]
        Command::Vectors { files, time } => heavy::vectors(&files, time),
    }
}

/// Whether it is the language that is to be measured.
fn is_language(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|word| word == "language")
}
