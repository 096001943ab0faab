//! Variable expansion and word splitting.
//!
//! A subset of the shell's: `$v`, `${v}`, the modifiers `- + ? # % /`, quotes and escapes, as
//! BuildKit's `shell/lex.go` reads them. Time and memory are bounded by the length of the text
//! and [`MAX_GROWTH`].

mod cursor;
mod pattern;

use std::collections::BTreeSet;

pub(crate) use llb::builder::Env;

use crate::go;
use cursor::Cursor;

/// How much longer than its text an expansion may be, in bytes.
///
/// Linux takes no argument or variable longer than 128 KiB, so nothing that could run is refused;
/// `ENV a=$a$a` repeated is.
pub(crate) const MAX_GROWTH: usize = 1 << 20;

/// How deep `${…}` may nest.
pub(crate) const MAX_DEPTH: usize = 100;

/// Expands variables and removes quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expander {
    /// Takes the next character as it is.
    pub(crate) escape: char,
    /// Whether quotes stay.
    pub(crate) raw_quotes: bool,
    /// Whether escapes stay.
    pub(crate) raw_escapes: bool,
    /// Whether quotes are ordinary characters.
    pub(crate) skip_quotes: bool,
    /// Whether a variable that is not set stays as it is written.
    pub(crate) keep_unset: bool,
}

/// What became of a word.
#[derive(Debug)]
pub(crate) struct Expansion {
    /// The expanded word.
    pub(crate) result: Result<String, ExpandError>,
    /// Variables that were used and are set.
    pub(crate) used: BTreeSet<String>,
    /// Variables that were used and are not set, also when the word is wrong.
    pub(crate) unset: BTreeSet<String>,
}

/// A word that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpandError {
    /// The word, and what is wrong with it.
    #[error("failed to process {}", go::quote(.text))]
    Word {
        /// The whole word.
        text: String,
        /// What is wrong.
        source: Box<ExpandError>,
    },
    /// The word ends inside of something.
    #[error("unexpected end of statement while looking for matching {0}")]
    Unterminated(&'static str),
    /// `${` without `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${v/` without a second `/`.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${{` or `${:`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// A modifier that does not exist.
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// `${name?message}` of a variable that is not set or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message.
        message: String,
    },
    /// A glob that cannot be read.
    #[error("invalid pattern ({pattern}) in substitution: {reason}")]
    Pattern {
        /// The glob.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More than [`MAX_DEPTH`] levels of `${…}`.
    #[error("substitutions are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// More than [`MAX_GROWTH`] bytes of values.
    #[error("the expanded text is too long")]
    TooLong,
}

impl Expander {
    /// An expander that removes quotes and escapes.
    pub(crate) fn new(escape: char) -> Expander {
        Expander {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            skip_quotes: false,
            keep_unset: false,
        }
    }

    /// Expands one word; blanks in it stay.
    pub(crate) fn word(&self, text: &str, env: &Env) -> Expansion {
        let mut run = Run::new(self, text, env);
        let result = run.until(None, self.raw_escapes, &mut None);
        let result = result.map_err(|error| in_word(text, error));
        Expansion {
            result,
            used: run.used,
            unset: run.unset,
        }
    }

    /// Expands a text and splits the outcome on white space outside quotes.
    pub(crate) fn words(&self, text: &str, env: &Env) -> Result<Vec<String>, ExpandError> {
        let mut words = Some(Words::default());
        let mut run = Run::new(self, text, env);
        run.until(None, self.raw_escapes, &mut words)
            .map_err(|error| in_word(text, error))?;
        Ok(words.map(Words::finish).unwrap_or_default())
    }
}

fn in_word(text: &str, source: ExpandError) -> ExpandError {
    ExpandError::Word {
        text: text.to_owned(),
        source: Box::new(source),
    }
}

