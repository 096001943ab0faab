//! The credentials in a URL: for those whom they are for, and never shown.

/// What takes the place of a name or a password.
const MASK: &str = "xxxxx";

/// A URL and the credentials that were in front of its host.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlCredentials<'a> {
    scheme: &'a str,
    user: &'a str,
    password: Option<&'a str>,
    /// From the host on.
    rest: &'a str,
}

impl<'a> UrlCredentials<'a> {
    /// Those in `url`. `None` if it has none, or is no URL.
    pub fn of(url: &'a str) -> Option<UrlCredentials<'a>> {
        let (scheme, rest) = url.split_once("://")?;
        // What is before the `@` there is the name of an image, and after it its digest.
        if scheme.starts_with("docker-image") || scheme.starts_with("oci-layout") {
            return None;
        }
        let authority = rest.split(['/', '?', '#']).next()?;
        let (credentials, _) = authority.rsplit_once('@')?;
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        Some(UrlCredentials {
            scheme,
            user,
            password,
            rest: &rest[credentials.len() + 1..],
        })
    }

    /// The name.
    pub fn user(&self) -> Vec<u8> {
        decode(self.user)
    }

    /// The password; nothing if there is none.
    pub fn password(&self) -> Vec<u8> {
        decode(self.password.unwrap_or_default())
    }

    /// The URL without what is secret: a name goes, too, for a token may be given as one. That of an
    /// ssh server stays; nothing can be reached without it.
    pub fn public_url(&self) -> String {
        let UrlCredentials {
            scheme, user, rest, ..
        } = self;
        match *scheme {
            "ssh" if !user.is_empty() => format!("{scheme}://{user}@{rest}"),
            _ => format!("{scheme}://{rest}"),
        }
    }

    fn redacted(&self) -> String {
        let UrlCredentials {
            scheme,
            user,
            password,
            rest,
        } = self;
        let name = if user.is_empty() { "" } else { MASK };
        match password {
            Some(_) => format!("{scheme}://{name}:{MASK}@{rest}"),
            None if scheme.ends_with("ssh") => format!("{scheme}://{user}@{rest}"),
            None => format!("{scheme}://{name}@{rest}"),
        }
    }
}

/// A value as people may see it: if it is a URL, with its credentials masked. That there were some
/// is still seen (BuildKit: `util/urlutil/redact.go`).
pub fn redact_url(value: &str) -> String {
    match UrlCredentials::of(value) {
        Some(url) => url.redacted(),
        None => value.to_owned(),
    }
}

/// A text as people may see it: the credentials of all URLs in it are masked, as [`redact_url`] does.
pub fn redact_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let is_scheme =
            |char: char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.');
        let scheme = rest[..at].trim_end_matches(is_scheme).len();
        let after = at + "://".len();
        let ends =
            |char: char| char.is_whitespace() || matches!(char, '/' | '?' | '#' | '"' | '\'' | '`');
        let end = rest[after..].find(ends).unwrap_or(rest.len() - after) + after;
        shown.push_str(&rest[..scheme]);
        shown.push_str(&redact_url(&rest[scheme..end]));
        rest = &rest[end..];
    }
    shown.push_str(rest);
    shown
}

/// Takes `%41` and the like for the bytes that they mean.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            Some(_) | None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked_wherever_they_are() {
        for (value, wanted) in [
            ("https://me:pw@h/x.git#a", "https://xxxxx:xxxxx@h/x.git#a"),
            ("https://ghp_token@h/x.git", "https://xxxxx@h/x.git"),
            ("https://:pw@h/x", "https://:xxxxx@h/x"),
            ("git://tok@h/x", "git://xxxxx@h/x"),
            ("ssh://git@h/x", "ssh://git@h/x"),
            ("ssh://git:pw@h/x", "ssh://xxxxx:xxxxx@h/x"),
            ("https://h/a:b@c", "https://h/a:b@c"),
            ("https://a:b@c@h?x", "https://xxxxx:xxxxx@h?x"),
            ("git+ssh://git@h/x", "git+ssh://git@h/x"),
            ("oci-layout://a@sha256:1", "oci-layout://a@sha256:1"),
            ("linux/amd64", "linux/amd64"),
        ] {
            assert_eq!(redact_url(value), wanted);
        }
    }

    #[test]
    fn credentials_are_masked_within_texts() {
        for (text, wanted) in [
            (
                "ADD https://me:pw@h/x \"http://tok@h\" /y # a@b",
                "ADD https://xxxxx:xxxxx@h/x \"http://xxxxx@h\" /y # a@b",
            ),
            (
                "RUN git clone --x=https://a:b@c@h?x && echo é://ü:ö@x",
                "RUN git clone --x=https://xxxxx:xxxxx@h?x && echo é://xxxxx:xxxxx@x",
            ),
            ("://:// a@b ://u@", "://:// a@b ://xxxxx@"),
            ("docker-image://a@sha256:1", "docker-image://a@sha256:1"),
            ("no URL: me@h", "no URL: me@h"),
        ] {
            assert_eq!(redact_text(text), wanted);
        }
    }

    #[test]
    fn a_url_is_parted_from_its_credentials() {
        let parts = |url| {
            let found = UrlCredentials::of(url)?;
            let text = |bytes| String::from_utf8(bytes).unwrap();
            Some((
                text(found.user()),
                text(found.password()),
                found.public_url(),
            ))
        };
        let own = |a: &str, b: &str, c: &str| Some((a.into(), b.into(), c.into()));
        assert_eq!(
            parts("https://u%40x:p%3a%zz@h:1/r?q"),
            own("u@x", "p:%zz", "https://h:1/r?q")
        );
        assert_eq!(parts("https://token@h"), own("token", "", "https://h"));
        assert_eq!(parts("ssh://git:x@h/r"), own("git", "x", "ssh://git@h/r"));
        assert_eq!(parts("https://h/r@x"), None);
        assert_eq!(parts("git@h:r"), None);
    }
}
