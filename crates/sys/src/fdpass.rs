//! Messages with file descriptors between two processes.
//!
//! A [`Channel`] is one end of a `SOCK_SEQPACKET` pair. A message is bytes of any length up to
//! [`MAX_MESSAGE_BYTES`] and up to [`MAX_DESCRIPTORS`] descriptors: what does not fit into one packet
//! travels as an anonymous file, and descriptors beyond the kernel's limit in packets before it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The longest message. A container's arguments and environment may have 2 MiB by the kernel's
/// limit; JSON may double that.
pub const MAX_MESSAGE_BYTES: u64 = 8 << 20;
/// The most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 1000;

/// The longest packet: well under the default send buffer of a socket (208 KiB).
const MAX_PACKET_BYTES: usize = 32 << 10;
/// The kernel passes at most 253 descriptors at once.
const DESCRIPTORS_PER_PACKET: usize = 200;

/// The first byte of a packet: what the packet is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Only descriptors; more packets of this message follow.
    More = 0,
    /// The rest of the packet is the message.
    Inline = 1,
    /// The last descriptor is a file that holds the message.
    InFile = 2,
}

/// One end of a message channel. Messages of several packets are not atomic: two threads that send
/// on one end take turns by a lock of their own.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Whether an operation waits until it can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Wait.
    Yes,
    /// Fail with [`io::ErrorKind::WouldBlock`] where nothing can be done at once.
    No,
}

impl Channel {
    /// A connected pair; both ends are closed on exec.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Channel(one), Channel(other)))
    }

    /// Takes an end that came from another process.
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    /// Ends the conversation: both ends read the end of it, whoever still has copies of them.
    pub fn close(&self) {
        // It fails only where the other end is gone already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }

    /// Another descriptor of this end.
    pub fn try_clone(&self) -> io::Result<Channel> {
        self.0.try_clone().map(Channel)
    }

    /// The descriptor, to be sent or inherited.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one message. With [`Wait::No`] only room for the first packet is not waited for: what has
    /// begun is finished.
    pub fn send(
        &self,
        message: &[u8],
        descriptors: &[BorrowedFd<'_>],
        wait: Wait,
    ) -> io::Result<()> {
        let mut wait = wait;
        if message.len() as u64 > MAX_MESSAGE_BYTES || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "message too large to send",
            ));
        }
        let mut rest = descriptors;
        while rest.len() >= DESCRIPTORS_PER_PACKET {
            let (now, later) = rest.split_at(DESCRIPTORS_PER_PACKET);
            self.send_packet(Kind::More, &[], now, wait)?;
            wait = Wait::Yes;
            rest = later;
        }
        if message.len() <= MAX_PACKET_BYTES {
            return self.send_packet(Kind::Inline, message, rest, wait);
        }
        let mut file = File::from(rustix::fs::memfd_create(c"message", MemfdFlags::CLOEXEC)?);
        file.write_all(message)?;
        let mut with_file = rest.to_vec();
        with_file.push(file.as_fd());
        self.send_packet(Kind::InFile, &[], &with_file, wait)
    }

    fn send_packet(
        &self,
        kind: Kind,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        wait: Wait,
    ) -> io::Result<()> {
        let mut flags = SendFlags::NOSIGNAL;
        if wait == Wait::No {
            flags |= SendFlags::DONTWAIT;
        }
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_PACKET))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many descriptors",
            ));
        }
        let head = [kind as u8];
        let parts = [IoSlice::new(&head), IoSlice::new(body)];
        rustix::io::retry_on_intr(|| rustix::net::sendmsg(&self.0, &parts, &mut control, flags))?;
        Ok(())
    }

    /// Receives one message, or `None` when the other end is closed. With [`Wait::No`] only the
    /// first packet is not waited for: the others of a message follow at once.
    pub fn receive(&self, wait: Wait) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut descriptors = Vec::new();
        let mut flags = match wait {
            Wait::Yes => RecvFlags::empty(),
            Wait::No => RecvFlags::DONTWAIT,
        };
        loop {
            let Some(packet) = self.receive_packet(flags, &mut descriptors)? else {
                return Ok(None);
            };
            if descriptors.len() > MAX_DESCRIPTORS + 1 {
                return Err(malformed("too many descriptors"));
            }
            match packet.split_first() {
                Some((&kind, [])) if kind == Kind::More as u8 => flags = RecvFlags::empty(),
                Some((&kind, body)) if kind == Kind::Inline as u8 => {
                    return Ok(Some((body.to_vec(), descriptors)));
                }
                Some((&kind, [])) if kind == Kind::InFile as u8 => {
                    let file = descriptors.pop().ok_or_else(|| malformed("no file"))?;
                    return Ok(Some((read_whole(file)?, descriptors)));
                }
                _ => return Err(malformed("unknown packet")),
            }
        }
    }

    fn receive_packet(
        &self,
        flags: RecvFlags,
        descriptors: &mut Vec<OwnedFd>,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_PACKET))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut body = vec![0; MAX_PACKET_BYTES + 1];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut body)],
                &mut control,
                flags,
            )
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptors.extend(fds);
            }
        }
        body.truncate(received.bytes);
        Ok((received.bytes > 0).then_some(body))
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn read_whole(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(file);
    file.rewind()?;
    let mut message = Vec::new();
    (&mut file)
        .take(MAX_MESSAGE_BYTES + 1)
        .read_to_end(&mut message)?;
    if message.len() as u64 > MAX_MESSAGE_BYTES {
        return Err(malformed("message too large"));
    }
    Ok(message)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_any_size_arrive_whole_and_in_order() {
        let (near, far) = Channel::pair().unwrap();
        for size in [0, 1, MAX_PACKET_BYTES, MAX_PACKET_BYTES + 1, 3 << 20] {
            let message: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            near.send(&message, &[], Wait::Yes).unwrap();
            let (received, fds) = far.receive(Wait::Yes).unwrap().unwrap();
            assert_eq!(received, message);
            assert!(fds.is_empty());
        }
    }

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (near, far) = Channel::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        for count in [1, DESCRIPTORS_PER_PACKET, 450] {
            let fds = vec![writer.as_fd(); count];
            near.send(&vec![7; 40 << 10], &fds, Wait::No).unwrap();
            let (received, fds) = far.receive(Wait::No).unwrap().unwrap();
            assert_eq!((received.len(), fds.len()), (40 << 10, count));
            let last = fds.into_iter().next_back().unwrap();
            File::from(last).write_all(b"x").unwrap();
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
        }
    }

    #[test]
    fn a_closed_end_reads_as_the_end() {
        let (near, far) = Channel::pair().unwrap();
        assert_eq!(
            far.receive(Wait::No).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(near);
        assert!(far.receive(Wait::Yes).unwrap().is_none());
        assert!(far.send(b"x", &[], Wait::Yes).is_err());
    }
}
