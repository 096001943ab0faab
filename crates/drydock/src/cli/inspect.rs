//! `drydock inspect`: all that is known of containers and images.

use std::time::SystemTime;

use anyhow::Context as _;
use client::containers::{CallErrorKind, Container, Containers, Image};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Global, ps};

/// Show all that is known of containers and images, as JSON.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Names or ids.
    #[arg(required = true)]
    names: Vec<String>,
}

/// Prints a JSON array with an object for each name.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let containers = global.containers().await?;
    let mut found = Vec::new();
    for name in &arguments.names {
        let value = find(&containers, name).await;
        found.push(value.with_context(|| format!("failed to inspect `{name}`"))?);
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(())
}

async fn find(containers: &Containers, name: &str) -> anyhow::Result<Value> {
    let list = containers.list(true).await?;
    let is_prefix = |container: &&Container| name.len() >= 4 && container.id.starts_with(name);
    let named = list
        .iter()
        .find(|container| container.name == name || container.id == name);
    if let Some(container) = named.or_else(|| list.iter().find(is_prefix)) {
        return Ok(container_json(container));
    }
    match containers.image(name).await {
        Ok(image) => image_json(&image),
        Err(error) if error.kind == CallErrorKind::NotFound => {
            anyhow::bail!("no container or image is called so")
        }
        Err(error) => Err(error.into()),
    }
}

fn container_json(container: &Container) -> Value {
    let mounts = container.mounts.iter().map(|mount| {
        json!({
            "Source": mount.source,
            "Destination": mount.destination,
            "RW": !mount.readonly,
        })
    });
    json!({
        "Id": container.id,
        "Name": container.name,
        "Created": timestamp(container.created),
        "Image": container.image,
        "ImageID": container.image_id,
        "Command": container.command,
        "State": {
            "Status": container.state,
            "Running": container.state == "running",
            "Pid": container.pid,
            "ExitCode": container.exit.map(|exit| exit.code),
            "OOMKilled": container.exit.is_some_and(|exit| exit.oom_killed),
            "StartedAt": timestamp(container.started),
            "FinishedAt": timestamp(container.finished),
        },
        "Labels": container.labels,
        "Mounts": mounts.collect::<Vec<_>>(),
        "NetworkSettings": {
            "Network": container.network,
            "IPAddress": container.ip,
            "Ports": container.ports.iter().map(ps::port).collect::<Vec<_>>(),
        },
    })
}

fn image_json(image: &Image) -> anyhow::Result<Value> {
    let config: Value =
        serde_json::from_slice(&image.config).context("the image's config is no JSON")?;
    Ok(json!({
        "Id": image.id,
        "Digest": image.digest,
        "RepoTags": image.names,
        "Created": timestamp(image.created),
        "Platform": image.platform,
        "Size": image.size,
        "Config": config.get("config"),
        "RootFS": config.get("rootfs"),
        "History": config.get("history"),
    }))
}

fn timestamp(time: Option<SystemTime>) -> Option<String> {
    OffsetDateTime::from(time?).format(&Rfc3339).ok()
}
