//! `drydock load`: images from a tar.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;
use futures::Stream;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Global;
use crate::error::hinted;

/// Bytes sent at a time.
const CHUNK: usize = 256 << 10;

/// Chunks that wait to be sent. More makes the reader wait.
const QUEUE: usize = 4;

/// Take images from a tar that `save` or docker wrote.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Read this file instead of standard input.
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// Sends the tar and prints the names that it held.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let source: Box<dyn AsyncRead + Send + Unpin> = match &arguments.input {
        Some(path) => {
            let file = tokio::fs::File::open(path).await;
            Box::new(file.with_context(|| format!("failed to open `{}`", path.display()))?)
        }
        None if std::io::stdin().is_terminal() => {
            return Err(hinted(
                "standard input is a terminal",
                "name a file with `-i`",
            ));
        }
        None => Box::new(tokio::io::stdin()),
    };
    let containers = global.containers().await?;
    let (chunks, reader) = chunks(source);
    let names = containers
        .load(chunks)
        .await
        .context("failed to load images")?;
    reader
        .await
        .context("the reader was given up")?
        .context("failed to read the tar")?;
    names
        .iter()
        .for_each(|name| println!("Loaded image: {name}"));
    Ok(())
}

fn chunks(
    mut source: Box<dyn AsyncRead + Send + Unpin>,
) -> (
    impl Stream<Item = Bytes> + Send,
    tokio::task::JoinHandle<std::io::Result<()>>,
) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = source.read(&mut buffer).await?;
            // A worker that has seen enough closes its side; its answer tells why.
            if count == 0
                || sender
                    .send(Bytes::copy_from_slice(&buffer[..count]))
                    .await
                    .is_err()
            {
                return Ok(());
            }
        }
    });
    (ReceiverStream::new(receiver), reader)
}
