//! Physical lines to logical lines to instructions.

use super::directive::DirectiveReader;
use super::{Document, Heredoc, ParseError, arguments, heredoc};
use crate::span::LineSpan;

/// The longest physical line, in bytes, without its newline. BuildKit's scanner stops here too.
pub(crate) const MAX_LINE: usize = 65_535;

/// A parse error and the lines that it is about.
pub(crate) type Failure = (ParseError, LineSpan);

/// Parses a Dockerfile.
///
/// # Errors
/// The first thing that is wrong, and where. What an instruction's arguments mean is not looked at.
pub(crate) fn parse(data: &[u8]) -> Result<Document, (ParseError, LineSpan)> {
    let mut parser = Parser {
        lines: Lines {
            rest: data.strip_prefix(BOM).unwrap_or(data),
            number: 0,
            too_long: false,
        },
        directives: DirectiveReader::new("#", 0),
        escape: '\\',
        comments: Vec::new(),
        document: Document {
            instructions: Vec::new(),
            escape: '\\',
            empty_continuations: Vec::new(),
        },
    };
    parser.run()?;
    let end = LineSpan::line(parser.lines.number);
    if parser.document.instructions.is_empty() {
        return Err((ParseError::NoInstructions, end));
    }
    if parser.lines.too_long {
        return Err((ParseError::LineTooLong, end));
    }
    parser.document.escape = parser.escape;
    Ok(parser.document)
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Physical lines with their ends kept. Stops for good at a line that is too long.
struct Lines<'a> {
    rest: &'a [u8],
    number: u32,
    too_long: bool,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() || self.too_long {
            return None;
        }
        let newline = self
            .rest
            .iter()
            .take(MAX_LINE + 1)
            .position(|byte| *byte == b'\n');
        let length = match newline {
            Some(at) => at + 1,
            None if self.rest.len() <= MAX_LINE => self.rest.len(),
            None => {
                self.too_long = true;
                return None;
            }
        };
        let (line, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.number += 1;
        Some(line)
    }
}

struct Parser<'a> {
    lines: Lines<'a>,
    directives: DirectiveReader,
    escape: char,
    comments: Vec<String>,
    document: Document,
}

