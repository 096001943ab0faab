//! Paths inside an image, for the system that the image is for.
//!
//! On Linux these are ordinary cleaned paths. For Windows, drive letters are taken off and
//! backslashes become slashes, as BuildKit's `util/system/path.go` does it.

use crate::go;

/// A path that cannot be used in an image for Windows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// `C:` alone.
    #[error("No relative path specified in {}", go::quote(.0))]
    NoPath(String),
    /// `\\host\share`.
    #[error("UNC paths are not supported")]
    Unc,
    /// Another drive than `C:`.
    #[error("The specified path is not on the system drive (C:)")]
    Drive,
}

/// Whether the path is for Windows.
fn is_windows(os: &str) -> bool {
    os == "windows"
}

/// With slashes only.
pub(crate) fn to_slash(path: &str, os: &str) -> String {
    if is_windows(os) {
        path.replace('\\', "/")
    } else {
        path.to_owned()
    }
}

fn from_slash(path: &str, os: &str) -> String {
    if is_windows(os) {
        path.replace('/', "\\")
    } else {
        path.to_owned()
    }
}

/// Takes the drive letter off and cleans the path, on Windows; elsewhere gives it back as it is.
pub(crate) fn strip_drive(path: &str, os: &str, keep_slash: bool) -> Result<String, PathError> {
    if !is_windows(os) {
        return Ok(path.to_owned());
    }
    let bytes = path.as_bytes();
    if bytes.len() == 2 && bytes[1] == b':' {
        return Err(PathError::NoPath(path.to_owned()));
    }
    let slashed = to_slash(path, os);
    if slashed.starts_with("//") {
        return Err(PathError::Unc);
    }
    let rest = match slashed.split_once(':') {
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => return Err(PathError::Drive),
        None => &slashed,
    };
    let cleaned = go::clean(rest);
    let slash = if keep_slash && cleaned.len() > 1 && rest.ends_with('/') {
        "/"
    } else {
        ""
    };
    Ok(cleaned + slash)
}

/// Whether a path is absolute in an image.
pub(crate) fn is_abs(path: &str, os: &str) -> bool {
    strip_drive(path, os, false).is_ok_and(|path| go::is_abs(&path))
}

/// The absolute form of `path` below `parent`, with slashes; with `keep_slash`, a trailing `/` or
/// `/.` stays.
pub(crate) fn normalize(
    parent: &str,
    path: &str,
    os: &str,
    keep_slash: bool,
) -> Result<String, PathError> {
    let original = to_slash(path, os);
    let parent = to_slash(parent, os);
    let parent = strip_drive(
        if parent.is_empty() { "/" } else { &parent },
        os,
        keep_slash,
    )?;
    let parent = if is_abs(&parent, os) {
        parent
    } else {
        go::join(&["/", &parent])
    };
    let path = if original.is_empty() {
        parent.clone()
    } else {
        original.clone()
    };
    let mut path = strip_drive(&path, os, keep_slash)?;
    if !is_abs(&path, os) {
        path = go::join(&[&parent, &path]);
    }
    if keep_slash && original.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    } else if keep_slash && original.ends_with("/.") {
        path.push_str(if path == "/" { "." } else { "/." });
    }
    Ok(path)
}

/// The working directory `path` below `current`, spelled as the system spells it.
pub(crate) fn workdir(current: &str, path: &str, os: &str) -> Result<String, PathError> {
    normalize(current, path, os, false).map(|path| from_slash(&path, os))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_paths_are_taken_as_they_are() {
        for (parent, path, keep, want) in [
            ("/a", "b/", true, "/a/b/"),
            ("/a", "/b/../c", false, "/b/../c"),
            ("", "x", false, "/x"),
            ("/a", "", false, "/a"),
            ("/", "x/.", true, "/x/."),
            ("/a", "./", true, "/a/"),
        ] {
            assert_eq!(
                normalize(parent, path, "linux", keep).unwrap(),
                want,
                "{path}"
            );
        }
    }

    #[test]
    fn windows_paths_lose_their_drive() {
        assert_eq!(workdir("", "C:\\a\\..\\b", "windows").unwrap(), "\\b");
        assert_eq!(workdir("\\b", "c", "windows").unwrap(), "\\b\\c");
        assert_eq!(normalize("/", "c:\\x\\", "windows", true).unwrap(), "/x/");
        assert_eq!(
            strip_drive("d:\\x", "windows", false),
            Err(PathError::Drive)
        );
        assert_eq!(
            strip_drive("\\\\h\\x", "windows", false),
            Err(PathError::Unc)
        );
        assert!(is_abs("C:\\x", "windows") && !is_abs("x", "windows"));
    }
}
