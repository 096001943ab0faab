//! Heredoc marks (`<<EOF`) and bodies.

use super::{Arguments, Node};
use crate::expand::{Env, ExpandError, Expander};

/// A heredoc with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// What the line said.
    pub(crate) mark: HeredocMark,
    /// The lines up to the terminator, as they are in the file.
    pub(crate) content: Vec<u8>,
}

/// The word that starts a heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeredocMark {
    /// The delimiter without quotes.
    pub(crate) name: String,
    /// Whether variables in the body are expanded: no part of the delimiter is quoted.
    pub(crate) expand: bool,
    /// Whether leading tabs are dropped (`<<-`).
    pub(crate) chomp: bool,
}

/// Whether the instruction may have heredocs.
pub(super) fn allowed(node: &Node) -> bool {
    let node = match &node.arguments {
        Arguments::Trigger(trigger) if node.keyword.eq_ignore_ascii_case("onbuild") => trigger,
        _ => node,
    };
    let keyword = node.keyword.to_lowercase();
    matches!(keyword.as_str(), "add" | "copy" | "run") && !node.arguments.is_json()
}

/// The heredoc marks of a logical line, in order.
pub(super) fn marks_of_line(line: &str) -> Result<Vec<HeredocMark>, ExpandError> {
    let splitter = Expander {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Expander::new('\\')
    };
    // A line that cannot be split has no heredocs; the shell may still understand it.
    let words = splitter.words(line, &Env::new()).unwrap_or_default();
    words
        .iter()
        .filter_map(|word| HeredocMark::parse(word).transpose())
        .collect()
}

impl HeredocMark {
    /// Parses a word such as `<<EOF`, `3<<-"EOF"`; `None` when it is no heredoc.
    ///
    /// # Errors
    /// When the delimiter has an open quote.
    pub(crate) fn parse(word: &str) -> Result<Option<HeredocMark>, ExpandError> {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Some(rest) = word[digits..].strip_prefix("<<") else {
            return Ok(None);
        };
        let (chomp, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start_matches([' ', '\t', '\n', '\x0c', '\r']);
        if rest.is_empty() || rest.contains('<') {
            return Ok(None);
        }
        let plain = Expander {
            keep_unset: true,
            ..Expander::new('\\')
        };
        let raw = Expander {
            raw_quotes: true,
            ..plain
        };
        let words = plain.words(rest, &Env::new())?;
        let [name] = words.as_slice() else {
            return Ok(None);
        };
        let raw_words = raw.words(rest, &Env::new())?;
        let quotes = |text: &str| text.chars().filter(|c| matches!(c, '\'' | '"')).count();
        let expand = raw_words
            .first()
            .is_none_or(|word| quotes(word) == quotes(name));
        Ok(Some(HeredocMark {
            name: name.clone(),
            expand,
            chomp,
        }))
    }
}

/// Drops the tabs in front of every line.
pub(crate) fn chomp(content: &[u8]) -> Vec<u8> {
    let mut chomped = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let tabs = line.iter().take_while(|byte| **byte == b'\t').count();
        chomped.extend_from_slice(&line[tabs..]);
    }
    chomped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_from_words() {
        let mark = |name: &str, expand, chomp| {
            Some(HeredocMark {
                name: name.to_owned(),
                expand,
                chomp,
            })
        };
        for (word, want) in [
            ("<<EOF", mark("EOF", true, false)),
            ("<<-EOF", mark("EOF", true, true)),
            ("3<<EOF", mark("EOF", true, false)),
            ("<<\"EOF\"", mark("EOF", false, false)),
            ("<<E'O'F", mark("EOF", false, false)),
            ("<< EOF", mark("EOF", true, false)),
            ("<<\\\"E", mark("\"E", true, false)),
            ("<<", None),
            ("<<<EOF", None),
            ("a<<EOF", None),
            ("<", None),
        ] {
            assert_eq!(HeredocMark::parse(word).unwrap(), want, "{word}");
        }
    }

    #[test]
    fn marks_of_a_line_are_in_order() {
        let marks = marks_of_line("RUN cat <<A 4<<-'B' > /x").unwrap();
        let names: Vec<_> = marks.iter().map(|mark| mark.name.as_str()).collect();
        assert_eq!(names, ["A", "B"]);
    }
}
