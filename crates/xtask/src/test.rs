//! All tests, with what they need.

use std::ffi::OsString;

use crate::{needs, shell};

/// Installs what is missing, builds the program that black-box tests start, and runs everything.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    needs::root_user()?;
    needs::install(needs::TESTS)?;
    needs::install_nextest()?;
    shell::run(&mut shell::cargo(["build", "--package", "drydock"]))?;
    let nextest = ["nextest", "run", "--workspace"];
    shell::run(shell::cargo(nextest).args(arguments))
}
