//! Measures builds, side by side with another daemon that takes buildkitd's flags.
//!
//! Both daemons run at the same time, each with its own state, and are asked in turn, so that
//! whatever else the machine does meets both. What counts is the ratio of the medians.

mod cases;
mod daemon;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use testing::image::Image;
use testing::registry::DockerRegistry;

use crate::{needs, shell};
use cases::Case;
use daemon::Daemon;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Measure, and compare with another daemon"
)]
struct Arguments {
    /// A daemon to compare with: any program that takes buildkitd's flags.
    #[arg(long, value_name = "PATH")]
    peer: Option<PathBuf>,
    /// How often each case is measured.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// A program to measure instead of the release build of this checkout.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

/// Measures and prints a table.
pub(crate) fn run(arguments: Vec<OsString>) -> anyhow::Result<()> {
    let name = OsString::from("bench");
    let arguments = Arguments::parse_from(std::iter::once(name).chain(arguments));
    needs::root_user()?;
    needs::install(needs::BENCH)?;
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    runtime.block_on(measure(&arguments, program))
}

fn build() -> anyhow::Result<PathBuf> {
    shell::run(&mut shell::cargo([
        "build",
        "--release",
        "--package",
        "drydock",
    ]))?;
    Ok(shell::target().join("release/drydock"))
}

async fn measure(arguments: &Arguments, program: PathBuf) -> anyhow::Result<()> {
    let registry = DockerRegistry::start()?;
    registry.push("library/bench:1", &Image::busybox()?)?;
    let base = registry.reference("library/bench:1");

    let daemons = start(arguments, &program).await?;
    // Files that were just removed slow ext4 down when it looks for new inodes, for a minute: what
    // a round leaves behind is removed when all is measured.
    let mut left = Vec::new();
    println!("{}", header(daemons.len() > 1));
    if "idle".contains(&arguments.only) {
        tokio::time::sleep(SETTLE).await;
        let resident = daemons
            .iter()
            .map(Daemon::resident)
            .collect::<anyhow::Result<Vec<_>>>()?;
        println!(
            "{}",
            memory_row("idle daemon, resident", &resident, Some(IDLE_TARGET))
        );
    }
    for case in Case::ALL
        .iter()
        .filter(|case| case.name().contains(&arguments.only))
    {
        let mut times = vec![Vec::new(); daemons.len()];
        if case.wants_fresh_daemons() {
            for _ in 0..arguments.rounds.max(1) {
                let fresh = start(arguments, &program).await?;
                rounds(*case, &fresh, &base, 1, &mut times).await?;
                left.extend(fresh.into_iter().map(Daemon::stop));
            }
        } else {
            rounds(*case, &daemons, &base, arguments.rounds, &mut times).await?;
        }
        println!("{}", row(*case, &times));
    }
    if "after".contains(&arguments.only) {
        tokio::time::sleep(SETTLE).await;
        let resident = daemons
            .iter()
            .map(Daemon::resident)
            .collect::<anyhow::Result<Vec<_>>>()?;
        println!(
            "{}",
            memory_row("after all that, resident", &resident, None)
        );
    }
    Ok(())
}

/// Starts what is to be compared, each with a state of its own.
async fn start(arguments: &Arguments, program: &Path) -> anyhow::Result<Vec<Daemon>> {
    let mut daemons = vec![Daemon::start("drydock", program, Some("drydockd")).await?];
    if let Some(peer) = &arguments.peer {
        daemons.push(Daemon::start("peer", peer, None).await?);
    }
    Ok(daemons)
}

/// Measures a case at all daemons in turn.
async fn rounds(
    case: Case,
    daemons: &[Daemon],
    base: &str,
    count: usize,
    times: &mut [Vec<Duration>],
) -> anyhow::Result<()> {
    let failed = |daemon: &Daemon| {
        let (name, log) = (daemon.name(), daemon.log());
        format!("{} failed at {name}:\n{log}\n", case.name())
    };
    let mut setups = Vec::new();
    for daemon in daemons {
        let setup = case.prepare(daemon, base).await;
        setups.push(setup.with_context(|| failed(daemon))?);
    }
    for _ in 0..count.max(1) {
        for ((daemon, setup), times) in daemons.iter().zip(&setups).zip(times.iter_mut()) {
            let took = setup.measure(daemon).await;
            times.push(took.with_context(|| failed(daemon))?);
        }
    }
    Ok(())
}

/// How long a daemon is left alone before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);

/// What an idle daemon may have resident, bytes.
const IDLE_TARGET: u64 = 25_000_000;

fn header(with_peer: bool) -> String {
    let peer = if with_peer {
        "        peer    ratio  at most"
    } else {
        ""
    };
    format!("{:<44}     drydock{peer}", "median of all rounds")
}

fn row(case: Case, times: &[Vec<Duration>]) -> String {
    let medians: Vec<f64> = times.iter().map(|times| median(times)).collect();
    let mut line = format!("{:<44}", case.title());
    for time in &medians {
        line += &format!("{:>9.2} ms", time * 1e3);
    }
    if let [own, peer] = medians[..] {
        line += &format!(" {:>8.4} {:>8}", own / peer, case.target());
    }
    line
}

fn memory_row(title: &str, resident: &[u64], target: Option<u64>) -> String {
    let mut line = format!("{title:<44}");
    for bytes in resident {
        line += &format!("{:>9.1} MB", *bytes as f64 / 1e6);
    }
    if let [own, peer] = resident {
        line += &format!(" {:>8.4}", *own as f64 / *peer as f64);
    }
    if let Some(target) = target {
        line += &format!(" {:>5.0} MB", target as f64 / 1e6);
    }
    line
}

fn median(times: &[Duration]) -> f64 {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    if seconds.len() % 2 == 1 {
        seconds[middle]
    } else {
        f64::midpoint(seconds[middle - 1], seconds[middle])
    }
}
