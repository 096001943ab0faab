//! `drydock kill`: send a signal to containers.

use anyhow::Context as _;

use super::Global;

/// Send a signal to containers.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The signal.
    #[arg(long, short, default_value = "KILL", value_name = "SIGNAL")]
    signal: String,
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Signals each and prints its name.
pub(super) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let containers = global.containers().await?;
    let signal = signal_name(&arguments.signal);
    for name in &arguments.containers {
        let killed = containers.kill(name, &signal).await;
        killed.with_context(|| format!("failed to signal container `{name}`"))?;
        println!("{name}");
    }
    Ok(())
}

/// `TERM`, `SIGTERM` and `sigterm` are the same; numbers stay.
fn signal_name(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if upper.starts_with("SIG") || upper.chars().all(|char| char.is_ascii_digit()) {
        return upper;
    }
    format!("SIG{upper}")
}

#[cfg(test)]
mod tests {
    use super::signal_name;

    #[test]
    fn signals_have_one_name() {
        assert_eq!(signal_name("term"), "SIGTERM");
        assert_eq!(signal_name("SIGKILL"), "SIGKILL");
        assert_eq!(signal_name("9"), "9");
    }
}
