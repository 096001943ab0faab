//! Commands that are programs of their own.

#[cfg(not(feature = "bench"))]
use std::ffi::OsString;
#[cfg(not(feature = "vectors"))]
use std::path::PathBuf;

#[cfg(not(feature = "vectors"))]
use anyhow::Context as _;

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

/// Runs this program anew with the frontend.
#[cfg(not(feature = "vectors"))]
pub(crate) fn vectors(files: &[PathBuf], time: bool) -> anyhow::Result<()> {
    // Cargo runs in the checkout, whatever directory this is.
    let files = files.iter().map(|file| {
        std::path::absolute(file).with_context(|| format!("`{}` is no path", file.display()))
    });
    let files = files.collect::<anyhow::Result<Vec<_>>>()?;
    let run = [
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        "vectors",
    ];
    let time = time.then_some("--time");
    shell::run(
        shell::cargo(run)
            .args(["--", "vectors"])
            .args(time)
            .args(files),
    )
}

/// Runs this program anew with the frontend, to measure how its time grows.
#[cfg(not(feature = "vectors"))]
pub(crate) fn growth() -> anyhow::Result<()> {
    let run = [
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        "vectors",
    ];
    shell::run(shell::cargo(run).args(["--", "bench", "language"]))
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
