//! Where things are when nothing is said.

use std::path::PathBuf;

/// Whose defaults apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// `drydock` and `drydockd`.
    Drydock,
    /// `buildkitd` and `buildctl`.
    Buildkit,
}

impl Family {
    fn directory(self) -> &'static str {
        match self {
            Family::Drydock => "drydock",
            Family::Buildkit => "buildkit",
        }
    }

    /// Directory of everything the daemon keeps. `DRYDOCK_ROOT` overrides it for drydock.
    pub(crate) fn root(self) -> PathBuf {
        if let (Family::Drydock, Some(root)) = (self, set("DRYDOCK_ROOT")) {
            return root;
        }
        match unprivileged_home() {
            None => PathBuf::from("/var/lib").join(self.directory()),
            Some(home) => set("XDG_DATA_HOME")
                .unwrap_or_else(|| home.join(".local/share"))
                .join(self.directory()),
        }
    }

    /// Path of the daemon's socket.
    pub(crate) fn socket(self) -> PathBuf {
        let name = match self {
            Family::Drydock => "drydock.sock",
            Family::Buildkit => "buildkitd.sock",
        };
        let run = match unprivileged_home() {
            None => PathBuf::from("/run"),
            Some(home) => set("XDG_RUNTIME_DIR").unwrap_or_else(|| home.join(".local/run")),
        };
        run.join(self.directory()).join(name)
    }

    /// Path of the daemon's configuration file, which need not exist.
    pub(crate) fn config(self) -> PathBuf {
        let name = match self {
            Family::Drydock => "drydockd.toml",
            Family::Buildkit => "buildkitd.toml",
        };
        if let (Family::Drydock, Some(path)) = (self, set("DRYDOCK_CONFIG")) {
            return path;
        }
        let base = match unprivileged_home() {
            None => PathBuf::from("/etc"),
            Some(home) => set("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
        };
        base.join(self.directory()).join(name)
    }
}

/// The caller's home directory, unless the caller is root.
fn unprivileged_home() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    Some(set("HOME").unwrap_or_else(|| PathBuf::from("/")))
}

fn set(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
