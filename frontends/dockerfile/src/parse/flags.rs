//! Leading `--` words of an instruction.

/// Takes the flags off the front of an instruction's arguments.
///
/// Flags end at the first word that does not start with `--`, or at a bare `--`. Quotes are
/// removed and the escape character takes the next one as it is.
pub(super) fn take_flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return (flags, rest);
        }
        let (word, quoted, after) = take_word(rest, escape);
        if word == "--" {
            return (flags, after);
        }
        if quoted || !word.is_empty() {
            flags.push(word);
        }
        rest = after;
    }
}

/// The first word without quotes, whether it had any, and what follows it.
fn take_word(text: &str, escape: char) -> (String, bool, &str) {
    let mut word = String::new();
    let mut quoted = false;
    let mut quote: Option<char> = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && c.is_whitespace() {
            return (word, quoted, &text[at..]);
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
            quoted = true;
        } else if c == escape {
            // An escape at the very end is dropped.
            word.extend(chars.next().map(|(_, next)| next));
        } else {
            word.push(c);
        }
    }
    (word, quoted, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_first_other_word() {
        for (text, flags, rest) in [
            ("--a=1 --b x --c", vec!["--a=1", "--b"], "x --c"),
            ("--a='1 2' x", vec!["--a=1 2"], "x"),
            (r"--a=1\ 2 x", vec!["--a=1 2"], "x"),
            ("--a -- --b", vec!["--a"], " --b"),
            ("-a --b", vec![], "-a --b"),
            ("--a", vec!["--a"], ""),
            ("", vec![], ""),
        ] {
            assert_eq!(
                take_flags(text, '\\'),
                (flags.iter().map(|f| f.to_string()).collect(), rest)
            );
        }
    }
}
