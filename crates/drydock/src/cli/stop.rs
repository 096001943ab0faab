//! `drydock stop`: ask containers to end.

use std::time::Duration;

use anyhow::Context as _;

use super::Global;

/// Stop containers.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Seconds to wait before a container is killed.
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS")]
    time: u64,
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Stops each and prints its name.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let containers = global.containers().await?;
    for name in &arguments.containers {
        let stopped = containers
            .stop(name, Duration::from_secs(arguments.time))
            .await;
        stopped.with_context(|| format!("failed to stop container `{name}`"))?;
        println!("{name}");
    }
    Ok(())
}
