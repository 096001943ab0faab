//! What is refused before git is asked.

use oci::redact_url;

use super::GitRequest;
use crate::error::GitError;

/// Hex digits of the ids of a repository with SHA-1 and with SHA-256.
const SHA1_HEX: usize = 40;
pub(super) const SHA256_HEX: usize = 64;

pub(super) fn is_object(text: &str) -> bool {
    matches!(text.len(), SHA1_HEX | SHA256_HEX)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Refuses what git would take for something else than a remote repository.
pub(super) fn check_url(url: &str) -> Result<(), GitError> {
    let refused = || GitError::Url(redact_url(url));
    check_word(url).map_err(|_| refused())?;
    match url.split_once("://") {
        Some(("http" | "https" | "git" | "ssh", rest)) if !rest.starts_with('-') => Ok(()),
        Some(_) => Err(refused()),
        // `user@host:path`
        None if url.contains('@') && url.contains(':') && !url.contains("::") => Ok(()),
        None => Err(refused()),
    }
}

/// Refuses what could be taken for an option, or for more than one word.
pub(super) fn check_word(word: &str) -> Result<(), GitError> {
    let bad = word.starts_with('-')
        || word.is_empty()
        || word.contains(|c: char| {
            c.is_control()
                || c.is_whitespace()
                || c == ':' && !word.contains('@') && !word.contains("://")
        });
    if bad {
        return Err(GitError::Word(word.to_owned()));
    }
    Ok(())
}

impl GitRequest {
    /// Refuses what contradicts itself (BuildKit: `source/git/identifier.go`).
    pub(super) fn check(&self) -> Result<(), GitError> {
        let sum = self.checksum.as_str();
        let refused = |reason: &str| Err(GitError::Refused(reason.to_owned()));
        if self.as_bundle && self.keep_git_dir {
            return refused("git.checkoutbundle is incompatible with git.keepgitdir");
        }
        if self.as_bundle && !self.subdir.is_empty() {
            return refused("git.checkoutbundle is incompatible with git.subdir");
        }
        if self.bundle.is_some() && sum.is_empty() {
            return refused("git.bundle requires git.checksum to be set");
        }
        if !sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(GitError::Refused(format!(
                "invalid checksum {sum} for Git URL, expected hex commit hash"
            )));
        }
        if is_object(&self.reference) || is_object(sum) {
            return Ok(());
        }
        if self.bundle.is_some() && self.reference.is_empty() {
            return Err(GitError::Refused(format!(
                "git.bundle without a ref requires a full commit SHA checksum, got {sum:?}"
            )));
        }
        if self.bundle.is_none() && self.fetch_by_commit {
            return match sum {
                "" => refused("fetch-by-commit requires a checksum or a commit SHA ref"),
                _ => Err(GitError::Refused(format!(
                    "fetch-by-commit requires a full commit SHA checksum, got {sum:?}"
                ))),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_remote_repositories_are_asked() {
        for url in [
            "https://host/r.git",
            "http://h:1/r",
            "git://host/r",
            "ssh://u@host/r",
            "git@host:r.git",
        ] {
            check_url(url).unwrap();
        }
        for url in [
            "",
            "-x",
            "/path",
            "file:///path",
            "ext::sh -c id",
            "a@b::c",
            "https://-o/x",
            "http://h/a b",
        ] {
            check_url(url).unwrap_err();
        }
    }

    #[test]
    fn no_reference_is_an_option() {
        for word in ["main", "feature/x", "v1.0-rc.1", "refs/pull/1/head"] {
            check_word(word).unwrap();
        }
        for word in ["--upload-pack=id", "", "a b", "a:b", "a\n"] {
            check_word(word).unwrap_err();
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let commit = "0123456789012345678901234567890123456789";
        let request = |attrs: &[&str]| {
            let has = |name: &str| attrs.contains(&name);
            let find = |name: &str| {
                let found = attrs.iter().find_map(|attr| attr.strip_prefix(name));
                found.unwrap_or_default().to_owned()
            };
            GitRequest {
                as_bundle: has("bundle"),
                keep_git_dir: has("keep"),
                fetch_by_commit: has("by-commit"),
                subdir: find("dir="),
                checksum: find("sum="),
                reference: find("ref="),
                ..GitRequest::default()
            }
        };
        let sum = format!("sum={commit}");
        for good in [
            &[][..],
            &["bundle"],
            &["keep", "sum=0123"],
            &["by-commit", &sum, "ref=main"],
            &["by-commit", &format!("ref={commit}")],
        ] {
            request(good).check().unwrap();
        }
        for (bad, reason) in [
            (&["bundle", "keep"][..], "incompatible with git.keepgitdir"),
            (&["bundle", "dir=x"], "incompatible with git.subdir"),
            (&["sum=xyz"], "invalid checksum xyz"),
            (&["by-commit"], "requires a checksum"),
            (&["by-commit", "sum=0123"], "requires a full commit"),
        ] {
            let error = request(bad).check().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
