//! Network namespaces made ahead.
//!
//! Making one with its pair of devices takes about as long as all the rest of a container, so a
//! thread makes them before they are asked for. Each is used once: what a container leaves in it, a
//! listening port still waiting for example, never meets another container.

use std::collections::VecDeque;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use nix::sched::CloneFlags;
use sys::netlink::{Link, Network as Subnet, Route};
use tokio::sync::oneshot;

use super::bridge::Bridge;
use super::{NetworkError, NetworkOptions};

/// A network namespace with an address on the bridge. Dropped, it gives the address back; the
/// namespace goes when no process is in it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) namespace: OwnedFd,
    pub(crate) address: Ipv4Addr,
    requests: Sender<Request>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // The thread is gone only when the pool is, and then nobody takes addresses.
        let _ = self.requests.send(Request::Return(self.address));
    }
}

enum Request {
    Take(oneshot::Sender<Result<Endpoint, NetworkError>>),
    Return(Ipv4Addr),
    Stop,
}

/// The thread that makes namespaces. It stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Pool {
    requests: Sender<Request>,
}

impl Pool {
    /// Starts the thread, which makes the bridge when there is a need for it.
    pub(crate) fn start(owner: String, options: NetworkOptions) -> std::io::Result<Pool> {
        let (requests, received) = channel();
        let own = requests.clone();
        let work = move || Worker::new(owner, options, own, received).run();
        thread::Builder::new()
            .name("drydock-network".to_owned())
            .spawn(work)?;
        Ok(Pool { requests })
    }

    /// Takes a namespace that is ready, or waits for one.
    pub(crate) async fn take(&self) -> Result<Endpoint, NetworkError> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.requests.send(Request::Take(sender));
        receiver.await.unwrap_or(Err(NetworkError::Disabled))
    }

    /// Lets go of what is ready and makes nothing any more.
    pub(crate) fn stop(&self) {
        // An error means that it has stopped.
        let _ = self.requests.send(Request::Stop);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    owner: String,
    options: NetworkOptions,
    bridge: Option<Bridge>,
    ready: VecDeque<Endpoint>,
    requests: Sender<Request>,
    received: Receiver<Request>,
    made: u32,
    /// How many namespaces are to be ready. None until the first is asked for, unless told so.
    stock: usize,
}

impl Worker {
    fn new(
        owner: String,
        options: NetworkOptions,
        requests: Sender<Request>,
        received: Receiver<Request>,
    ) -> Worker {
        let (bridge, ready, made) = (None, VecDeque::new(), 0);
        let stock = if options.eager { options.pool_size } else { 0 };
        Worker {
            stock,
            owner,
            options,
            bridge,
            ready,
            requests,
            received,
            made,
        }
    }

    fn run(mut self) {
        loop {
            // Requests come first; without any, the stock grows.
            let request = match self.received.try_recv() {
                Ok(request) => Some(request),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if self.ready.len() < self.stock => None,
                Err(TryRecvError::Empty) => match self.received.recv() {
                    Ok(request) => Some(request),
                    Err(_) => return,
                },
            };
            match request {
                Some(Request::Take(to)) => {
                    let endpoint = match self.ready.pop_front() {
                        Some(endpoint) => Ok(endpoint),
                        None => self.make(),
                    };
                    if endpoint.is_ok() {
                        self.stock = self.options.pool_size;
                    }
                    // A caller that has gone drops the endpoint, which gives its address back.
                    let _ = to.send(endpoint);
                }
                Some(Request::Return(address)) => {
                    if let Some(bridge) = &mut self.bridge {
                        bridge.return_address(address);
                    }
                }
                Some(Request::Stop) => return,
                None => match self.make() {
                    Ok(endpoint) => self.ready.push_back(endpoint),
                    Err(error) => {
                        tracing::warn!(%error, "no network namespace could be made ahead");
                        // The next who asks gets the error, or luck.
                        self.stock = 0;
                    }
                },
            }
        }
    }

    /// Makes one namespace. The calling thread is in the host's before and after.
    fn make(&mut self) -> Result<Endpoint, NetworkError> {
        let bridge = match &mut self.bridge {
            Some(bridge) => bridge,
            none => none.insert(Bridge::make(&self.owner, &self.options)?),
        };
        let network = bridge.take_address()?;
        self.made = self.made.wrapping_add(1);
        let name = format!("dd{}{:05x}", &self.owner[..6], self.made & 0xf_ffff);
        match connect(bridge, &name, network) {
            Ok(namespace) => {
                let (address, requests) = (network.address, self.requests.clone());
                Ok(Endpoint {
                    namespace,
                    address,
                    requests,
                })
            }
            Err(error) => {
                bridge.return_address(network.address);
                Err(error)
            }
        }
    }
}

fn connect(bridge: &Bridge, name: &str, network: Subnet) -> Result<OwnedFd, NetworkError> {
    let failed = |what: &str| NetworkError::kernel(what.to_owned());
    let open_own = || File::open("/proc/thread-self/ns/net");
    let host = open_own().map_err(failed("open the network namespace"))?;
    let outer = Route::open().map_err(failed("open a netlink socket"))?;
    let make = || -> std::io::Result<(File, Route)> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
        Ok((open_own()?, Route::open()?))
    };
    let made = make();
    // Also after a failure: the thread must not stay in the new one.
    let back = nix::sched::setns(&host, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
    back.map_err(failed("return to the host's network"))?;
    let (namespace, inner) = made.map_err(failed("make a network namespace"))?;

    let eth0 = Link {
        index: ETH0,
        name: "eth0".to_owned(),
        alias: None,
    };
    outer
        .add_veth(name, &bridge.link, &eth0, namespace.as_fd())
        .map_err(failed(&format!("make the devices `{name}`")))?;
    let settle = || {
        inner.set_up(LOOPBACK)?;
        inner.set_up(ETH0)?;
        inner.add_address(ETH0, network)?;
        inner.add_default_route(bridge.gateway)
    };
    settle().map_err(failed(&format!("give a container the address {network}")))?;
    Ok(namespace.into())
}

/// Indices in a new namespace: the loopback device is always the first.
const LOOPBACK: u32 = 1;
const ETH0: u32 = 2;
