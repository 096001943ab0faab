//! Parser directives: `# name=value` lines at the top of a file.

use super::ParseError;
use crate::span::LineSpan;

/// The directives that exist.
const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// A directive of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directive {
    /// `syntax`, `escape` or `check`.
    pub(crate) name: &'static str,
    /// What follows `=`, trimmed.
    pub(crate) value: String,
    /// Its line.
    pub(crate) span: LineSpan,
}

/// Reads directives line by line until the first line that is none.
#[derive(Debug)]
pub(super) struct DirectiveReader {
    line: u32,
    marker: &'static str,
    seen: Vec<&'static str>,
    done: bool,
}

impl DirectiveReader {
    /// A reader for lines that start with `marker`, after `line` lines that were read already.
    pub(super) fn new(marker: &'static str, line: u32) -> DirectiveReader {
        DirectiveReader {
            line,
            marker,
            seen: Vec::new(),
            done: false,
        }
    }

    /// The directive on the next line, if it is one and no other line came before.
    pub(super) fn next(&mut self, line: &str) -> Result<Option<Directive>, ParseError> {
        self.line += 1;
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) = line.strip_prefix(self.marker).and_then(split_directive) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(ParseError::DuplicateDirective(name));
        }
        self.seen.push(name);
        Ok(Some(Directive {
            name,
            value: value.to_owned(),
            span: LineSpan::line(self.line),
        }))
    }
}

/// `name = value`, when the name is known.
fn split_directive(text: &str) -> Option<(&'static str, &str)> {
    let text = text.trim_start();
    let space = [' ', '\t', '\n', '\x0c', '\r'];
    let (name, value) = text.split_once('=')?;
    let name = name.trim_end_matches(space).to_lowercase();
    let name = KNOWN.into_iter().find(|known| *known == name)?;
    let trimmed = value.trim_matches(space);
    if !trimmed.is_empty() {
        return Some((name, trimmed));
    }
    // A value of blanks only is its last blank.
    let last = value.char_indices().next_back()?.0;
    Some((name, &value[last..]))
}

/// The value of the directive `name`, if the file has it in front.
pub(crate) fn directive(name: &str, data: &[u8]) -> Option<Directive> {
    let (text, line) = skip_preamble(data);
    find(name, &text, DirectiveReader::new("#", line))
}

/// The `syntax` of a file in any language: `# syntax=…`, `// syntax=…` or `{"syntax": "…"}`.
///
/// The value's first word is the image of the frontend; all of it is the frontend's command line.
pub(crate) fn detect_syntax(data: &[u8]) -> Option<Directive> {
    let (text, line) = skip_preamble(data);
    ["#", "//"]
        .into_iter()
        .find_map(|marker| find("syntax", &text, DirectiveReader::new(marker, line)))
        .or_else(|| {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&text).ok()?;
            let value = object.get("syntax")?.as_str()?.to_owned();
            Some(Directive {
                name: "syntax",
                value,
                span: LineSpan::line(line),
            })
        })
}

/// The `check` options of a comment in front of an instruction.
pub(crate) fn check_comment(comment: &str) -> Option<String> {
    let (name, value) = split_directive(comment)?;
    (name == "check").then(|| value.to_owned())
}

fn find(name: &str, text: &str, mut reader: DirectiveReader) -> Option<Directive> {
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        match reader.next(line) {
            Ok(Some(found)) if found.name == name => return Some(found),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
    None
}

/// Without byte-order mark and `#!` line, and how many lines that took.
fn skip_preamble(data: &[u8]) -> (String, u32) {
    let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    if !data.starts_with(b"#!") {
        return (String::from_utf8_lossy(data).into_owned(), 0);
    }
    let rest = data
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(&[][..], |at| &data[at + 1..]);
    (String::from_utf8_lossy(rest).into_owned(), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_found_in_every_form() {
        for (text, want) in [
            ("# syntax=a/b:1 --x\nFROM x", Some(("a/b:1 --x", 1))),
            (
                "#!/bin/x\n# check=skip=all\n#SYNTAX = a \r\n",
                Some(("a", 3)),
            ),
            ("// syntax = a\n", Some(("a", 1))),
            ("{\"syntax\": \"a\", \"x\": 1}", Some(("a", 0))),
            ("\u{feff}# syntax=a", Some(("a", 1))),
            ("# hello\n# syntax=a", None),
            ("\n# syntax=a", None),
            ("# syntax=", None),
        ] {
            let found = detect_syntax(text.as_bytes());
            let found = found.as_ref().map(|d| (d.value.as_str(), d.span.start));
            assert_eq!(found, want, "{text:?}");
        }
    }

    #[test]
    fn a_second_directive_of_a_name_is_refused() {
        let mut reader = DirectiveReader::new("#", 0);
        assert!(reader.next("# escape=`").unwrap().is_some());
        assert_eq!(
            reader.next("# escape=`"),
            Err(ParseError::DuplicateDirective("escape"))
        );
    }
}
