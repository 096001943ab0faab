//! The connections that come in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

/// How long the first bytes of a client are waited for.
const SILENCE: Duration = Duration::from_secs(30);

/// How long no connection is taken after one could not be.
const REST: Duration = Duration::from_millis(100);

/// How often it is told of, at most.
const TELL: Duration = Duration::from_secs(10);

/// One accepted connection. It ends when nothing comes in over it for too long at its beginning: a
/// client that only connects takes nothing from others but that.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    /// Until something has come in.
    silence: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Connection {
    pub(crate) fn new(socket: Socket) -> Connection {
        Connection {
            socket,
            silence: Some(Box::pin(tokio::time::sleep(SILENCE))),
        }
    }
}

/// Who is at the other end of a [`Connection`]; in the extensions of each request.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A process of this machine.
    Local {
        /// Its user, where the kernel tells.
        uid: Option<u32>,
    },
    /// A TCP address.
    Remote(Option<std::net::SocketAddr>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match &self.socket {
            Socket::Unix(stream) => Peer::Local {
                uid: stream.peer_cred().ok().map(|peer| peer.uid()),
            },
            Socket::Tcp(stream) => Peer::Remote(stream.peer_addr().ok()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = match &mut this.socket {
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if read.is_ready() {
            this.silence = None;
        } else if let Some(silence) = &mut this.silence
            && silence.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, data),
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Connections of a listener that may fail to take one, for want of file descriptors mostly. Then they
/// are waited for: what is open goes in time, and who wants to connect waits in the kernel's queue.
#[derive(Debug)]
pub struct Patient<S> {
    listener: S,
    /// Until when no connection is taken.
    rest: Option<Pin<Box<Sleep>>>,
    /// When a failure was last told of.
    told: Option<Instant>,
}

impl<S> Patient<S> {
    pub(crate) fn new(listener: S) -> Patient<S> {
        Patient {
            listener,
            rest: None,
            told: None,
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= TELL) {
            self.told = Some(now);
            tracing::error!(
                %error,
                "no connection can be taken; if too many files are open, raise the limit of the process \
                 (`LimitNOFILE=` of a systemd unit)"
            );
        }
        self.rest = Some(Box::pin(tokio::time::sleep(REST)));
    }
}

impl<S, T> Stream for Patient<S>
where
    S: Stream<Item = io::Result<T>> + Unpin,
{
    type Item = io::Result<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(rest) = &mut this.rest {
                ready!(rest.as_mut().poll(cx));
                this.rest = None;
            }
            match ready!(Pin::new(&mut this.listener).poll_next(cx)) {
                Some(Err(error)) => this.fail(&error),
                taken => return Poll::Ready(taken),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::address::Address;
    use crate::listen::{ListenOptions, listen};

    #[tokio::test]
    async fn a_client_that_says_nothing_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(dir.path().join("d.sock"));
        let options = ListenOptions::default();
        let mut listeners = listen(&address, &options).await.unwrap();
        let path = dir.path().join("d.sock");
        let (_silent, mut speaking) = (
            UnixStream::connect(&path).await.unwrap(),
            UnixStream::connect(&path).await.unwrap(),
        );
        speaking.write_all(b"a").await.unwrap();
        let mut first = listeners[0].next().await.unwrap().unwrap();
        let mut second = listeners[0].next().await.unwrap().unwrap();
        tokio::time::pause();
        let error = first.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(second.read_u8().await.unwrap(), b'a');
        let more = tokio::time::timeout(SILENCE * 2, second.read_u8()).await;
        assert!(more.is_err(), "who has spoken may be silent");
    }

    #[tokio::test]
    async fn a_listener_that_fails_for_a_while_is_asked_again() {
        tokio::time::pause();
        let full = || Err(io::Error::from_raw_os_error(24));
        let mut answers = vec![full(), full(), Ok(1), full(), Ok(2)].into_iter();
        let listener = futures::stream::iter(std::iter::from_fn(|| answers.next()));
        let mut patient = Patient::new(listener);
        let begun = Instant::now();
        assert_eq!(patient.next().await.unwrap().unwrap(), 1);
        assert!(begun.elapsed() >= REST * 2, "it does not spin");
        assert_eq!(patient.told, Some(begun), "told of once");
        assert_eq!(patient.next().await.unwrap().unwrap(), 2);
        assert!(patient.next().await.is_none());
    }
}
