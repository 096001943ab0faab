//! `drydock push`: send an image.

use anyhow::Context as _;

use super::{Global, transfer};

/// Send an image to its registry.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    image: String,
}

/// Sends the image and prints its name.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let reference = oci::Reference::parse(&arguments.image)
        .with_context(|| format!("failed to read image name `{}`", arguments.image))?;
    let name = || format!("failed to push `{}`", arguments.image);
    let auth = transfer::credentials(&reference)?.unwrap_or_default();
    let containers = global.containers().await?;
    let transfers = containers.push(&reference.to_string(), auth).await;
    transfer::show(transfers.with_context(name)?)
        .await
        .with_context(name)?;
    println!("{reference}");
    Ok(())
}
