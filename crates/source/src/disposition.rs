//! What a downloaded file is called.

use url::Url;

/// The name of a file that has none.
const FALLBACK: &str = "download";

/// The name of the file behind `url`: `wanted`, else what the header `Content-Disposition` says,
/// else the last part of the URL's path. It is always a single path component.
pub(crate) fn file_name(url: &Url, wanted: Option<&str>, disposition: Option<&str>) -> String {
    let stated = disposition.and_then(stated_name);
    let last = || {
        let last = url.path_segments()?.rfind(|part| !part.is_empty())?;
        Some(percent_decoded(last))
    };
    let name = wanted
        .map(str::to_owned)
        .filter(|name| !name.is_empty())
        .or(stated)
        .or_else(last);
    sanitized(&name.unwrap_or_default())
}

fn sanitized(name: &str) -> String {
    let base = name
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    if matches!(base, "" | "." | "..") || base.chars().any(char::is_control) {
        return FALLBACK.to_owned();
    }
    base.to_owned()
}

/// The `filename` or `filename*` of a `Content-Disposition` header.
fn stated_name(header: &str) -> Option<String> {
    let mut plain = None;
    for part in split_parameters(header).into_iter().skip(1) {
        let Some((name, value)) = part.split_once('=') else {
            continue;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "filename" => plain = Some(unquoted(value.trim())),
            "filename*" => {
                let (charset, rest) = value.trim().split_once('\'')?;
                let (_, text) = rest.split_once('\'')?;
                if charset.eq_ignore_ascii_case("utf-8") {
                    return Some(percent_decoded(text));
                }
            }
            _ => {}
        }
    }
    plain.filter(|name| !name.is_empty())
}

/// Splits at `;`, but not inside of quotes.
fn split_parameters(header: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in header.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                parts.push(&header[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&header[start..]);
    parts
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut text = String::new();
    let mut escaped = false;
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        text.push(c);
    }
    text
}

fn percent_decoded(text: &str) -> String {
    // A query string's rules are those wanted here, but for `+`.
    let pair = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    pairs
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component() {
        for (url, wanted, header, want) in [
            ("http://h/a/b.tar?x=/y", None, None, "b.tar"),
            ("http://h/a%20b+c%2Fd", None, None, "d"),
            ("http://h/", None, None, "download"),
            ("http://h/a/..%2f", None, None, "download"),
            ("http://h/a", Some("x/../name"), None, "name"),
            ("http://h/a", Some(".."), None, "download"),
            (
                "http://h/a",
                None,
                Some("attachment; filename=\"q; \\\"r\\\".zip\""),
                "q; \"r\".zip",
            ),
            (
                "http://h/a",
                None,
                Some("attachment; filename=plain.zip"),
                "plain.zip",
            ),
            (
                "http://h/a",
                None,
                Some("inline; filename*=UTF-8''%e2%82%ac.txt"),
                "€.txt",
            ),
            (
                "http://h/a",
                None,
                Some("attachment; filename=\"/etc/passwd\""),
                "passwd",
            ),
            ("http://h/a", None, Some("attachment"), "a"),
            (
                "http://h/a",
                None,
                Some("attachment; filename=\"a\u{7}b\""),
                "download",
            ),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(
                file_name(&url, wanted, header),
                want,
                "{url} {wanted:?} {header:?}"
            );
        }
    }
}
