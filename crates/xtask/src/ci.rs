//! What CI runs, and nothing else.

use crate::{layers, shell, test};

/// Runs every check; stops at the first that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    shell::run(&mut shell::cargo(["fmt", "--all", "--check"]))?;
    layers::run()?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
    ];
    shell::run(shell::cargo(clippy).args(["--", "-D", "warnings"]))?;
    test::run(&[])?;
    let doc = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--all-features",
        "--locked",
    ];
    shell::run(shell::cargo(doc).env("RUSTDOCFLAGS", "-D warnings"))
}
