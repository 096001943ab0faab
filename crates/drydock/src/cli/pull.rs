//! `drydock pull`: fetch an image.

use anyhow::Context as _;

use super::{Global, transfer};

/// Fetch an image from its registry.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Platform to fetch, for example linux/arm64.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<oci::Platform>,
    image: String,
}

/// Fetches the image and prints its name.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let reference = oci::Reference::parse(&arguments.image)
        .with_context(|| format!("failed to read image name `{}`", arguments.image))?;
    let name = || format!("failed to fetch `{}`", arguments.image);
    let auth = transfer::credentials(&reference)?.unwrap_or_default();
    let containers = global.containers().await?;
    let platform = arguments.platform.as_ref();
    let transfers = containers
        .pull(&reference.to_string(), platform, auth)
        .await;
    transfer::show(transfers.with_context(name)?)
        .await
        .with_context(name)?;
    println!("{reference}");
    Ok(())
}
