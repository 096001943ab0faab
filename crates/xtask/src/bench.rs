//! Not here yet.
use std::ffi::OsString;
pub(crate) fn run(_a: Vec<OsString>) -> anyhow::Result<()> {
    Ok(())
}
