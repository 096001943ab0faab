//! `buildctl debug histories`, `logs`, `ctl` and `get`, and `buildctl prune-histories`.

use std::time::SystemTime;

use anyhow::{Context as _, bail};
use client::Client;
use client::history::{BuildFilter, BuildRecord};
use futures::StreamExt as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::table::Table;
use crate::progress::{Display, Mode};

/// Messages that wait to be shown.
const QUEUE: usize = 64;

/// Show the log of a build.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The build.
    #[arg(value_name = "REF")]
    reference: String,
    /// How to show it: auto, plain, tty, rawjson or quiet.
    #[arg(long, default_value = "plain", value_name = "MODE")]
    progress: Mode,
}

/// Print a blob that the daemon keeps.
#[derive(Debug, clap::Args)]
pub(super) struct Get {
    #[arg(value_name = "DIGEST")]
    digest: String,
}

/// Change the record of a build.
#[derive(Debug, clap::Args)]
pub(super) struct Ctl {
    /// The build.
    #[arg(value_name = "REF")]
    reference: String,
    /// Keep it.
    #[arg(long)]
    pin: bool,
    /// Keep it no longer than others.
    #[arg(long)]
    unpin: bool,
    /// Throw it away.
    #[arg(long)]
    delete: bool,
}

/// Follow builds as they begin and end.
#[derive(Debug, clap::Args)]
pub(super) struct Monitor {
    /// Also builds that are over.
    #[arg(long)]
    completed: bool,
    /// Only this build.
    #[arg(long = "ref", value_name = "REF", default_value = "")]
    reference: String,
}

pub(super) async fn list(client: &Client) -> anyhow::Result<()> {
    let builds = client.builds(BuildFilter::default()).await;
    let builds = builds.context("failed to list builds")?;
    let mut lines = Lines::new("TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION\tPINNED");
    for build in &builds {
        let pinned = if build.pinned { "*" } else { "" };
        lines.print(&format!("{}\t{pinned}", row(build)));
    }
    lines.end();
    Ok(())
}

pub(super) async fn prune(client: &Client) -> anyhow::Result<()> {
    let builds = client.builds(BuildFilter::default()).await;
    let builds = builds.context("failed to list builds")?;
    let mut lines = Lines::new("TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION");
    let mut failed = None;
    for build in builds.iter().filter(|build| !build.pinned) {
        match client.delete_build(&build.build_ref).await {
            Ok(()) => lines.print(&row(build)),
            Err(error) => failed = Some(error),
        }
    }
    lines.end();
    failed.map_or(Ok(()), |error| {
        Err(error).context("failed to delete a record")
    })
}

pub(super) async fn ctl(client: &Client, arguments: Ctl) -> anyhow::Result<()> {
    let build = &arguments.reference;
    let changed = match (arguments.pin, arguments.unpin, arguments.delete) {
        (false, false, false) => bail!("must specify one of --pin, --unpin, --delete"),
        (true, true, _) => bail!("cannot specify both --pin and --unpin"),
        (true, _, true) | (_, true, true) => {
            bail!("cannot specify --delete with --pin or --unpin")
        }
        (false, false, true) => client.delete_build(build).await,
        (pinned, ..) => client.pin_build(build, pinned).await,
    };
    changed.context("failed to change the record")
}

pub(super) async fn logs(client: &Client, arguments: Logs) -> anyhow::Result<()> {
    let mut display = Display::new(arguments.progress)?;
    let (sender, mut messages) = mpsc::channel(QUEUE);
    let replay = client.replay(&arguments.reference, sender);
    let show = async {
        while let Some(message) = messages.recv().await {
            display.update(message);
        }
    };
    let (replayed, ()) = tokio::join!(replay, show);
    display.finish();
    replayed.context("failed to read the log")
}

pub(super) async fn get(client: &Client, arguments: Get) -> anyhow::Result<()> {
    let blob = client.read_blob(&arguments.digest).await;
    let blob = blob.context("failed to read the blob")?;
    let mut out = tokio::io::stdout();
    out.write_all(&blob).await.context("failed to print")?;
    out.flush().await.context("failed to print")
}

pub(super) async fn monitor(client: &Client, arguments: Monitor) -> anyhow::Result<()> {
    let filter = BuildFilter {
        active_only: !arguments.completed,
        build_ref: arguments.reference,
        ..BuildFilter::default()
    };
    let events = client.follow_builds(filter).await;
    let mut events = Box::pin(events.context("failed to follow builds")?);
    while let Some(event) = events.next().await {
        let (kind, build) = event.context("failed to follow builds")?;
        println!("{kind} {}", build.build_ref);
    }
    Ok(())
}

/// Lines that are printed one by one; the head stands with the first.
struct Lines(Option<&'static str>);

impl Lines {
    fn new(head: &'static str) -> Lines {
        Lines(Some(head))
    }

    fn print(&mut self, line: &str) {
        let mut table = Table::default();
        if let Some(head) = self.0.take() {
            table.line(head);
        }
        table.line(line);
        print!("{}", table.render());
    }

    fn end(mut self) {
        if let Some(head) = self.0.take() {
            let mut table = Table::default();
            table.line(head);
            print!("{}", table.render());
        }
    }
}

fn row(build: &BuildRecord) -> String {
    let kind = match build.completed {
        Some(_) => "COMPLETE",
        None => "STARTED",
    };
    format!(
        "{kind}\t{}\t{}\t{}\t{}",
        build.build_ref,
        time(build.created),
        time(build.completed),
        build.generation
    )
}

/// In whole seconds.
fn time(time: Option<SystemTime>) -> String {
    let time = time.map(OffsetDateTime::from);
    let seconds = time.and_then(|time| time.replace_nanosecond(0).ok());
    seconds
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
