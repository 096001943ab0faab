//! PAX extended header records: `<length> <key>=<value>\n`.

use std::collections::BTreeMap;

/// Records by key; of two with the same key, the last counts.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads all records. `None` if one is not well formed.
pub(super) fn parse(mut text: &[u8]) -> Option<Records> {
    let mut records = Records::new();
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ')?;
        let length = std::str::from_utf8(&text[..space]).ok()?;
        if !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let length: usize = length.parse().ok()?;
        // The length counts itself; the record must end where it says, in a line feed.
        if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
            return None;
        }
        let record = &text[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if !is_valid(key, value) {
            return None;
        }
        records.insert(key.to_vec(), value.to_vec());
        text = &text[length..];
    }
    // Nothing as a value takes an earlier record back.
    records.retain(|_, value| !value.is_empty());
    Some(records)
}

/// Readers in C stop at a NUL: a name with one would mean something else to them.
fn is_valid(key: &[u8], value: &[u8]) -> bool {
    if key.is_empty() || key.contains(&0) {
        return false;
    }
    !matches!(key, b"path" | b"linkpath" | b"uname" | b"gname") || !value.contains(&0)
}

/// Appends one record.
pub(super) fn append(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length has to be long enough for its own digits.
    let mut length = rest + rest.to_string().len();
    length = rest + length.to_string().len();
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Reads a time with an optional fraction: nanoseconds.
pub(super) fn parse_time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !all_digits(seconds) || !all_digits(fraction) {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let fraction: i64 = format!("{fraction:0<9}")[..9].parse().ok()?;
    let time = seconds.checked_mul(1_000_000_000)?.checked_add(fraction)?;
    Some(if negative { -time } else { time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_whatever_their_length() {
        for length in [
            0, 1, 5, 88, 89, 90, 91, 92, 985, 986, 987, 988, 99_990, 99_995,
        ] {
            let mut text = Vec::new();
            let value = vec![b'v'; length + 1];
            append(&mut text, b"k", &value);
            append(&mut text, b"SCHILY.xattr.user.x", b"\0=\n");
            let records = parse(&text).unwrap();
            assert_eq!(records[&b"k"[..]], value);
            assert_eq!(records[&b"SCHILY.xattr.user.x"[..]], b"\0=\n");
        }
    }

    #[test]
    fn records_that_do_not_end_where_they_say_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"7 a=b\n",
            b"6 a=bc\n",
            b"0 a=b\n",
            b"+6 a=b\n",
            b"6  a=b\n",
            b" a=b\n",
            b"5 ab\n",
            b"5 =b\n",
            b"99999999999999999999 a=b\n",
            b"11 path=a\0\n",
            b"a",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(parse(b"6 a=b\n5 a=\n").unwrap().len(), 0);
    }

    #[test]
    fn times_with_fractions() {
        for (text, want) in [
            ("1", Some(1_000_000_000)),
            ("1.5", Some(1_500_000_000)),
            ("-1.25", Some(-1_250_000_000)),
            ("1.1234567891", Some(1_123_456_789)),
            ("", None),
            (".5", None),
            ("1e3", None),
            ("9999999999999999999", None),
        ] {
            assert_eq!(parse_time(text.as_bytes()), want, "{text}");
        }
    }
}
