//! Links, addresses and routes of a network namespace, over `NETLINK_ROUTE`.

mod message;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use message::{Attributes, Message, Reader};

/// A connection to the network namespace that the calling thread was in when it was opened. It keeps
/// speaking to that one wherever the thread goes later.
#[derive(Debug)]
pub struct Route(OwnedFd);

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The number the kernel knows it by.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Free text set at creation, which tells whose link it is.
    pub alias: Option<String>,
}

/// An IPv4 network: all addresses with the first `prefix` bits of `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// An address in the network.
    pub address: Ipv4Addr,
    /// Length of the common prefix, 0 to 32 bits.
    pub prefix: u8,
}

impl Network {
    /// Whether any address is in both.
    pub fn overlaps(self, other: Network) -> bool {
        let shorter = self.prefix.min(other.prefix);
        let mask = u32::MAX.checked_shl(32 - u32::from(shorter)).unwrap_or(0);
        u32::from(self.address) & mask == u32::from(other.address) & mask
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The most bytes the kernel sends at once in a dump.
const RECEIVE_BYTES: usize = 64 << 10;

impl Route {
    /// Opens a connection to the calling thread's network namespace.
    pub fn open() -> io::Result<Route> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is protocol 0
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Route(socket))
    }

    /// All links.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        let request = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP).link_header(0, false);
        let replies = self.request(request)?;
        Ok(replies
            .iter()
            .filter_map(|reply| parse_link(reply))
            .collect())
    }

    /// The link called `name`.
    pub fn link(&self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Makes a bridge that is up, has the hardware address `mac`, and carries `alias`.
    pub fn add_bridge(&self, name: &str, mac: [u8; 6], alias: &str) -> io::Result<Link> {
        let request = new_link()
            .link_header(0, true)
            .string(libc::IFLA_IFNAME, name)
            .bytes(libc::IFLA_ADDRESS, &mac)
            .nested(libc::IFLA_LINKINFO, |info| {
                info.string(libc::IFLA_INFO_KIND, "bridge");
            });
        self.request(request)?;
        let link = self.link(name)?.ok_or(io::ErrorKind::NotFound)?;
        // An alias is taken only when an existing link is changed.
        let request = Message::new(libc::RTM_NEWLINK, 0)
            .link_header(link.index, true)
            .bytes(libc::IFLA_IFALIAS, alias.as_bytes());
        self.request(request)?;
        Ok(Link {
            alias: Some(alias.to_owned()),
            ..link
        })
    }

    /// Makes a pair of connected links: `name` here, up and a port of the bridge `bridge`, and `peer`
    /// in the network namespace `peer_namespace`, where it is down. The pair goes when either does,
    /// and a link goes with its namespace.
    pub fn add_veth(
        &self,
        name: &str,
        bridge: &Link,
        peer: &Link,
        peer_namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let request = new_link()
            .link_header(0, true)
            .string(libc::IFLA_IFNAME, name)
            .bytes(libc::IFLA_MASTER, &bridge.index.to_ne_bytes())
            .nested(libc::IFLA_LINKINFO, |info| {
                info.string(libc::IFLA_INFO_KIND, "veth")
                    .nested(libc::IFLA_INFO_DATA, |data| {
                        data.nested(VETH_INFO_PEER, |peer_link| {
                            peer_link
                                .link_header(peer.index, false)
                                .string(libc::IFLA_IFNAME, &peer.name)
                                .bytes(
                                    libc::IFLA_NET_NS_FD,
                                    &peer_namespace.as_raw_fd().to_ne_bytes(),
                                );
                        });
                    });
            });
        self.request(request).map(drop)
    }

    /// Removes the link; one that is gone already is not an error.
    pub fn delete(&self, index: u32) -> io::Result<()> {
        match self.request(Message::new(libc::RTM_DELLINK, 0).link_header(index, false)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Switches the link on.
    pub fn set_up(&self, index: u32) -> io::Result<()> {
        self.request(Message::new(libc::RTM_NEWLINK, 0).link_header(index, true))
            .map(drop)
    }

    /// Gives the link the address of `network` and a route to all of it.
    pub fn add_address(&self, index: u32, network: Network) -> io::Result<()> {
        let address = network.address.octets();
        let last = u32::MAX.checked_shr(u32::from(network.prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from(u32::from(network.address) | last).octets();
        let request = Message::new(libc::RTM_NEWADDR, CREATE_NEW)
            .address_header(index, network.prefix)
            .bytes(libc::IFA_LOCAL, &address)
            .bytes(libc::IFA_ADDRESS, &address)
            .bytes(libc::IFA_BROADCAST, &broadcast);
        self.request(request).map(drop)
    }

    /// Sends everything for which there is no other route to `gateway`.
    pub fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let request = Message::new(libc::RTM_NEWROUTE, CREATE_NEW)
            .route_header()
            .bytes(libc::RTA_GATEWAY, &gateway.octets());
        self.request(request).map(drop)
    }

    /// The IPv4 networks there are routes to, without the default route.
    pub fn routed_networks(&self) -> io::Result<Vec<Network>> {
        let request = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP).route_header();
        let replies = self.request(request)?;
        Ok(replies
            .iter()
            .filter_map(|reply| parse_route(reply))
            .collect())
    }

    /// Sends one request and collects the replies to it, without their headers.
    fn request(&self, request: impl Into<Vec<u8>>) -> io::Result<Vec<Vec<u8>>> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.0, &request.into(), SendFlags::empty(), &kernel)?;
        let mut replies = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let (received, _) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())
            })?;
            for reply in Reader::new(&buffer[..received]) {
                match reply.kind {
                    libc::NLMSG_DONE => return Ok(replies),
                    libc::NLMSG_ERROR => return reply.error().map(|()| replies),
                    _ => replies.push(reply.body.to_vec()),
                }
            }
        }
    }
}

