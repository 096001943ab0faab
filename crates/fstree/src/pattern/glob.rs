//! One pattern with `**`, compiled.

use std::borrow::Cow;

use regex::bytes::{Regex, RegexBuilder};

use super::go_match::{Token, parse};

/// Patterns come from clients: a bound on what one may cost to compile and to keep.
const MAX_COMPILED: usize = 1 << 20;

/// A pattern in the cheapest form that decides it.
///
/// The cases are moby's, with its corner cases: `a**` takes everything that starts with `a`, and
/// `**a` everything that ends with it, with no thought of `/`.
#[derive(Debug)]
pub(super) enum Glob {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    /// Ends with this or, if this starts with `/`, is all of the rest.
    Suffix(Vec<u8>),
    Regex(Box<Regex>),
}

impl Glob {
    /// `None` if it is too large. The syntax has been checked.
    pub(super) fn compile(pattern: &str) -> Option<Glob> {
        let special = |text: &str| text.contains(['*', '?', '[', ']', '\\']);
        if !special(pattern) {
            return Some(Glob::Exact(pattern.into()));
        }
        if let Some(rest) = pattern.strip_prefix("**")
            && !special(rest)
        {
            return Some(Glob::Suffix(rest.into()));
        }
        if let Some(start) = pattern.strip_suffix("**")
            && !special(start)
        {
            return Some(Glob::Prefix(start.into()));
        }
        let regex = RegexBuilder::new(&to_regex(pattern)?)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .build()
            .ok()?;
        Some(Glob::Regex(Box::new(regex)))
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Glob::Exact(text) => path == text,
            Glob::Prefix(start) => path.starts_with(start),
            Glob::Suffix(end) => {
                path.ends_with(end) || end.strip_prefix(b"/").is_some_and(|end| path == end)
            }
            Glob::Regex(regex) => regex.is_match(&as_go(path)),
        }
    }
}

/// A name as Go's regular expressions see it: a byte that is not UTF-8 is U+FFFD.
fn as_go(name: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(name).is_ok() {
        return Cow::Borrowed(name);
    }
    let mut seen = String::with_capacity(name.len() + 8);
    for chunk in name.utf8_chunks() {
        seen.push_str(chunk.valid());
        seen.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(seen.into_bytes())
}

fn to_regex(pattern: &str) -> Option<String> {
    let mut regex = String::from("^");
    let mut tokens = parse(pattern).ok()?.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            Token::Star if tokens.next_if_eq(&Token::Star).is_some() => {
                // `**/` is as `**`: any number of directories, also none.
                tokens.next_if_eq(&Token::Literal('/'));
                regex.push_str(if tokens.peek().is_none() {
                    "(?s-u:.*)"
                } else {
                    "(?:(?s-u:.*)/)?"
                });
            }
            Token::Star => regex.push_str("(?-u:[^/]*)"),
            Token::Any => regex.push_str("[^/]"),
            Token::Literal(char) => regex.push_str(&regex::escape(char.encode_utf8(&mut [0; 4]))),
            Token::Class { negated, ranges } => {
                regex.push_str(if negated { "[^" } else { "[" });
                for (low, high) in ranges {
                    // A range from high to low holds nothing in Go, and is an error in a regex.
                    if low <= high {
                        let (low, high) = (u32::from(low), u32::from(high));
                        regex.push_str(&format!("\\x{{{low:x}}}-\\x{{{high:x}}}"));
                    }
                }
                regex.push(']');
            }
        }
    }
    regex.push('$');
    Some(regex)
}
