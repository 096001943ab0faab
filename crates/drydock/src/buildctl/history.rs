//! `buildctl debug histories`, `logs`, `ctl` and `get`, and `buildctl prune-histories`.

use std::time::SystemTime;

use anyhow::{Context as _, bail};
use client::Client;
use client::history::{Blob, BuildFilter, BuildRecord};
use futures::StreamExt as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::format::{self, Format};
use super::table::Table;
use crate::progress::{Display, Mode};

/// Messages that wait to be shown.
const QUEUE: usize = 64;

const NO_BUILD: &str = "build ref must be specified";

/// Show the log of a build.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The build.
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// How to show it: auto, plain, tty, rawjson or quiet.
    #[arg(long, default_value = "auto", value_name = "MODE")]
    progress: Mode,
    /// Show its trace instead.
    #[arg(long)]
    trace: bool,
}

/// List the builds that are remembered.
#[derive(Debug, clap::Args)]
pub(super) struct Histories {
    #[command(flatten)]
    format: Format,
}

/// Throw away the records of builds that are not pinned.
#[derive(Debug, clap::Args)]
pub(super) struct PruneHistories {
    #[command(flatten)]
    format: Format,
}

/// Print a blob that the daemon keeps.
#[derive(Debug, clap::Args)]
pub(super) struct Get {
    #[arg(value_name = "DIGEST")]
    digest: Option<String>,
}

/// Change the record of a build.
#[derive(Debug, clap::Args)]
pub(super) struct Ctl {
    /// The build.
    #[arg(value_name = "REF")]
    reference: Option<String>,
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

pub(super) async fn list(client: &Client, arguments: Histories) -> anyhow::Result<()> {
    let template = arguments.format.template()?;
    let builds = client.builds(BuildFilter::default()).await;
    let builds = builds.context("failed to list builds")?;
    if let Some(template) = template {
        let mut builds = builds.iter();
        return builds.try_for_each(|build| format::print(&template, &format::event(build)));
    }
    let mut lines = Lines::new("TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION\tPINNED");
    for build in &builds {
        let pinned = if build.pinned { "*" } else { "" };
        lines.print(&format!("{}\t{pinned}", row(build)));
    }
    lines.end();
    Ok(())
}

pub(super) async fn prune(client: &Client, arguments: PruneHistories) -> anyhow::Result<()> {
    let template = arguments.format.template()?;
    let builds = client.builds(BuildFilter::default()).await;
    let builds = builds.context("failed to list builds")?;
    let mut lines = Lines::new("TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION");
    let mut failed = None;
    for build in builds.iter().filter(|build| !build.pinned) {
        match client.delete_build(&build.build_ref).await {
            Ok(()) => match &template {
                Some(template) => format::print(template, &format::event(build))?,
                None => lines.print(&row(build)),
            },
            Err(error) => failed = Some(error),
        }
    }
    if template.is_none() {
        lines.end();
    }
    failed.map_or(Ok(()), |error| {
        Err(error).context("failed to delete a record")
    })
}

pub(super) async fn ctl(client: &Client, arguments: Ctl) -> anyhow::Result<()> {
    let build = arguments.reference.as_deref().context(NO_BUILD)?;
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
    let build = arguments.reference.as_deref().context(NO_BUILD)?;
    if arguments.trace {
        return trace(client, build).await;
    }
    let mut display = Display::on_stdout(arguments.progress)?;
    let (sender, mut messages) = mpsc::channel(QUEUE);
    let replay = client.replay(build, sender);
    let show = async {
        while let Some(message) = messages.recv().await {
            display.update(message);
        }
    };
    let (replayed, ()) = tokio::join!(replay, show);
    display.finish();
    replayed.context("failed to read the log")
}

async fn trace(client: &Client, build: &str) -> anyhow::Result<()> {
    let filter = BuildFilter {
        build_ref: build.to_owned(),
        ..BuildFilter::default()
    };
    let builds = client.builds(filter).await;
    let builds = builds.context("failed to look for the build")?;
    let found = builds.into_iter().next();
    let found = found.with_context(|| format!("ref {build} not found"))?;
    let trace = found
        .trace
        .with_context(|| format!("ref {build} does not have trace"))?;
    print_blob(client, &trace.digest).await
}

pub(super) async fn get(client: &Client, arguments: Get) -> anyhow::Result<()> {
    let digest = arguments.digest.context("blob digest must be specified")?;
    print_blob(client, &digest).await
}

async fn print_blob(client: &Client, digest: &str) -> anyhow::Result<()> {
    let blob = client.read_blob(digest).await;
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
        println!("event: {kind} ref:{}", build.build_ref);
        tell(&build);
    }
    Ok(())
}

/// What is known of a build, a line each.
fn tell(build: &BuildRecord) {
    if build.total_steps != 0 {
        println!("  cache: {}/{}", build.cached_steps, build.total_steps);
    }
    if build.warnings != 0 {
        println!("  warnings: {}", build.warnings);
    }
    for (name, blob) in [("logs", &build.logs), ("trace", &build.trace)] {
        if let Some(blob) = blob {
            println!("  {name}: {}", descriptor(blob));
        }
    }
    let whole = build.made.iter().map(|made| (String::new(), made));
    let parts = build.made_for.iter();
    let parts = parts.map(|(key, made)| (format!("[{key}] "), made));
    for (prefix, made) in whole.chain(parts) {
        let results = made.by_exporter.values();
        let first = made.first.iter().filter(|_| made.by_exporter.is_empty());
        for blob in results.chain(first) {
            println!("  {prefix}descriptor: {}", descriptor(blob));
        }
        for blob in &made.attestations {
            println!("  {prefix}attestation: {}", descriptor(blob));
        }
    }
}

/// As Go prints the message.
fn descriptor(blob: &Blob) -> String {
    let mut text = format!(
        "media_type:{:?} digest:{:?} size:{}",
        blob.media_type, blob.digest, blob.size
    );
    for (key, value) in &blob.annotations {
        text.push_str(&format!(" annotations:{{key:{key:?} value:{value:?}}}"));
    }
    text
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
