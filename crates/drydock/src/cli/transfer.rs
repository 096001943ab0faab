//! Images on their way from and to registries.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use anyhow::Context as _;
use client::containers::{CallError, RegistryAuth, Transfer};
use futures::{Stream, StreamExt as _};

use crate::progress::bytes;

/// Prints what is moved until the stream ends: on a terminal bars, else a line for each part that
/// is done.
pub(super) async fn show(
    transfers: impl Stream<Item = Result<Transfer, CallError>>,
) -> anyhow::Result<()> {
    let mut transfers = std::pin::pin!(transfers);
    let bars = indicatif::MultiProgress::new();
    let mut known: BTreeMap<String, indicatif::ProgressBar> = BTreeMap::new();
    let is_terminal = std::io::stderr().is_terminal();
    while let Some(transfer) = transfers.next().await {
        let transfer = transfer?;
        if !is_terminal {
            if transfer.completed {
                eprintln!("{}: {} done", label(&transfer), bytes(transfer.current));
            }
            continue;
        }
        let bar = known
            .entry(transfer.id.clone())
            .or_insert_with(|| bars.add(bar(&transfer)));
        bar.set_length(u64::try_from(transfer.total).unwrap_or_default());
        bar.set_position(u64::try_from(transfer.current).unwrap_or_default());
        if transfer.completed {
            bar.finish();
        }
    }
    Ok(())
}

/// The caller's credentials for the registry of `reference`, if it has any.
pub(super) fn credentials(reference: &oci::Reference) -> anyhow::Result<Option<RegistryAuth>> {
    let found = client::docker_config::credentials(&reference.domain)
        .with_context(|| format!("failed to look up credentials for `{}`", reference.domain))?;
    let some = !found.username.is_empty() || !found.secret.is_empty();
    Ok(some.then_some(RegistryAuth {
        username: found.username,
        secret: found.secret,
    }))
}

fn bar(transfer: &Transfer) -> indicatif::ProgressBar {
    let template = "{prefix:20!} [{bar:30}] {bytes}/{total_bytes}";
    let style = indicatif::ProgressStyle::with_template(template)
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    let bar = indicatif::ProgressBar::new(0).with_style(style.progress_chars("=> "));
    bar.with_prefix(label(transfer))
}

fn label(transfer: &Transfer) -> String {
    let id = transfer
        .id
        .strip_prefix("sha256:")
        .and_then(|hex| hex.get(..12));
    id.unwrap_or(&transfer.id).to_owned()
}
