//! `WWW-Authenticate` headers.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// How a registry wants a client to authorize itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token of the server at `realm`.
    Bearer {
        /// The token server's URL.
        realm: String,
        /// The name under which the token server knows the registry.
        service: String,
        /// What is needed for the request that was refused, separated by spaces.
        scope: String,
        /// Why the token that was sent is not good enough, or empty.
        error: String,
    },
    /// User name and password.
    Basic,
}

impl Challenge {
    /// The best challenge of `headers`: a token rather than a password.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Challenge> {
        let all: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .collect();
        let bearer = all.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
        bearer.or(all.first()).cloned()
    }

    /// The challenge without its scope, unless `fits` says that it is of use: that of an earlier request
    /// is of none for another repository.
    pub(crate) fn within(self, fits: impl FnOnce(&str) -> bool) -> Challenge {
        match self {
            Challenge::Bearer {
                realm,
                service,
                scope,
                error,
            } => Challenge::Bearer {
                scope: if fits(&scope) { scope } else { String::new() },
                realm,
                service,
                error,
            },
            Challenge::Basic => Challenge::Basic,
        }
    }

    fn parse(value: &str) -> Option<Challenge> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut realm = String::new();
        let (mut service, mut scope, mut error) = (String::new(), String::new(), String::new());
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = value,
                "service" => service = value,
                "scope" => scope = value,
                "error" => error = value,
                _ => {}
            }
        }
        (!realm.is_empty()).then_some(Challenge::Bearer {
            realm,
            service,
            scope,
            error,
        })
    }
}

/// `name=value` and `name="value"` pairs, separated by commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_owned();
        let mut value = String::new();
        let mut chars = after.char_indices();
        let mut end = after.len();
        if after.starts_with('"') {
            chars.next();
            let mut escaped = false;
            for (at, c) in chars.by_ref() {
                match c {
                    _ if escaped => {
                        value.push(c);
                        escaped = false;
                    }
                    '\\' => escaped = true,
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    _ => value.push(c),
                }
            }
        } else {
            end = after.find(',').unwrap_or(after.len());
            after[..end].trim().clone_into(&mut value);
        }
        found.push((name, value));
        rest = &after[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_with_and_without_quotes() {
        let text = r#"Bearer realm="https://a/t?x=1,2",service=reg, scope="repository:a:pull,push repository:b:pull",error="a \"b\"""#;
        let want = Challenge::Bearer {
            realm: "https://a/t?x=1,2".into(),
            service: "reg".into(),
            scope: "repository:a:pull,push repository:b:pull".into(),
            error: "a \"b\"".into(),
        };
        assert_eq!(Challenge::parse(text), Some(want));
        assert_eq!(
            Challenge::parse("basic realm=\"x\""),
            Some(Challenge::Basic)
        );
        assert_eq!(Challenge::parse("Bearer service=\"no realm\""), None);
        assert_eq!(Challenge::parse("Negotiate"), None);
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=\"x\"".parse().unwrap());
        headers.append(
            WWW_AUTHENTICATE,
            "Bearer realm=\"https://t\"".parse().unwrap(),
        );
        assert!(matches!(
            Challenge::of(&headers),
            Some(Challenge::Bearer { .. })
        ));
    }
}
