//! Bundles: repositories, or parts of them, in one file.
//!
//! One that stands in for a remote repository ([`GitBundle`]) is unpacked into a repository of its
//! own first, so that refs are asked for and objects fetched as from any other, and so that what
//! is in it reaches the kept repository only as far as a commit is wanted. One that is wanted in the
//! place of files ([`create`]) holds the whole history of its commit.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::command::{Failed, Git};
use super::{GitPin, GitRequest, SHA256_HEX, is_object};
use crate::blob::BlobRequest;
use crate::error::GitError;
use crate::provider::Sources;

/// What the file is called where a bundle is wanted in the place of files.
const FILE: &str = "bundle";
/// Its permissions, as BuildKit gives them.
const FILE_MODE: u32 = 0o666;
/// How bundles begin.
const SIGNATURES: [&[u8]; 2] = [b"# v2 git bundle\n", b"# v3 git bundle\n"];
/// The branch of a bundle whose commit was asked for without one.
const NO_BRANCH: &str = "refs/heads/main";

/// A bundle that stands in for a remote repository. Clones are the same.
#[derive(Clone)]
pub struct GitBundle(Arc<Incoming>);

struct Incoming {
    blob: BlobRequest,
    name: String,
    sources: Sources,
    staged: OnceCell<Staged>,
}

/// A bundle that has been unpacked.
struct Staged {
    /// Goes with this.
    _directory: TempDir,
    url: String,
}

impl GitBundle {
    /// The bundle that is `blob`, read with what `sources` may. `name` is what it is called in
    /// errors. It is fetched when it is needed.
    pub fn new(blob: BlobRequest, name: String, sources: Sources) -> GitBundle {
        GitBundle(Arc::new(Incoming {
            blob,
            name,
            sources,
            staged: OnceCell::new(),
        }))
    }

    /// What it is called in errors.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// The URL, for this machine only, of a repository with what is in the bundle. It is there as
    /// long as a clone of this is.
    pub(super) async fn url(&self, scratch: &Path) -> Result<&str, GitError> {
        let staged = self.0.staged.get_or_try_init(|| self.stage(scratch));
        Ok(&staged.await?.url)
    }

    async fn stage(&self, scratch: &Path) -> Result<Staged, GitError> {
        let directory = TempDir::new_in(scratch).map_err(GitError::Store)?;
        let file = directory.path().join("packed");
        let fetched = self.0.blob.save(&self.0.sources, &file).await;
        fetched.map_err(|source| GitError::BundleFetch {
            name: self.name().to_owned(),
            source,
        })?;
        if !is_bundle(&file).map_err(GitError::Store)? {
            return Err(GitError::BundleForm {
                name: self.name().to_owned(),
            });
        }
        let broken = |source| GitError::Bundle {
            name: self.name().to_owned(),
            source,
        };
        let list = ["ls-remote".as_ref(), "--".as_ref(), file.as_os_str()];
        let refs = Git::anywhere().run(&list).await.map_err(broken)?;
        let first = refs.split_whitespace().next().unwrap_or_default();
        if !is_object(first) {
            return Err(GitError::BundleEmpty {
                name: self.name().to_owned(),
            });
        }
        let repository = directory.path().join("repository");
        std::fs::create_dir(&repository).map_err(GitError::Store)?;
        let git = Git::in_repository(&repository);
        init(&git, first.len())
            .await
            .map_err(|source| GitError::Repository { source })?;
        let fetch = ["fetch".as_ref(), "--quiet".as_ref(), "--".as_ref()];
        let all = ["+refs/*:refs/*".as_ref()];
        let fetch = [&fetch[..], &[file.as_os_str()], &all].concat();
        git.run(&fetch).await.map_err(broken)?;
        // All of it is in the repository now.
        std::fs::remove_file(&file).map_err(GitError::Store)?;
        let url = format!("file://{}", repository.display());
        Ok(Staged {
            _directory: directory,
            url,
        })
    }
}

/// Whether the file at `path` begins as a bundle. For git it could also be a file that names the place
/// of a repository on this machine, which would be read then.
fn is_bundle(path: &Path) -> io::Result<bool> {
    let mut start = [0; SIGNATURES[0].len()];
    match std::fs::File::open(path)?.read_exact(&mut start) {
        Ok(()) => Ok(SIGNATURES.contains(&&start[..])),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The ref under which the commit of `request` is in a bundle that is made of it: its own name where
/// that is known.
pub(super) fn target(request: &GitRequest) -> String {
    let reference = request.reference.as_str();
    if reference.is_empty() || is_object(reference) {
        return NO_BRANCH.to_owned();
    }
    if reference.starts_with("refs/tags/") {
        return reference.to_owned();
    }
    let name = reference.strip_prefix("refs/").unwrap_or(reference);
    let name = name.strip_prefix("heads/").unwrap_or(name);
    format!("refs/heads/{name}")
}

/// Writes a bundle with the whole history of `pin` into the empty directory `into`.
pub(super) async fn create(
    request: &GitRequest,
    pin: &GitPin,
    objects: &Git<'_>,
    into: &Path,
) -> Result<(), GitError> {
    let failed = |source| GitError::BundleCreate {
        commit: pin.commit.clone(),
        source,
    };
    let target = target(request);
    let object = match target.starts_with("refs/tags/") {
        true => &pin.object,
        // What a branch names is a commit.
        false => &pin.commit,
    };
    // The kept repository has refs of its own.
    let directory = TempDir::new_in(&request.scratch).map_err(GitError::Store)?;
    let git = Git::in_repository(directory.path());
    init(&git, object.len()).await.map_err(failed)?;
    let store = objects.directory().join("objects");
    let alternates = directory.path().join("objects/info/alternates");
    std::fs::write(alternates, format!("{}\n", store.display())).map_err(GitError::Store)?;
    git.run(&["update-ref", "--no-deref", &target, object])
        .await
        .map_err(failed)?;
    let file = into.join(FILE);
    let create = ["bundle".as_ref(), "create".as_ref(), "--quiet".as_ref()];
    let create = [&create[..], &[file.as_os_str(), target.as_ref()]].concat();
    git.run(&create).await.map_err(failed)?;
    let mode = std::fs::Permissions::from_mode(FILE_MODE);
    std::fs::set_permissions(&file, mode).map_err(GitError::Store)
}

/// An empty repository for objects whose ids have so many hex digits.
async fn init(git: &Git<'_>, digits: usize) -> Result<(), Failed> {
    let mut init = vec!["init", "--quiet", "--bare"];
    if digits == SHA256_HEX {
        init.push("--object-format=sha256");
    }
    git.run(&init).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_the_name_that_was_asked_for() {
        let commit = "0123456789012345678901234567890123456789";
        for (reference, expected) in [
            ("", "refs/heads/main"),
            (commit, "refs/heads/main"),
            ("topic", "refs/heads/topic"),
            ("heads/topic", "refs/heads/topic"),
            ("refs/heads/a/b", "refs/heads/a/b"),
            ("refs/tags/v1", "refs/tags/v1"),
        ] {
            let reference = reference.to_owned();
            let request = GitRequest {
                reference,
                ..GitRequest::default()
            };
            assert_eq!(target(&request), expected);
        }
    }
}
