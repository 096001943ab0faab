//! `buildctl debug workers` and `buildctl debug info`.

use std::time::Duration;

use anyhow::Context as _;
use client::{Client, Device, GcPolicy, WorkerRecord};

use super::format::{self, Format};
use super::table::Table;

/// List workers.
#[derive(Debug, clap::Args)]
pub(super) struct Workers {
    /// Only workers that match.
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,
    /// Tell all of each worker.
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    format: Format,
}

/// Show the daemon's version.
#[derive(Debug, clap::Args)]
pub(super) struct Info {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn list(client: &Client, arguments: Workers) -> anyhow::Result<()> {
    let template = arguments.format.template()?;
    let workers = client.list_workers_matching(arguments.filter).await;
    let workers = workers.context("failed to list workers")?;
    if let Some(template) = template {
        return format::print(&template, &format::list(workers.iter().map(format::worker)));
    }
    let mut table = Table::default();
    if arguments.verbose {
        workers
            .iter()
            .for_each(|worker| verbose(&mut table, worker));
    } else {
        table.line("ID\tPLATFORMS");
        for worker in &workers {
            table.line(&format!("{}\t{}", worker.id, worker.platforms.join(",")));
        }
    }
    print!("{}", table.render());
    Ok(())
}

pub(super) async fn info(client: &Client, arguments: Info) -> anyhow::Result<()> {
    let template = arguments.format.template()?;
    let version = client.info().await.context("failed to call info")?;
    if let Some(template) = template {
        return format::print(&template, &format::info(&version));
    }
    // One column, set with spaces.
    let (package, revision) = (&version.package, &version.revision);
    match version.dockerfile.as_str() {
        "" => println!("BuildKit: {package} {} {revision}", version.version),
        dockerfile => {
            println!("BuildKit:   {package} {} {revision}", version.version);
            println!("Dockerfile: {dockerfile}");
        }
    }
    Ok(())
}

fn verbose(table: &mut Table, worker: &WorkerRecord) {
    table.pair("ID", &worker.id);
    table.pair("Platforms", worker.platforms.join(","));
    let version = &worker.version;
    let text = format!(
        "{} {} {}",
        version.package, version.version, version.revision
    );
    table.pair("BuildKit", text);
    if !version.dockerfile.is_empty() {
        table.pair("Dockerfile", &version.dockerfile);
    }
    table.line("Labels:");
    for (key, value) in &worker.labels {
        table.pair(&format!("\t{key}"), value);
    }
    if !worker.devices.is_empty() {
        devices(table, &worker.devices);
    }
    for (number, policy) in worker.gc_policies.iter().enumerate() {
        table.line(&format!("GC Policy rule#{number}:"));
        rule(table, policy);
    }
    table.line("");
}

fn devices(table: &mut Table, devices: &[Device]) {
    table.line("Devices:");
    for device in devices {
        table.pair("\tName", &device.name);
        match device.on_demand {
            true => table.pair("\tOnDemand", true),
            false => table.pair("\tAutoAllow", device.auto_allow),
        }
        for (key, value) in &device.annotations {
            table.line(&format!("\tAnnotations:\t{key}:\t{value}"));
        }
    }
    table.line("");
}

fn rule(table: &mut Table, policy: &GcPolicy) {
    table.pair("\tAll", policy.all);
    if !policy.filters.is_empty() {
        table.pair("\tFilters", policy.filters.join(" "));
    }
    if !policy.keep_duration.is_zero() {
        table.pair("\tKeep duration", duration(policy.keep_duration));
    }
    let spaces = [
        ("\tReserved space", policy.reserved_space),
        ("\tMinimum free space", policy.min_free_space),
        ("\tMaximum used space", policy.max_used_space),
    ];
    for (name, space) in spaces.into_iter().filter(|(_, space)| *space > 0) {
        table.pair(name, size(space));
    }
}

/// As Go prints a duration of whole seconds.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// With as many digits as it has.
fn size(count: i64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "shown to people")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_go_prints_them() {
        assert_eq!(duration(Duration::from_secs(172_800)), "48h0m0s");
        assert_eq!(duration(Duration::from_secs(61)), "1m1s");
        assert_eq!(size(512_000_000), "512MB");
        assert_eq!(size(10_500_000_000), "10.5GB");
    }
}
