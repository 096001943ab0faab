//! The `.dockerignore` file.

use crate::path::clean;

/// A line is not UTF-8, so that it can name no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the ignore file is not UTF-8")]
pub struct ParseError {
    line: usize,
}

/// The patterns of an ignore file, cleaned, in order, for [`crate::pattern::Matcher`].
///
/// A `#` in the first column makes a comment. Patterns are taken from the context's root, so that
/// `/a`, `./a` and `a` are the same.
pub fn parse(text: &[u8]) -> Result<Vec<String>, ParseError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut patterns = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| ParseError { line: index + 1 })?;
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let line = line.trim();
        let (pattern, exception) = match line.strip_prefix('!') {
            Some(rest) => (rest.trim(), "!"),
            None => (line, ""),
        };
        // A lone `!` stays as it is, for the matcher to refuse.
        let pattern = if pattern.is_empty() {
            String::new()
        } else {
            clean(pattern)
        };
        let pattern = match pattern.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => rest,
            _ => &pattern,
        };
        patterns.push(format!("{exception}{pattern}"));
    }
    Ok(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_patterns() {
        let text =
            "\u{feff}# comment\n\n  # no comment\r\n/abs/path/\n./a//b\n! /x \n!\n \t \n/\n*\nlast";
        let want = [
            "# no comment",
            "abs/path",
            "a/b",
            "!x",
            "!",
            "/",
            "*",
            "last",
        ];
        assert_eq!(parse(text.as_bytes()).unwrap(), want);
        assert_eq!(parse(b"").unwrap(), Vec::<String>::new());
        assert_eq!(parse(b"ok\n\xff\n").unwrap_err(), ParseError { line: 2 });
    }
}
