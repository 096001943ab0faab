//! What the words of `COPY` and `ADD` say: modes, checksums, URLs.

use crate::go::{self, Url};
use crate::lower::error::LowerError;

/// `--chmod`: bits, or symbolic.
#[derive(Clone, Default)]
pub(super) struct Mode {
    pub(super) bits: Option<u32>,
    pub(super) text: String,
}

pub(super) fn is_http(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

pub(super) fn http_filename(url: &str) -> String {
    let path = Url::parse(url).map(|url| url.path).unwrap_or_default();
    match go::base(&path) {
        "." | "/" => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

/// Checks a digest in the way of the go-digest package.
pub(super) fn check_digest(text: &str) -> Result<(), LowerError> {
    if text.is_empty() {
        return Ok(());
    }
    let wrong = |text: &str| {
        let mend = "write the algorithm and the digest in hex: `sha256:` and 64 digits";
        Err(LowerError::advised(text, mend))
    };
    let format = "invalid checksum digest format";
    let (algorithm, hex) = match text.split_once(':') {
        Some((algorithm, hex)) if !algorithm.is_empty() && !hex.is_empty() => (algorithm, hex),
        _ => return wrong(format),
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => {
            let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+._-".contains(c);
            let value = |c: char| c.is_ascii_alphanumeric() || "=_-".contains(c);
            let legal = algorithm.chars().all(name) && hex.chars().all(value);
            return wrong(if legal {
                "unsupported digest algorithm"
            } else {
                format
            });
        }
    };
    if hex.len() != length {
        return wrong("invalid checksum digest length");
    }
    if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return wrong(format);
    }
    Ok(())
}

/// How a mode is written.
const MODE: &str = "write the mode as chmod takes it: `755`, or `u+x,go-w`";

/// Reads `--chmod`: octal, or symbolic as chmod(1) has it.
pub(super) fn read_mode(text: &str) -> Result<Mode, LowerError> {
    if text.is_empty() {
        return Ok(Mode::default());
    }
    let octal = || {
        let text = format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        );
        LowerError::advised(text, MODE)
    };
    match go::parse_u64(text, 8, 32) {
        Ok(bits) if bits <= 0o7777 => Ok(Mode {
            bits: u32::try_from(bits).ok(),
            text: String::new(),
        }),
        Ok(_) => Err(octal()),
        Err(_) if text.starts_with(|c: char| c.is_ascii_digit()) => Err(octal()),
        Err(_) if is_symbolic(text) => Ok(Mode {
            bits: None,
            text: text.to_owned(),
        }),
        Err(_) => Err(LowerError::advised("invalid syntax", MODE)),
    }
}

/// Whether a text is a symbolic mode: `[ugoa]*([-+=][rstwXxugo]*)+`, separated by commas.
fn is_symbolic(text: &str) -> bool {
    text.split(',').all(|clause| {
        let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let permission = |c: char| "rstwXxugo-+=".contains(c);
        actions.starts_with(['-', '+', '=']) && actions.chars().all(permission)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        for (text, want) in [
            ("0755", Ok((Some(0o755), ""))),
            ("u=rwX,go=rX", Ok((None, "u=rwX,go=rX"))),
            ("+x", Ok((None, "+x"))),
            ("g=u-w", Ok((None, "g=u-w"))),
            (
                "77777",
                Err(
                    "invalid chmod parameter: '77777'. it should be octal string and between 0 and 07777",
                ),
            ),
            (
                "9",
                Err(
                    "invalid chmod parameter: '9'. it should be octal string and between 0 and 07777",
                ),
            ),
            ("foo", Err("invalid syntax")),
            ("u", Err("invalid syntax")),
        ] {
            let mode = read_mode(text).map_err(|error| error.to_string());
            let mode = mode.as_ref().map(|mode| (mode.bits, mode.text.as_str()));
            assert_eq!(mode.map_err(String::as_str), want, "{text}");
        }
    }

    #[test]
    fn digests_are_checked() {
        for (text, want) in [
            ("x", "invalid checksum digest format"),
            ("sha256:ab", "invalid checksum digest length"),
            ("md5:ab", "unsupported digest algorithm"),
        ] {
            assert_eq!(check_digest(text).unwrap_err().to_string(), want);
        }
        assert!(check_digest(&format!("sha256:{}", "a".repeat(64))).is_ok());
    }

    #[test]
    fn a_download_is_named_by_its_url() {
        for (url, want) in [
            ("http://h/a/b%20c?x", "b c"),
            ("http://h/", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("http://h/a/", "a"),
        ] {
            assert_eq!(http_filename(url), want);
        }
    }
}
