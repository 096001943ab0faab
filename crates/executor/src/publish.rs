//! Publishing a container's ports on the host, by carrying the bytes.
//!
//! A connection to the host's port is accepted here and carried to the container. That needs no rules
//! in the kernel that a crash would leave, and works for clients on the host itself.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// A kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// The most connections carried at once for one port; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// The most clients of one UDP port at once; the longest silent one makes room for a new one.
const MAX_UDP_CLIENTS: usize = 1024;
/// A UDP client silent for this long is forgotten.
const UDP_SILENCE: Duration = Duration::from_secs(90);
/// The longest datagram there is.
const MAX_DATAGRAM: usize = 65_535;
/// How long to wait after a failed `accept`, which mostly means that descriptors have run out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A published port. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Published {
    address: SocketAddr,
    task: AbortHandle,
}

impl Published {
    /// The address on the host, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Publishes port `target` of a container at `address` of the host.
///
/// # Errors
/// When `address` cannot be bound.
pub async fn publish(
    protocol: Protocol,
    address: SocketAddr,
    target: SocketAddr,
) -> io::Result<Published> {
    let (address, task) = match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(address).await?;
            (
                listener.local_addr()?,
                tokio::spawn(carry_tcp(listener, target)).abort_handle(),
            )
        }
        Protocol::Udp => {
            let socket = Arc::new(UdpSocket::bind(address).await?);
            (
                socket.local_addr()?,
                tokio::spawn(carry_udp(socket, target)).abort_handle(),
            )
        }
    };
    Ok(Published { address, task })
}

async fn carry_tcp(listener: TcpListener, target: SocketAddr) {
    // Dropped with this task, which ends all of them.
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let mut client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        connections.spawn(async move {
            let _permit = permit;
            // A container that does not listen (yet) looks like a connection closed at once.
            if let Ok(mut server) = TcpStream::connect(target).await {
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                // Ends each direction on its own: a client that has sent everything still gets its
                // answer.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

struct UdpClient {
    /// Its own socket towards the container, so that answers find their way back.
    socket: Arc<UdpSocket>,
    heard: Instant,
    answers: AbortHandle,
}

async fn carry_udp(socket: Arc<UdpSocket>, target: SocketAddr) {
    let mut clients: HashMap<SocketAddr, UdpClient> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        while tasks.try_join_next().is_some() {}
        // Errors here are about datagrams sent before, that nobody took.
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else {
            continue;
        };
        let now = Instant::now();
        if !clients.contains_key(&from) {
            forget_silent(&mut clients, now);
            let Ok(own) = connect_udp(target).await else {
                continue;
            };
            let own = Arc::new(own);
            let answers = tasks.spawn(carry_answers(Arc::clone(&own), Arc::clone(&socket), from));
            clients.insert(
                from,
                UdpClient {
                    socket: own,
                    heard: now,
                    answers,
                },
            );
        }
        if let Some(client) = clients.get_mut(&from) {
            client.heard = now;
            let _ = client.socket.send(&datagram[..length]).await;
        }
    }
}

async fn connect_udp(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

async fn carry_answers(from: Arc<UdpSocket>, to: Arc<UdpSocket>, client: SocketAddr) {
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        if let Ok(length) = from.recv(&mut datagram).await {
            let _ = to.send_to(&datagram[..length], client).await;
        }
    }
}

fn forget_silent(clients: &mut HashMap<SocketAddr, UdpClient>, now: Instant) {
    let mut forget: Vec<SocketAddr> = clients
        .iter()
        .filter(|(_, client)| now.duration_since(client.heard) > UDP_SILENCE)
        .map(|(address, _)| *address)
        .collect();
    if forget.is_empty() && clients.len() >= MAX_UDP_CLIENTS {
        forget.extend(
            clients
                .iter()
                .min_by_key(|(_, client)| client.heard)
                .map(|(at, _)| *at),
        );
    }
    for address in forget {
        if let Some(client) = clients.remove(&address) {
            client.answers.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const ANY: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    #[tokio::test]
    async fn a_client_that_has_finished_still_gets_its_answer() {
        let server = TcpListener::bind(SocketAddr::from(ANY)).await.unwrap();
        let target = server.local_addr().unwrap();
        let published = publish(Protocol::Tcp, ANY.into(), target).await.unwrap();
        let serve = async {
            let (mut connection, _) = server.accept().await.unwrap();
            let mut question = String::new();
            connection.read_to_string(&mut question).await.unwrap();
            connection
                .write_all(question.to_uppercase().as_bytes())
                .await
                .unwrap();
        };
        let ask = async {
            let mut connection = TcpStream::connect(published.address()).await.unwrap();
            connection.write_all(b"question").await.unwrap();
            connection.shutdown().await.unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (answer, ()) = tokio::join!(ask, serve);
        assert_eq!(answer, "QUESTION");
    }

    #[tokio::test]
    async fn datagrams_find_their_way_back() {
        let server = UdpSocket::bind(SocketAddr::from(ANY)).await.unwrap();
        let published = publish(Protocol::Udp, ANY.into(), server.local_addr().unwrap())
            .await
            .unwrap();
        let mut buffer = [0; 16];
        for name in ["one", "two"] {
            let client = UdpSocket::bind(SocketAddr::from(ANY)).await.unwrap();
            client.connect(published.address()).await.unwrap();
            client.send(name.as_bytes()).await.unwrap();
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(&buffer[..length], from).await.unwrap();
            let length = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], name.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_dropped_port_is_closed() {
        let published = publish(Protocol::Tcp, ANY.into(), ANY.into())
            .await
            .unwrap();
        let address = published.address();
        drop(published);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
