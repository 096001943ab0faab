//! Image references, with Docker's defaults.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// A normalized image reference: `domain/path[:tag][@digest]`.
///
/// `alpine` is `docker.io/library/alpine`. The grammar is that of the distribution project.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// The registry's name and port, e.g. `docker.io` or `localhost:5000`.
    pub domain: String,
    /// The repository in that registry, e.g. `library/alpine`.
    pub path: String,
    /// The tag, when one was given.
    pub tag: Option<String>,
    /// The manifest's digest, when one was given.
    pub digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// The text does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Case(String),
    /// The repository is longer than 255 characters.
    #[error("repository name must not be more than 255 characters")]
    Length,
    /// What follows `@` is not a digest.
    #[error("invalid reference format")]
    Digest(#[from] crate::ParseDigestError),
}

impl Reference {
    /// Parses `text` and adds Docker's defaults for the registry and `library/`, but no tag.
    ///
    /// # Errors
    /// When `text` does not follow the grammar of the distribution project.
    pub fn parse(text: &str) -> Result<Reference, ParseReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ParseReferenceError::Format);
        }
        let (domain, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.chars().any(|c| c.is_ascii_uppercase()) =>
            {
                (first, path.to_owned())
            }
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", name.to_owned()),
        };
        let domain = if domain == "index.docker.io" {
            "docker.io"
        } else {
            domain
        };
        let path = if domain == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path
        };
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(ParseReferenceError::Case(path));
        }
        if domain.len() + path.len() > 255 {
            return Err(ParseReferenceError::Length);
        }
        if !is_domain(domain) || !path.split('/').all(is_path_component) {
            return Err(ParseReferenceError::Format);
        }
        Ok(Reference {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// With `latest` when neither tag nor digest is there.
    pub fn with_default_tag(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// `domain/path`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The short form people write: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        let mut text = if self.domain == "docker.io" {
            self.path
                .strip_prefix("library/")
                .unwrap_or(&self.path)
                .to_owned()
        } else {
            self.name()
        };
        self.push_suffix(&mut text);
        text
    }

    /// What follows the name in a registry's URL: the digest, else the tag, else `latest`.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Reference, ParseReferenceError> {
        Reference::parse(text)
    }
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&text.len())
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(end) = text.strip_prefix('[').and_then(|t| t.find(']')) {
        let (host, rest) = text.split_at(end + 2);
        let address = &host[1..host.len() - 1];
        if !address.chars().all(|c| c.is_ascii_hexdigit() || c == ':') {
            return false;
        }
        (
            "v6",
            rest.strip_prefix(':')
                .or(if rest.is_empty() { None } else { Some("x") }),
        )
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label)
        && port.is_none_or(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()))
}

fn is_path_component(text: &str) -> bool {
    // Alphanumeric runs joined by `.`, `_`, `__` or any number of `-`.
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(alnum) || !text.ends_with(alnum) {
        return false;
    }
    let mut separator = String::new();
    for c in text.chars() {
        if alnum(c) {
            let legal = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.chars().all(|s| s == '-');
            if !legal {
                return false;
            }
            separator.clear();
        } else if matches!(c, '.' | '_' | '-') {
            separator.push(c);
        } else {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_is_none_is_told_of_once() {
        let error = Reference::parse("a@sha256:abc").unwrap_err();
        assert_eq!(error.to_string(), "invalid reference format");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("sha256:abc"), "{cause}");
    }

    #[test]
    fn defaults_are_dockers() {
        for (text, want, familiar) in [
            ("alpine", "docker.io/library/alpine", "alpine"),
            (
                "python:3.10",
                "docker.io/library/python:3.10",
                "python:3.10",
            ),
            ("a/b", "docker.io/a/b", "a/b"),
            ("localhost/b", "localhost/b", "localhost/b"),
            (
                "localhost:5000/b:1",
                "localhost:5000/b:1",
                "localhost:5000/b:1",
            ),
            ("index.docker.io/library/a", "docker.io/library/a", "a"),
            ("ghcr.io/x/y__z-w", "ghcr.io/x/y__z-w", "ghcr.io/x/y__z-w"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), want);
            assert_eq!(reference.familiar(), familiar);
        }
    }

    #[test]
    fn what_the_grammar_refuses_is_refused() {
        for bad in [
            "",
            "A",
            "a:",
            "a//b",
            "-a",
            "a___b",
            "a..b",
            "a@sha256:1",
            ":tag",
            "a/b:t/x:",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(
            Reference::parse("Alpine"),
            Err(ParseReferenceError::Case(_))
        ));
    }
}
