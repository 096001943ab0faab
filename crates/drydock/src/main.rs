//! The program. One binary that behaves as it is called: `drydock` is the command line, `drydockd`
//! and `buildkitd` the daemon, `buildctl` the part of BuildKit's client that builders need.
//!
//! Owns flags, configuration, wiring and everything a person sees. It must not know wire types:
//! what it asks of a daemon it asks through `client`.
//!
//! Start reading at `personality`, then `cli` (one file a command) or `daemon`.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "`--help` prints the comments of flags, where brackets enclose what may be left out"
)]

mod autostart;
mod buildctl;
mod cli;
mod config;
mod daemon;
mod daemon_main;
mod error;
mod excerpt;
mod output;
mod paths;
mod personality;
mod progress;
mod template;

use std::process::ExitCode;

use personality::Personality;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    match Personality::of(&arguments) {
        // Before anything else: the launcher must stay single-threaded and small.
        Personality::Launcher => executor::launcher_main(),
        Personality::Drydock => cli::main(arguments),
        Personality::Drydockd => daemon_main::main(arguments, paths::Family::Drydock),
        Personality::Buildkitd => daemon_main::main(arguments, paths::Family::Buildkit),
        Personality::Buildctl => buildctl::main(arguments),
    }
}

/// The version that clients of BuildKit see. They decide by it what they may ask for.
pub(crate) fn buildkit_version() -> &'static str {
    "v0.26.0"
}

/// The source revision this was built from, if the build said.
pub(crate) fn revision() -> &'static str {
    option_env!("DRYDOCK_REVISION").unwrap_or(env!("CARGO_PKG_VERSION"))
}
