//! The standard streams of a process, as pipes, files or a terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

/// What a process's standard streams are connected to.
#[derive(Debug, Default)]
pub enum Stdio {
    /// Nothing: reads end at once, output vanishes.
    #[default]
    Null,
    /// A pipe each. Without `stdin` its input is empty.
    Pipes {
        /// Whether there is a pipe for input.
        stdin: bool,
    },
    /// A terminal of this many characters.
    Tty {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        cols: u16,
    },
    /// Descriptors given by the caller; none: as with `Null`.
    Files {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
}

/// The caller's end of a process's input. Dropping a pipe's end closes the input.
#[derive(Debug)]
pub enum Input {
    /// A pipe.
    Pipe(pipe::Sender),
    /// The terminal.
    Terminal(Terminal),
}

/// The caller's end of a process's output. A terminal has one for everything.
#[derive(Debug)]
pub enum Output {
    /// A pipe.
    Pipe(pipe::Receiver),
    /// The terminal.
    Terminal(Terminal),
}

/// The master of a pseudo terminal.
#[derive(Debug)]
pub struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Takes the master; must be called inside a runtime.
    pub(crate) fn new(master: OwnedFd) -> io::Result<Terminal> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Terminal(crate::watch::watch(master)?))
    }

    pub(crate) fn try_clone(&self) -> io::Result<Terminal> {
        Ok(Terminal(crate::watch::watch(
            self.0.get_ref().try_clone()?,
        )?))
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        sys::pty::resize(self.0.get_ref(), rows, cols)
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), unfilled)?)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // The last process has closed the other end: the end of the stream.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(done) => return Poll::Ready(done),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Input::Pipe(pipe) => Pin::new(pipe).poll_write(context, bytes),
            Input::Terminal(terminal) => Pin::new(terminal).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Input::Pipe(pipe) => Pin::new(pipe).poll_flush(context),
            Input::Terminal(terminal) => Pin::new(terminal).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Input::Pipe(pipe) => Pin::new(pipe).poll_shutdown(context),
            Input::Terminal(terminal) => Pin::new(terminal).poll_shutdown(context),
        }
    }
}

impl AsyncRead for Output {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Output::Pipe(pipe) => Pin::new(pipe).poll_read(context, buffer),
            Output::Terminal(terminal) => Pin::new(terminal).poll_read(context, buffer),
        }
    }
}

/// Both sides of the streams of one process.
#[derive(Default)]
pub(crate) struct Streams {
    /// The process's ends.
    pub(crate) theirs: [Option<OwnedFd>; 3],
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    /// Rows and columns.
    pub(crate) terminal: Option<(u16, u16)>,
}

impl Streams {
    /// Makes what `stdio` asks for; must be called inside a runtime.
    pub(crate) fn open(stdio: Stdio) -> io::Result<Streams> {
        let mut streams = Streams::default();
        match stdio {
            Stdio::Null => {}
            Stdio::Pipes { stdin } => {
                if stdin {
                    let (read, write) = pipe()?;
                    nonblocking(write.as_fd())?;
                    streams.stdin = Some(Input::Pipe(pipe::Sender::from_owned_fd(write)?));
                    streams.theirs[0] = Some(read);
                }
                let mut output = |slot: usize| -> io::Result<Output> {
                    let (read, write) = pipe()?;
                    nonblocking(read.as_fd())?;
                    streams.theirs[slot] = Some(write);
                    Ok(Output::Pipe(pipe::Receiver::from_owned_fd(read)?))
                };
                let (stdout, stderr) = (output(1)?, output(2)?);
                (streams.stdout, streams.stderr) = (Some(stdout), Some(stderr));
            }
            Stdio::Tty { rows, cols } => streams.terminal = Some((rows, cols)),
            Stdio::Files {
                stdin,
                stdout,
                stderr,
            } => streams.theirs = [stdin, stdout, stderr],
        }
        Ok(streams)
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// Only the caller's end: the process gets a pipe that waits, as programs expect.
fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}
