//! Programs that tests and the demo need, installed where they are missing.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::shell;

/// A program, and the Debian package that has it.
pub(crate) struct Need {
    program: &'static str,
    package: &'static str,
}

/// What the demo needs.
pub(crate) const DEMO: &[Need] = &[
    Need {
        program: "docker-registry",
        package: "docker-registry",
    },
    Need {
        program: "mmdebstrap",
        package: "mmdebstrap",
    },
    Need {
        program: "skopeo",
        package: "skopeo",
    },
    Need {
        program: "iptables",
        package: "iptables",
    },
];

/// What the measurements need.
#[cfg(feature = "bench")]
pub(crate) const BENCH: &[Need] = &[
    Need {
        program: "busybox",
        package: "busybox-static",
    },
    Need {
        program: "docker-registry",
        package: "docker-registry",
    },
];

/// What the tests need.
pub(crate) const TESTS: &[Need] = &[
    Need {
        program: "busybox",
        package: "busybox-static",
    },
    Need {
        program: "docker-registry",
        package: "docker-registry",
    },
    Need {
        program: "git",
        package: "git",
    },
    Need {
        program: "gpg",
        package: "gnupg",
    },
    Need {
        program: "iptables",
        package: "iptables",
    },
    Need {
        program: "nft",
        package: "nftables",
    },
    Need {
        program: "skopeo",
        package: "skopeo",
    },
    Need {
        program: "ssh-keygen",
        package: "openssh-client",
    },
    Need {
        program: "sshd",
        package: "openssh-server",
    },
    Need {
        program: "umoci",
        package: "umoci",
    },
];

/// Installs what is missing of `needs`.
pub(crate) fn install(needs: &[Need]) -> anyhow::Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|need| !is_there(need.program))
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_there("apt-get") {
        bail!(
            "missing: {}; without apt-get they cannot be installed here",
            missing.join(", ")
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "missing: {}; run this as root to install them",
            missing.join(", ")
        );
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    shell::run(apt().args(["update", "--quiet"]))?;
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    shell::run(apt().args(install).args(&missing)).context("failed to install what is missing")
}

/// Whether cargo-nextest is there, or could be installed.
pub(crate) fn has_nextest() -> bool {
    let is_there = || shell::succeeds(&mut shell::cargo(["nextest", "--version"]));
    if is_there() {
        return true;
    }
    let installed = shell::run(&mut shell::cargo(["install", "cargo-nextest", "--locked"]));
    if let Err(error) = installed {
        eprintln!("warning: {error:#}; the tests run without it");
    }
    is_there()
}

/// Tests make mounts, namespaces and networks.
pub(crate) fn root_user() -> anyhow::Result<()> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => bail!("this needs root: it makes mounts, namespaces and networks"),
    }
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian keeps programs of the administrator, also if PATH leaves it out.
    let sbin = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path)
        .chain(sbin)
        .any(|directory| directory.join(program).is_file())
}
