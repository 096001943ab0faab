//! `drydock images` and `drydock rmi`: the image store.

use anyhow::Context as _;
use client::containers::Image;
use serde::Serialize;

use super::Global;
use crate::output::{self, Format, Table};
use crate::progress;

/// List images.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print ids only.
    #[arg(long, short)]
    quiet: bool,
    /// Show the digest that names the image in its registry.
    #[arg(long)]
    digests: bool,
    /// Do not cut ids.
    #[arg(long)]
    no_trunc: bool,
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Remove images.
#[derive(Debug, clap::Args)]
pub(super) struct RemoveArguments {
    /// Also if containers were made of them.
    #[arg(long, short)]
    force: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repository: String,
    tag: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    platform: String,
    created: String,
    size: String,
}

/// Prints one line for each name of each image.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let containers = global.containers().await?;
    let mut images = containers.images().await.context("failed to list images")?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    if arguments.quiet {
        for image in &images {
            println!("{}", id(image, arguments.no_trunc));
        }
        return Ok(());
    }
    let rows = images
        .iter()
        .flat_map(|image| rows(image, arguments.no_trunc));
    let rows: Vec<Row> = rows.collect();
    match arguments.format {
        Format::Json => output::print_json_lines(&rows)?,
        Format::Table => print_table(rows, arguments.digests),
    }
    Ok(())
}

/// Removes each and prints what became of it.
pub(super) async fn remove(global: &Global, arguments: &RemoveArguments) -> anyhow::Result<()> {
    let containers = global.containers().await?;
    for name in &arguments.images {
        let removed = containers.remove_image(name, arguments.force).await;
        let (untagged, deleted) =
            removed.with_context(|| format!("failed to remove image `{name}`"))?;
        untagged
            .iter()
            .for_each(|name| println!("Untagged: {name}"));
        deleted.iter().for_each(|id| println!("Deleted: {id}"));
    }
    Ok(())
}

fn rows(image: &Image, whole: bool) -> Vec<Row> {
    let none = || "<none>".to_owned();
    let names = match image.names.is_empty() {
        true => vec![(none(), none())],
        false => image.names.iter().map(|name| split_name(name)).collect(),
    };
    let row = |(repository, tag)| Row {
        repository,
        tag,
        digest: if image.digest.is_empty() {
            none()
        } else {
            image.digest.clone()
        },
        id: id(image, whole),
        platform: image.platform.clone(),
        created: output::ago(image.created),
        size: progress::bytes(i64::try_from(image.size).unwrap_or(i64::MAX)),
    };
    names.into_iter().map(row).collect()
}

fn print_table(rows: Vec<Row>, digests: bool) {
    let header: &[&str] = match digests {
        true => &[
            "REPOSITORY",
            "TAG",
            "DIGEST",
            "IMAGE ID",
            "PLATFORM",
            "CREATED",
            "SIZE",
        ],
        false => &[
            "REPOSITORY",
            "TAG",
            "IMAGE ID",
            "PLATFORM",
            "CREATED",
            "SIZE",
        ],
    };
    let mut table = Table::new(header);
    for row in rows {
        let mut cells = vec![row.repository, row.tag];
        if digests {
            cells.push(row.digest);
        }
        cells.extend([row.id, row.platform, row.created, row.size]);
        table.row(cells);
    }
    table.print();
}

fn id(image: &Image, whole: bool) -> String {
    if whole {
        image.id.clone()
    } else {
        output::short_id(&image.id).to_owned()
    }
}

/// Repository as people write it, and tag.
fn split_name(name: &str) -> (String, String) {
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "<none>"),
    };
    let short = repository.strip_prefix("docker.io/").unwrap_or(repository);
    let short = short.strip_prefix("library/").unwrap_or(short);
    (short.to_owned(), tag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::split_name;

    #[test]
    fn names_are_as_people_write_them() {
        let split = |name| {
            let (repository, tag) = split_name(name);
            format!("{repository} {tag}")
        };
        assert_eq!(split("docker.io/library/python:3.10"), "python 3.10");
        assert_eq!(split("docker.io/me/app:1"), "me/app 1");
        assert_eq!(split("localhost:5000/app:1"), "localhost:5000/app 1");
        assert_eq!(split("localhost:5000/app"), "localhost:5000/app <none>");
    }
}
