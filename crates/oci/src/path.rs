//! Paths inside a container root.

use std::fmt;

/// A path inside a container root: absolute, `/`-separated, without `.`, `..` or a trailing `/`.
///
/// Only a name: opening it safely is the business of the code that holds the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootedPath(String);

impl RootedPath {
    /// The root itself.
    pub fn root() -> RootedPath {
        RootedPath("/".to_owned())
    }

    /// Normalizes `raw` lexically, taken as relative to the root; `..` at the root stays there.
    pub fn normalize(raw: &str) -> RootedPath {
        let mut parts: Vec<&str> = Vec::new();
        for part in raw.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        RootedPath(format!("/{}", parts.join("/")))
    }

    /// `raw` seen from here: an absolute path replaces this one.
    pub fn join(&self, raw: &str) -> RootedPath {
        if raw.starts_with('/') {
            RootedPath::normalize(raw)
        } else {
            RootedPath::normalize(&format!("{}/{raw}", self.0))
        }
    }

    /// With the leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the leading `/`; empty for the root.
    pub fn relative(&self) -> &str {
        &self.0[1..]
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// The last component, or `None` for the root.
    pub fn file_name(&self) -> Option<&str> {
        self.components().last()
    }

    /// The directory that holds this path; the root holds itself.
    pub fn parent(&self) -> RootedPath {
        match self.0.rsplit_once('/') {
            Some(("", _)) | None => RootedPath::root(),
            Some((parent, _)) => RootedPath(parent.to_owned()),
        }
    }
}

impl fmt::Display for RootedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_dot_never_leaves_the_root() {
        for (raw, want) in [
            ("", "/"),
            ("..", "/"),
            ("../../etc", "/etc"),
            ("/a/./b//c/..", "/a/b"),
            ("a/../../b", "/b"),
        ] {
            assert_eq!(RootedPath::normalize(raw).as_str(), want);
        }
        let path = RootedPath::normalize("/a/b");
        assert_eq!(path.join("../c").as_str(), "/a/c");
        assert_eq!(path.join("/c").as_str(), "/c");
        assert_eq!(path.parent().parent().parent().as_str(), "/");
        assert_eq!(path.file_name(), Some("b"));
    }
}
