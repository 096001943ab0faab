//! `drydock version` and `drydock info`.

use anyhow::Context as _;

use super::Global;

/// Prints both versions; the daemon's only if one answers.
pub(super) async fn version(global: &Global) -> anyhow::Result<()> {
    println!("Client: drydock {}", env!("CARGO_PKG_VERSION"));
    let (address, _) = global.address();
    // A daemon is not started just to be asked its version.
    match client::Client::connect(&address).await {
        Ok(client) => {
            let version = client
                .info()
                .await
                .context("failed to ask for the version")?;
            println!("Server: {} {}", version.package, version.version);
        }
        Err(_) => println!("Server: none at `{address}`"),
    }
    Ok(())
}

/// Prints what the daemon says of itself and its workers.
pub(super) async fn run(global: &Global) -> anyhow::Result<()> {
    let client = global.connect().await?;
    let version = client
        .info()
        .await
        .context("failed to ask for the version")?;
    println!("Address:    {}", global.address().0);
    println!(
        "Version:    {} {} {}",
        version.package, version.version, version.revision
    );
    for worker in client
        .list_workers()
        .await
        .context("failed to list workers")?
    {
        println!("Worker:     {}", worker.id);
        println!("Platforms:  {}", worker.platforms.join(", "));
        for (key, value) in &worker.labels {
            println!("  {key}: {value}");
        }
    }
    Ok(())
}
