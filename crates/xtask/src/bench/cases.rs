//! What is measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::SolveRequest;
use client::session::{Session, random_id};
use llb::builder::{Builder, Defaults, FileStep, Options, State};
use llb::{Graph, MkFileAction};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::daemon::Daemon;

/// Steps of the builds whose steps are counted.
const STEPS: usize = 20;
/// Vertices of the chain.
const CHAIN: usize = 500;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// One step `RUN true`: what twenty more of them add to a build.
    RunTrue,
    /// A build of twenty steps of which none is new.
    Unchanged,
    /// A graph of 500 vertices in a chain, each of which makes one file.
    Chain,
    /// The same graph again.
    ChainCached,
}

impl Case {
    pub(super) const ALL: [Case; 4] = [
        Case::RunTrue,
        Case::Unchanged,
        Case::Chain,
        Case::ChainCached,
    ];

    /// What it is called on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Case::RunTrue => "run-true",
            Case::Unchanged => "unchanged",
            Case::Chain => "chain",
            Case::ChainCached => "chain-cached",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Case::RunTrue => "a step of RUN true",
            Case::Unchanged => "an unchanged 20-step build",
            Case::Chain => "a chain of 500 one-file vertices",
            Case::ChainCached => "the same chain, cached",
        }
    }

    /// The largest ratio that we are content with.
    pub(super) fn target(self) -> f64 {
        match self {
            Case::RunTrue => 0.2,
            Case::Unchanged => 0.5,
            Case::Chain => 0.05,
            Case::ChainCached => 0.02,
        }
    }

    /// Whether each measurement starts with new daemons. buildkitd mounts at most some 500 layers, and
    /// fewer when the names of its snapshots have four digits.
    pub(super) fn wants_fresh_daemons(self) -> bool {
        matches!(self, Case::Chain | Case::ChainCached)
    }

    /// Does what comes before the first measurement.
    pub(super) async fn prepare(self, daemon: &Daemon, base: &str) -> anyhow::Result<Setup> {
        let setup = match self {
            Case::RunTrue => {
                let setup = Setup::RunTrue {
                    base: base.to_owned(),
                };
                runs(daemon, base, 1).await?;
                setup
            }
            Case::Unchanged => {
                let context = unchanged(base)?;
                build(daemon, &context).await?;
                Setup::Unchanged { context }
            }
            Case::Chain => Setup::Chain,
            Case::ChainCached => {
                let graph = chain(&random_id())?;
                solve_graph(daemon, &graph).await?;
                Setup::ChainCached { graph }
            }
        };
        Ok(setup)
    }
}

/// A case that is ready to be measured at one daemon.
pub(super) enum Setup {
    RunTrue { base: String },
    Unchanged { context: TempDir },
    Chain,
    ChainCached { graph: Arc<Graph> },
}

impl Setup {
    pub(super) async fn measure(&self, daemon: &Daemon) -> anyhow::Result<Duration> {
        match self {
            Setup::RunTrue { base } => {
                let few = runs(daemon, base, 1).await?;
                let many = runs(daemon, base, STEPS + 1).await?;
                Ok(many.saturating_sub(few) / u32::try_from(STEPS)?)
            }
            Setup::Unchanged { context } => build(daemon, context).await,
            Setup::Chain => solve_graph(daemon, &chain(&random_id())?).await,
            Setup::ChainCached { graph } => solve_graph(daemon, graph).await,
        }
    }
}

/// Builds `count` steps that were never run before.
async fn runs(daemon: &Daemon, base: &str, count: usize) -> anyhow::Result<Duration> {
    let new = random_id();
    let mut text = format!("FROM {base}\n");
    for number in 0..count {
        text += &format!("RUN true {new} {number}\n");
    }
    let context = TempDir::with_prefix("bench-")?;
    std::fs::write(context.path().join("Dockerfile"), text)?;
    build(daemon, &context).await
}

/// A context whose Dockerfile has as many steps as there are to be, of both common kinds.
fn unchanged(base: &str) -> anyhow::Result<TempDir> {
    let context = TempDir::with_prefix("bench-")?;
    let mut text = format!("FROM {base}\nWORKDIR /work\n");
    for number in 0..STEPS / 2 {
        std::fs::write(
            context.path().join(format!("file{number}")),
            number.to_string(),
        )?;
        text += &format!("COPY file{number} .\nRUN test -e file{number}\n");
    }
    std::fs::write(context.path().join("Dockerfile"), text)?;
    Ok(context)
}

async fn build(daemon: &Daemon, context: &TempDir) -> anyhow::Result<Duration> {
    let directory = context.path().to_owned();
    let directories = ["context", "dockerfile"].map(|name| (name.to_owned(), directory.clone()));
    let session = Session {
        shared_key: directory.display().to_string(),
        directories: directories.into(),
        ..Session::default()
    };
    let request = SolveRequest {
        frontend: "dockerfile.v0".to_owned(),
        attrs: BTreeMap::from([("filename".to_owned(), "Dockerfile".to_owned())]),
        ..SolveRequest::default()
    };
    solve(daemon, request, session).await
}

fn chain(new: &str) -> anyhow::Result<Arc<Graph>> {
    let mut builder = Builder::new();
    let mut state = State::scratch();
    for number in 0..CHAIN {
        let action = MkFileAction {
            path: format!("/file{number}"),
            mode: 0o644,
            data: format!("{new} {number}").into(),
            owner: None,
            timestamp: None,
        };
        let steps = vec![FileStep::MkFile(action)];
        state = builder.file(&state, steps, Options::named(format!("file {number}")));
    }
    let definition = builder.definition(&state, &Defaults::default());
    Ok(Arc::new(
        Graph::new(&definition).context("the chain is no graph")?,
    ))
}

async fn solve_graph(daemon: &Daemon, graph: &Arc<Graph>) -> anyhow::Result<Duration> {
    // As clients send it: with a record in the daemon's history, if it keeps one.
    let request = SolveRequest {
        definition: Some(graph.clone()),
        ..SolveRequest::default()
    };
    solve(daemon, request, Session::default()).await
}

async fn solve(
    daemon: &Daemon,
    request: SolveRequest,
    session: Session,
) -> anyhow::Result<Duration> {
    let (sender, mut progress) = mpsc::channel(64);
    // A client shows what it is told; here it is only taken in.
    let watching = tokio::spawn(async move { while progress.recv().await.is_some() {} });
    let begun = Instant::now();
    daemon.client().solve(request, session, sender).await?;
    let took = begun.elapsed();
    watching.await?;
    Ok(took)
}
