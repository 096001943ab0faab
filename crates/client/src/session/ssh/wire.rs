//! Values of the SSH protocols, as RFC 4251 (section 5) writes them.

/// Reads values from what is left of a buffer.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes; `None` when there are not as many.
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// A number that is not negative, without zeros in front.
    pub(super) fn number(&mut self) -> Option<&'a [u8]> {
        let bytes = self.string()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.get(zeros..)
    }
}

/// Adds `bytes` with their length in front.
pub(super) fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    // In range: nothing here is longer than a message of the agent, which is bounded.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Adds a number that is not negative. A zero goes in front of what would read as a sign.
pub(super) fn put_number(to: &mut Vec<u8>, bytes: &[u8]) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    let mut number = Vec::with_capacity(digits.len() + 1);
    if digits.first().is_some_and(|first| *first >= 0x80) {
        number.push(0);
    }
    number.extend_from_slice(digits);
    put_string(to, &number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        put_string(&mut bytes, b"text");
        put_number(&mut bytes, &[0, 0, 0x80, 1]);
        put_number(&mut bytes, &[]);
        assert_eq!(bytes[8..], [0, 0, 0, 3, 0, 0x80, 1, 0, 0, 0, 0]);
        let mut reader = Reader(&bytes);
        assert_eq!(reader.string(), Some(&b"text"[..]));
        assert_eq!(reader.number(), Some(&[0x80, 1][..]));
        assert_eq!(reader.number(), Some(&[][..]));
        assert_eq!(reader.u32(), None);
    }

    #[test]
    fn a_length_that_is_not_there_is_refused() {
        assert_eq!(Reader(&[0, 0, 0, 9, 1]).string(), None);
        assert_eq!(Reader(&[0xff; 4]).string(), None);
    }
}
