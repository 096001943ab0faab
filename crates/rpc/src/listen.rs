//! Listeners of a daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::address::Address;
use crate::connection::{Connection, Patient, Socket};

/// How a unix socket is made.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Permission bits of the socket.
    pub mode: u32,
    /// The group that owns it; the process's own where there is none.
    pub group: Option<u32>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            mode: 0o660,
            group: None,
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket could not be made.
    #[error("failed to listen on `{address}`")]
    Bind {
        /// What was asked for.
        address: Address,
        /// What the kernel says.
        source: io::Error,
    },
    /// A daemon answers there already.
    #[error("another process listens on `{}`", .0.display())]
    InUse(PathBuf),
    /// No socket of that number or name was passed to the process.
    #[error("no socket `{0}` was passed to this process")]
    NotPassed(String),
    /// The group has no entry in `/etc/group`.
    #[error("no group `{0}`")]
    NoGroup(String),
}

/// A bound listener; a stream of [`Connection`]s. [`Listener::incoming`] is for servers.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP socket.
    Tcp(TcpListener),
}

/// Listens on `address`, which may stand for several sockets if it is an `fd://`.
///
/// # Errors
/// See [`ListenError`]. A socket file that nobody answers on is replaced.
pub async fn listen(
    address: &Address,
    options: &ListenOptions,
) -> Result<Vec<Listener>, ListenError> {
    let bind = |source| ListenError::Bind {
        address: address.clone(),
        source,
    };
    match address {
        Address::Unix(path) => {
            remove_stale(path).await?;
            Ok(vec![Listener::Unix(
                bind_unix(path, options).map_err(bind)?,
            )])
        }
        Address::Tcp(host) => Ok(vec![Listener::Tcp(
            TcpListener::bind(host.as_str()).await.map_err(bind)?,
        )]),
        Address::Fd(name) => {
            let sockets = passed_sockets(name).map_err(bind)?;
            if sockets.is_empty() {
                return Err(ListenError::NotPassed(name.clone()));
            }
            sockets
                .into_iter()
                .map(|fd| adopt(fd).map_err(bind))
                .collect()
        }
    }
}

/// The number of the group `name`, which may be a number itself.
///
/// # Errors
/// [`ListenError::NoGroup`] if there is none.
pub fn group_id(name: &str) -> Result<u32, ListenError> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let no_group = || ListenError::NoGroup(name.to_owned());
    let groups = std::fs::read_to_string("/etc/group").map_err(|_| no_group())?;
    groups
        .lines()
        .map(|line| line.split(':'))
        .filter_map(|mut fields| {
            (fields.next() == Some(name))
                .then(|| fields.nth(1))
                .flatten()
        })
        .find_map(|id| id.parse().ok())
        .ok_or_else(no_group)
}

async fn remove_stale(path: &Path) -> Result<(), ListenError> {
    match UnixStream::connect(path).await {
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // A failure shows when the socket is bound.
            drop(std::fs::remove_file(path));
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

fn bind_unix(path: &Path, options: &ListenOptions) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let listener = UnixListener::bind(path)?;
    std::os::unix::fs::chown(path, None, options.group)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(options.mode))?;
    Ok(listener)
}

/// The sockets that a service manager has passed: those that `name` names, all if it is empty.
///
/// The protocol is systemd's: `LISTEN_FDS` sockets from descriptor 3 on, named by `LISTEN_FDNAMES`.
fn passed_sockets(name: &str) -> io::Result<Vec<OwnedFd>> {
    const FIRST: i32 = 3;
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID").parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let count: i32 = variable("LISTEN_FDS").parse().unwrap_or(0);
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let mut found = Vec::new();
    for fd in FIRST..FIRST.saturating_add(count) {
        let named = names.next().is_some_and(|this| this == name);
        if name.is_empty() || named || name.parse() == Ok(fd) {
            found.push(duplicate(fd)?);
        }
    }
    Ok(found)
}

/// An owned duplicate of one of this process's descriptors, made without claiming the original.
fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(&this, fd, PidfdGetfdFlags::empty())?)
}

fn adopt(fd: OwnedFd) -> io::Result<Listener> {
    if rustix::net::sockopt::socket_domain(&fd)? == rustix::net::AddressFamily::UNIX {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(UnixListener::from_std(listener)?))
    } else {
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Listener::Tcp(TcpListener::from_std(listener)?))
    }
}

impl Listener {
    /// Its connections, for tonic's `serve_with_incoming`: when none can be taken, it waits.
    #[must_use]
    pub fn incoming(self) -> Patient<Listener> {
        Patient::new(self)
    }

    /// Where it listens; for a TCP port 0, the port that the kernel has picked.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        match self {
            Listener::Unix(listener) => {
                let address = listener.local_addr().ok()?;
                Some(Address::Unix(address.as_pathname()?.to_owned()))
            }
            Listener::Tcp(listener) => Some(Address::Tcp(listener.local_addr().ok()?.to_string())),
        }
    }
}

impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = match &*self {
            Listener::Unix(listener) => {
                ready!(listener.poll_accept(cx)).map(|(stream, _)| Socket::Unix(stream))
            }
            Listener::Tcp(listener) => ready!(listener.poll_accept(cx)).map(|(stream, _)| {
                // Requests are small and wait for answers; a failure costs only speed.
                drop(stream.set_nodelay(true));
                Socket::Tcp(stream)
            }),
        };
        Poll::Ready(Some(accepted.map(Connection::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Peer;
    use futures::StreamExt;
    use std::os::unix::fs::MetadataExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tonic::transport::server::Connected as _;

    #[tokio::test]
    async fn a_unix_socket_has_the_mode_and_group_that_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/d.sock");
        let options = ListenOptions {
            mode: 0o606,
            group: Some(1234),
        };
        let mut listeners = listen(&Address::Unix(path.clone()), &options)
            .await
            .unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o606);
        assert_eq!(metadata.gid(), 1234);

        let client = tokio::spawn(async move {
            UnixStream::connect(path)
                .await
                .unwrap()
                .write_all(b"hello")
                .await
                .unwrap();
        });
        let mut connection = listeners[0].next().await.unwrap().unwrap();
        assert!(matches!(
            connection.connect_info(),
            Peer::Local { uid: Some(_) }
        ));
        let mut text = String::new();
        connection.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        client.await.unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(dir.path().join("d.sock"));
        drop(listen(&address, &ListenOptions::default()).await.unwrap());
        let live = listen(&address, &ListenOptions::default()).await.unwrap();
        let refused = listen(&address, &ListenOptions::default())
            .await
            .unwrap_err();
        assert!(matches!(refused, ListenError::InUse(_)));
        drop(live);
    }

    #[tokio::test]
    async fn a_port_of_zero_is_picked_by_the_kernel() {
        let address = Address::Tcp("127.0.0.1:0".to_owned());
        let listeners = listen(&address, &ListenOptions::default()).await.unwrap();
        assert_ne!(listeners[0].address(), Some(address));
    }

    #[test]
    fn a_passed_descriptor_is_duplicated() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let copy = std::net::TcpListener::from(duplicate(fd).unwrap());
        assert_eq!(copy.local_addr().unwrap(), socket.local_addr().unwrap());
    }

    #[test]
    fn a_group_is_found_by_name_and_by_number() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("77").unwrap(), 77);
        assert!(group_id("no such group").is_err());
    }
}
