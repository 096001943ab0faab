//! Git repositories: which commit a reference stands for, and its files.
//!
//! The program `git` does the work. It sees nothing of the machine's or the user's configuration, asks
//! nothing, and is given only arguments that cannot be taken for options.

mod bundle;
mod check;
mod checkout;
mod command;
mod host_key;
mod listing;
mod objects;
mod running;
mod signature;

use std::path::{Path, PathBuf};

use oci::{Digest, UrlCredentials, redact_url};
use registry::Secret;
use serde::Serialize;

use crate::error::GitError;
pub use bundle::GitBundle;
use check::{SHA256_HEX, check_url, check_word, is_object};
pub use command::Failed as GitFailed;
use command::{Git, Network};
pub use host_key::ssh_host_key;
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
    /// Whether a bundle with the commit's history is wanted in the place of its files. What is kept of
    /// the repository for it must not be kept for others, which leave history out.
    pub as_bundle: bool,
    /// What is read instead of the repository behind the URL.
    pub bundle: Option<GitBundle>,
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
    /// A bundle has the name under which the commit is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<String>,
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
        self.check()?;
        let is_named = match self.bundle {
            // There is no default branch in it.
            Some(_) => self.reference.is_empty(),
            None => self.fetch_by_commit,
        };
        let (commit, object, reference) = if is_object(&self.reference) {
            (self.reference.clone(), self.reference.clone(), None)
        } else if is_named {
            let sum = &self.checksum;
            (sum.clone(), sum.clone(), self.branch())
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
            bundle: self.as_bundle.then(|| bundle::target(self)),
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
        if self.as_bundle {
            return bundle::create(self, pin, &objects, target).await;
        }
        checkout::checkout(self, pin, &objects, target).await
    }

    /// The full ref that a reference, which is not looked up, is taken for.
    fn branch(&self) -> Option<String> {
        match self.reference.as_str() {
            "" => None,
            full if full.starts_with("refs/") => Some(full.to_owned()),
            name => Some(format!("refs/heads/{name}")),
        }
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
        let names = [self.reference.as_str(), &peeled];
        let list = |url| [&["ls-remote", "--", url][..], &names].concat();
        let answer = match &self.bundle {
            Some(bundle) => {
                let list = list(bundle.url(&self.scratch).await?);
                Git::anywhere().run(&list).await
            }
            None => git.run(&list(&url)).await,
        };
        let answer = answer.map_err(|failed| self.failed(failed))?;
        let found = Listing::of(&answer).find(&self.reference);
        found.ok_or_else(|| GitError::NoRef {
            reference: self.reference.clone(),
            output: answer,
        })
    }

    /// Brings in what is kept of the repository when files of `pin` are wanted, without making them.
    /// Objects are kept in `repository`, as for [`GitRequest::checkout`].
    ///
    /// # Errors
    /// When the objects cannot be fetched.
    pub async fn prefetch(&self, pin: &GitPin, repository: &Path) -> Result<(), GitError> {
        self.fetch(pin, repository).await.map(drop)
    }

    /// Sees to it that the objects of the commit are in `repository`.
    async fn fetch(&self, pin: &GitPin, repository: &Path) -> Result<Git<'static>, GitError> {
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
        let wanted = match &pin.reference {
            Some(reference) if !self.fetch_by_commit => reference,
            _ => &pin.commit,
        };
        let spec = format!("+{wanted}:{kept}");
        if let Some(bundle) = &self.bundle {
            return self.fetch_from(bundle, pin, git).await;
        }
        let network = Network::of(self)?;
        let url = self.public_url();
        let remote = Git::in_repository(repository).with(&network);
        let mut one = vec!["fetch", "--progress", "--no-tags"];
        if !self.as_bundle {
            one.push("--depth=1");
        }
        one.extend(["--", &url, &spec]);
        let first = remote.run(&one).await;
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

    /// Takes the commit out of a bundle.
    async fn fetch_from<'a>(
        &self,
        bundle: &GitBundle,
        pin: &GitPin,
        git: Git<'a>,
    ) -> Result<Git<'a>, GitError> {
        let url = bundle.url(&self.scratch).await?;
        let spec = format!("+{}:{}", pin.object, pin.kept());
        // That is all the server of the other repository, on this machine, is for.
        let fetch = ["fetch", "--quiet", "--no-tags", "--", url, &spec];
        let fetched = git.run(&fetch).await;
        if fetched.is_ok() && self.has(&git, pin).await {
            return Ok(git);
        }
        Err(GitError::NotInBundle {
            commit: pin.object.clone(),
            name: bundle.name().to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
