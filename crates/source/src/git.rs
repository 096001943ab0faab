//! Git repositories: which commit a reference stands for, and its files.
//!
//! The program `git` does the work. It sees nothing of the machine's or the user's configuration, asks
//! nothing, and is given only arguments that cannot be taken for options.

mod checkout;
mod command;
mod listing;
mod objects;
mod running;
mod signature;

use std::path::{Path, PathBuf};

use oci::{Digest, UrlCredentials, redact_url};
use registry::Secret;
use serde::Serialize;

use crate::error::GitError;
pub use command::Failed as GitFailed;
use command::{Git, Network};
use listing::Listing;
pub use objects::GitObjects;
pub use signature::{SignatureError, SignatureRules};

/// A commit of a repository that is wanted as files.
#[derive(Clone, Default)]
pub struct GitRequest {
    /// Where the repository is, in one of git's own forms. Credentials in it are for nobody else.
    pub url: String,
    /// Branch, tag, full ref or commit; empty is the default branch.
    pub reference: String,
    /// The directory whose content is wanted; empty is all.
    pub subdir: String,
    /// Whether the files come with a repository of their own.
    pub keep_git_dir: bool,
    /// The beginning of the id that the commit, or its tag, must have.
    pub checksum: String,
    /// Whether `checksum` names the commit, so that the repository need not be asked for it.
    pub fetch_by_commit: bool,
    /// Whether submodules are left out.
    pub skip_submodules: bool,
    /// Whether all files get the time of the commit.
    pub commit_time: bool,
    /// By what key the commit, or its tag, must be signed.
    pub signature: Option<SignatureRules>,
    /// The value of the header `Authorization`.
    pub authorization: Option<Secret>,
    /// The keys that ssh servers may have, as in `known_hosts`; empty trusts all.
    pub known_hosts: String,
    /// For files that are read while git runs. Only the daemon may look into it.
    pub scratch: PathBuf,
    /// The socket of the ssh agent.
    pub ssh_agent: Option<PathBuf>,
}

/// What a [`GitRequest`] stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitPin {
    /// Equal for equal files.
    pub id: Digest,
    /// The id of the commit.
    pub commit: String,
    /// The id of the tag object, or of the commit if there is none.
    pub object: String,
    /// The full ref; `None` when a commit was asked for.
    pub reference: Option<String>,
}

/// What makes two checkouts equal.
#[derive(Serialize)]
struct Identity<'a> {
    commit: &'a str,
    subdir: &'a str,
    skip_submodules: bool,
    commit_time: bool,
    /// A kept repository names where it is from.
    git_dir: Option<(&'a str, &'a str, Option<&'a str>)>,
}

impl GitRequest {
    /// The URL without its credentials: what may be recorded, and seen among the machine's processes.
    pub fn public_url(&self) -> String {
        match UrlCredentials::of(&self.url) {
            Some(found) => found.public_url(),
            None => self.url.clone(),
        }
    }

    /// Finds the commit that is meant, asking the repository unless the request says it.
    ///
    /// # Errors
    /// When the repository cannot be reached, or does not have what is asked for.
    pub async fn pin(&self) -> Result<GitPin, GitError> {
        check_url(&self.url)?;
        let (commit, object, reference) = if is_object(&self.reference) {
            (self.reference.clone(), self.reference.clone(), None)
        } else if self.fetch_by_commit && is_object(&self.checksum) {
            (self.checksum.clone(), self.checksum.clone(), None)
        } else {
            let found = self.ask().await?;
            (found.commit, found.object, Some(found.name))
        };
        let want = self.checksum.as_str();
        if !commit.starts_with(want) && !object.starts_with(want) {
            return Err(GitError::Checksum {
                want: want.to_owned(),
                got: object,
            });
        }
        let url = self.public_url();
        let identity = Identity {
            commit: &commit,
            subdir: &self.subdir,
            skip_submodules: self.skip_submodules,
            commit_time: self.commit_time,
            git_dir: self
                .keep_git_dir
                .then_some((&url, &object, reference.as_deref())),
        };
        let mut text = b"drydock.git.v0:".to_vec();
        text.extend(serde_json::to_vec(&identity).expect("strings are valid JSON"));
        Ok(GitPin {
            id: Digest::of(text),
            commit,
            object,
            reference,
        })
    }

    /// Puts the files of `pin` into the empty directory `target`. Objects are kept in `repository`,
    /// which is empty at first; it must not be used by others meanwhile.
    ///
    /// # Errors
    /// When the objects cannot be fetched, or what is wanted is not among them.
    pub async fn checkout(
        &self,
        pin: &GitPin,
        repository: &Path,
        target: &Path,
    ) -> Result<(), GitError> {
        let objects = self.fetch(pin, repository).await?;
        checkout::checkout(self, pin, &objects, target).await
    }

