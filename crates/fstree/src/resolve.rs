//! Where paths lead inside a root: symbolic links and wildcards.
//!
//! Everything here only computes names. What is then opened by such a name is opened through the
//! root again, so a link that changes in between cannot lead outside.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use sys::root::{FileKind, Follow, RootDir};

use crate::path::{clean, has_wildcard, join, relative};
use crate::pattern::go_match;

/// As many links as the kernel would follow, and more: then it is taken for a loop.
pub(crate) const MAX_LINKS: usize = 255;

/// The path, relative to the root and without links, that `path` leads to.
///
/// What does not exist is kept as it is written, so that it can be made there. With
/// [`Follow::No`], a link in the last component is kept.
pub(crate) fn in_root(root: &RootDir, path: &Path, follow: Follow) -> io::Result<PathBuf> {
    let mut left: VecDeque<OsString> = parts(path);
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = join(&at, &part);
        if left.is_empty() && follow == Follow::No {
            return Ok(next);
        }
        match root.stat(&next, Follow::No) {
            Ok(metadata) if metadata.kind == FileKind::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let target = root.read_link(&next)?;
                if target.is_absolute() {
                    at.clear();
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
            }
            Ok(_) => at = next,
            Err(error) if is_missing(&error) => at = next,
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

/// Whether the error says that there is nothing under a name.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What of `path` is in the way of a directory: where that is why `error` came, the file that is not
/// one, else `path`.
pub(crate) fn blocking(root: &RootDir, path: &Path, error: &io::Error) -> PathBuf {
    let file = |at: &&Path| {
        let found = root.stat(at, Follow::Yes);
        found.is_ok_and(|metadata| metadata.kind != FileKind::Dir)
    };
    let found = match error.kind() {
        io::ErrorKind::NotADirectory => path.ancestors().find(file),
        _ => None,
    };
    found.unwrap_or(path).to_owned()
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// The paths, relative to the root, that `pattern` matches, sorted.
///
/// Links are followed in the part before the first wildcard only (with [`Follow::No`], not in its
/// last component). A pattern without wildcards is its own match, whether it exists or not.
pub(crate) fn wildcards(root: &RootDir, pattern: &str, follow: Follow) -> io::Result<Vec<PathBuf>> {
    let (fixed, wild) = split_wildcards(pattern);
    if wild.is_empty() {
        return Ok(vec![PathBuf::from(fixed)]);
    }
    let base = in_root(root, Path::new(&fixed), follow)?;
    if root.stat(&base, Follow::No)?.kind != FileKind::Dir {
        return Ok(Vec::new());
    }
    let mut found = vec![base];
    for (depth, part) in wild.iter().enumerate() {
        let mut next = Vec::new();
        for dir in &found {
            for entry in root.read_dir(dir)? {
                let descend = depth + 1 == wild.len() || entry.kind == FileKind::Dir;
                if descend && go_match(part, Path::new(&entry.name)).unwrap_or(false) {
                    next.push(join(dir, &entry.name));
                }
            }
        }
        found = next;
    }
    Ok(found)
}

/// Splits a path at the first component that has a wildcard.
pub(crate) fn split_wildcards(pattern: &str) -> (String, Vec<String>) {
    let cleaned = clean(pattern);
    let parts: Vec<&str> = cleaned.trim_start_matches('/').split('/').collect();
    let at = parts
        .iter()
        .position(|part| has_wildcard(part.as_bytes()))
        .unwrap_or(parts.len());
    (
        parts[..at].join("/"),
        parts[at..].iter().map(|part| (*part).to_owned()).collect(),
    )
}

/// The include patterns that take `paths` along with every link on the way and its target.
///
/// `None` if one of them is the root, so that all is taken.
pub(crate) fn follow_paths(root: &RootDir, paths: &[String]) -> io::Result<Option<Vec<String>>> {
    let mut resolver = FollowPaths {
        root,
        found: BTreeSet::new(),
    };
    for path in paths {
        resolver.add(relative(Path::new(path)))?;
    }
    let names = resolver
        .found
        .iter()
        .map(|path| path.to_string_lossy().into_owned());
    Ok(without_nested(names.collect()))
}

/// Sorted paths without those below another; `None` if the root is among them.
pub(crate) fn without_nested(mut paths: Vec<String>) -> Option<Vec<String>> {
    paths.sort();
    let mut kept: Vec<String> = Vec::with_capacity(paths.len());
    for path in paths {
        if path.is_empty() || path == "." {
            return None;
        }
        let nested = kept
            .last()
            .and_then(|last| path.strip_prefix(last.as_str()))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !nested {
            kept.push(path);
        }
    }
    Some(kept)
}

struct FollowPaths<'a> {
    root: &'a RootDir,
    found: BTreeSet<PathBuf>,
}

impl FollowPaths<'_> {
    /// Adds `path` and, wherever a component of it is a link, what the link makes of it.
    fn add(&mut self, path: PathBuf) -> io::Result<()> {
        // Each link is added only once, so this ends also where links form a loop.
        let mut waiting = vec![path];
        while let Some(path) = waiting.pop() {
            let mut at = PathBuf::new();
            let mut rest = path.components();
            loop {
                let Some(part) = rest.next() else {
                    self.found.insert(at);
                    break;
                };
                at = join(&at, part.as_os_str());
                let targets = self.targets(&at)?;
                if targets.is_empty() {
                    continue;
                }
                if self.found.insert(at) {
                    let rest = rest.as_path();
                    waiting.extend(targets.iter().map(|target| relative(&target.join(rest))));
                }
                break;
            }
        }
        Ok(())
    }

    /// The targets, absolute in the root, of the links that `path` (its last component may have
    /// wildcards) names.
    fn targets(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let dir = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or(OsStr::new(""));
        let mut names = vec![name.to_owned()];
        if has_wildcard(name.as_bytes()) {
            let Some(pattern) = name.to_str() else {
                return Ok(Vec::new());
            };
            names = match self.root.read_dir(dir) {
                Ok(entries) => entries
                    .into_iter()
                    .filter(|entry| entry.kind == FileKind::Symlink)
                    .filter(|entry| go_match(pattern, Path::new(&entry.name)).unwrap_or(false))
                    .map(|entry| entry.name)
                    .collect(),
                Err(error) if is_missing(&error) => Vec::new(),
                Err(error) => return Err(error),
            };
        }
        let mut targets = Vec::new();
        for name in names {
            match self.root.stat(&join(dir, &name), Follow::No) {
                Ok(metadata) if metadata.kind == FileKind::Symlink => {
                    let target = self.root.read_link(&join(dir, &name))?;
                    targets.push(Path::new("/").join(dir).join(target));
                }
                Ok(_) => {}
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn fixture() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir_all(at("c/d")).unwrap();
        fs::write(at("a/x1"), "").unwrap();
        fs::write(at("a/x2"), "").unwrap();
        fs::write(at("a/b/x3"), "").unwrap();
        symlink("/a/../c", at("abs")).unwrap();
        symlink("../../../c/d", at("a/rel")).unwrap();
        symlink("loop2", at("loop1")).unwrap();
        symlink("loop1", at("loop2")).unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn links_resolve_inside_the_root_and_missing_parts_stay() {
        let (_dir, root) = fixture();
        for (path, follow, want) in [
            ("/abs/d", Follow::Yes, "c/d"),
            ("a/rel/new/file", Follow::Yes, "c/d/new/file"),
            ("a/rel", Follow::Yes, "c/d"),
            ("a/rel", Follow::No, "a/rel"),
            ("/../..", Follow::Yes, ""),
            ("nothing/../x", Follow::Yes, "x"),
            ("abs/../a", Follow::Yes, "a"),
        ] {
            assert_eq!(
                in_root(&root, Path::new(path), follow).unwrap(),
                Path::new(want),
                "{path}"
            );
        }
        assert!(in_root(&root, Path::new("loop1/x"), Follow::Yes).is_err());
    }

    #[test]
    fn wildcards_match_component_by_component() {
        let (_dir, root) = fixture();
        let check = |pattern: &str, want: &[&str]| {
            let found = wildcards(&root, pattern, Follow::Yes).unwrap();
            assert_eq!(
                found,
                want.iter().map(PathBuf::from).collect::<Vec<_>>(),
                "{pattern}"
            );
        };
        check("/a/x?", &["a/x1", "a/x2"]);
        check("/*/*/x3", &["a/b/x3"]);
        check("abs/*", &["c/d"]);
        check("a/*/x*", &["a/b/x3"]);
        check("none", &["none"]);
        check("none*", &[]);
        check("a/x1/*", &[]);
        assert!(wildcards(&root, "none/*", Follow::Yes).is_err());
    }

    #[test]
    fn followed_paths_take_links_and_targets() {
        let (_dir, root) = fixture();
        let check = |paths: &[&str], want: Option<&[&str]>| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let want = want.map(|paths| paths.iter().map(|p| (*p).to_owned()).collect());
            assert_eq!(follow_paths(&root, &paths).unwrap(), want, "{paths:?}");
        };
        check(&["/abs/d/e"], Some(&["abs", "c/d/e"]));
        check(&["a/r*"], Some(&["a/r*", "c/d"]));
        check(&["a", "a/x1", "missing"], Some(&["a", "missing"]));
        check(&["loop1"], Some(&["loop1", "loop2"]));
        check(&["a", "/"], None);
    }
}
