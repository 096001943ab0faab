//! Finding the program, with the rules and the words of Go's `exec.LookPath`, which users of runc
//! know.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

use crate::launch::container::{Failure, describe};

/// The path of the program `name`: itself if it has a slash, else the first executable file of that
/// name in `PATH`.
pub(super) fn program(name: &str, env: &[String]) -> Result<CString, Failure> {
    let fail = |reason: &str, missing| Failure::Exec {
        message: format!("exec: \"{name}\": {reason}"),
        missing,
    };
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => c_string(name),
            Err(Refusal::Missing(error)) => Err(fail(&format!("stat {name}: {error}"), true)),
            Err(Refusal::Unusable(error)) => Err(fail(&error, false)),
        };
    }
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    for dir in path.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let candidate = format!("{}/{name}", dir.trim_end_matches('/'));
        if !name.is_empty() && executable(Path::new(&candidate)).is_ok() {
            return c_string(&candidate);
        }
    }
    Err(fail("executable file not found in $PATH", true))
}

enum Refusal {
    Missing(String),
    Unusable(String),
}

fn executable(path: &Path) -> Result<(), Refusal> {
    let metadata = std::fs::metadata(path).map_err(|error| Refusal::Missing(describe(&error)))?;
    if metadata.is_dir() {
        return Err(Refusal::Unusable("is a directory".to_owned()));
    }
    // As the user the process has become.
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|error| Refusal::Unusable(describe(&error.into())))
}

fn c_string(path: &str) -> Result<CString, Failure> {
    CString::new(path).map_err(|error| Failure::Setup(io::Error::from(error).to_string()))
}
