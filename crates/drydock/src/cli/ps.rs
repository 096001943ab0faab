//! `drydock ps`: containers.

use std::time::SystemTime;

use anyhow::Context as _;
use client::containers::{Container, PublishedPort};
use serde::Serialize;

use super::Global;
use crate::output::{self, Format, Table};

/// List containers.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Also those that do not run.
    #[arg(long, short)]
    all: bool,
    /// Print ids only.
    #[arg(long, short)]
    quiet: bool,
    /// Do not cut ids and commands.
    #[arg(long)]
    no_trunc: bool,
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    image: String,
    command: String,
    created: String,
    status: String,
    ports: String,
    names: String,
}

/// Prints the containers, the newest first.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let containers = global.containers().await?;
    let list = containers.list(arguments.all).await;
    let mut list = list.context("failed to list containers")?;
    list.sort_by_key(|container| std::cmp::Reverse(container.created));
    let rows: Vec<Row> = list
        .iter()
        .map(|container| row(container, arguments.no_trunc))
        .collect();
    if arguments.quiet {
        rows.iter().for_each(|row| println!("{}", row.id));
        return Ok(());
    }
    match arguments.format {
        Format::Json => output::print_json_lines(&rows)?,
        Format::Table => {
            let header = [
                "CONTAINER ID",
                "IMAGE",
                "COMMAND",
                "CREATED",
                "STATUS",
                "PORTS",
                "NAMES",
            ];
            let mut table = Table::new(&header);
            for row in rows {
                let Row {
                    id,
                    image,
                    command,
                    created,
                    status,
                    ports,
                    names,
                } = row;
                table.row(vec![id, image, command, created, status, ports, names]);
            }
            table.print();
        }
    }
    Ok(())
}

fn row(container: &Container, whole: bool) -> Row {
    let id = match whole {
        true => container.id.as_str(),
        false => output::short_id(&container.id),
    };
    let command = container.command.join(" ");
    let command = match command.char_indices().nth(19) {
        Some((end, _)) if !whole && command.chars().count() > 20 => format!("{}…", &command[..end]),
        _ => command,
    };
    Row {
        id: id.to_owned(),
        image: container.image.clone(),
        command: format!("\"{command}\""),
        created: output::ago(container.created),
        status: status(container),
        ports: container
            .ports
            .iter()
            .map(port)
            .collect::<Vec<_>>()
            .join(", "),
        names: container.name.clone(),
    }
}

fn status(container: &Container) -> String {
    let since = |time: Option<SystemTime>| {
        let elapsed = time
            .and_then(|time| time.elapsed().ok())
            .unwrap_or_default();
        output::duration(elapsed.as_secs())
    };
    match container.state.as_str() {
        "running" => format!("Up {}", since(container.started)),
        "exited" => {
            let code = container.exit.unwrap_or_default().code;
            format!("Exited ({code}) {} ago", since(container.finished))
        }
        "created" => "Created".to_owned(),
        other => other.to_owned(),
    }
}

/// `0.0.0.0:8080->80/tcp`.
pub(super) fn port(port: &PublishedPort) -> String {
    let host = match port.host_ip.as_str() {
        "" => "0.0.0.0".to_owned(),
        ip if ip.contains(':') => format!("[{ip}]"),
        ip => ip.to_owned(),
    };
    format!(
        "{host}:{}->{}/{}",
        port.host_port, port.container_port, port.protocol
    )
}
