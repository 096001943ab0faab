//! Places as editors and SARIF count them.
//!
//! Lines and columns begin with 1, a column is a code unit of UTF-16, and an end is the column
//! after the last. A byte order mark and the ends of lines, `\n` or `\r\n`, are in no column; a byte
//! that is no UTF-8 is one.

use dockerfile::LineSpan;

/// What columns count, in SARIF's words.
pub(super) const COLUMN_KIND: &str = "utf16CodeUnits";

/// The lines of a file.
pub(super) struct Lines<'a>(Vec<&'a [u8]>);

/// Text from the first character of a line that is no blank to the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) start: Position,
    pub(super) end: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: usize,
}

impl Lines<'_> {
    pub(super) fn of(data: &[u8]) -> Lines<'_> {
        let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
        let lines = data.split(|byte| *byte == b'\n');
        let ends = |line| <[u8]>::strip_suffix(line, b"\r").unwrap_or(line);
        Lines(lines.map(ends).collect())
    }

    /// Where the lines of `span` are; `None` for what is about the whole file.
    pub(super) fn region(&self, span: LineSpan) -> Option<Region> {
        if span.start == 0 {
            return None;
        }
        let blank = self.line(span.start);
        let text = blank.trim_ascii_start();
        let end = span.end.max(span.start);
        Some(Region {
            start: Position {
                line: span.start,
                column: 1 + blank.len() - text.len(),
            },
            end: Position {
                line: end,
                column: 1 + units(self.line(end)),
            },
        })
    }

    /// A line; empty after the last.
    fn line(&self, number: u32) -> &[u8] {
        let index = usize::try_from(number).unwrap_or(usize::MAX) - 1;
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// How long a text is.
fn units(text: &[u8]) -> usize {
    String::from_utf8_lossy(text).encode_utf16().count()
}

/// The URI of a file: relative to where the program runs, as the path is, or absolute.
pub(super) fn uri(path: &str) -> String {
    let scheme = if path.starts_with('/') { "file://" } else { "" };
    let path = path.strip_prefix("./").unwrap_or(path);
    let mut uri = scheme.to_owned();
    for byte in path.bytes() {
        match byte {
            // Some others are allowed; but a `:` is not in the first part of a relative one.
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(text: &[u8], start: u32, end: u32) -> Option<((u32, usize), (u32, usize))> {
        let found = Lines::of(text).region(LineSpan { start, end })?;
        let pair = |position: Position| (position.line, position.column);
        Some((pair(found.start), pair(found.end)))
    }

    #[test]
    fn columns_are_counted_as_editors_count_them() {
        for (text, start, end, expected) in [
            ("FROM a\n".as_bytes(), 1, 1, ((1, 1), (1, 7))),
            (b"\xef\xbb\xbfFROM a\r\n", 1, 1, ((1, 1), (1, 7))),
            (b"FROM a\r\n  RUN b\r\n", 2, 2, ((2, 3), (2, 8))),
            (b"FROM a\nRUN b \\\n  c", 2, 3, ((2, 1), (3, 4))),
            // One unit for `ö`, two for what is not in the basic plane.
            (
                "LABEL a=\u{f6}\u{1f980}".as_bytes(),
                1,
                1,
                ((1, 1), (1, 12)),
            ),
            (b"LABEL a=\xff", 1, 1, ((1, 1), (1, 10))),
            (b"  ", 1, 1, ((1, 3), (1, 3))),
            (b"FROM a", 9, 9, ((9, 1), (9, 1))),
        ] {
            assert_eq!(region(text, start, end), Some(expected), "{text:?}");
        }
        assert_eq!(region(b"FROM a", 0, 0), None);
    }

    #[test]
    fn uris_are_encoded() {
        for (path, expected) in [
            ("Dockerfile", "Dockerfile"),
            ("./sub/Dockerfile", "sub/Dockerfile"),
            ("../a b/D#1", "../a%20b/D%231"),
            ("a:b", "a%3Ab"),
            ("/w/100%/\u{e4}", "file:///w/100%25/%C3%A4"),
        ] {
            assert_eq!(uri(path), expected);
        }
    }
}
