//! `drydock logs`: what a container wrote.

use std::io::{self, Write as _};

use anyhow::Context as _;
use futures::StreamExt as _;

use super::Global;

/// Show what a container wrote.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Go on with what it writes.
    #[arg(long, short)]
    follow: bool,
    /// Only so many lines from the end.
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<u32>,
    container: String,
}

/// Prints both streams where they belong.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let containers = global.containers().await?;
    let name = || {
        format!(
            "failed to read the log of container `{}`",
            arguments.container
        )
    };
    let chunks = containers
        .logs(&arguments.container, arguments.follow, arguments.tail)
        .await;
    let chunks = chunks.with_context(name)?;
    let mut chunks = std::pin::pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.with_context(name)?;
        let written = match chunk.stream {
            2 => io::stderr().write_all(&chunk.data),
            _ => io::stdout()
                .write_all(&chunk.data)
                .and_then(|()| io::stdout().flush()),
        };
        written.context("failed to write output")?;
    }
    Ok(())
}
