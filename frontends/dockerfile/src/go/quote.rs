//! `%q`, `%v` of lists, and JSON strings.

use std::fmt::Write as _;

/// `%q`: the text in double quotes with Go's escapes.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        quote_char(c, &mut out);
    }
    out.push('"');
    out
}

fn quote_char(c: char, out: &mut String) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        ' '..='~' => out.push(c),
        _ if is_printable(c) => out.push(c),
        _ => {
            let code = u32::from(c);
            // Writing to a string cannot fail.
            let _ = match code {
                0..0x80 => write!(out, "\\x{code:02x}"),
                0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
                _ => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

/// Whether a character past ASCII is a letter, mark, number, punctuation or symbol.
fn is_printable(c: char) -> bool {
    // After another character, `escape_debug` leaves exactly these alone.
    !c.is_ascii_control()
        && ["a", c.encode_utf8(&mut [0; 4])]
            .concat()
            .escape_debug()
            .count()
            == 2
}

/// `%q` of a list: `["a" "b"]`.
pub(crate) fn quote_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quote(item)).collect();
    list(&quoted)
}

/// `%v` of a list: `[a b]`.
pub(crate) fn list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// A JSON array of strings, as `encoding/json` writes it.
pub(crate) fn json_array(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| json_string(item)).collect();
    format!("[{}]", items.join(","))
}

/// A JSON string, as `encoding/json` writes it: `<`, `>` and `&` are escaped too.
pub(crate) fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_those_of_go() {
        for (text, want) in [
            ("a b", r#""a b""#),
            ("a\"\\\n\x01", r#""a\"\\\n\x01""#),
            ("é\u{a0}\u{200b}\u{301}", "\"é\\u00a0\\u200b\u{301}\""),
            ("\u{10ffff}", r#""\U0010ffff""#),
        ] {
            assert_eq!(quote(text), want);
        }
        assert_eq!(quote_list(&["a".into(), "b c".into()]), r#"["a" "b c"]"#);
    }

    #[test]
    fn json_escapes_html() {
        assert_eq!(
            json_array(&["a<b>&\u{2028}\x1f".into()]),
            r#"["a\u003cb\u003e\u0026\u2028\u001f"]"#
        );
    }
}
