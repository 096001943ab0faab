//! `path`: lexical functions on `/`-separated paths.

/// `path.Clean`: the shortest spelling; empty becomes `.`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            _ => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, joined) => format!("/{joined}"),
        (false, joined) if joined.is_empty() => ".".to_owned(),
        (false, joined) => joined,
    }
}

/// `path.Join`: joins what is not empty, and cleans; empty when there is nothing.
pub(crate) fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts
        .iter()
        .copied()
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        clean(&parts.join("/"))
    }
}

/// `path.Base`: the last component; `.` of nothing, `/` of slashes.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        Some("") | None => "/",
        Some(last) => last,
    }
}

/// `path.IsAbs`.
pub(crate) fn is_abs(path: &str) -> bool {
    path.starts_with('/')
}

/// Whether a path has an unescaped `*`, `?` or `[`.
pub(crate) fn has_wildcards(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_lexical() {
        for (path, want) in [
            ("", "."),
            ("/", "/"),
            ("a//b/", "a/b"),
            ("/../a", "/a"),
            ("../a/..", ".."),
            ("a/../..", ".."),
            ("./a/.", "a"),
            ("/a/b/../../..", "/"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
        assert_eq!(join(&["", ""]), "");
        assert_eq!(join(&["/", "../x"]), "/x");
        for (path, want) in [("", "."), ("//", "/"), ("/a/b/", "b"), ("a", "a")] {
            assert_eq!(base(path), want);
        }
        assert!(has_wildcards("a*") && !has_wildcards("a\\*"));
    }
}
