//! The keys of ssh servers that nothing is known of.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// The port of servers that name none.
const PORT: u16 = 22;
/// How long a server has to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Far more than the keys of a server take.
const MAX_OUTPUT: u64 = 64 << 10;
/// The kinds of keys, the preferred first: with the same key that BuildKit would find, graphs are the
/// same.
const KINDS: [&str; 5] = [
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "ssh-ed25519",
];

/// The line of `known_hosts` for an ssh server, `name` or `name:port`, with the key that it has now.
///
/// That does not show that the server is the right one, but from then on it must be the same. `None`
/// when there is no answer: git will tell why.
pub async fn ssh_host_key(host: &str) -> Option<String> {
    let (name, port) = address(host)?;
    let mut scan = Command::new("ssh-keyscan")
        .args(["-T", &PATIENCE.as_secs().to_string()])
        .args(["-p", &port.to_string(), "-t", "ecdsa,rsa,ed25519", "--"])
        .arg(name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .inspect_err(|error| tracing::debug!(%error, "ssh-keyscan cannot be run"))
        .ok()?;
    let mut output = Vec::new();
    let mut stdout = scan.stdout.take()?.take(MAX_OUTPUT);
    // It keeps to its time for each connection, and not for looking the name up.
    let read = tokio::time::timeout(PATIENCE * 2, stdout.read_to_end(&mut output));
    read.await.ok()?.ok()?;
    let key = preferred(&String::from_utf8_lossy(&output))?;
    Some(match port {
        PORT => format!("{name} {key}"),
        port => format!("[{name}]:{port} {key}"),
    })
}

/// Name and port of a server; `None` for what is no name, or could be taken for an option.
fn address(host: &str) -> Option<(&str, u16)> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, "")) => (name, None),
        Some((name, port)) => (name, Some(port.strip_prefix(':')?)),
        None => match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    let fits = !name.is_empty() && !name.starts_with('-') && name.chars().all(is_name);
    fits.then_some((name, port))
}

/// Kind and key, as `known_hosts` has them, of the preferred key among those that were found.
fn preferred(found: &str) -> Option<String> {
    let keys = found.lines().filter(|line| !line.starts_with('#'));
    let keys = keys.filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    let place = |kind: &str| KINDS.iter().position(|known| *known == kind);
    let known = keys.filter_map(|(kind, key)| Some((place(kind)?, kind, key)));
    let (_, kind, key) = known.min_by_key(|(place, ..)| *place)?;
    Some(format!("{kind} {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ports() {
        for (host, expected) in [
            ("host", Some(("host", 22))),
            ("host.example:2222", Some(("host.example", 2222))),
            ("[::1]:23", Some(("::1", 23))),
            ("[::1]", Some(("::1", 22))),
            ("", None),
            ("-oProxyCommand=id", None),
            ("a b", None),
            ("host:", None),
            ("host:70000", None),
            ("[::1]x", None),
        ] {
            assert_eq!(address(host), expected, "{host}");
        }
    }

    #[test]
    fn the_key_that_others_would_choose() {
        let found =
            "# h:22 SSH-2.0-x\n[h]:2222 ssh-ed25519 E\nh ssh-rsa R\nh ecdsa-sha2-nistp384 C\nh x\n";
        assert_eq!(preferred(found).unwrap(), "ecdsa-sha2-nistp384 C");
        assert_eq!(preferred("h ssh-ed25519 E").unwrap(), "ssh-ed25519 E");
        assert_eq!(preferred("h ssh-dss D\n"), None);
        assert_eq!(preferred(""), None);
    }

    #[tokio::test]
    async fn who_does_not_answer_has_no_key() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(ssh_host_key(&format!("127.0.0.1:{port}")).await, None);
        assert_eq!(ssh_host_key("-v").await, None);
    }
}
