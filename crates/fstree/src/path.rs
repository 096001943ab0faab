//! Slash-separated paths as Go's `path` package treats them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The shortest path that means the same lexically; `.` for nothing.
///
/// `..` at the start of a relative path stays; at the start of an absolute one it vanishes.
pub(crate) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

/// The path from the root down: without a leading `/`, `.` or `..`; empty for the root.
pub(crate) fn relative(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

/// Whether `text` has a wildcard that is not escaped.
pub(crate) fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

/// `dir` with `name` under it, as bytes: `/` only where both have something.
pub(crate) fn join(dir: &Path, name: &OsStr) -> PathBuf {
    if dir.as_os_str().is_empty() {
        return PathBuf::from(name);
    }
    let mut bytes = Vec::with_capacity(dir.as_os_str().len() + 1 + name.len());
    bytes.extend_from_slice(dir.as_os_str().as_bytes());
    bytes.push(b'/');
    bytes.extend_from_slice(name.as_bytes());
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, want) in [
            ("", "."),
            (".", "."),
            ("./a//b/", "a/b"),
            ("a/../..", ".."),
            ("../../a", "../../a"),
            ("/../a/.", "/a"),
            ("/", "/"),
            ("a/b/../c", "a/c"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
    }

    #[test]
    fn relative_paths_stay_below_the_root() {
        assert_eq!(relative(Path::new("/a/../../b/./c/")), Path::new("b/c"));
        assert_eq!(relative(Path::new("..")), Path::new(""));
    }

    #[test]
    fn an_escaped_wildcard_is_none() {
        assert!(has_wildcard(b"a*") && has_wildcard(b"[") && !has_wildcard(b"a\\*\\"));
    }
}
