//! `drydock rm`: remove containers.

use anyhow::Context as _;

use super::Global;
use crate::error::WithHint as _;
use client::containers::CallErrorKind;

/// Remove containers.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Also those that run.
    #[arg(long, short)]
    force: bool,
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Removes each and prints its name.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let containers = global.containers().await?;
    for name in &arguments.containers {
        let message = format!("failed to remove container `{name}`");
        match containers.remove(name, arguments.force).await {
            Ok(()) => println!("{name}"),
            // As in docker, forcing away what is not there is no failure.
            Err(error) if arguments.force && error.kind == CallErrorKind::NotFound => {}
            Err(error) if error.kind == CallErrorKind::Refused => {
                return Err(error).hint(message, "stop it first, or use `-f`");
            }
            Err(error) => return Err(error).context(message),
        }
    }
    Ok(())
}
