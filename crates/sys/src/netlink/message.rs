//! The shape of netlink messages: a header, a struct, and nested attributes, all of them padded to
//! four bytes and in the byte order of the machine.

use std::io;

/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Bytes of `struct ifinfomsg`.
pub(super) const LINK_HEADER_BYTES: usize = 16;
/// Bytes of `struct rtmsg`.
pub(super) const ROUTE_HEADER_BYTES: usize = 12;
/// Bytes before the value of an attribute: length and type.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// A request being written.
pub(super) struct Message {
    body: Body,
}

impl Message {
    pub(super) fn new(kind: u16, flags: i32) -> Message {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4]; // the length, written at the end
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]); // sequence and port: one request at a time on a socket of its own
        Message { body: Body(bytes) }
    }

    /// `struct ifinfomsg` for the link `index`, which is switched on if `up`.
    pub(super) fn link_header(mut self, index: u32, up: bool) -> Message {
        self.body.link_header(index, up);
        self
    }

    /// `struct ifaddrmsg` for an IPv4 address of the link `index`.
    pub(super) fn address_header(mut self, index: u32, prefix: u8) -> Message {
        let scope = libc::RT_SCOPE_UNIVERSE;
        self.body.0.extend([libc::AF_INET as u8, prefix, 0, scope]);
        self.body.0.extend(index.to_ne_bytes());
        self
    }

    /// `struct rtmsg` for an IPv4 route to everywhere in the main table.
    pub(super) fn route_header(mut self) -> Message {
        let (destination_bits, source_bits, service) = (0, 0, 0);
        self.body.0.extend([
            libc::AF_INET as u8,
            destination_bits,
            source_bits,
            service,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        self.body.0.extend([0; 4]); // flags
        self
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Message {
        self.body.bytes(kind, value);
        self
    }

    pub(super) fn string(mut self, kind: u16, value: &str) -> Message {
        self.body.string(kind, value);
        self
    }

    pub(super) fn nested(mut self, kind: u16, fill: impl FnOnce(&mut Body)) -> Message {
        self.body.nested(kind, fill);
        self
    }
}

impl From<Message> for Vec<u8> {
    fn from(message: Message) -> Vec<u8> {
        let mut bytes = message.body.0;
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }
}

/// The part of a message after its header, or of an attribute.
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn link_header(&mut self, index: u32, up: bool) -> &mut Body {
        let flags = if up { libc::IFF_UP as u32 } else { 0 };
        self.0.extend([libc::AF_UNSPEC as u8, 0, 0, 0]);
        self.0.extend(index.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes()); // which flags are meant
        self
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Body {
        self.nested(kind, |body| body.0.extend(value))
    }

    pub(super) fn string(&mut self, kind: u16, value: &str) -> &mut Body {
        self.nested(kind, |body| {
            body.0.extend(value.as_bytes());
            body.0.push(0);
        })
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Body)) -> &mut Body {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        // The length leaves out the padding. All values here are a few bytes long.
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(padded(self.0.len()), 0);
        self
    }
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// One message of the kernel.
pub(super) struct Reply<'a> {
    pub(super) kind: i32,
    pub(super) body: &'a [u8],
}

impl Reply<'_> {
    /// What an `NLMSG_ERROR` says: a negative error number, or zero for "done".
    pub(super) fn error(&self) -> io::Result<()> {
        match self
            .body
            .first_chunk()
            .map(|bytes| i32::from_ne_bytes(*bytes))
        {
            Some(0) => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(-number)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The messages in what was received.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(received: &'a [u8]) -> Reader<'a> {
        Reader(received)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Reply<'a>;

    fn next(&mut self) -> Option<Reply<'a>> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?);
        let body = self.0.get(HEADER_BYTES..length)?;
        self.0 = self.0.get(padded(length)..).unwrap_or(&[]);
        Some(Reply {
            kind: kind.into(),
            body,
        })
    }
}

/// The attributes in a body, by type.
#[derive(Clone)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) fn new(body: &'a [u8]) -> Attributes<'a> {
        Attributes(body)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length: usize = u16::from_ne_bytes(*self.0.first_chunk()?).into();
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?);
        let value = self.0.get(ATTRIBUTE_HEADER_BYTES..length)?;
        self.0 = self.0.get(padded(length)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_replies_end_the_reading() {
        let whole: Vec<u8> = Message::new(16, 0)
            .link_header(1, true)
            .string(libc::IFLA_IFNAME, "lo")
            .into();
        for length in 0..whole.len() {
            assert!(Reader::new(&whole[..length]).next().is_none(), "{length}");
        }
        let mut zero = whole.clone();
        zero[..4].fill(0);
        assert!(Reader::new(&zero).next().is_none());
        let reply = Reader::new(&whole).next().unwrap();
        let attributes = Attributes::new(&reply.body[LINK_HEADER_BYTES..]);
        assert_eq!(
            attributes.collect::<Vec<_>>(),
            [(libc::IFLA_IFNAME, &b"lo\0"[..])]
        );
        assert!(Attributes::new(&[0; 8]).next().is_none());
    }
}
