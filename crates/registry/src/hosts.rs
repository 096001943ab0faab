//! Settings per registry host, as buildkitd's `[registry."host"]` tables have them.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings by host name and port, e.g. `docker.io` or `localhost:5000`.
pub type HostsConfig = BTreeMap<String, HostConfig>;

/// How one host is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Hosts asked before this one, in order, for resolving and pulling only; each `host[:port]`
    /// with an optional path that goes in front of the repository. Their own TLS settings are
    /// those of the entry under the mirror's name.
    pub mirrors: Vec<String>,
    /// Plain HTTP. `None` is plain for local hosts and TLS for all others. Together with
    /// `insecure`: TLS first, plain where there is none.
    pub http: Option<bool>,
    /// Whether certificates go unchecked.
    pub insecure: bool,
    /// PEM files with further certificate authorities.
    pub ca: Vec<PathBuf>,
    /// Client certificates.
    pub keypairs: Vec<KeyPair>,
    /// Directories of `*.crt` (authorities) and `*.cert` with `*.key` (client pairs); missing or
    /// unreadable ones are passed over.
    pub tls_dirs: Vec<PathBuf>,
}

/// A client's certificate and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPair {
    /// The private key.
    pub key: PathBuf,
    /// The certificate chain.
    pub cert: PathBuf,
}

/// The host that serves a registry: `docker.io` is served elsewhere.
pub(crate) fn origin_of(domain: &str) -> &str {
    if domain == "docker.io" {
        "registry-1.docker.io"
    } else {
        domain
    }
}

/// Whether `host[:port]` is this machine.
pub(crate) fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Splits a mirror, `[scheme://]host[/path]`, in host and path.
pub(crate) fn split_mirror(mirror: &str) -> (&str, &str) {
    let rest = mirror.split_once("://").map_or(mirror, |(_, rest)| rest);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    (host, path.trim_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.1.2.3",
            "[::1]:5000",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "localhost.example.com",
            "10.0.0.1",
            "docker.io",
            "128.0.0.1:5000",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn a_mirror_may_have_a_path() {
        assert_eq!(split_mirror("m.example/a/b/"), ("m.example", "a/b"));
        assert_eq!(split_mirror("https://m.example:1"), ("m.example:1", ""));
    }
}
