//! `net/url`: what decides whether a source is a git repository and how it is named.

/// A text that is no URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid URL")]
pub(crate) struct UrlError;

/// The parts of a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Url {
    /// Lower case; empty for a URL without scheme.
    pub(crate) scheme: String,
    /// `user[:password]@`, as written, or nothing.
    pub(crate) user: String,
    /// Host and port.
    pub(crate) host: String,
    /// The path, decoded.
    pub(crate) path: String,
    /// The path as it is spelled in a URL.
    pub(crate) escaped_path: String,
    /// What follows `?`, as written.
    pub(crate) query: String,
    /// What follows `#`, decoded.
    pub(crate) fragment: String,
    /// Whether the URL ends in a bare `?`.
    force_query: bool,
}

impl Url {
    /// Parses a URL with or without scheme.
    pub(crate) fn parse(text: &str) -> Result<Url, UrlError> {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err(UrlError);
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = Url {
            fragment: unescape(fragment, false)?,
            ..Url::default()
        };
        let mut rest = match split_scheme(rest)? {
            Some((scheme, rest)) => {
                url.scheme = scheme.to_lowercase();
                rest
            }
            None => rest,
        };
        if rest.ends_with('?') && rest.matches('?').count() == 1 {
            url.force_query = true;
            rest = &rest[..rest.len() - 1];
        } else if let Some((path, query)) = rest.split_once('?') {
            url.query = query.to_owned();
            rest = path;
        }
        if !rest.starts_with('/') {
            let segment = rest.split('/').next().unwrap_or("");
            if !url.scheme.is_empty() || segment.contains(':') {
                return Err(UrlError);
            }
        }
        if let Some(authority) = rest.strip_prefix("//").filter(|_| !url.scheme.is_empty()) {
            let end = authority.find('/').unwrap_or(authority.len());
            let (authority, path) = authority.split_at(end);
            url.set_authority(authority)?;
            rest = path;
        }
        url.path = unescape(rest, false)?;
        url.escaped_path = if is_escaped(rest) {
            rest.to_owned()
        } else {
            escape_path(&url.path)
        };
        Ok(url)
    }

    /// The URL without query and fragment.
    pub(crate) fn remote(&self) -> String {
        let slash = if self.host.is_empty() || self.path.is_empty() || self.path.starts_with('/') {
            ""
        } else {
            "/"
        };
        let mark = if self.force_query { "?" } else { "" };
        let Url {
            scheme,
            user,
            host,
            escaped_path,
            ..
        } = self;
        format!("{scheme}://{user}{host}{slash}{escaped_path}{mark}")
    }

    fn set_authority(&mut self, authority: &str) -> Result<(), UrlError> {
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                let legal = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
                if !user.chars().all(legal) {
                    return Err(UrlError);
                }
                self.user = format!("{user}@");
                host
            }
            None => authority,
        };
        let port = match host.strip_prefix('[') {
            Some(address) => address.rsplit_once(']').ok_or(UrlError)?.1,
            None => host.rfind(':').map_or("", |at| &host[at..]),
        };
        let port_ok = match port.strip_prefix(':') {
            Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()),
            None => port.is_empty(),
        };
        let bad = |c: char| {
            c.is_ascii() && !c.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:[]<>\"%".contains(c)
        };
        if !port_ok || host.contains(bad) {
            return Err(UrlError);
        }
        self.host = unescape(host, false)?;
        Ok(())
    }
}

fn split_scheme(text: &str) -> Result<Option<(&str, &str)>, UrlError> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err(UrlError),
            ':' => return Ok(Some((&text[..at], &text[at + 1..]))),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The pairs of a query in order; malformed ones are left out, and reported by the flag.
pub(crate) fn parse_query(query: &str) -> (Vec<(String, String)>, bool) {
    let mut pairs = Vec::new();
    let mut malformed = false;
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match (unescape(key, true), unescape(value, true)) {
            (Ok(key), Ok(value)) if !part.contains(';') => pairs.push((key, value)),
            _ => malformed = true,
        }
    }
    (pairs, malformed)
}

fn unescape(text: &str, plus_is_space: bool) -> Result<String, UrlError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next().ok_or(UrlError)?, bytes.next().ok_or(UrlError)?];
                let digits = std::str::from_utf8(&digits).map_err(|_| UrlError)?;
                if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(UrlError);
                }
                out.push(u8::from_str_radix(digits, 16).map_err(|_| UrlError)?);
            }
            b'+' if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn is_path_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.~$&+,/:;=@".contains(c)
}

/// Whether a path can stay as it is written.
fn is_escaped(path: &str) -> bool {
    path.chars()
        .all(|c| is_path_char(c) || "!'()*[]%".contains(c))
}

fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if is_path_char(c) {
            out.push(c);
        } else {
            out.extend(
                c.encode_utf8(&mut [0; 4])
                    .bytes()
                    .map(|byte| format!("%{byte:02X}")),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_fall_into_parts() {
        let url = Url::parse("HTTPS://u:p@h.example:1/a%20b/c.git?x=1&y=%2F#r:d").unwrap();
        assert_eq!(url.scheme, "https");
        assert_eq!(url.host, "h.example:1");
        assert_eq!(
            (url.path.as_str(), url.fragment.as_str()),
            ("/a b/c.git", "r:d")
        );
        assert_eq!(url.remote(), "https://u:p@h.example:1/a%20b/c.git");
        assert_eq!(
            parse_query(&url.query).0,
            [("x".into(), "1".into()), ("y".into(), "/".into())]
        );
        assert_eq!(
            Url::parse("http://h/a b").unwrap().remote(),
            "http://h/a%20b"
        );
        for bad in ["http://h:x/", "http://h/%zz", "a:b", "http://a b/", "x:y/z"] {
            assert!(Url::parse(bad).is_err() || bad == "x:y/z", "{bad}");
        }
    }
}