/// Words that are being split.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    /// Adds text whose blanks split.
    fn split(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.word.push(c);
            } else if !self.word.is_empty() {
                self.done.push(std::mem::take(&mut self.word));
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

/// One expansion.
struct Run<'a> {
    options: &'a Expander,
    cursor: Cursor<'a>,
    env: &'a Env,
    raw_escapes: bool,
    depth: usize,
    /// Bytes of values that may still be put in.
    room: usize,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

type Text = Result<String, ExpandError>;

impl<'a> Run<'a> {
    fn new(options: &'a Expander, text: &'a str, env: &'a Env) -> Run<'a> {
        Run {
            options,
            cursor: Cursor::new(text),
            env,
            raw_escapes: options.raw_escapes,
            depth: 0,
            room: MAX_GROWTH,
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
        }
    }

    /// Expands up to the character `stop`, which is taken, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool, words: &mut Option<Words>) -> Text {
        if self.depth > MAX_DEPTH {
            return Err(ExpandError::TooDeep);
        }
        self.depth += 1;
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let text = self.until_stop(stop, words);
        self.raw_escapes = outer;
        self.depth -= 1;
        text
    }

    fn until_stop(&mut self, stop: Option<char>, words: &mut Option<Words>) -> Text {
        let mut out = String::new();
        while let Some(c) = self.cursor.peek() {
            if stop == Some(c) {
                self.cursor.next();
                return Ok(out);
            }
            let (text, split) = match c {
                '$' => (self.dollar()?, true),
                '<' => (self.heredoc(), false),
                '\'' if !self.options.skip_quotes => (self.single_quotes()?, false),
                '"' if !self.options.skip_quotes => (self.double_quotes()?, false),
                _ => {
                    self.cursor.next();
                    if c == self.options.escape {
                        let mut text = String::new();
                        text.extend(self.raw_escapes.then_some(c));
                        // An escape at the end is dropped.
                        text.extend(self.cursor.next());
                        (text, false)
                    } else {
                        (c.to_string(), true)
                    }
                }
            };
            out.push_str(&text);
            match words {
                Some(words) if split => words.split(&text),
                Some(words) => words.word.push_str(&text),
                None => {}
            }
        }
        match stop {
            None => Ok(out),
            Some('}') => Err(ExpandError::Unterminated("}")),
            Some(_) => Err(ExpandError::Unterminated("/")),
        }
    }

    /// `<<` with the blanks that may follow it, so that a delimiter stays with its mark.
    fn heredoc(&mut self) -> String {
        self.cursor.next();
        if self.cursor.peek() != Some('<') {
            return "<".to_owned();
        }
        self.cursor.next();
        let mut text = "<<".to_owned();
        while let Some(c) = self
            .cursor
            .peek()
            .filter(|c| matches!(c, '\t' | '\r' | ' '))
        {
            self.cursor.next();
            text.push(c);
        }
        text
    }

    /// Everything up to the next single quote, as it is.
    fn single_quotes(&mut self) -> Text {
        self.cursor.next();
        let mut out = String::new();
        loop {
            match self.cursor.next() {
                None => return Err(ExpandError::Unterminated("single-quote")),
                Some('\'') => return Ok(self.quoted(out, '\'')),
                Some(c) => out.push(c),
            }
        }
    }

    /// Everything up to the next double quote, with variables; only `"`, `$` and the escape
    /// character itself can be escaped.
    fn double_quotes(&mut self) -> Text {
        self.cursor.next();
        let mut out = String::new();
        loop {
            match self.cursor.peek() {
                None => return Err(ExpandError::Unterminated("double-quote")),
                Some('"') => {
                    self.cursor.next();
                    return Ok(self.quoted(out, '"'));
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) => {
                    self.cursor.next();
                    if c != self.options.escape {
                        out.push(c);
                        continue;
                    }
                    out.extend(self.raw_escapes.then_some(c));
                    match self.cursor.peek() {
                        None => {}
                        Some(next) if matches!(next, '"' | '$') || next == self.options.escape => {
                            self.cursor.next();
                            out.push(next);
                        }
                        Some(_) => out.push(c),
                    }
                }
            }
        }
    }

    fn quoted(&self, text: String, quote: char) -> String {
        if self.options.raw_quotes {
            format!("{quote}{text}{quote}")
        } else {
            text
        }
    }

    /// `$name` or `${…}`.
    fn dollar(&mut self) -> Text {
        self.cursor.next();
        if self.cursor.peek() != Some('{') {
            let name = self.cursor.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return match self.lookup(&name) {
                None if self.options.keep_unset => Ok(format!("${name}")),
                value => self.grow(value.unwrap_or_default()),
            };
        }
        self.cursor.next();
        match self.cursor.peek() {
            None => return Err(ExpandError::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.cursor.name();
        match self.cursor.next() {
            Some('}') => match self.lookup(&name) {
                None if self.options.keep_unset => Ok(format!("${{{name}}}")),
                value => self.grow(value.unwrap_or_default()),
            },
            Some(':') => {
                let modifier = self.cursor.next();
                self.modified(&name, modifier, true)
            }
            modifier @ Some('+' | '-' | '?' | '#' | '%') => self.modified(&name, modifier, false),
            Some('/') => self.replaced(&name),
            other => Err(ExpandError::Modifier(spell(other))),
        }
    }

    /// `${name-word}` and the like; with `colon`, an empty variable counts as not set.
    fn modified(&mut self, name: &str, modifier: Option<char>, colon: bool) -> Text {
        let trims = matches!(modifier, Some('#' | '%'));
        let spelled = format!("{}{}", if colon { ":" } else { "" }, spell(modifier));
        if colon && trims {
            return Err(ExpandError::Modifier(spelled));
        }
        let word = self.inner('}', trims, ExpandError::MissingBrace)?;
        let value = self.lookup(name);
        if self.options.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{spelled}{word}}}"));
        }
        let present = value
            .as_deref()
            .filter(|value| !(colon && value.is_empty()));
        match modifier {
            Some('-') => match present {
                Some(value) => self.grow(value.to_owned()),
                None => Ok(word),
            },
            Some('+') => Ok(if present.is_some() {
                word
            } else {
                String::new()
            }),
            Some('?') => match present {
                Some(value) => self.grow(value.to_owned()),
                None => {
                    let empty = if value.is_some() { "empty" } else { "unset" };
                    let default = format!("is not allowed to be {empty}");
                    let message = if word.is_empty() { default } else { word };
                    Err(ExpandError::Required {
                        name: name.to_owned(),
                        message,
                    })
                }
            },
            Some(trim @ ('#' | '%')) => {
                let value = value.unwrap_or_default();
                // A doubled modifier takes the longest match.
                let (pattern, longest) = match word.strip_prefix(trim) {
                    Some(pattern) => (pattern, true),
                    None => (word.as_str(), false),
                };
                let trimmed = if trim == '#' {
                    pattern::trim_prefix(pattern, &value, longest)
                } else {
                    pattern::trim_suffix(pattern, &value, longest)
                };
                self.grow(trimmed?)
            }
            _ => Err(ExpandError::Modifier(spelled)),
        }
    }

    /// `${name/pattern/text}` and `${name//pattern/text}`.
    fn replaced(&mut self, name: &str) -> Text {
        let all = self.cursor.peek() == Some('/');
        if all {
            self.cursor.next();
        }
        let pattern = self.inner('/', true, ExpandError::MissingSlash)?;
        let replacement = self.inner('}', true, ExpandError::MissingBrace)?;
        let value = self.lookup(name);
        if self.options.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        // Each character of the value can be replaced, and so can the gaps.
        if (value.len() + 1).saturating_mul(replacement.len()) > self.room {
            return Err(ExpandError::TooLong);
        }
        let replaced = pattern::replace(&pattern, &value, &replacement, all)?;
        self.grow(replaced)
    }

    /// The text of a modifier; one that is not closed is `unclosed`.
    fn inner(&mut self, stop: char, raw_escapes: bool, unclosed: ExpandError) -> Text {
        self.until(Some(stop), raw_escapes, &mut None)
            .map_err(|error| {
                if self.cursor.peek().is_none() {
                    unclosed
                } else {
                    error
                }
            })
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name).map(str::to_owned);
        let seen = if value.is_some() {
            &mut self.used
        } else {
            &mut self.unset
        };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        value
    }

    fn grow(&mut self, value: String) -> Text {
        self.room = self
            .room
            .checked_sub(value.len())
            .ok_or(ExpandError::TooLong)?;
        Ok(value)
    }
}

/// A character as Go spells it; the end is U+FFFD there.
fn spell(c: Option<char>) -> String {
    c.unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
}

#[cfg(test)]
mod tests;
