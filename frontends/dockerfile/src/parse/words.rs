//! Splitting of arguments into words.

/// Splits on runs of the white space that separates arguments (no newline, no Unicode spaces).
pub(super) fn split_blanks(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some((word, after)) = cut_blanks(rest) {
        words.push(word.to_owned());
        rest = after;
    }
    words.push(rest.to_owned());
    words
}

/// The text before and after the first run of white space, if there is one.
pub(super) fn cut_blanks(text: &str) -> Option<(&str, &str)> {
    let at = text.find(is_blank)?;
    Some((&text[..at], text[at..].trim_start_matches(is_blank)))
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Splits on white space outside quotes; quotes and escapes stay in the words.
pub(super) fn split_quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut started = false;
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escapes = c == escape && quote != Some('\'');
        if quote.is_none() && !escapes && c.is_whitespace() {
            if started || !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            started = false;
            continue;
        }
        if escapes {
            // An escape at the very end is dropped.
            let Some(next) = chars.next() else { break };
            word.push(c);
            word.push(next);
            continue;
        }
        match quote {
            Some(open) if c == open => quote = None,
            None if matches!(c, '\'' | '"') => {
                quote = Some(c);
                started = true;
            }
            _ => {}
        }
        word.push(c);
    }
    if started || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_hold_words_together() {
        for (text, want) in [
            ("a=1  b=2", vec!["a=1", "b=2"]),
            (r#"a="x y" b='z "w'"#, vec![r#"a="x y""#, r#"b='z "w'"#]),
            (r"a=x\ y b=\", vec![r"a=x\ y", "b="]),
            (r#"a="x\" y" b"#, vec![r#"a="x\" y""#, "b"]),
            (r"a='x\' b", vec![r"a='x\'", "b"]),
            ("\"\"", vec!["\"\""]),
            ("", vec![]),
        ] {
            assert_eq!(split_quoted(text, '\\'), want, "{text}");
        }
    }

    #[test]
    fn blanks_are_runs() {
        assert_eq!(split_blanks("a \t b"), ["a", "b"]);
        assert_eq!(cut_blanks("k  v w"), Some(("k", "v w")));
        assert_eq!(cut_blanks("k"), None);
    }
}
