//! `drydock du` and `drydock prune`: what is kept, and throwing it away.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use client::{PruneOptions, UsageRecord};
use futures::StreamExt as _;
use serde::Serialize;

use super::Global;
use crate::config::{parse_bytes, parse_duration};
use crate::error::hinted;
use crate::output::{self, Format, Table};
use crate::progress::bytes;

/// Show what is kept on disk.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only records that match, for example type==source.local.
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Throw away what is kept and not used.
#[derive(Debug, clap::Args)]
pub(super) struct PruneArguments {
    /// Also what is internal or shared.
    #[arg(long, short)]
    all: bool,
    /// Do not ask.
    #[arg(long, short)]
    force: bool,
    /// Only records that match.
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Keep what was used in this time.
    #[arg(long, value_name = "DURATION")]
    keep_duration: Option<String>,
    /// Keep this much.
    #[arg(long, value_name = "SIZE")]
    reserved_space: Option<String>,
    /// Keep no more than this.
    #[arg(long, value_name = "SIZE")]
    max_used_space: Option<String>,
    /// Leave so much free on the disk.
    #[arg(long, value_name = "SIZE")]
    min_free_space: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    description: String,
    #[serde(rename = "Type")]
    record_type: String,
    size: String,
    in_use: bool,
    shared: bool,
    mutable: bool,
    usage_count: i64,
    last_used: String,
}

/// Prints each record, and the total.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let client = global.connect().await?;
    let records = client.disk_usage(arguments.filter.clone()).await;
    let records = records.context("failed to read the disk usage")?;
    let total: i64 = records.iter().map(|record| record.size.max(0)).sum();
    let rows: Vec<Row> = records.iter().map(row).collect();
    match arguments.format {
        Format::Json => output::print_json_lines(&rows)?,
        Format::Table => {
            print_table(rows);
            println!("Total:   {}", bytes(total));
        }
    }
    Ok(())
}

/// Throws away what the options allow, and prints it.
pub(super) async fn prune(global: &Global, arguments: PruneArguments) -> anyhow::Result<()> {
    if !arguments.force && !confirmed()? {
        return Ok(());
    }
    let options = PruneOptions {
        filter: arguments.filter,
        all: arguments.all,
        keep_duration: duration(arguments.keep_duration)?,
        reserved_space: size(arguments.reserved_space)?,
        max_used_space: size(arguments.max_used_space)?,
        min_free_space: size(arguments.min_free_space)?,
    };
    let client = global.connect().await?;
    let removed = client.prune(options).await.context("failed to prune")?;
    let mut removed = std::pin::pin!(removed);
    let (mut rows, mut total) = (Vec::new(), 0);
    while let Some(record) = removed.next().await {
        let record = record.context("failed to prune")?;
        total += record.size.max(0);
        rows.push(row(&record));
    }
    print_table(rows);
    println!("Total:   {}", bytes(total));
    Ok(())
}

fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(hinted("nobody is there to confirm", "use `--force`"));
    }
    eprint!("Throw away everything that is kept and not used? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("failed to read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn duration(text: Option<String>) -> anyhow::Result<Duration> {
    let Some(text) = text else {
        return Ok(Duration::ZERO);
    };
    parse_duration(&text).with_context(|| format!("`{text}` is no duration"))
}

fn size(text: Option<String>) -> anyhow::Result<i64> {
    let Some(text) = text else { return Ok(0) };
    let parsed = parse_bytes(&text).and_then(|bytes| i64::try_from(bytes).ok());
    parsed.with_context(|| format!("`{text}` is no size"))
}

fn row(record: &UsageRecord) -> Row {
    Row {
        id: record.id.clone(),
        description: record.description.clone(),
        record_type: record.record_type.clone(),
        size: bytes(record.size),
        in_use: record.in_use,
        shared: record.shared,
        mutable: record.mutable,
        usage_count: record.usage_count,
        last_used: output::ago(record.last_used),
    }
}

fn print_table(rows: Vec<Row>) {
    let mut table = Table::new(&["ID", "TYPE", "IN USE", "SIZE", "LAST USED", "DESCRIPTION"]);
    for row in rows {
        let in_use = if row.in_use { "yes" } else { "no" };
        let id = output::short_id(&row.id).to_owned();
        let cells = [
            id,
            row.record_type,
            in_use.to_owned(),
            row.size,
            row.last_used,
        ];
        table.row(cells.into_iter().chain([row.description]).collect());
    }
    table.print();
}
