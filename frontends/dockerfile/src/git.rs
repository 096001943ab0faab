//! Git repositories as sources: which texts name one, and what they say about it.

use std::collections::BTreeMap;

use llb::builder::GitSource;

use crate::go::{self, Url};

/// A git repository, and what of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GitRef {
    /// What `git` is given.
    remote: String,
    /// `<host>/<path>`, equal for all protocols.
    host_path: String,
    ssh: bool,
    /// Whether the text could as well be a local path (`github.com/a/b`).
    pub(crate) like_local: bool,
    pub(crate) reference: String,
    pub(crate) subdir: String,
    pub(crate) checksum: String,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) submodules: Option<bool>,
    /// `checkout` or `commit`; empty is the default.
    pub(crate) mtime: String,
    pub(crate) fetch_by_commit: bool,
}

/// A text that names a repository, but asks for something that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GitRefError {
    /// `?x` of a key that needs a value.
    #[error("query {} has no value", go::quote(.0))]
    NoValue(String),
    /// `?x=1&x=2`.
    #[error("query {} has multiple values", go::quote(.0))]
    ManyValues(String),
    /// No such key.
    #[error("unexpected query {}", go::quote(.0))]
    UnknownKey(String),
    /// Two different values of one thing.
    #[error("{what} conflicts: {} vs {}", go::quote(.a), go::quote(.b))]
    Conflict {
        /// What.
        what: &'static str,
        /// One value.
        a: String,
        /// The other.
        b: String,
    },
    /// A branch and a tag.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// Not a bool.
    #[error("invalid {key} value: {}", go::quote(.value))]
    Bool {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Not a policy.
    #[error("invalid mtime value: {} (must be \"checkout\" or \"commit\")", go::quote(.0))]
    Mtime(String),
}

impl GitRef {
    /// Reads a source; `None` when it names no repository.
    ///
    /// `https://host/x.git`, `git@host:x`, `ssh://…` and `git://…` do, with `#ref:subdir` or a
    /// query; so does `github.com/a/b`.
    pub(crate) fn parse(text: &str) -> Option<Result<GitRef, GitRefError>> {
        if text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        let (mut git, query) = if text.starts_with("github.com/") {
            let url = Url::parse(text).ok()?;
            let mut git = GitRef::of_fragment(&url.fragment);
            git.remote.clone_from(&url.escaped_path);
            git.like_local = true;
            let full = Url::parse(&format!("https://{}", git.remote)).ok()?;
            git.host_path = host_path(&full.host, &full.path);
            (git, go::parse_query(&url.query).0)
        } else if has_scheme(text) {
            let url = Url::parse(text).ok()?;
            match url.scheme.as_str() {
                "http" | "https" if url.path.ends_with(".git") => {}
                "ssh" | "git" => {}
                _ => return None,
            }
            let mut git = GitRef::of_fragment(&url.fragment);
            git.remote = url.remote();
            git.host_path = host_path(&url.host, &url.path);
            git.ssh = url.scheme == "ssh";
            (git, go::parse_query(&url.query).0)
        } else {
            GitRef::parse_scp(text)?
        };
        Some(git.read_query(query).map(|()| git))
    }

    /// `user@host:path[?query][#fragment]`.
    fn parse_scp(text: &str) -> Option<(GitRef, Vec<(String, String)>)> {
        let (user, rest) = text.split_once('@')?;
        let (host, rest) = rest.split_once(':')?;
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if user.is_empty() || !user.chars().all(word) || text.contains('\n') {
            return None;
        }
        if host.is_empty() || !host.chars().all(label) {
            return None;
        }
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (query, malformed) = go::parse_query(query);
        if malformed {
            return None;
        }
        let mut git = GitRef::of_fragment(fragment);
        git.remote = format!("{user}@{host}:{path}");
        git.host_path = host_path(host, path);
        git.ssh = true;
        Some((git, query))
    }

    /// `ref[:subdir]`.
    fn of_fragment(fragment: &str) -> GitRef {
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let subdir = go::join(&["/", subdir]);
        GitRef {
            reference: reference.to_owned(),
            subdir: subdir.trim_start_matches('/').to_owned(),
            ..GitRef::default()
        }
    }