impl Parser<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        while let Some(line) = self.lines.next() {
            let text = String::from_utf8_lossy(line);
            let comment = is_comment(&text);
            if comment {
                self.note_comment(&text);
            }
            let text = trim_newline(&text).trim_start();
            if self.directive(text)? {
                self.comments.pop();
            }
            if comment || text.is_empty() {
                continue;
            }
            self.instruction(text)?;
        }
        Ok(())
    }

    /// Keeps a comment for the instruction that follows; a bare `#` drops those before it.
    fn note_comment(&mut self, line: &str) {
        // BuildKit cuts the first byte, not the `#`: an indented comment keeps its marker.
        let comment = line
            .chars()
            .next()
            .map_or("", |first| &line[first.len_utf8()..])
            .trim();
        if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(comment.to_owned());
        }
    }

    fn directive(&mut self, line: &str) -> Result<bool, Failure> {
        // BuildKit counts the line only afterwards and names the one before.
        let place = LineSpan::line(self.lines.number);
        let found = self.directives.next(line).map_err(|error| (error, place))?;
        let Some(found) = found else { return Ok(false) };
        if found.name == "escape" {
            self.escape = match found.value.as_str() {
                "\\" => '\\',
                "`" => '`',
                _ => return Err((ParseError::EscapeToken(found.value), place)),
            };
        }
        Ok(true)
    }

    /// Joins the continuation lines of the instruction that starts with `first`, and parses it.
    fn instruction(&mut self, first: &str) -> Result<(), Failure> {
        let start = self.lines.number;
        let (text, mut continued) = trim_continuation(first, self.escape);
        let mut logical = text.to_owned();
        let mut blank = false;
        while continued {
            let Some(line) = self.lines.next() else { break };
            let line = String::from_utf8_lossy(line);
            let line = trim_newline(&line);
            if is_comment(line) {
                continue;
            }
            if line.trim_start().is_empty() {
                blank = true;
                continue;
            }
            let (text, more) = trim_continuation(line, self.escape);
            continued = more;
            logical.push_str(text);
        }
        // Directives can only be in front of the first instruction.
        let _ = self.directives.next("");
        if blank {
            self.document
                .empty_continuations
                .push(LineSpan::line(self.lines.number));
        }
        let span = LineSpan::new(start, self.lines.number);
        let mut node = arguments::parse_instruction(&logical, self.escape, 0)
            .map_err(|error| (error, span))?;
        if heredoc::allowed(&node) && logical.contains("<<") {
            let marks = heredoc::marks_of_line(&logical)
                .map_err(|error| (ParseError::from(error), span))?;
            for mark in marks {
                let content = self.heredoc_body(&mark, start)?;
                node.heredocs.push(Heredoc { mark, content });
            }
        }
        node.span = LineSpan::new(start, self.lines.number);
        node.comments = std::mem::take(&mut self.comments);
        self.document.instructions.push(node);
        Ok(())
    }

    /// The lines up to the terminator, ends kept.
    fn heredoc_body(&mut self, mark: &super::HeredocMark, start: u32) -> Result<Vec<u8>, Failure> {
        let mut content = Vec::new();
        while let Some(line) = self.lines.next() {
            let end = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
            let mut candidate = &line[..end.map_or(0, |at| at + 1)];
            if mark.chomp {
                let tabs = candidate.iter().take_while(|byte| **byte == b'\t').count();
                candidate = &candidate[tabs..];
            }
            if candidate == mark.name.as_bytes() {
                return Ok(content);
            }
            content.extend_from_slice(line);
        }
        let span = LineSpan::new(start, self.lines.number);
        Err((ParseError::UnterminatedHeredoc, span))
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// The line without its continuation mark, and whether it had one.
///
/// The mark is the escape character as the last character but blanks, not itself escaped.
fn trim_continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Arguments;
    use super::*;

    fn originals(text: &str) -> Vec<String> {
        let document = parse(text.as_bytes()).unwrap();
        document
            .instructions
            .into_iter()
            .map(|node| node.original)
            .collect()
    }

    #[test]
    fn continuations_are_joined_without_a_separator() {
        for (text, want) in [
            ("RUN a \\\n  b", vec!["RUN a   b"]),
            ("RUN a\\  \t\nb\nRUN c", vec!["RUN ab", "RUN c"]),
            ("RUN a \\\n# no\n b", vec!["RUN a  b"]),
            ("RUN a \\\n\n b", vec!["RUN a  b"]),
            ("RUN a\\\\\nRUN b", vec!["RUN a\\\\", "RUN b"]),
            ("# escape=`\nRUN a`\nb\\\nRUN c", vec!["RUN ab\\", "RUN c"]),
            ("RUN a \\", vec!["RUN a "]),
            ("\\\nRUN a", vec!["RUN a"]),
            ("RUN a\r\nRUN b\r\n", vec!["RUN a", "RUN b"]),
        ] {
            assert_eq!(originals(text), want, "{text:?}");
        }
    }

    #[test]
    fn places_are_lines_from_one() {
        let document = parse(b"# c\nFROM a\nRUN x \\\n\n  y\nCOPY <<E /a\n1\nE\n").unwrap();
        let spans: Vec<_> = document
            .instructions
            .iter()
            .map(|n| (n.span.start, n.span.end))
            .collect();
        assert_eq!(spans, [(2, 2), (3, 5), (6, 8)]);
        assert_eq!(document.instructions[0].comments, ["c"]);
        assert_eq!(document.empty_continuations, [LineSpan::line(5)]);
    }

    #[test]
    fn heredoc_bodies_keep_their_bytes() {
        let document = parse(b"FROM a\nCOPY <<-A <<'B' /d/\n\tx\r\n\tA\n\xff\nB\n").unwrap();
        let node = &document.instructions[1];
        assert_eq!(node.heredocs[0].content, b"\tx\r\n");
        assert_eq!(node.heredocs[1].content, b"\xff\n");
        assert!(node.heredocs[0].mark.expand && !node.heredocs[1].mark.expand);
        assert_eq!(
            node.arguments,
            Arguments::Words(vec!["<<-A".into(), "<<'B'".into(), "/d/".into()])
        );
    }

    #[test]
    fn what_is_no_dockerfile_is_refused_with_its_place() {
        let long = format!("FROM a\nRUN {}\n", "x".repeat(MAX_LINE));
        for (text, want, line) in [
            ("", "file with no instructions", 0),
            ("# a\n\n", "file with no instructions", 2),
            (
                "# escape=x\nFROM a",
                "invalid escape token 'x' does not match ` or \\",
                1,
            ),
            ("FROM a\nRUN <<E\nx\n", "unterminated heredoc", 2),
            (
                long.as_str(),
                "dockerfile line greater than max allowed size of 65535",
                1,
            ),
            ("ENV a", "ENV must have two arguments", 1),
        ] {
            let (error, span) = parse(text.as_bytes()).unwrap_err();
            assert_eq!(
                (error.to_string().as_str(), span.start),
                (want, line),
                "{text:.20}"
            );
        }
    }
}
