//! How the frontend's time grows with a file: twice the size should take twice the time.
//!
//! What counts is processor time of this process, the least of some rounds, so that what else the
//! machine does hardly shows. Nothing is judged here: a ratio near 2 is linear, near 4 is quadratic.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dockerfile::Dockerfile;
use frontend::Frontend as _;
use nix::sys::resource::{UsageWho, getrusage};
use tokio::runtime::Runtime;

use super::bridge::CaseBridge;
use super::{Case, Image};

/// How often each size is measured.
const ROUNDS: usize = 3;

/// A file of a shape, and a size of it.
struct Shape {
    name: &'static str,
    size: usize,
    make: fn(usize) -> Case,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "lines of 64 KiB",
        size: 100,
        make: |n| {
            file(n, |text, _| {
                writeln!(text, "LABEL a={}", "x".repeat(64_000))
            })
        },
    },
    Shape {
        name: "variables in lines of 64 KiB",
        size: 20,
        make: |n| {
            file(n, |text, _| {
                writeln!(text, "ENV a={}", "${b:-x}y".repeat(8_000))
            })
        },
    },
    Shape {
        name: "lines of one instruction",
        size: 5_000,
        make: |n| {
            let head = "FROM scratch\nLABEL".to_owned();
            made(head, n, |text, i| write!(text, " \\\n  a{i}=b{i}"))
        },
    },
    Shape {
        name: "stages on one another",
        size: 5_000,
        make: |n| {
            let head = "FROM scratch AS s0\n".to_owned();
            made(head, n, |text, i| {
                writeln!(text, "FROM s{i} AS s{}\nRUN {i}", i + 1)
            })
        },
    },
    Shape {
        name: "stages copied from",
        size: 2_500,
        make: |n| {
            let mut case = made(String::new(), n, |text, i| {
                writeln!(text, "FROM scratch AS s{i}\nRUN {i}")
            });
            case.dockerfile.push_str("FROM scratch\n");
            for i in 0..n {
                let _ = writeln!(case.dockerfile, "COPY --from=s{i} /a /{i}");
            }
            case
        },
    },
    Shape {
        name: "arguments and variables",
        size: 5_000,
        make: |n| {
            file(n, |text, i| {
                writeln!(text, "ARG a{i}=$a{}\nENV b{i}=$a{i}", i / 2)
            })
        },
    },
    Shape {
        name: "arguments before a step",
        size: 5_000,
        make: |n| {
            let mut case = file(n, |text, i| writeln!(text, "ARG a{i}={i}"));
            case.dockerfile.push_str("RUN make\n");
            case
        },
    },
    Shape {
        name: "triggers",
        size: 5_000,
        make: |n| {
            let mut case = file(n, |text, i| writeln!(text, "ONBUILD LABEL a{i}=b"));
            case.dockerfile = case.dockerfile.replacen("scratch", "scratch AS base", 1);
            case.dockerfile.push_str("FROM base\n");
            case
        },
    },
    Shape {
        name: "stages with triggers",
        size: 2_500,
        make: |n| {
            let head = "FROM scratch AS s0\nONBUILD RUN first\n".to_owned();
            made(head, n, |text, i| {
                writeln!(text, "FROM s{i} AS s{}\nONBUILD RUN {i}", i + 1)
            })
        },
    },
    Shape {
        name: "patterns of an ignore file",
        size: 5_000,
        make: |n| {
            let mut case = file(1, |text, _| writeln!(text, "COPY a b/c d /"));
            let mut ignored = String::new();
            for i in 0..n {
                let _ = writeln!(ignored, "**/dir{i}/*.tmp\n!keep{i}");
            }
            case.dockerignore = Some(ignored);
            case
        },
    },
    Shape {
        name: "lines of a heredoc",
        size: 10_000,
        make: |n| {
            let head = "FROM scratch\nCOPY <<EOF /f\n".to_owned();
            let mut case = made(head, n, |text, i| {
                writeln!(text, "line {i} of $all \"$of\" them")
            });
            case.dockerfile.push_str("EOF\n");
            case
        },
    },
    Shape {
        name: "comments",
        size: 50_000,
        make: |n| {
            let mut case = file(n, |text, i| writeln!(text, "# comment {i}"));
            case.dockerfile.push_str("LABEL a=b\n");
            case
        },
    },
    Shape {
        name: "broken rules",
        size: 5_000,
        make: |n| {
            file(n, |text, i| {
                writeln!(text, "ENV variable_{i}=$undefined_{i}")
            })
        },
    },
];

/// A file that begins with `FROM scratch` and goes on with `n` parts.
fn file(n: usize, part: impl Fn(&mut String, usize) -> std::fmt::Result) -> Case {
    made("FROM scratch\n".to_owned(), n, part)
}

fn made(head: String, n: usize, part: impl Fn(&mut String, usize) -> std::fmt::Result) -> Case {
    let mut dockerfile = head;
    for i in 0..n {
        // Writing to a string cannot fail.
        let _ = part(&mut dockerfile, i);
    }
    Case {
        name: String::new(),
        dockerfile,
        dockerignore: None,
        opts: BTreeMap::new(),
        images: BTreeMap::<String, Image>::new(),
        results: BTreeMap::new(),
        metadata: BTreeMap::new(),
        warnings: Vec::new(),
        error: None,
    }
}

/// Prints, for each shape of a file, the time for two sizes and their ratio.
///
/// # Errors
/// When a file cannot be built.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .context("failed to make a runtime")?;
    println!(
        "{:<30} {:>8} {:>10} {:>10} {:>6}",
        "shape", "n", "n, ms", "2n, ms", "ratio"
    );
    for shape in SHAPES {
        let [one, two] = [shape.size, 2 * shape.size].map(|n| least(&runtime, shape, n));
        let (one, two) = (one?.as_secs_f64() * 1e3, two?.as_secs_f64() * 1e3);
        println!(
            "{:<30} {:>8} {one:>10.1} {two:>10.1} {:>6.2}",
            shape.name,
            shape.size,
            two / one
        );
    }
    Ok(())
}

/// The least time that a file of this size takes.
fn least(runtime: &Runtime, shape: &Shape, n: usize) -> anyhow::Result<Duration> {
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let bridge = Arc::new(CaseBridge::new(Arc::new((shape.make)(n))));
        let begun = used()?;
        let outcome = runtime.block_on(Dockerfile::new().build(bridge));
        let took = used()?.saturating_sub(begun);
        outcome.map_err(|error| anyhow::anyhow!("{}: {error}", shape.name))?;
        least = least.min(took);
    }
    Ok(least)
}

/// The processor time of this process so far.
fn used() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("failed to ask for the time used")?;
    let time = |value: nix::sys::time::TimeVal| {
        let seconds = u64::try_from(value.tv_sec()).unwrap_or(0);
        let micros = u64::try_from(value.tv_usec()).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
