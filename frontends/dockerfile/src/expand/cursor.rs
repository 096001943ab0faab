//! A text, read character by character.

use std::iter::Peekable;
use std::str::Chars;

/// A text, read character by character.
pub(super) struct Cursor<'a>(Peekable<Chars<'a>>);

impl<'a> Cursor<'a> {
    /// Starts at the beginning, past a byte-order mark.
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor(
            text.strip_prefix('\u{feff}')
                .unwrap_or(text)
                .chars()
                .peekable(),
        )
    }

    /// The next character, which stays.
    pub(super) fn peek(&mut self) -> Option<char> {
        self.0.peek().copied()
    }

    /// Takes the next character.
    pub(super) fn next(&mut self) -> Option<char> {
        self.0.next()
    }

    /// Takes a variable's name: letters, digits and `_`, or digits alone, or one special character.
    pub(super) fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_numeric() => self.take_while(&mut name, char::is_numeric),
            Some(c) if "@*#?-$!".contains(c) => name.extend(self.next()),
            _ => self.take_while(&mut name, |c| c.is_alphanumeric() || c == '_'),
        }
        name
    }

    fn take_while(&mut self, text: &mut String, wanted: impl Fn(char) -> bool) {
        while let Some(c) = self.0.next_if(|c| wanted(*c)) {
            text.push(c);
        }
    }
}