const CREATE_NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
/// Of `<linux/veth.h>`.
const VETH_INFO_PEER: u16 = 1;

fn new_link() -> Message {
    Message::new(libc::RTM_NEWLINK, CREATE_NEW)
}

/// A reply to `RTM_GETLINK`: `struct ifinfomsg` and attributes.
fn parse_link(reply: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(reply.get(4..8)?.try_into().ok()?);
    let attributes = Attributes::new(reply.get(message::LINK_HEADER_BYTES..)?);
    let text = |wanted| {
        let (_, value) = attributes.clone().find(|(kind, _)| *kind == wanted)?;
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        Some(String::from_utf8_lossy(value).into_owned())
    };
    Some(Link {
        index,
        name: text(libc::IFLA_IFNAME)?,
        alias: text(libc::IFLA_IFALIAS),
    })
}

/// A reply to `RTM_GETROUTE`: `struct rtmsg` (its second byte is the prefix) and attributes.
fn parse_route(reply: &[u8]) -> Option<Network> {
    let prefix = *reply.get(1)?;
    let mut attributes = Attributes::new(reply.get(message::ROUTE_HEADER_BYTES..)?);
    let (_, value) = attributes.find(|(kind, _)| *kind == libc::RTA_DST)?;
    let address: [u8; 4] = value.try_into().ok()?;
    Some(Network {
        address: Ipv4Addr::from(address),
        prefix,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::thread;

    use nix::sched::CloneFlags;

    use super::*;

    /// Runs `body` on a thread of its own, in a new network namespace.
    fn in_new_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        let run = move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            body()
        };
        thread::spawn(run).join().unwrap()
    }

    fn network(address: [u8; 4], prefix: u8) -> Network {
        Network {
            address: address.into(),
            prefix,
        }
    }

    #[test]
    fn two_namespaces_talk_over_a_bridge() {
        in_new_namespace(|| {
            let here = File::open("/proc/thread-self/ns/net").unwrap();
            let outer = Route::open().unwrap();
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let there = File::open("/proc/thread-self/ns/net").unwrap();
            let inner = Route::open().unwrap();

            let mac = [2, 0, 0, 0, 0, 1];
            let bridge = outer.add_bridge("br-test", mac, "mine").unwrap();
            outer
                .add_address(bridge.index, network([10, 99, 0, 1], 16))
                .unwrap();
            let eth0 = Link {
                index: 2,
                name: "eth0".to_owned(),
                alias: None,
            };
            outer
                .add_veth("ve-test", &bridge, &eth0, there.as_fd())
                .unwrap();
            assert_eq!(inner.link("eth0").unwrap().as_ref(), Some(&eth0));
            inner.set_up(eth0.index).unwrap();
            inner
                .add_address(eth0.index, network([10, 99, 0, 2], 16))
                .unwrap();
            inner
                .add_default_route(Ipv4Addr::new(10, 99, 0, 1))
                .unwrap();
            let lo = inner.link("lo").unwrap().unwrap();
            inner.set_up(lo.index).unwrap();
            let loopback = network([127, 0, 0, 0], 8);
            assert!(
                inner
                    .routed_networks()
                    .unwrap()
                    .contains(&network([10, 99, 0, 0], 16))
            );
            assert!(
                inner
                    .routed_networks()
                    .unwrap()
                    .iter()
                    .any(|n| n.overlaps(loopback))
            );

            let listener = TcpListener::bind("10.99.0.2:0").unwrap();
            nix::sched::setns(&here, CloneFlags::CLONE_NEWNET).unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let found = outer.link("br-test").unwrap().unwrap();
            assert_eq!(found.alias.as_deref(), Some("mine"));

            outer.delete(bridge.index).unwrap();
            outer.delete(bridge.index).unwrap();
            assert_eq!(outer.link("br-test").unwrap(), None);
        });
    }

    #[test]
    fn errors_of_the_kernel_are_errors() {
        in_new_namespace(|| {
            let route = Route::open().unwrap();
            let error = route.set_up(4711).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
            route.add_bridge("br-test", [2, 0, 0, 0, 0, 1], "").unwrap();
            let error = route
                .add_bridge("br-test", [2, 0, 0, 0, 0, 1], "")
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        });
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        let big = network([10, 0, 0, 0], 8);
        assert!(big.overlaps(network([10, 200, 1, 0], 24)));
        assert!(!big.overlaps(network([11, 0, 0, 0], 8)));
        assert!(network([1, 2, 3, 4], 32).overlaps(network([0, 0, 0, 0], 0)));
    }
}
