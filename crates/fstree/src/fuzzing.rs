//! What the fuzz target in `fuzz/` does with arbitrary bytes; the unit tests here do the same with
//! chosen ones. An `assert` that fails is a finding, and so is a panic, a hang or memory without
//! bound.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::dockerignore;
use crate::pattern::{Carried, Matcher, go_match};

/// Reads an ignore file and asks it about paths: the file comes first, then paths, all set apart
/// by NUL.
pub fn ignore(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let Ok(patterns) = dockerignore::parse(parts.next().unwrap_or_default()) else {
        return;
    };
    let matcher = match Matcher::new(&patterns) {
        Ok(matcher) => matcher,
        Err(error) => return drop(error.to_string()),
    };
    for path in parts.filter(|path| is_clean(path)) {
        let path = Path::new(OsStr::from_bytes(path));
        let selected = matcher.matches(path);
        let carried = carried(&matcher, path);
        // What is handed down leaves out patterns that did not count above, and with exceptions
        // they may count below: there moby's two ways differ, too.
        if !matcher.has_exceptions() {
            assert_eq!(selected, carried, "carried down to {path:?}");
        }
        if let [pattern] = &patterns[..]
            && !pattern.contains("**")
            && !pattern.starts_with('!')
            // The matcher takes blanks off once more.
            && pattern.trim() == pattern
            // As in Go, one takes a byte that is not UTF-8 for this character and the other does not.
            && !pattern.contains(char::REPLACEMENT_CHARACTER)
            // A class takes a `/` in both, but only the matcher tries what else a `*` before it
            // could have taken; so do moby's and Go's.
            && !(pattern.contains('[') && pattern.matches('*').count() > 1)
        {
            let own = path
                .ancestors()
                .filter(|above| !above.as_os_str().is_empty())
                .any(|above| go_match(pattern, above) == Ok(true));
            assert_eq!(selected, own, "`{pattern}` on {path:?}");
        }
    }
}

/// Paths of a tree have no empty names, no dots and no `/` in front.
fn is_clean(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/')
        .all(|name| !name.is_empty() && name != b"." && name != b"..")
}

/// The result when each directory on the way hands its own down.
fn carried(matcher: &Matcher, path: &Path) -> bool {
    let mut state = Carried::default();
    let mut selected = false;
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.pop();
    for dir in above.into_iter().rev() {
        (selected, state) = matcher.matches_below(dir, &state);
    }
    selected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_were_once_too_much() {
        for data in [
            &b""[..],
            b"*\0a/b\0a",
            b"!a\n**/b\0a/b",
            b"a?\0a\xff",
            b"[a-z]*/[^b]\0a/\xff\0a/b",
            b"*?*[^a]*?\0?\xff/**",
        ] {
            ignore(data);
        }
    }
}
