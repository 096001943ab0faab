//! What the fuzz targets in `fuzz/` do with arbitrary bytes; the unit tests here do the same with
//! chosen ones. An `assert` that fails is a finding, and so is a panic, a hang or memory without
//! bound.

use std::collections::BTreeMap;

use crate::expand::{Env, Expander, MAX_GROWTH};
use crate::offline::{SourceText, lint, outline, targets};
use crate::parse::{self, Node};

/// Reads `data` as a Dockerfile, types its instructions, lowers and lints it.
pub fn parser(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    match parse::parse(data) {
        Ok(document) => {
            assert!(!document.instructions.is_empty());
            let mut last = 0;
            for node in &document.instructions {
                inside(node, lines);
                assert!(node.span.start > last, "instructions are in order");
                last = node.span.end;
            }
        }
        Err((_, span)) => assert!(span.end as usize <= lines),
    }
    let text = SourceText {
        filename: "Dockerfile".to_owned(),
        data: data.to_vec(),
        ignore: None,
    };
    let options = BTreeMap::new();
    // Both also render their errors.
    let _ = lint(&text, &options).map(|report| drop(format!("{report:?}")));
    let _ = outline(&text, &options).map_err(|error| error.to_string());
    let _ = targets(&text).map_err(|error| error.to_string());
}

/// The lines of an instruction are lines of its file.
fn inside(node: &Node, lines: usize) {
    assert!(node.span.start >= 1 && node.span.start <= node.span.end);
    assert!(node.span.end as usize <= lines);
}

/// Expands a text: the first byte holds the expander's options, then come `KEY=value` parts and
/// at last the text, all set apart by NUL.
pub fn expander(data: &[u8]) {
    let Some((&flags, rest)) = data.split_first() else {
        return;
    };
    let rest = String::from_utf8_lossy(rest);
    let mut parts = rest.split('\0').rev();
    let text = parts.next().unwrap_or_default();
    let mut env = Env::new();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        env.set(key, value);
    }
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let expander = Expander {
        escape: if flag(0) { '`' } else { '\\' },
        raw_quotes: flag(1),
        raw_escapes: flag(2),
        skip_quotes: flag(3),
        keep_unset: flag(4),
    };
    let whole = expander.word(text, &env);
    let bound = text.len() * 2 + MAX_GROWTH * 2;
    if let Ok(result) = &whole.result {
        assert!(result.len() <= bound, "{} bytes", result.len());
    }
    for name in &whole.used {
        assert!(env.get(name).is_some());
    }
    for name in &whole.unset {
        assert!(env.get(name).is_none());
    }
    let words = expander.words(text, &env);
    // Splitting moves blanks, and nothing else.
    match (&whole.result, &words) {
        (Ok(whole), Ok(words)) => {
            let dense = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(dense(&words.concat()), dense(whole));
        }
        (Err(whole), Err(words)) => assert_eq!(whole, words),
        (whole, words) => panic!("{whole:?} but {words:?}"),
    }
    if let Err(error) = &words {
        let _ = error.to_string();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_were_once_too_much() {
        for text in [
            &b""[..],
            b"FROM a\n\xff\xfe",
            b"# escape=`\nFROM a`\n",
            b"FROM a\nRUN <<A <<B\nx\nA\ny\nB\n",
            b"ONBUILD ONBUILD ONBUILD",
        ] {
            parser(text);
        }
    }

    #[test]
    fn texts_that_were_once_too_much() {
        for text in [
            &b""[..],
            b"\x00",
            b"\x00A=b\x00${A//b/$A}",
            b"\x1fA=\x00${A:-${A%x*}} 'a b' \"c",
            b"\x04A=x\x00${A#\\",
        ] {
            expander(text);
        }
    }
}
