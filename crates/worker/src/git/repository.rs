//! Work with the repository that is kept of a remote one.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::SystemTime;

use oci::Digest;
use refs::{Meta, Mutable, MutableOptions, RecordType, Sharing};
use snapshot::Active;
use source::{GitError, GitObjects, GitPin, GitRequest};
use sys::root::RootDir;

use super::failed;
use crate::failure::{Failure, blocking, chain};
use crate::state::Shared;

/// A layer with the files of a commit.
pub(super) async fn files(
    shared: &Shared,
    request: &GitRequest,
    pin: &GitPin,
    source: &str,
) -> Result<Active, Failure> {
    let checkout = |objects: PathBuf| async move {
        let snapshots = shared.refs.snapshots().clone();
        let active = blocking(move || snapshots.prepare(&[]).map_err(Failure::host)).await?;
        let files = active.fs().map_err(Failure::host)?;
        let done = request.checkout(pin, &objects, &path(&files)?).await;
        Ok(done.map(|()| active))
    };
    with_repository(shared, request, source, checkout).await
}

/// The raw objects of a commit, which are signed as the request says.
pub(super) async fn objects(
    shared: &Shared,
    request: &GitRequest,
    pin: &GitPin,
    source: &str,
) -> Result<GitObjects, Failure> {
    let read = |objects: PathBuf| async move { Ok(request.objects(pin, &objects).await) };
    let objects = with_repository(shared, request, source, read).await?;
    request.verify(&objects).await.map_err(failed)?;
    Ok(objects)
}

/// Brings in the objects of a commit.
pub(super) async fn prefetch(
    shared: &Shared,
    request: &GitRequest,
    pin: &GitPin,
    source: &str,
) -> Result<(), Failure> {
    let fetch = |objects: PathBuf| async move { Ok(request.prefetch(pin, &objects).await) };
    with_repository(shared, request, source, fetch).await
}

/// Does `work` in the repository that is kept for `request`.
///
/// When it does not work with that, but does with a new one, the kept one is damaged, and the new one
/// takes its place. A server that is not reached costs no repository.
async fn with_repository<T, F, W>(
    shared: &Shared,
    request: &GitRequest,
    source: &str,
    work: F,
) -> Result<T, Failure>
where
    F: Fn(PathBuf) -> W + Send + Sync,
    W: Future<Output = Result<Result<T, GitError>, Failure>> + Send,
{
    let place = |repository: &Mutable| path(&repository.fs().map_err(Failure::host)?);
    let kept = repository(shared, request, source, Sharing::Locked).await?;
    let error = match work(place(&kept)?).await? {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    if kept.is_new() || !error.may_be_the_repository() {
        return Err(failed(error));
    }
    let error = chain(&error);
    tracing::info!(source, %error, "a repository does not do; trying with a new one");
    // The lock on the kept one holds off all others.
    let new = repository(shared, request, source, Sharing::Private).await?;
    match work(place(&new)?).await? {
        Ok(done) => {
            kept.discard();
            Ok(done)
        }
        Err(error) => {
            new.discard();
            Err(failed(error))
        }
    }
}

/// The directory in which the objects of a repository are kept.
async fn repository(
    shared: &Shared,
    request: &GitRequest,
    source: &str,
    sharing: Sharing,
) -> Result<Mutable, Failure> {
    // What is kept for files has but one commit of a history, of which a bundle has all.
    let kind = if request.as_bundle { " history" } else { "" };
    let url = Digest::of(request.public_url());
    let options = MutableOptions {
        key: format!("git repository{kind} {url}"),
        base: None,
        sharing,
        fresh: false,
        meta: Meta {
            description: format!("shared git repo for {source}"),
            record_type: RecordType::GitCheckout,
            created: SystemTime::now(),
        },
    };
    shared.refs.mutable(options).await.map_err(Failure::host)
}

/// The path of a directory of ours, for a program that is given it.
fn path(root: &RootDir) -> Result<PathBuf, Failure> {
    let link = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
    std::fs::read_link(link).map_err(Failure::host)
}