    fn read_query(&mut self, query: Vec<(String, String)>) -> Result<(), GitRefError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in query {
            values.entry(key).or_default().push(value);
        }
        let (mut tag, mut branch) = (String::new(), String::new());
        for (key, mut values) in values {
            let value = values.pop().unwrap_or_default();
            if !values.is_empty() {
                return Err(GitRefError::ManyValues(key));
            }
            let is_flag = matches!(
                key.as_str(),
                "submodules" | "keep-git-dir" | "fetch-by-commit"
            );
            if value.is_empty() && !is_flag {
                return Err(GitRefError::NoValue(key));
            }
            match key.as_str() {
                "ref" => agree("ref", &mut self.reference, value)?,
                "tag" => tag = value,
                "branch" => branch = value,
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => self.checksum = value,
                "keep-git-dir" => self.keep_git_dir = Some(flag(key, value)?),
                "submodules" => self.submodules = Some(flag(key, value)?),
                "fetch-by-commit" => self.fetch_by_commit = flag(key, value)?,
                "mtime" if value == "checkout" || value == "commit" => self.mtime = value,
                "mtime" => return Err(GitRefError::Mtime(value)),
                _ => return Err(GitRefError::UnknownKey(key)),
            }
        }
        if !tag.is_empty() {
            agree("ref", &mut self.reference, qualified("refs/tags/", &tag))?;
        }
        if !branch.is_empty() {
            if !tag.is_empty() {
                return Err(GitRefError::BranchAndTag);
            }
            agree(
                "ref",
                &mut self.reference,
                qualified("refs/heads/", &branch),
            )?;
        }
        Ok(())
    }

    /// The source for the graph builder.
    pub(crate) fn source(&self) -> GitSource {
        let url = match self.like_local {
            true => format!("https://{}", self.remote),
            false => self.remote.clone(),
        };
        GitSource {
            url,
            host_path: self.host_path.clone(),
            ssh: self.ssh,
            reference: self.reference.clone(),
            subdir: self.subdir.clone(),
            keep_git_dir: self.keep_git_dir == Some(true),
            checksum: self.checksum.clone(),
            skip_submodules: self.submodules == Some(false),
            mtime: self.mtime.clone(),
            fetch_by_commit: self.fetch_by_commit,
        }
    }
}

fn has_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

fn host_path(host: &str, path: &str) -> String {
    format!("{host}{}", go::join(&["/", path]))
}

fn qualified(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

/// Sets `slot`, which must be empty or the same.
fn agree(what: &'static str, slot: &mut String, value: String) -> Result<(), GitRefError> {
    if !slot.is_empty() && *slot != value {
        return Err(GitRefError::Conflict {
            what,
            a: slot.clone(),
            b: value,
        });
    }
    *slot = value;
    Ok(())
}

fn flag(key: String, value: String) -> Result<bool, GitRefError> {
    if value.is_empty() {
        return Ok(true);
    }
    go::parse_bool(&value).ok_or(GitRefError::Bool { key, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_paths() {
        for (text, want) in [
            (
                "https://h/a/b.git#v1:docs",
                Some(("https://h/a/b.git", "h/a/b.git", "v1", "docs")),
            ),
            (
                "https://h/a/b.git?branch=x",
                Some(("https://h/a/b.git", "h/a/b.git", "refs/heads/x", "")),
            ),
            ("git@h:a/b#:d/../e", Some(("git@h:a/b", "h/a/b", "", "e"))),
            (
                "ssh://git@h:22/a",
                Some(("ssh://git@h:22/a", "h:22/a", "", "")),
            ),
            ("git://h/a", Some(("git://h/a", "h/a", "", ""))),
            (
                "github.com/a/b#r",
                Some(("https://github.com/a/b", "github.com/a/b", "r", "")),
            ),
            ("https://h/a.tar", None),
            ("ftp://h/a.git", None),
            ("a/b.git", None),
            ("./git@h:a", None),
        ] {
            let found = GitRef::parse(text).map(|found| found.unwrap().source());
            let found = found.as_ref().map(|s| {
                (
                    s.url.as_str(),
                    s.host_path.as_str(),
                    s.reference.as_str(),
                    s.subdir.as_str(),
                )
            });
            assert_eq!(found, want, "{text}");
        }
    }

    #[test]
    fn queries_are_checked() {
        for (query, want) in [
            ("foo=1", "unexpected query \"foo\""),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("ref", "query \"ref\" has no value"),
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
            ("submodules=x", "invalid submodules value: \"x\""),
            (
                "mtime=x",
                "invalid mtime value: \"x\" (must be \"checkout\" or \"commit\")",
            ),
        ] {
            let error = GitRef::parse(&format!("https://h/a.git?{query}"))
                .unwrap()
                .unwrap_err();
            assert_eq!(error.to_string(), want);
        }
        let git = GitRef::parse("https://h/a.git?submodules=false&keep-git-dir&commit=abc");
        let git = git.unwrap().unwrap();
        assert_eq!(
            (git.submodules, git.keep_git_dir),
            (Some(false), Some(true))
        );
        assert_eq!(git.checksum, "abc");
    }
}
