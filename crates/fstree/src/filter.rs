//! Which entries of a tree are taken, decided from the root down.
//!
//! An entry is taken if it or a directory above it matches an include pattern (or there is none)
//! and not an exclude pattern. A directory that is not taken may still hold entries that are.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::pattern::{Carried, Matcher, PatternError};

/// Include and exclude patterns, compiled.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    include: Option<Matcher>,
    exclude: Option<Matcher>,
    /// The include patterns name directories literally, so that others need not be entered.
    literal_includes: bool,
    /// The exceptions to the exclude patterns do.
    literal_exceptions: bool,
}

/// What holds for a directory and so for the entries below it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FilterState {
    include: Carried,
    exclude: Carried,
}

/// What becomes of an entry.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// It is taken.
    pub(crate) taken: bool,
    /// It is a directory, and something below it may be taken.
    pub(crate) enter: bool,
    /// What to judge its own entries with.
    pub(crate) state: FilterState,
}

impl Filter {
    pub(crate) fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Filter, PatternError> {
        let include = if include.is_empty() {
            None
        } else {
            Some(Matcher::new(include)?)
        };
        let exclude = if exclude.is_empty() {
            None
        } else {
            Some(Matcher::new(exclude)?)
        };
        let literal = |matcher: &Option<Matcher>, exceptions: bool| {
            matcher.as_ref().is_none_or(|matcher| {
                matcher
                    .stems(exceptions)
                    .all(|stem| !stem.contains(['*', '[', ']', '?', '^', '\\']))
            })
        };
        Ok(Filter {
            literal_includes: literal(&include, false),
            literal_exceptions: literal(&exclude, true),
            include,
            exclude,
        })
    }

    /// Judges the entry at `path`, relative to the root, in a directory judged with `parent`.
    pub(crate) fn judge(&self, path: &Path, is_dir: bool, parent: &FilterState) -> Verdict {
        let mut verdict = Verdict {
            taken: true,
            enter: is_dir,
            state: FilterState::default(),
        };
        if let Some(include) = &self.include {
            let (matched, carried) = include.matches_below(path, &parent.include);
            verdict.state.include = carried;
            if !matched {
                verdict.taken = false;
                verdict.enter &= !self.literal_includes || leads_to(path, include.stems(false));
            }
        }
        if let Some(exclude) = &self.exclude {
            let (matched, carried) = exclude.matches_below(path, &parent.exclude);
            verdict.state.exclude = carried;
            if matched {
                verdict.taken = false;
                verdict.enter &= exclude.has_exceptions()
                    && (!self.literal_exceptions || leads_to(path, exclude.stems(true)));
            }
        }
        verdict
    }
}

/// Whether one of `targets` is `dir` or below it.
fn leads_to<'a>(dir: &Path, mut targets: impl Iterator<Item = &'a str>) -> bool {
    let dir = dir.as_os_str().as_bytes();
    dir.is_empty()
        || targets.any(|target| {
            OsStr::new(target)
                .as_bytes()
                .strip_prefix(dir)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (taken, entered) of `dir` as a directory at the top.
    fn check(include: &[&str], exclude: &[&str], dir: &str, want: (bool, bool)) {
        let filter = Filter::new(include, exclude).unwrap();
        let verdict = filter.judge(Path::new(dir), true, &FilterState::default());
        assert_eq!(
            (verdict.taken, verdict.enter),
            want,
            "{include:?} {exclude:?} {dir}"
        );
    }

    #[test]
    fn directories_that_can_hold_nothing_are_not_entered() {
        check(&[], &[], "a", (true, true));
        check(&["a/b"], &[], "a", (false, true));
        check(&["a/b"], &[], "ab", (false, false));
        check(&["a/b/**"], &[], "a", (false, true));
        check(&["*/b"], &[], "x", (false, true));
        check(&[], &["a"], "a", (false, false));
        check(&[], &["a", "!a/b"], "a", (false, true));
        check(&[], &["**", "!a/b"], "x", (false, false));
        check(&[], &["**", "!*/b"], "x", (false, true));
        check(&["a"], &["a/b"], "a", (true, true));
    }
}
