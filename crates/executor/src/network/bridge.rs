//! The bridge: its name, its network, its addresses.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;

use sys::netlink::{Link, Network as Subnet, Route};

use super::{NetworkError, NetworkOptions, alias, filter};

/// The kernel's limit, without the NUL.
const MAX_DEVICE_NAME: usize = 15;
/// Networks 10.64.0.0/16 to 10.255.0.0/16 are tried: the lower ones are what people use by hand.
const FIRST_CANDIDATE: u8 = 64;
const CANDIDATES: u8 = 192;
const PREFIX: u8 = 16;

#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) link: Link,
    pub(super) gateway: Ipv4Addr,
    subnet: Subnet,
    /// The address handed out last: the next is the one after it, so that an address rests as long as
    /// possible before it means another container.
    last: u32,
    taken: HashSet<Ipv4Addr>,
}

impl Bridge {
    /// Makes the bridge of `owner`, after removing one that a crash left.
    pub(super) fn make(owner: &str, options: &NetworkOptions) -> Result<Bridge, NetworkError> {
        super::remove(owner).map_err(NetworkError::kernel("remove an old bridge"))?;
        let route = Route::open().map_err(NetworkError::kernel("open a netlink socket"))?;
        let name = match &options.bridge_name {
            Some(name) => checked_name(name)?,
            None => format!("dd-{owner}"),
        };
        let subnet = match &options.subnet {
            Some(text) => parse_subnet(text)?,
            None => free_subnet(&route, owner)?,
        };
        let base = u32::from(subnet.address);
        let gateway = Ipv4Addr::from(base + 1);
        let [_, a, b, c] = gateway.octets();
        let mac = [0x02, 0xdd, a, b, c, 1];
        let link = route
            .add_bridge(&name, mac, &alias(owner))
            .map_err(NetworkError::kernel(format!("make the bridge `{name}`")))?;
        let connect = || -> Result<(), NetworkError> {
            let network = Subnet {
                address: gateway,
                prefix: subnet.prefix,
            };
            route
                .add_address(link.index, network)
                .map_err(NetworkError::kernel(format!(
                    "give `{name}` the address {network}"
                )))?;
            filter::install(owner, &name, subnet)?;
            forward().map_err(NetworkError::kernel("switch on IP forwarding"))
        };
        if let Err(error) = connect() {
            // The next attempt begins anew; if this fails, too, it will say why.
            let _ = super::remove(owner);
            return Err(error);
        }
        Ok(Bridge {
            link,
            gateway,
            subnet,
            last: base + 1,
            taken: HashSet::new(),
        })
    }

    /// Takes an address for a container.
    pub(super) fn take_address(&mut self) -> Result<Subnet, NetworkError> {
        let base = u32::from(self.subnet.address);
        let size = 1u32 << (32 - self.subnet.prefix);
        // Not the network's own address, the gateway's, or the broadcast address.
        let (first, last) = (base + 2, base + size - 2);
        for _ in first..=last {
            self.last = if self.last >= last || self.last < first {
                first
            } else {
                self.last + 1
            };
            let address = Ipv4Addr::from(self.last);
            if self.taken.insert(address) {
                return Ok(Subnet {
                    address,
                    prefix: self.subnet.prefix,
                });
            }
        }
        Err(NetworkError::NoFreeAddress(self.subnet.to_string()))
    }

    pub(super) fn return_address(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }
}

fn checked_name(name: &str) -> Result<String, NetworkError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let valid = (1..=MAX_DEVICE_NAME).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(['-', '.']);
    match valid {
        true => Ok(name.to_owned()),
        false => Err(NetworkError::Setting {
            what: "bridge name",
            value: name.to_owned(),
        }),
    }
}

/// Parses `a.b.c.d/prefix`; the prefix leaves room for at least two containers.
fn parse_subnet(text: &str) -> Result<Subnet, NetworkError> {
    let parse = || {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix) = (
            address.parse::<Ipv4Addr>().ok()?,
            prefix.parse::<u8>().ok()?,
        );
        if !(8..=29).contains(&prefix) {
            return None;
        }
        let mask = u32::MAX << (32 - prefix);
        Some(Subnet {
            address: Ipv4Addr::from(u32::from(address) & mask),
            prefix,
        })
    };
    parse().ok_or_else(|| NetworkError::Setting {
        what: "subnet",
        value: text.to_owned(),
    })
}

/// The first candidate that the host has no route into, beginning at one that depends on `owner`, so
/// that daemons that start at once do not choose the same.
fn free_subnet(route: &Route, owner: &str) -> Result<Subnet, NetworkError> {
    let used = route
        .routed_networks()
        .map_err(NetworkError::kernel("read the routes"))?;
    let start = u64::from_str_radix(owner, 16).unwrap_or(0) % u64::from(CANDIDATES);
    let candidate = |step: u8| {
        let second = FIRST_CANDIDATE + ((start + u64::from(step)) % u64::from(CANDIDATES)) as u8;
        Subnet {
            address: Ipv4Addr::new(10, second, 0, 0),
            prefix: PREFIX,
        }
    };
    let free = |subnet: &Subnet| !used.iter().any(|other| other.overlaps(*subnet));
    (0..CANDIDATES)
        .map(candidate)
        .find(free)
        .ok_or(NetworkError::NoFreeSubnet)
}

fn forward() -> io::Result<()> {
    const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(SWITCH)?.trim() == "1" {
        return Ok(());
    }
    fs::write(SWITCH, "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(prefix: u8) -> Bridge {
        let subnet = Subnet {
            address: Ipv4Addr::new(10, 9, 0, 0),
            prefix,
        };
        Bridge {
            link: Link {
                index: 1,
                name: "test".to_owned(),
                alias: None,
            },
            gateway: Ipv4Addr::new(10, 9, 0, 1),
            subnet,
            last: u32::from(Ipv4Addr::new(10, 9, 0, 1)),
            taken: HashSet::new(),
        }
    }

    #[test]
    fn addresses_rest_before_they_are_used_again() {
        let mut bridge = bridge(29);
        let mut take = || {
            bridge
                .take_address()
                .map(|network| network.address.octets()[3])
                .ok()
        };
        let first: Vec<_> = (0..6).map(|_| take()).collect();
        assert_eq!(first, [Some(2), Some(3), Some(4), Some(5), Some(6), None]);
        bridge.return_address(Ipv4Addr::new(10, 9, 0, 5));
        bridge.return_address(Ipv4Addr::new(10, 9, 0, 3));
        let mut take = || {
            bridge
                .take_address()
                .map(|network| network.address.octets()[3])
                .ok()
        };
        assert_eq!([take(), take(), take()], [Some(3), Some(5), None]);
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(
            parse_subnet("10.1.2.3/16").unwrap().to_string(),
            "10.1.0.0/16"
        );
        for bad in ["", "10.0.0.0", "10.0.0.0/7", "10.0.0.0/30", "x/16", "::/64"] {
            assert!(parse_subnet(bad).is_err(), "{bad}");
        }
        assert!(checked_name("buildkit0").is_ok());
        for bad in ["", "-x", "a b", "a/b", "sixteen-letters-", "a\"b"] {
            assert!(checked_name(bad).is_err(), "{bad}");
        }
    }
}
