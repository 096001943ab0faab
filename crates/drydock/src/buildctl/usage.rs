//! `buildctl du` and `buildctl prune`.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use client::{Client, PruneOptions, UsageRecord};
use futures::StreamExt as _;
use time::OffsetDateTime;
use time::macros::format_description;

use super::format::{self, Format};
use super::table::Table;
use crate::config::parse_duration;
use crate::progress::bytes;

/// Show what is kept on disk.
#[derive(Debug, clap::Args)]
pub(super) struct Du {
    /// Only records that match.
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,
    /// Tell all of each record.
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    format: Format,
}

/// Throw away what is kept and not used.
#[derive(Debug, clap::Args)]
pub(super) struct Prune {
    /// Keep what was used in this time.
    #[arg(long, value_name = "DURATION")]
    keep_duration: Option<String>,
    /// Keep no more than this, in MB.
    #[arg(long, value_name = "MB", default_value_t = 0.0)]
    keep_storage: f64,
    /// Keep this in any case, in MB.
    #[arg(long, value_name = "MB", default_value_t = 0.0)]
    keep_storage_min: f64,
    /// Leave so much free on the disk, in MB.
    #[arg(long, value_name = "MB", default_value_t = 0.0)]
    free_storage: f64,
    /// Only records that match.
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,
    /// Also what is internal or of frontends.
    #[arg(long)]
    all: bool,
    /// Tell all of each record.
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn du(client: &Client, arguments: Du) -> anyhow::Result<()> {
    let is_all = arguments.filter.is_empty();
    let template = arguments.format.template()?;
    let records = client.disk_usage(arguments.filter).await;
    let mut records = records.context("failed to call diskusage")?;
    records.sort_by(|a, b| (a.size, &a.id).cmp(&(b.size, &b.id)));
    if let Some(template) = template {
        return format::print(&template, &format::list(records.iter().map(format::usage)));
    }
    let mut table = Table::default();
    if arguments.verbose {
        records
            .iter()
            .for_each(|record| verbose(&mut table, record));
    } else {
        table.line("ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED");
        records.iter().for_each(|record| row(&mut table, record));
    }
    print!("{}", table.render());
    if is_all {
        print!("{}", summary(&records).render());
    }
    Ok(())
}

pub(super) async fn prune(client: &Client, arguments: Prune) -> anyhow::Result<()> {
    let template = arguments.format.template()?;
    let keep_duration = match arguments.keep_duration {
        None => Duration::ZERO,
        Some(text) => parse_duration(&text)
            .with_context(|| format!("`{text}` is no duration such as `24h`"))?,
    };
    let options = PruneOptions {
        filter: arguments.filter,
        all: arguments.all,
        keep_duration,
        reserved_space: megabytes(arguments.keep_storage_min),
        max_used_space: megabytes(arguments.keep_storage),
        min_free_space: megabytes(arguments.free_storage),
    };
    let removed = client
        .prune(options)
        .await
        .context("failed to call prune")?;
    let mut removed = std::pin::pin!(removed);
    let (mut total, mut is_first) = (0, true);
    while let Some(record) = removed.next().await {
        let record = record.context("failed to prune")?;
        total += record.size;
        if let Some(template) = &template {
            format::print(template, &format::usage(&record))?;
            continue;
        }
        let mut table = Table::default();
        if arguments.verbose {
            verbose(&mut table, &record);
        } else {
            if std::mem::take(&mut is_first) {
                table.line("ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED");
            }
            row(&mut table, &record);
        }
        print!("{}", table.render());
    }
    if template.is_none() {
        println!("Total:\t{}", bytes(total));
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "as Go does; what is too large stays large"
)]
fn megabytes(count: f64) -> i64 {
    (count * 1e6) as i64
}

fn row(table: &mut Table, record: &UsageRecord) {
    let id = format!("{}{}", record.id, if record.mutable { "*" } else { "" });
    let size = format!(
        "{}{}",
        bytes(record.size),
        if record.shared { "*" } else { "" }
    );
    let reclaimable = !record.in_use;
    table.line(&format!("{id:<71}\t{reclaimable:<11}\t{size}\t"));
}

fn verbose(table: &mut Table, record: &UsageRecord) {
    table.pair("ID", &record.id);
    if !record.parents.is_empty() {
        table.pair("Parents", record.parents.join(";"));
    }
    table.pair("Created at", time_of_go(record.created));
    table.pair("Mutable", record.mutable);
    table.pair("Reclaimable", !record.in_use);
    table.pair("Shared", record.shared);
    table.pair("Size", bytes(record.size));
    if !record.description.is_empty() {
        table.pair("Description", &record.description);
    }
    table.pair("Usage count", record.usage_count);
    if record.last_used.is_some() {
        table.pair("Last used", time_of_go(record.last_used));
    }
    if !record.record_type.is_empty() {
        table.pair("Type", &record.record_type);
    }
    table.line("");
}

fn summary(records: &[UsageRecord]) -> Table {
    let sizes = |counts: &dyn Fn(&UsageRecord) -> bool| -> i64 {
        let counted = records
            .iter()
            .filter(|record| record.size > 0 && counts(record));
        counted.map(|record| record.size).sum()
    };
    let (total, shared) = (sizes(&|_| true), sizes(&|record| record.shared));
    let mut table = Table::default();
    if shared > 0 {
        table.pair("Shared", bytes(shared));
        table.pair("Private", bytes(total - shared));
    }
    table.pair("Reclaimable", bytes(sizes(&|record| !record.in_use)));
    table.pair("Total", bytes(total));
    table
}

/// As Go prints a time: without zeros at the end of the fraction.
pub(super) fn time_of_go(time: Option<SystemTime>) -> String {
    // Go's zero time stands for none.
    let Some(time) = time else {
        return "0001-01-01 00:00:00 +0000 UTC".to_owned();
    };
    let time = OffsetDateTime::from(time);
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let mut text = time.format(format).unwrap_or_default();
    if time.nanosecond() > 0 {
        let fraction = format!(".{:09}", time.nanosecond());
        text.push_str(fraction.trim_end_matches('0'));
    }
    text + " +0000 UTC"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sums_are_as_go_prints_them() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(time_of_go(Some(at)), "1970-01-01 00:00:01.5 +0000 UTC");
        assert_eq!(time_of_go(None), "0001-01-01 00:00:00 +0000 UTC");
        let record = |size, shared| UsageRecord {
            size,
            shared,
            ..UsageRecord::default()
        };
        let text = summary(&[record(1500, true), record(500, false)]).render();
        assert_eq!(
            text,
            "Shared:\t\t1.50kB\nPrivate:\t500B\nReclaimable:\t2.00kB\nTotal:\t\t2.00kB\n"
        );
    }
}
