//! Networks of containers: a bridge of this daemon's own, with translation to the host's addresses.
//!
//! Everything made on the host carries the daemon's *owner* name, derived from its state directory:
//! the bridge has it as its alias, the packet filter table in its name. So two daemons never take one
//! another's, and whoever cleans up after a crash knows what is whose.

mod bridge;
mod filter;
mod pool;

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use sys::netlink::{Network as Subnet, Route};

pub(crate) use pool::{Endpoint, Pool};

/// The network a container gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Its own, with nothing but a loopback device.
    None,
    /// The host's.
    Host,
    /// Its own, connected to the bridge of this daemon.
    #[default]
    Bridge,
}

/// How the bridge is made. Containers can have [`Network::Bridge`] only if it is `enabled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Whether there is to be a bridge.
    pub enabled: bool,
    /// Name of the bridge, at most 15 bytes; by default one that no other daemon takes.
    pub bridge_name: Option<String>,
    /// Network of the containers, like `10.10.0.0/16`; by default one that the host has no route to.
    /// The first address is the bridge's.
    pub subnet: Option<String>,
    /// Whether bridge and namespaces are made at the start, not when the first container asks.
    pub eager: bool,
    /// How many network namespaces are made ahead.
    pub pool_size: usize,
}

impl Default for NetworkOptions {
    fn default() -> NetworkOptions {
        NetworkOptions {
            enabled: true,
            bridge_name: None,
            subnet: None,
            eager: false,
            pool_size: 4,
        }
    }
}

/// Why a container cannot have a network.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetworkError {
    /// The daemon runs without a bridge.
    #[error("this daemon has no bridge network")]
    Disabled,
    /// A setting that is not valid.
    #[error("`{value}` is not a valid {what}")]
    Setting {
        /// Which.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// All usual networks overlap with routes of the host.
    #[error("no free network found for containers")]
    NoFreeSubnet,
    /// All addresses are taken.
    #[error("no free address in the container network `{0}`")]
    NoFreeAddress(String),
    /// Neither `nft` nor `iptables` did their work.
    #[error("failed to set up address translation: {0}")]
    Filter(String),
    /// A step the kernel refused.
    #[error("failed to {what}: {reason}")]
    Kernel {
        /// The step.
        what: String,
        /// What the kernel said.
        reason: String,
    },
}

impl NetworkError {
    fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
        let what = what.into();
        move |error| NetworkError::Kernel {
            what,
            reason: error.to_string(),
        }
    }
}

/// The name under which a daemon with this state directory owns things.
pub(crate) fn owner(state_dir: &Path) -> String {
    // FNV-1a: short, and the same in every version of this program.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in state_dir.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

/// The alias of a bridge of `owner`.
fn alias(owner: &str) -> String {
    format!("drydock {owner}")
}

/// Removes the bridge and the packet filters of `owner`. What is not there is not an error.
pub(crate) fn remove(owner: &str) -> io::Result<()> {
    let route = Route::open()?;
    let ours = alias(owner);
    let mut found = false;
    for link in route.links()? {
        if link.alias.as_deref() == Some(&ours) {
            found = true;
            route.delete(link.index)?;
        }
    }
    // The filters are made after the bridge and are of no use without it, so a program that lists
    // them runs only where there was one.
    if found {
        filter::remove(owner);
    }
    Ok(())
}

/// Whether this process can make a bridge with translation, tried in a network namespace that is
/// thrown away.
///
/// # Errors
/// What is missing.
pub fn bridge_available() -> Result<(), NetworkError> {
    let try_out = || -> Result<(), NetworkError> {
        let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
        unshared
            .map_err(io::Error::from)
            .map_err(NetworkError::kernel("make a network namespace"))?;
        let route = Route::open().map_err(NetworkError::kernel("open a netlink socket"))?;
        let bridge = route.add_bridge("probe", [2, 0, 0, 0, 0, 1], "probe");
        bridge.map_err(NetworkError::kernel("make a bridge"))?;
        let subnet = Subnet {
            address: Ipv4Addr::new(10, 0, 0, 0),
            prefix: 16,
        };
        filter::install("probe", "probe", subnet)
    };
    // On a thread of its own, which ends in the other namespace.
    let tried = std::thread::scope(|scope| scope.spawn(try_out).join());
    tried.unwrap_or_else(|_| Err(NetworkError::Filter("the attempt panicked".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_differ_by_directory_and_fit_into_a_device_name() {
        let (one, other) = (owner(Path::new("/a")), owner(Path::new("/b")));
        assert_ne!(one, other);
        assert_eq!(one, owner(Path::new("/a")));
        assert_eq!(one.len(), 8);
    }

    #[test]
    fn a_bridge_can_be_made_here() {
        bridge_available().unwrap();
    }
}