    /// Which object of the repository the reference is.
    async fn ask(&self) -> Result<listing::Found, GitError> {
        let network = Network::of(self)?;
        let git = Git::anywhere().with(&network);
        let url = self.public_url();
        if self.reference.is_empty() {
            let list = ["ls-remote", "--symref", "--", &url, "HEAD"];
            let answer = git.run(&list).await;
            let answer = answer.map_err(|failed| GitError::DefaultBranch {
                url: redact_url(&self.url),
                source: failed,
            })?;
            return Listing::of(&answer).head().ok_or_else(|| GitError::NoRef {
                reference: "HEAD".to_owned(),
                output: answer,
            });
        }
        check_word(&self.reference)?;
        let peeled = format!("{}^{{}}", self.reference);
        let answer = git
            .run(&["ls-remote", "--", &url, &self.reference, &peeled])
            .await
            .map_err(|failed| self.failed(failed))?;
        let found = Listing::of(&answer).find(&self.reference);
        found.ok_or_else(|| GitError::NoRef {
            reference: self.reference.clone(),
            output: answer,
        })
    }

    /// Sees to it that the objects of the commit are in `repository`.
    async fn fetch(&self, pin: &GitPin, repository: &Path) -> Result<Git<'static>, GitError> {
        let network = Network::of(self)?;
        let url = self.public_url();
        let git = Git::in_repository(repository);
        let broken = |source| GitError::Repository { source };
        let mut init = vec!["init", "--quiet", "--bare"];
        if pin.commit.len() == SHA256_HEX {
            init.push("--object-format=sha256");
        }
        // Does nothing to a repository that is there.
        git.run(&init).await.map_err(broken)?;
        // Left by a fetch that was killed; nobody else is in here.
        let _ = tokio::fs::remove_file(repository.join("shallow.lock")).await;
        let kept = pin.kept();
        if git.run(&["cat-file", "-e", &kept]).await.is_ok() {
            return Ok(git);
        }
        let wanted = pin.reference.as_deref().unwrap_or(&pin.commit);
        let spec = format!("+{wanted}:{kept}");
        let remote = Git::in_repository(repository).with(&network);
        let shallow = ["fetch", "--progress", "--depth=1", "--no-tags", "--", &url];
        let first = remote.run(&[&shallow[..], &[&spec]].concat()).await;
        if first.is_ok() && self.has(&git, pin).await {
            return Ok(git);
        }
        // Not every server gives single commits, or less than all; and the branch may have moved.
        let mut all = vec!["fetch", "--progress", "--force", "--tags"];
        if repository.join("shallow").exists() {
            all.push("--unshallow");
        }
        let branches = "+refs/heads/*:refs/remotes/origin/*";
        all.extend(["--", &url, branches]);
        if let Err(failed) = remote.run(&all).await {
            return Err(self.failed(first.err().unwrap_or(failed)));
        }
        if git.run(&["cat-file", "-e", &pin.object]).await.is_ok() {
            let update = ["update-ref", "--no-deref", &kept, &pin.object];
            git.run(&update).await.map_err(broken)?;
            if self.has(&git, pin).await {
                return Ok(git);
            }
        }
        Err(GitError::NoRef {
            reference: pin.commit.clone(),
            output: String::new(),
        })
    }

    async fn has(&self, git: &Git<'_>, pin: &GitPin) -> bool {
        let commit = format!("{}^{{commit}}", pin.kept());
        match git
            .run(&["rev-parse", "--verify", "--quiet", &commit])
            .await
        {
            Ok(found) => found.trim() == pin.commit,
            Err(_) => false,
        }
    }

    fn failed(&self, source: command::Failed) -> GitError {
        GitError::Fetch {
            url: redact_url(&self.url),
            source,
        }
    }
}

impl GitPin {
    /// The ref under which the objects are kept.
    fn kept(&self) -> String {
        format!("refs/drydock/{}", self.object)
    }
}

/// Hex digits of the ids of a repository with SHA-1 and with SHA-256.
const SHA1_HEX: usize = 40;
const SHA256_HEX: usize = 64;

fn is_object(text: &str) -> bool {
    matches!(text.len(), SHA1_HEX | SHA256_HEX)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Refuses what git would take for something else than a remote repository.
fn check_url(url: &str) -> Result<(), GitError> {
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
fn check_word(word: &str) -> Result<(), GitError> {
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
    fn equal_files_have_equal_ids() {
        let request = GitRequest {
            url: "https://host/r.git".into(),
            reference: "0123456789012345678901234567890123456789".into(),
            ..GitRequest::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let id = |request: &GitRequest| runtime.block_on(request.pin()).unwrap().id;
        let moved = GitRequest {
            url: "https://mirror/r.git".into(),
            ..request.clone()
        };
        assert_eq!(id(&request), id(&moved));
        let kept = |request: &GitRequest| GitRequest {
            keep_git_dir: true,
            ..request.clone()
        };
        assert_ne!(id(&kept(&request)), id(&kept(&moved)));
        let inner = GitRequest {
            subdir: "dir".into(),
            ..request.clone()
        };
        assert_ne!(id(&request), id(&inner));
    }
}
