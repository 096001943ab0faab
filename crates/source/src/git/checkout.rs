//! From objects to files.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sys::root::{FileKind, Follow, RootDir};

use super::command::{Failed, Git, Network};
use super::{GitPin, GitRequest};
use crate::error::GitError;

/// Puts the files of a commit into `target`.
pub(super) async fn checkout(
    request: &GitRequest,
    pin: &GitPin,
    objects: &Git<'_>,
    target: &Path,
) -> Result<(), GitError> {
    let failed = |source| GitError::Checkout {
        commit: pin.commit.clone(),
        source,
    };
    let git = Git::in_files(target);
    let root = RootDir::open(target).map_err(GitError::Store)?;
    prepare(request, pin, objects, &git, &root).await?;
    let files = ["read-tree", "--reset", "-u", &pin.commit];
    git.run(&files).await.map_err(failed)?;
    let submodules = !request.skip_submodules && has_submodules(&root);
    if submodules {
        let network = Network::of(request)?;
        let git = Git::in_files(target).with(&network);
        let update = [
            "submodule",
            "update",
            "--progress",
            "--init",
            "--recursive",
            "--depth=1",
        ];
        git.run(&update)
            .await
            .map_err(|source| GitError::Submodules {
                commit: pin.commit.clone(),
                source,
            })?;
    }
    let changed = match request.commit_time {
        true => Some(commit_time(objects, pin).await?),
        false => None,
    };
    let (keep, subdir) = (request.keep_git_dir, request.subdir.clone());
    let finish = move || finish(&root, keep, submodules, &subdir, changed);
    tokio::task::spawn_blocking(finish)
        .await
        .map_err(|error| GitError::Store(std::io::Error::other(error)))?
}

/// Whether the files say that there are submodules. What a repository has under the name may be a
/// link that leads out of it: git itself does not follow one.
fn has_submodules(root: &RootDir) -> bool {
    let found = root.stat(Path::new(".gitmodules"), Follow::No);
    found.is_ok_and(|found| found.kind == FileKind::File)
}

/// A repository in `.git` that has the commit: with objects of its own if it is to stay.
async fn prepare(
    request: &GitRequest,
    pin: &GitPin,
    objects: &Git<'_>,
    git: &Git<'_>,
    root: &RootDir,
) -> Result<(), GitError> {
    let failed = |source| GitError::Checkout {
        commit: pin.commit.clone(),
        source,
    };
    let mut init = vec!["init", "--quiet"];
    if pin.commit.len() == super::SHA256_HEX {
        init.push("--object-format=sha256");
    }
    git.run(&init).await.map_err(failed)?;
    // Submodules may be named relative to it.
    git.run(&["remote", "add", "origin", &request.public_url()])
        .await
        .map_err(failed)?;
    if request.keep_git_dir {
        copy_objects(pin, objects, git).await.map_err(failed)?;
        // Says only where the daemon keeps its objects.
        return root
            .unlink(Path::new(".git/FETCH_HEAD"))
            .map_err(GitError::Store);
    }
    let store = objects.directory().join("objects");
    let alternates = Path::new(".git/objects/info/alternates");
    root.create(alternates, 0o644, true)
        .and_then(|mut file| writeln!(file, "{}", store.display()))
        .map_err(GitError::Store)
}

/// Brings the commit and what it needs into the repository of the files.
async fn copy_objects(pin: &GitPin, objects: &Git<'_>, git: &Git<'_>) -> Result<(), Failed> {
    let from = format!("file://{}", objects.directory().display());
    let kept = pin.kept();
    let name = pin.reference.as_deref().unwrap_or("refs/drydock/fetched");
    let spec = format!("+{kept}:{name}");
    let fetch = [
        "fetch",
        "--quiet",
        "-u",
        "--depth=1",
        "--no-tags",
        "--",
        &from,
        &spec,
    ];
    git.run(&fetch).await?;
    git.run(&["update-ref", "--no-deref", "HEAD", &pin.commit])
        .await?;
    if pin.reference.is_none() {
        git.run(&["update-ref", "-d", name]).await?;
    }
    Ok(())
}

