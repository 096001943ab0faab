//! Commands that are programs of their own.

use std::ffi::OsString;

use crate::shell;

/// Seeds to try, and where to begin.
#[derive(Debug, clap::Args)]
pub(crate) struct Sim {
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// Runs this program anew with the crates that measuring needs.
#[cfg(not(feature = "bench"))]
pub(crate) fn bench(arguments: &[OsString]) -> anyhow::Result<()> {
    let run = [
        "run",
        "--quiet",
        "--release",
        "--package",
        "xtask",
        "--features",
        "bench",
    ];
    shell::run(
        shell::cargo(run)
            .args(["--", "bench", "--"])
            .args(arguments),
    )
}

/// Runs the solver's simulator over `sim.seeds` seeds.
pub(crate) fn sim(sim: &Sim) -> anyhow::Result<()> {
    let test = [
        "test",
        "--release",
        "--package",
        "drydock-solver",
        "--",
        "simulat",
        "--nocapture",
    ];
    shell::run(
        shell::cargo(test)
            .env("DRYDOCK_SIM_SEEDS", sim.seeds.to_string())
            .env("DRYDOCK_SIM_FROM", sim.from.to_string()),
    )
}
