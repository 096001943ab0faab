//! All tests, with what they need.

use std::ffi::OsString;

use crate::{needs, shell};

/// Installs what is missing, builds the program that black-box tests start, and runs everything.
///
/// # Errors
/// When a test fails, or something that tests need cannot be had.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    needs::root_user()?;
    needs::install(needs::TESTS)?;
    // Together with all tests, so that nothing is compiled twice with other features.
    let build: &[&str] = match arguments {
        [] => &[
            "build",
            "--workspace",
            "--bins",
            "--tests",
            "--examples",
            "--locked",
        ],
        _ => &["build", "--package", "drydock", "--locked"],
    };
    shell::run(&mut shell::cargo(build))?;
    let runner: &[&str] = match needs::has_nextest() {
        true => &["nextest", "run"],
        false => &["test"],
    };
    // Of the checkout's root, which is every package, unless the arguments choose some.
    shell::run(shell::cargo(runner).arg("--locked").args(arguments))
}
