//! `drydock tag`: another name for an image.

use anyhow::Context as _;

use super::Global;

/// Give an image another name.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Name or id of the image.
    source: String,
    /// The new name.
    target: String,
}

/// Adds the name.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { source, target } = arguments;
    let containers = global.containers().await?;
    let tagged = containers.tag(source, target).await;
    tagged.with_context(|| format!("failed to tag image `{source}` as `{target}`"))
}
