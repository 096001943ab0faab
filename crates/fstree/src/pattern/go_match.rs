//! Go's `filepath.Match`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A pattern is not well formed: an unclosed or empty class, a range without an end, or a `\` at
/// the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// One element of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// `*`: any characters but `/`.
    Star,
    /// `?`: one character but `/`.
    Any,
    /// This character.
    Literal(char),
    /// `[…]`: one character of these ranges, or of none of them.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// One character of a name; a byte that is not UTF-8 is a character of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Char(char),
    Byte,
}

/// Whether `pattern` matches all of `name`. The whole pattern is checked, also where the outcome
/// is known early.
pub fn go_match(pattern: &str, name: &Path) -> Result<bool, BadPattern> {
    let tokens = parse(pattern)?;
    Ok(matches(&tokens, &units(name.as_os_str().as_bytes())))
}

/// Splits a pattern into its elements.
pub(super) fn parse(pattern: &str) -> Result<Vec<Token>, BadPattern> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Literal(chars.next().ok_or(BadPattern)?),
            '[' => parse_class(&mut chars)?,
            char => Token::Literal(char),
        });
    }
    Ok(tokens)
}

fn parse_class(chars: &mut std::str::Chars<'_>) -> Result<Token, BadPattern> {
    let negated = chars.as_str().starts_with('^');
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.as_str().starts_with(']') {
            chars.next();
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let mut high = low;
        if chars.as_str().starts_with('-') {
            chars.next();
            high = class_char(chars)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::str::Chars<'_>) -> Result<char, BadPattern> {
    match chars.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => chars.next().ok_or(BadPattern),
        Some(char) => Ok(char),
    }
}

/// Matches with one place to go back to: the last `*`. As `*` never takes a `/`, an earlier one
/// can never help (and Go does not try it either), so this is quadratic at worst.
fn matches(tokens: &[Token], name: &[Unit]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token) {
            Some(Token::Star) => {
                token += 1;
                back = Some((token, at));
                continue;
            }
            Some(one) if name.get(at).is_some_and(|unit| one.takes(*unit)) => {
                token += 1;
                at += 1;
                continue;
            }
            None if at == name.len() => return true,
            _ => {}
        }
        match back {
            Some((after, from)) if from < name.len() && name[from] != Unit::Char('/') => {
                back = Some((after, from + 1));
                (token, at) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

impl Token {
    fn takes(&self, unit: Unit) -> bool {
        match (self, unit) {
            (Token::Star, _) => false,
            (Token::Any, unit) => unit != Unit::Char('/'),
            (Token::Literal(want), unit) => unit == Unit::Char(*want),
            (Token::Class { negated, ranges }, unit) => {
                let char = match unit {
                    Unit::Char(char) => char,
                    Unit::Byte => char::REPLACEMENT_CHARACTER,
                };
                ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&char))
                    != *negated
            }
        }
    }
}

fn units(name: &[u8]) -> Vec<Unit> {
    let mut units = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        units.extend(chunk.valid().chars().map(Unit::Char));
        units.extend(chunk.invalid().iter().map(|_| Unit::Byte));
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_what_go_matches() {
        for (pattern, name, want) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^e-g]", "abc", true),
            ("ab[^b-d]", "abc", false),
            ("a\\*b", "a*b", true),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
            ("**", "a", true),
            ("**/b", "a/x/b", false),
        ] {
            assert_eq!(
                go_match(pattern, Path::new(name)),
                Ok(want),
                "{pattern} {name}"
            );
        }
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a\\",
        ] {
            assert_eq!(go_match(bad, Path::new("a")), Err(BadPattern), "{bad}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let name = "a".repeat(5000);
        assert_eq!(go_match(&"a*".repeat(500), Path::new(&name)), Ok(true));
        assert_eq!(
            go_match(&format!("{}b", "a*".repeat(500)), Path::new(&name)),
            Ok(false)
        );
    }
}
