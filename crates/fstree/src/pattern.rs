//! Which paths a list of patterns selects, by the rules of `.dockerignore` (moby's
//! `patternmatcher`): the last pattern that matches a path, or a directory above it, decides; a
//! pattern that starts with `!` takes the path out again.

mod glob;
mod go_match;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use go_match::{BadPattern, go_match};

use crate::path::clean;
use glob::Glob;

/// A compiled list of patterns.
#[derive(Debug)]
pub struct Matcher {
    patterns: Vec<Pattern>,
    has_exceptions: bool,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    exception: bool,
    glob: Glob,
}

/// Which patterns matched a directory: what holds for it holds for all below it.
///
/// The default is that nothing is known of the directories above.
#[derive(Clone, Debug, Default)]
pub struct Carried(Option<Box<[bool]>>);

/// Why a list of patterns cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A pattern is only `!`.
    #[error("illegal exclusion pattern: `!`")]
    LoneException,
    /// A pattern is not well formed.
    #[error("syntax error in pattern `{pattern}`")]
    Syntax {
        /// The pattern as given.
        pattern: String,
        /// What is wrong.
        source: BadPattern,
    },
    /// A pattern is too large to be compiled.
    #[error("pattern `{0}` is too complex")]
    TooComplex(String),
}

impl Matcher {
    /// Compiles `patterns`; empty ones are left out.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Matcher, PatternError> {
        let mut compiled = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if !pattern.is_empty() {
                compiled.push(Pattern::new(pattern)?);
            }
        }
        let has_exceptions = compiled.iter().any(|pattern| pattern.exception);
        Ok(Matcher {
            patterns: compiled,
            has_exceptions,
        })
    }

    /// Whether any pattern starts with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Whether `path`, or a directory above it, is selected. `path` is relative.
    pub fn matches(&self, path: &Path) -> bool {
        self.matches_below(path, &Carried::default()).0
    }

    /// Whether `path` is selected, given the results for the directory that it is in.
    ///
    /// Returns what to carry on to the entries of `path` if it is a directory.
    pub fn matches_below(&self, path: &Path, parent: &Carried) -> (bool, Carried) {
        let bytes = path.as_os_str().as_bytes();
        let mut selected = false;
        let mut results = vec![false; self.patterns.len()];
        for (index, pattern) in self.patterns.iter().enumerate() {
            let mut matched = parent.0.as_ref().is_some_and(|above| above[index]);
            if !matched {
                // A pattern that could not change the outcome is not looked at.
                if pattern.exception != selected {
                    continue;
                }
                matched = pattern.glob.matches(bytes)
                    || parent.0.is_none() && ancestors(bytes).any(|dir| pattern.glob.matches(dir));
            }
            results[index] = matched;
            if matched {
                selected = !pattern.exception;
            }
        }
        (selected, Carried(Some(results.into_boxed_slice())))
    }

    /// The patterns that select (`exception` false) or the exceptions, without a `/*` or `/**` at
    /// the end.
    pub(crate) fn stems(&self, exception: bool) -> impl Iterator<Item = &str> {
        self.patterns
            .iter()
            .filter(move |pattern| pattern.exception == exception)
            .map(|pattern| {
                let text = pattern.text.strip_suffix("/**").unwrap_or(&pattern.text);
                text.strip_suffix("/*").unwrap_or(text)
            })
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Pattern, PatternError> {
        let cleaned = clean(pattern);
        let (text, exception) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::LoneException),
            Some(rest) => (clean(rest), true),
            None => (cleaned, false),
        };
        // The syntax is that of filepath.Match, so its check is the one that counts.
        go_match(&text, Path::new(".")).map_err(|source| PatternError::Syntax {
            pattern: pattern.to_owned(),
            source,
        })?;
        let glob =
            Glob::compile(&text).ok_or_else(|| PatternError::TooComplex(pattern.to_owned()))?;
        Ok(Pattern {
            text,
            exception,
            glob,
        })
    }
}

/// The directories above `path`, the outermost first.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line: patterns, `|`, paths that are selected, `|`, paths that are not.
    fn check(cases: &str) {
        for case in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut parts = case.split('|').map(|part| part.split_whitespace());
            let patterns: Vec<&str> = parts.next().unwrap().collect();
            let matcher = Matcher::new(&patterns).unwrap();
            for path in parts.next().unwrap() {
                assert!(
                    matcher.matches(Path::new(path)),
                    "{patterns:?} selects {path}"
                );
                assert!(
                    carried(&matcher, path),
                    "{patterns:?} selects {path}, carried"
                );
            }
            for path in parts.next().unwrap() {
                assert!(
                    !matcher.matches(Path::new(path)),
                    "{patterns:?} leaves {path}"
                );
                assert!(
                    !carried(&matcher, path),
                    "{patterns:?} leaves {path}, carried"
                );
            }
        }
    }

    /// The result when each directory on the way hands its own down.
    fn carried(matcher: &Matcher, path: &str) -> bool {
        let mut state = Carried::default();
        let mut selected = false;
        for end in path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()])
        {
            (selected, state) = matcher.matches_below(Path::new(&path[..end]), &state);
        }
        selected
    }

    #[test]
    fn patterns_select_what_docker_selects() {
        check(
            "
            dir | dir dir/a dir/a/b | dirx x/dir
            dir/ | dir dir/a | d
            ./dir/../dir | dir/x | x
            * | a a/b .x |
            *.go | a.go .go | a/b.go a.gox
            */a | b/a b/a/c | a b/c/a
            ? | a é a/bc | ab ab/c
            a?c | abc aéc | a/c ac
            ** | a a/b/c |
            **/ | a a/b/c |
            **/x | x a/x a/b/x a/x/y | ax a/bx
            **x | x ax a/bx | xa
            **/*.log | a.log a/b/c.log | a.logs
            a/** | a/b a/b/c | a b
            a/**/b | a/b a/x/b a/x/y/b a/b/c | ab a/x
            a** | a ab a/b | b
            a/**/* | a/b a/b/c | a
            [a-c]x | ax bx | dx x
            [^a]x | bx | ax
            a\\*b | a*b | axb
            a.c | a.c | abc
            a+(b)|a+(b)|aab
            dir !dir/keep | dir dir/a dir/a/keep | dir/keep dir/keep/x x
            dir !dir/keep dir/keep/no | dir/keep/no | dir/keep dir/keep/yes
            * !a !b/** | c | a b/c
            !a | | a b
            **/node_modules !keep/node_modules/x | a/node_modules/b keep/node_modules | keep/node_modules/x
            ",
        );
    }

    #[test]
    fn names_that_are_not_utf8_are_matched_by_their_bytes() {
        use std::ffi::OsStr;
        let name = Path::new(OsStr::from_bytes(b"a/\xff.log"));
        for (pattern, want) in [
            ("**/*.log", true),
            ("a", true),
            ("*.log", false),
            ("a/*", true),
            ("a/?.log", true),
            ("?/[^b].log", true),
            ("a/??.log", false),
            ("a/[b].log", false),
        ] {
            assert_eq!(
                Matcher::new(&[pattern]).unwrap().matches(name),
                want,
                "{pattern}"
            );
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert_eq!(
            Matcher::new(&["!"]).unwrap_err(),
            PatternError::LoneException
        );
        for bad in ["[", "a[b", "[]", "[a-]", "a\\", "!x[", "[^]"] {
            let error = Matcher::new(&["ok", bad]).unwrap_err();
            assert!(matches!(error, PatternError::Syntax { .. }), "{bad}");
        }
        assert!(!Matcher::new(&["", "  "]).unwrap().matches(Path::new("a")));
    }
}
