//! `drydock save`: images as a tar.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;
use futures::StreamExt as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::Global;
use crate::error::hinted;

/// Write images to a tar that `load` and docker read.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Write to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[arg(required = true)]
    images: Vec<String>,
}

/// Writes the tar.
pub(super) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<()> {
    if arguments.output.is_none() && std::io::stdout().is_terminal() {
        return Err(hinted(
            "standard output is a terminal",
            "name a file with `-o`",
        ));
    }
    let containers = global.containers().await?;
    let chunks = containers
        .save(arguments.images)
        .await
        .context("failed to save images")?;
    let mut out: Box<dyn AsyncWrite + Unpin> = match &arguments.output {
        Some(path) => {
            let file = tokio::fs::File::create(path).await;
            Box::new(file.with_context(|| format!("failed to create `{}`", path.display()))?)
        }
        None => Box::new(tokio::io::stdout()),
    };
    let mut chunks = std::pin::pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.context("failed to save images")?;
        out.write_all(&chunk)
            .await
            .context("failed to write the tar")?;
    }
    out.flush().await.context("failed to write the tar")
}
