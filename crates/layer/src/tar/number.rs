//! Numbers in header fields: octal text, or base 256 where that does not suffice.

/// Reads a field; nothing is 0. `None` if it is no number or too large.
pub(super) fn parse(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => parse_binary(field),
        _ => parse_octal(field),
    }
}

fn parse_octal(field: &[u8]) -> Option<i64> {
    // Written with spaces or NULs before or after; what follows a NUL does not count.
    let field = field
        .split(|byte| *byte == 0)
        .find(|part| !part.is_empty())
        .unwrap_or(b"");
    let text = std::str::from_utf8(field).ok()?.trim_matches(' ');
    if text.is_empty() {
        return Some(0);
    }
    if !text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return None;
    }
    i64::from_str_radix(text, 8).ok()
}

/// Two's complement, most significant byte first, with the mark in the highest bit.
fn parse_binary(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = if at == 0 && !negative {
            byte & 0x7f
        } else {
            *byte
        };
        value = (value << 8) | i128::from(byte);
        if i64::try_from(value).is_err() {
            return None;
        }
    }
    i64::try_from(value).ok()
}

/// Writes `value` in octal with a NUL at the end; `false` if the field is too small for it.
pub(super) fn write(field: &mut [u8], value: i64) -> bool {
    let digits = field.len() - 1;
    let text = if value < 0 {
        String::new()
    } else {
        format!("{value:0digits$o}")
    };
    if text.is_empty() || text.len() > digits {
        return false;
    }
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_form() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"777\0junk", Some(0o777)),
            (b"8\0", None),
            (b"-1\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(parse(field), want, "{field:?}");
        }
        let mut field = [b'x'; 8];
        assert!(write(&mut field, 0o7777777));
        assert_eq!(&field, b"7777777\0");
        assert!(!write(&mut field, 0o10000000));
        assert!(!write(&mut field, -1));
    }
}
