//! Files that every container gets: `/etc/resolv.conf`, `/etc/hosts`, and any given by content.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;

use sys::mount::{Attr, Attributes, Bind, MountFd};
use sys::root::{Follow, RootDir};

/// Name servers where the host's cannot be used: Google's, over both protocols, as in BuildKit.
const FALLBACK_SERVERS: [IpAddr; 4] = [
    IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 4, 4)),
    IpAddr::V6(std::net::Ipv6Addr::new(
        0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888,
    )),
    IpAddr::V6(std::net::Ipv6Addr::new(
        0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844,
    )),
];
/// Where systemd-resolved keeps the real servers, when `/etc/resolv.conf` names only itself.
const RESOLVED_STUB: &str = "127.0.0.53";
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// A host's `resolv.conf` longer than this is not one.
const MAX_FILE_BYTES: usize = 1 << 20;

/// The `[dns]` settings of the daemon; what is empty comes from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// Addresses of name servers.
    pub nameservers: Vec<IpAddr>,
    /// Options like `ndots:2`.
    pub options: Vec<String>,
    /// Domains to search.
    pub search_domains: Vec<String>,
}

/// Whether a container shares the host's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolvMode {
    /// It does, and reaches name servers on the loopback device too.
    Host,
    /// It has its own.
    Isolated,
}

/// The `resolv.conf` of a container, from the host's.
pub fn resolv_conf(mode: ResolvMode, dns: &DnsOptions) -> String {
    let read = |path: &str| fs::read(path).map(|bytes| text(&bytes)).unwrap_or_default();
    let mut host = read("/etc/resolv.conf");
    if mode == ResolvMode::Isolated && servers(&host) == [RESOLVED_STUB] {
        host = read(RESOLVED_UPSTREAM);
    }
    render(&host, mode, dns)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_FILE_BYTES)]).into_owned()
}

fn servers(file: &str) -> Vec<&str> {
    let fields = file
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|fields| fields.first() == Some(&"nameserver"))
        .filter_map(|f| f.get(1).copied())
        .collect()
}

fn render(host: &str, mode: ResolvMode, dns: &DnsOptions) -> String {
    let mut nameservers: Vec<IpAddr> = servers(host)
        .iter()
        .filter_map(|server| address(server))
        .collect();
    let (mut search, mut options, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for line in host.lines() {
        let mut fields = line.split_whitespace();
        match fields.next() {
            None | Some("nameserver") => {}
            Some(word) if word.starts_with(['#', ';']) => {}
            // The last line of its kind counts.
            Some("search" | "domain") => search = fields.map(str::to_owned).collect(),
            Some("options") => options.extend(fields.map(str::to_owned)),
            Some(_) => other.push(line.trim().to_owned()),
        }
    }
    if !dns.search_domains.is_empty() {
        search.clone_from(&dns.search_domains);
    }
    if !dns.options.is_empty() {
        options.clone_from(&dns.options);
    }
    if dns.nameservers.is_empty() {
        if mode == ResolvMode::Isolated {
            nameservers.retain(|server| !server.is_loopback());
        }
        if nameservers.is_empty() {
            nameservers.extend(FALLBACK_SERVERS);
        }
    } else {
        nameservers.clone_from(&dns.nameservers);
    }

    let mut file = String::new();
    for server in nameservers {
        let _ = writeln!(file, "nameserver {server}");
    }
    if !search.is_empty() {
        let _ = writeln!(file, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(file, "options {}", options.join(" "));
    }
    for line in other {
        let _ = writeln!(file, "{line}");
    }
    file
}

/// An address, without the interface a link-local one may carry, which means nothing in a container.
fn address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse().ok()
}

/// The `hosts` file of a container called `hostname`, with `extra` names.
pub fn hosts_file(hostname: &str, extra: &[(String, IpAddr)]) -> String {
    let hostname = if hostname.is_empty() {
        crate::spec::DEFAULT_HOSTNAME
    } else {
        hostname
    };
    let mut file =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let _ = writeln!(file, "{address}\t{name}");
    }
    file
}

/// A detached mount of one file that exists only in memory, for mounting over a file of a container:
/// a secret, a generated configuration. It has the given contents, permission bits and owner.
pub fn file_mount(contents: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<MountFd> {
    // Room for the contents and the directory, in pages.
    let size = (contents.len() as u64 + 8192).next_multiple_of(4096);
    let tmpfs = sys::mount::tmpfs(size, 0o700)?;
    let root = RootDir::from_fd(tmpfs.try_clone()?.into_fd());
    let path = Path::new("file");
    root.create(path, mode, true)?.write_all(contents)?;
    root.chmod(path, mode)?;
    root.chown(path, uid, gid, Follow::No)?;
    let file = root.resolve(path, Follow::No)?;
    let mount = sys::mount::bind_clone(
        file,
        Bind {
            readonly: false,
            recursive: false,
        },
    )?;
    let set = Attr::NOSUID | Attr::NODEV | Attr::NOEXEC;
    let change = Attributes {
        set,
        clear: 0,
        recursive: false,
    };
    sys::mount::set_attributes(std::os::fd::AsFd::as_fd(&mount), change)?;
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_are_replaced_where_the_network_is_another() {
        let host = "# comment\nnameserver 127.0.0.1\nnameserver fe80::1%eth0\nsearch a b\n\
                    options ndots:2\nsortlist 1.2.3.4\n";
        let isolated = render(host, ResolvMode::Isolated, &DnsOptions::default());
        assert_eq!(
            isolated,
            "nameserver fe80::1\nsearch a b\noptions ndots:2\nsortlist 1.2.3.4\n"
        );
        let host = render(host, ResolvMode::Host, &DnsOptions::default());
        assert!(host.starts_with("nameserver 127.0.0.1\n"), "{host}");
        let none = render(
            "nameserver 127.0.0.1",
            ResolvMode::Isolated,
            &DnsOptions::default(),
        );
        assert!(none.starts_with("nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:"));
    }

    #[test]
    fn settings_of_the_daemon_win() {
        let dns = DnsOptions {
            nameservers: vec![[127, 0, 0, 9].into()],
            options: vec!["edns0".to_owned()],
            search_domains: vec!["c".to_owned()],
        };
        let host = "nameserver 1.1.1.1\nsearch a\noptions ndots:2\n";
        let file = render(host, ResolvMode::Isolated, &dns);
        assert_eq!(file, "nameserver 127.0.0.9\nsearch c\noptions edns0\n");
    }

    #[test]
    fn hosts_have_the_hostname_and_the_extra_names() {
        let extra = [("db".to_owned(), [10, 0, 0, 7].into())];
        assert_eq!(
            hosts_file("", &extra),
            "127.0.0.1\tlocalhost buildkitsandbox\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n"
        );
    }

    #[test]
    fn a_file_mount_is_a_file_with_its_owner() {
        use std::os::unix::fs::MetadataExt;

        let mount = file_mount(b"secret", 0o400, 7, 8).unwrap();
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&mount.into_fd())
        );
        // The descriptor is closed by now.
        assert!(fs::read(path).is_err());
        let mount = file_mount(b"secret", 0o400, 7, 8).unwrap().into_fd();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
            (0o400, 7, 8)
        );
    }
}
