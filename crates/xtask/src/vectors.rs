//! Cases of what a Dockerfile becomes, one JSON object a line, put to the real frontend.
//!
//! A case has the files, the options and what its images resolve to, and what came of them
//! elsewhere: ops byte for byte, metadata, warnings or an error. See [`Case`].

mod bridge;
mod compare;
pub(crate) mod growth;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use dockerfile::Dockerfile;
use frontend::Frontend as _;
use serde::Deserialize;
use serde_json::Value;

use bridge::CaseBridge;

/// One case.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    dockerfile: String,
    #[serde(default)]
    dockerignore: Option<String>,
    #[serde(default)]
    opts: BTreeMap<String, String>,
    /// What resolving an image gives, by `<reference>|<platform>`.
    #[serde(default)]
    images: BTreeMap<String, Image>,
    /// The ops of each result, by platform id; empty for a build of one platform.
    #[serde(default)]
    results: BTreeMap<String, Vec<Op>>,
    #[serde(default)]
    metadata: BTreeMap<String, Value>,
    /// In the order of their lines, then texts.
    #[serde(default)]
    warnings: Vec<Warning>,
    #[serde(default)]
    error: Option<String>,
}

/// A resolved image.
#[derive(Debug, Deserialize)]
struct Image {
    digest: String,
    /// The config's JSON.
    config: String,
}

/// One op of a graph.
#[derive(Debug, Deserialize)]
struct Op {
    /// Its bytes in base64.
    raw: String,
    /// The same for people to read.
    op: Value,
    metadata: Value,
}

/// One lint warning.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Warning {
    short: String,
    #[serde(default)]
    detail: Vec<String>,
    #[serde(default)]
    url: String,
    #[serde(default)]
    line: i32,
}

/// Puts the cases of `files` to the frontend. Prints a line for each that differs, and how many
/// do not.
///
/// # Errors
/// When a case differs or a file is no list of cases.
pub(crate) fn run(files: &[PathBuf]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .context("failed to make a runtime")?;
    let (mut equal, mut total) = (0_usize, 0_usize);
    for file in files {
        for case in read(file)? {
            total += 1;
            let name = case.name.clone();
            match runtime.block_on(difference(case)) {
                None => equal += 1,
                Some(difference) => println!("{name}: {difference}"),
            }
        }
    }
    println!("equal {equal} of {total}");
    if equal != total {
        bail!("{} cases differ", total - equal);
    }
    Ok(())
}

/// Says how long the frontend takes to parse, lower and lint each case of `files` that can be built,
/// and all together.
///
/// # Errors
/// When a file is no list of cases.
pub(crate) fn time(files: &[PathBuf]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .context("failed to make a runtime")?;
    let mut times = Vec::new();
    for file in files {
        for case in read(file)?.into_iter().filter(|case| case.error.is_none()) {
            let name = case.name.clone();
            let bridge = Arc::new(CaseBridge::new(Arc::new(case)));
            let begun = Instant::now();
            let outcome = runtime.block_on(Dockerfile::new().build(bridge));
            let took = begun.elapsed();
            outcome.map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
            times.push((took, name));
        }
    }
    let total: Duration = times.iter().map(|(took, _)| *took).sum();
    times.sort();
    println!(
        "{} files, {:.1} ms in all",
        times.len(),
        total.as_secs_f64() * 1e3
    );
    for (took, name) in times.iter().rev().take(3) {
        println!("{:>8.1} ms {name}", took.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<Case>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("no case on line {} of `{}`", index + 1, file.display()))
        })
        .collect()
}

/// The first difference between what `case` expects and what the frontend does, in one line.
async fn difference(case: Case) -> Option<String> {
    let case = Arc::new(case);
    let bridge = Arc::new(CaseBridge::new(case.clone()));
    let outcome = Dockerfile::new().build(bridge.clone()).await;
    compare::difference(&case, outcome, &bridge.warnings())
}
