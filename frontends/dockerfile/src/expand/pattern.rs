//! Globs of `${v#glob}`, `${v%glob}` and `${v/glob/text}`.

use regex::{Regex, RegexBuilder};

use super::ExpandError;

/// Cuts the shortest or longest match off the front.
pub(super) fn trim_prefix(glob: &str, value: &str, longest: bool) -> Result<String, ExpandError> {
    let end = compile(glob, longest, true)?
        .find(value)
        .map_or(0, |found| found.end());
    Ok(value[end..].to_owned())
}

/// Cuts the shortest or longest match off the end.
pub(super) fn trim_suffix(glob: &str, value: &str, longest: bool) -> Result<String, ExpandError> {
    // The shortest match at the end is the shortest at the front of everything reversed.
    let reversed: String = value.chars().rev().collect();
    let trimmed = trim_prefix(&reverse_glob(glob), &reversed, longest)?;
    Ok(trimmed.chars().rev().collect())
}

/// Replaces the first match or all of them.
pub(super) fn replace(
    glob: &str,
    value: &str,
    replacement: &str,
    all: bool,
) -> Result<String, ExpandError> {
    let regex = compile(glob, true, false)?;
    if all {
        // As in Go, a `$` in the replacement refers to a group, and there is none.
        return Ok(regex.replace_all(value, replacement).into_owned());
    }
    Ok(match regex.find(value) {
        Some(found) => [&value[..found.start()], replacement, &value[found.end()..]].concat(),
        None => value.to_owned(),
    })
}

/// Reverses a glob; an escape stays in front of what it escapes.
fn reverse_glob(glob: &str) -> String {
    let chars: Vec<char> = glob.chars().collect();
    let mut parts: Vec<&[char]> = Vec::with_capacity(chars.len());
    let mut at = 0;
    while at < chars.len() {
        let length = if chars[at] == '\\' && at + 1 < chars.len() {
            2
        } else {
            1
        };
        parts.push(&chars[at..at + length]);
        at += length;
    }
    parts.into_iter().rev().flatten().collect()
}

fn compile(glob: &str, longest: bool, anchored: bool) -> Result<Regex, ExpandError> {
    let error = |reason: String| ExpandError::Pattern {
        pattern: glob.to_owned(),
        reason,
    };
    let text = to_regex(glob, longest, anchored).map_err(&error)?;
    RegexBuilder::new(&text)
        .build()
        .map_err(|e| error(e.to_string()))
}

fn to_regex(glob: &str, longest: bool, anchored: bool) -> Result<String, String> {
    let mut out = String::with_capacity(glob.len() + 4);
    if anchored {
        out.push('^');
    }
    let mut chars = glob.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(if longest { ".*" } else { ".*?" }),
            '?' => out.push('.'),
            '\\' => match chars.peek() {
                // Escaped for the sake of `${…}`, not of the glob.
                Some('}' | '/') => {}
                Some(escaped @ ('*' | '?' | '\\')) => {
                    out.extend(['\\', *escaped]);
                    chars.next();
                }
                other => {
                    let other = other.copied().unwrap_or(char::REPLACEMENT_CHARACTER);
                    return Err(format!("invalid escape '\\{other}'"));
                }
            },
            _ => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Ok(out)
}
