//! What a repository says of a commit itself: who made it, when, and under which tag.

use std::path::Path;

use super::{GitPin, GitRequest};
use crate::error::GitError;

/// The raw objects that a pin stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitObjects {
    /// The id of the commit.
    pub commit: String,
    /// The commit, as it is hashed.
    pub commit_object: Vec<u8>,
    /// The tag that leads to it, as it is hashed; empty when none was asked for.
    pub tag_object: Vec<u8>,
}

impl GitRequest {
    /// Looks whether `objects` are signed as the request says.
    ///
    /// # Errors
    /// When they are not, or that cannot be found out.
    pub async fn verify(&self, objects: &GitObjects) -> Result<(), GitError> {
        match &self.signature {
            Some(rules) => rules
                .verify(objects, &self.scratch)
                .await
                .map_err(GitError::Signature),
            None => Ok(()),
        }
    }

    /// Reads the objects of `pin`. They are kept in `repository`, which is empty at first; it must
    /// not be used by others meanwhile.
    ///
    /// # Errors
    /// When the objects cannot be fetched, or the pin is neither a commit nor a tag of one.
    pub async fn objects(&self, pin: &GitPin, repository: &Path) -> Result<GitObjects, GitError> {
        let git = self.fetch(pin, repository).await?;
        let read = async |arguments: &[&str]| {
            let answer = git.bytes(arguments).await;
            answer.map_err(|failed| self.failed(failed))
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        let kind = text(read(&["cat-file", "-t", &pin.object]).await?);
        let (commit, tag_object) = match kind.as_str() {
            "commit" => (pin.object.clone(), Vec::new()),
            "tag" => {
                let commit = format!("{}^{{commit}}", pin.object);
                let commit = text(read(&["rev-parse", "--verify", &commit]).await?);
                (commit, read(&["cat-file", "tag", &pin.object]).await?)
            }
            other => {
                return Err(GitError::Kind {
                    object: pin.object.clone(),
                    kind: other.to_owned(),
                });
            }
        };
        Ok(GitObjects {
            commit_object: read(&["cat-file", "commit", &commit]).await?,
            commit,
            tag_object,
        })
    }
}
