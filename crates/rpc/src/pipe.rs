//! A connection that never leaves the process.
//!
//! The local worker is reached through it, so that local and remote workers are one path.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Uri};

/// Bytes on the way in each direction: a few HTTP/2 frames, so that neither side waits for each.
const BUFFER: usize = 256 << 10;

/// Connections not yet accepted.
const BACKLOG: usize = 16;

/// Makes a server's end and a way for clients to reach it.
#[must_use]
pub fn pipe() -> (Connector, Incoming) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (Connector { sender }, Incoming { receiver })
}

/// The client's end; each clone can connect.
#[derive(Clone, Debug)]
pub struct Connector {
    sender: mpsc::Sender<DuplexStream>,
}

impl Connector {
    /// Connects.
    ///
    /// # Errors
    /// `ConnectionRefused` when the server's end is gone.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        self.sender.send(theirs).await.map_err(refused)?;
        Ok(ours)
    }

    /// A channel that connects when it is first used, and again if the connection breaks.
    #[must_use]
    pub fn channel(&self) -> Channel {
        let connector = self.clone();
        Endpoint::from_static("http://pipe").connect_with_connector_lazy(tower::service_fn(
            move |_: Uri| {
                let connector = connector.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(connector.connect().await?)) }
            },
        ))
    }
}

/// The server's end: a stream of connections for tonic's `serve_with_incoming`.
///
/// It ends when the last [`Connector`] is gone.
#[derive(Debug)]
pub struct Incoming {
    receiver: mpsc::Receiver<DuplexStream>,
}

impl Stream for Incoming {
    type Item = io::Result<DuplexStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver
            .poll_recv(cx)
            .map(|connection| connection.map(Ok))
    }
}