async fn commit_time(objects: &Git<'_>, pin: &GitPin) -> Result<i64, GitError> {
    let log = ["log", "-1", "--format=%ct", &pin.commit];
    let text = objects
        .run(&log)
        .await
        .map_err(|source| GitError::Checkout {
            commit: pin.commit.clone(),
            source,
        })?;
    let seconds: i64 = text.trim().parse().unwrap_or(0);
    Ok(seconds.saturating_mul(1_000_000_000))
}

/// Takes away what is not wanted of a checkout.
fn finish(
    root: &RootDir,
    keep: bool,
    submodules: bool,
    subdir: &str,
    changed: Option<i64>,
) -> Result<(), GitError> {
    let top = Path::new("/");
    if !keep {
        root.remove_all(Path::new(".git"))
            .map_err(GitError::Store)?;
        if submodules {
            // A repository cannot hold this name: they are those of submodules, and lead nowhere.
            visit(root, top, &mut |path, _| match path.file_name() {
                Some(name) if name == ".git" => root.remove_all(path),
                _ => Ok(()),
            })
            .map_err(GitError::Store)?;
        }
    }
    let inner = Path::new(subdir);
    if inner
        .components()
        .any(|part| matches!(part, std::path::Component::Normal(_)))
    {
        pick(root, inner).map_err(|source| GitError::Subdir {
            path: subdir.to_owned(),
            source,
        })?;
    }
    if let Some(changed) = changed {
        visit(root, top, &mut |path, _| {
            root.set_mtime(path, changed, Follow::No)
        })
        .and_then(|()| root.set_mtime(top, changed, Follow::No))
        .map_err(GitError::Store)?;
    }
    Ok(())
}

/// Makes the content of `inner` all there is.
fn pick(root: &RootDir, inner: &Path) -> std::io::Result<()> {
    let top = Path::new("/");
    let (wanted, there) = (root.read_dir(inner)?, root.read_dir(top)?);
    let taken: HashSet<&OsStr> = wanted
        .iter()
        .chain(&there)
        .map(|entry| entry.name.as_os_str())
        .collect();
    // Where the wanted is put while the others go: under a name that neither has.
    let name = (0..=taken.len())
        .map(|number| OsString::from(format!(".git-subdir-{number}")))
        .find(|name| !taken.contains(name.as_os_str()))
        .ok_or(std::io::ErrorKind::AlreadyExists)?;
    let aside = top.join(&name);
    root.mkdir(&aside, 0o755)?;
    for entry in &wanted {
        root.rename(&inner.join(&entry.name), &aside.join(&entry.name))?;
    }
    for entry in &there {
        root.remove_all(&top.join(&entry.name))?;
    }
    for entry in &wanted {
        root.rename(&aside.join(&entry.name), &top.join(&entry.name))?;
    }
    root.rmdir(&aside)
}

/// Calls `act` for all below `top`, what is in a directory before the directory.
fn visit(
    root: &RootDir,
    top: &Path,
    act: &mut dyn FnMut(&Path, FileKind) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut pending: Vec<(PathBuf, FileKind, bool)> = vec![(top.to_owned(), FileKind::Dir, false)];
    while let Some((path, kind, entered)) = pending.pop() {
        if kind == FileKind::Dir && !entered {
            pending.push((path.clone(), kind, true));
            for entry in root.read_dir(&path)? {
                pending.push((path.join(&entry.name), entry.kind, false));
            }
        } else if path != top {
            act(&path, kind)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_link_of_a_repository_is_not_followed_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = RootDir::open(directory.path()).unwrap();
        assert!(!has_submodules(&root));
        let name = Path::new(".gitmodules");
        root.symlink(Path::new("/etc/passwd"), name).unwrap();
        assert!(!has_submodules(&root));
        root.unlink(name).unwrap();
        root.create(name, 0o644, true).unwrap();
        assert!(has_submodules(&root));
    }

    #[test]
    fn a_directory_is_picked_whatever_its_neighbours_are_called() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("sub/.git-subdir-1")).unwrap();
        fs::create_dir_all(path(".git-subdir-0")).unwrap();
        for name in ["sub/file", ".git-subdir", "sub/.git-subdir-1/inner"] {
            fs::write(path(name), name).unwrap();
        }
        let root = RootDir::open(directory.path()).unwrap();
        pick(&root, Path::new("sub")).unwrap();
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, [".git-subdir-1", "file"]);
        assert!(path(".git-subdir-1/inner").exists());
    }
}
