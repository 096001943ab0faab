//! Texts and actions of a template, and the words of an action.

use super::TemplateError;

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    Action(&'a str),
}

/// Takes a template apart. White space beside `{{-` and `-}}` goes, and so do comments.
pub(super) fn parts(text: &str) -> Result<Vec<Part<'_>>, TemplateError> {
    let unclosed = || TemplateError::new("unclosed action");
    let mut parts = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let mut before = match trim {
            true => before.trim_start(),
            false => before,
        };
        let Some(mut after) = after else {
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            return Ok(parts);
        };
        if let Some(trimmed) = after.strip_prefix('-')
            && trimmed.starts_with(char::is_whitespace)
        {
            (before, after) = (before.trim_end(), trimmed);
        }
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        let end = end_of_action(after).ok_or_else(unclosed)?;
        let mut action = &after[..end];
        rest = &after[end + 2..];
        let trimmed = action
            .strip_suffix('-')
            .filter(|t| t.ends_with(char::is_whitespace));
        trim = trimmed.is_some();
        action = trimmed.unwrap_or(action).trim();
        if !action.starts_with("/*") {
            parts.push(Part::Action(action));
        } else if !action.ends_with("*/") {
            return Err(TemplateError::new("comment ends before closing delimiter"));
        }
    }
}

/// Where an action's `}}` is: not within its strings.
fn end_of_action(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => at += text[at..].find("*/")? + 2,
            quote @ (b'"' | b'`') => at = end_of_string(bytes, at, quote)?,
            _ => at += 1,
        }
    }
    None
}

/// Behind the string that begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize, quote: u8) -> Option<usize> {
    at += 1;
    loop {
        match *bytes.get(at)? {
            b'\\' if quote == b'"' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `.Name`, or `.` alone as an empty name. Whether there was white space before it.
    Field(String, bool),
    /// `$name`, with its `$`.
    Variable(String),
    /// A function or a key word.
    Word(String),
    Text(String),
    Int(i64),
    Float(f64),
    Pipe,
    Open,
    Close,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// Takes an action apart.
pub(super) fn tokens(action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = action;
    let mut space = true;
    while let Some(first) = rest.chars().next() {
        let was_space = std::mem::replace(&mut space, first.is_whitespace());
        let length = match first {
            _ if space => first.len_utf8(),
            '|' => single(&mut tokens, Token::Pipe),
            '(' => single(&mut tokens, Token::Open),
            ')' => single(&mut tokens, Token::Close),
            ',' => single(&mut tokens, Token::Comma),
            ':' if rest.starts_with(":=") => {
                tokens.push(Token::Declare);
                2
            }
            '=' => single(&mut tokens, Token::Assign),
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let name = word(&rest[1..]);
                tokens.push(Token::Field(name.to_owned(), was_space));
                1 + name.len()
            }
            '$' => {
                let length = 1 + word(&rest[1..]).len();
                tokens.push(Token::Variable(rest[..length].to_owned()));
                length
            }
            '"' | '`' => {
                let (text, length) = string(rest, first)?;
                tokens.push(Token::Text(text));
                length
            }
            '+' | '-' | '.' | '0'..='9' => {
                let (token, length) = number(rest)?;
                tokens.push(token);
                length
            }
            _ => match word(rest) {
                "" => {
                    let error = format!("unexpected {first:?} in command");
                    return Err(TemplateError::new(error));
                }
                name => {
                    tokens.push(Token::Word(name.to_owned()));
                    name.len()
                }
            },
        };
        rest = &rest[length..];
    }
    Ok(tokens)
}

fn single(tokens: &mut Vec<Token>, token: Token) -> usize {
    tokens.push(token);
    1
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

fn string(text: &str, quote: char) -> Result<(String, usize), TemplateError> {
    let unclosed = || TemplateError::new("unterminated quoted string");
    // Both quotes are one byte.
    let byte = u8::try_from(quote).map_err(|_| unclosed())?;
    let length = end_of_string(text.as_bytes(), 0, byte).ok_or_else(unclosed)?;
    let inner = &text[1..length - 1];
    if quote == '`' {
        return Ok((inner.to_owned(), length));
    }
    let mut value = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        value.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(other @ ('"' | '\\' | '\'')) => other,
                other => {
                    let error = format!("unknown escape `\\{}`", other.unwrap_or_default());
                    return Err(TemplateError::new(error));
                }
            },
            other => other,
        });
    }
    Ok((value, length))
}

fn number(text: &str) -> Result<(Token, usize), TemplateError> {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_');
    let end = text.find(|c: char| !inside(c)).unwrap_or(text.len());
    let (digits, bad) = (text[..end].replace('_', ""), || {
        TemplateError::new(format!("bad number syntax: {:?}", &text[..end]))
    });
    let token = match digits.parse() {
        Ok(number) => Token::Int(number),
        Err(_) => Token::Float(digits.parse().map_err(|_| bad())?),
    };
    Ok((token, end))
}
