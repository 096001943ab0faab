//! Selecting a part of a tree and digesting it.
//!
//! A path without wildcards or patterns has the digest of what is there. Otherwise the digest is
//! over all selected files and directory headers, depth first: for each NUL-separated path (the
//! part before the first wildcard, or the whole path, left out) and the text of its digest. There
//! are two exceptions: nothing selected is the digest of nothing, and one file of the selector's
//! own name is its own digest, so that `COPY a*` of one file is not another key than its content.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci::{Digest, Hasher};
use sys::root::RootDir;

use super::hash::Job;
use super::tree::{Id, Nodes};
use super::{ChecksumError, Selector};
use crate::filter::{Filter, FilterState};
use crate::path::{join, relative};
use crate::pattern::go_match;
use crate::resolve::{MAX_LINKS, split_wildcards};

pub(super) fn select(
    nodes: &mut Nodes,
    root: &RootDir,
    selector: &Selector,
) -> Result<Digest, ChecksumError> {
    if !selector.wildcard && selector.include.is_empty() && selector.exclude.is_empty() {
        return digest_of(
            nodes,
            root,
            Path::new(&selector.path),
            selector.follow_links,
        );
    }
    let selection = Selection::find(nodes, root, selector)?;
    selection.check_required(selector)?;
    selection.digest(nodes, root, selector)
}

/// The digest of what is at `path`, which must be there.
fn digest_of(
    nodes: &mut Nodes,
    root: &RootDir,
    path: &Path,
    follow: bool,
) -> Result<Digest, ChecksumError> {
    match lookup(nodes, root, path, follow)? {
        Found { path, id: Some(id) } => nodes.digest(root, &path, id),
        Found { id: None, .. } => Err(ChecksumError::NotFound(format!(
            "/{}",
            relative(path).display()
        ))),
    }
}

/// Where a path leads.
struct Found {
    path: PathBuf,
    id: Option<Id>,
}

/// Follows `path` from the root, links included (in the last component only with `follow`).
fn lookup(
    nodes: &mut Nodes,
    root: &RootDir,
    path: &Path,
    follow: bool,
) -> Result<Found, ChecksumError> {
    let mut left = parts(path);
    let mut trail: Vec<(PathBuf, Id)> = vec![(PathBuf::new(), nodes.root(root)?)];
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let Some((at, dir)) = trail.last().cloned() else {
            break;
        };
        let next = join(&at, &part);
        let Some(id) = nodes.entry(root, &at, dir, &part)? else {
            return Ok(Found {
                path: next,
                id: None,
            });
        };
        let node = nodes.node(id);
        match &node.link {
            Some(target) if follow || !left.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(ChecksumError::TooManyLinks(path.display().to_string()));
                }
                if target.is_absolute() {
                    trail.truncate(1);
                }
                for part in parts(target).into_iter().rev() {
                    left.push_front(part);
                }
            }
            _ => trail.push((next, id)),
        }
    }
    Ok(match trail.pop() {
        Some((path, id)) => Found { path, id: Some(id) },
        None => Found {
            path: PathBuf::new(),
            id: None,
        },
    })
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

/// Something selected.
struct Selected {
    /// Its path as the selector would write it: links in the selector's own path are not resolved.
    named: PathBuf,
    /// Where it is.
    path: PathBuf,
    id: Id,
    /// It is at the top of what the selector's path matches.
    top: bool,
}

struct Selection {
    /// The part of the selector's path that all names start with and that does not count.
    prefix: PathBuf,
    selected: Vec<Selected>,
}

/// A directory that holds something selected, or may.
struct Parent {
    entry: Option<Selected>,
    named: PathBuf,
    state: FilterState,
}

impl Selection {
    fn find(
        nodes: &mut Nodes,
        root: &RootDir,
        selector: &Selector,
    ) -> Result<Selection, ChecksumError> {
        let filter = Filter::new(&selector.include, &selector.exclude)?;
        let pattern = relative(Path::new(&selector.path));
        let (prefix, follow) = if selector.wildcard {
            let (fixed, wild) = split_wildcards(&selector.path);
            (PathBuf::from(fixed), !wild.is_empty())
        } else {
            (pattern.clone(), false)
        };
        let mut selection = Selection {
            prefix: prefix.clone(),
            selected: Vec::new(),
        };
        let Found { path, id: Some(id) } = lookup(nodes, root, &prefix, follow)? else {
            return Ok(selection);
        };
        nodes.list_all(root, &path, id)?;
        let mut walk = Walk {
            nodes,
            filter: &filter,
            selection: &mut selection,
            pattern: selector
                .wildcard
                .then(|| pattern.to_string_lossy().into_owned()),
            no_header: !selector.wildcard && selector.path.ends_with('/'),
            parents: Vec::new(),
            matched: if selector.wildcard {
                None
            } else {
                Some(prefix.clone())
            },
        };
        walk.run(prefix, path, id);
        Ok(selection)
    }

    fn check_required(&self, selector: &Selector) -> Result<(), ChecksumError> {
        for required in &selector.required {
            let wanted = required.trim_start_matches('/').as_bytes();
            let found = self
                .selected
                .iter()
                .any(|selected| selected.named.as_os_str().as_bytes().starts_with(wanted));
            if !found {
                return Err(ChecksumError::NotFound(required.clone()));
            }
        }
        Ok(())
    }

    fn digest(
        &self,
        nodes: &mut Nodes,
        root: &RootDir,
        selector: &Selector,
    ) -> Result<Digest, ChecksumError> {
        nodes.hash(root, self.jobs())?;
        let mut digests = Vec::with_capacity(self.selected.len());
        for selected in &self.selected {
            let follow =
                selector.follow_links && selected.top && nodes.node(selected.id).is_symlink();
            let digest = if follow {
                digest_of(nodes, root, &selected.named, true)?
            } else {
                nodes.own(selected.id).unwrap_or_else(|| Digest::of(""))
            };
            digests.push(digest);
        }
        match (&self.selected[..], &digests[..]) {
            ([], _) => return Ok(Digest::of("")),
            ([one], [digest]) if one.named.file_name() == file_name(&selector.path) => {
                return Ok(*digest);
            }
            _ => {}
        }
        let mut hasher = Hasher::new();
        for (selected, digest) in self.selected.iter().zip(digests) {
            let path = selected
                .named
                .strip_prefix(&self.prefix)
                .unwrap_or(&selected.named);
            let mut parts = path.iter().peekable();
            if parts.peek().is_none() {
                hasher.update(b"\0");
            }
            for part in parts {
                hasher.update(b"\0");
                hasher.update(part.as_bytes());
            }
            hasher.update(digest.to_string());
        }
        Ok(hasher.finish())
    }

    /// What is selected, by directory.
    fn jobs(&self) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        for selected in &self.selected {
            let dir = selected.path.parent().unwrap_or(Path::new(""));
            match jobs.last_mut() {
                Some(job) if job.dir == dir => job.ids.push(selected.id),
                _ => jobs.push(Job {
                    dir: dir.to_owned(),
                    ids: vec![selected.id],
                }),
            }
        }
        jobs
    }
}

fn file_name(path: &str) -> Option<&OsStr> {
    Path::new(path).file_name()
}

/// Goes through a listed tree, depth first, and gathers what is selected.
struct Walk<'a> {
    nodes: &'a Nodes,
    filter: &'a Filter,
    selection: &'a mut Selection,
    /// The selector's path, if its wildcards count.
    pattern: Option<String>,
    /// The header of the directory that the selector names does not count.
    no_header: bool,
    /// The directories above, the outermost first.
    parents: Vec<Parent>,
    /// The outermost path that the selector's path matches and that holds where we are.
    matched: Option<PathBuf>,
}

impl Walk<'_> {
    fn run(&mut self, named: PathBuf, path: PathBuf, id: Id) {
        let mut waiting = vec![(named, path, id)];
        while let Some((named, path, id)) = waiting.pop() {
            while self
                .parents
                .last()
                .is_some_and(|parent| !named.starts_with(&parent.named))
            {
                self.parents.pop();
            }
            let enter = self.visit(&named, &path, id);
            if enter {
                for entry in self.nodes.entries(id).iter().rev() {
                    let name = &self.nodes.node(*entry).name;
                    waiting.push((join(&named, name), join(&path, name), *entry));
                }
            }
        }
    }

    /// Judges one entry; returns whether to go into it.
    fn visit(&mut self, named: &Path, path: &Path, id: Id) -> bool {
        let is_dir = self.nodes.node(id).is_dir();
        if !self.matches(named) {
            return is_dir;
        }
        let base = self.matched.as_deref().unwrap_or(Path::new(""));
        let inner = named.strip_prefix(base).unwrap_or(named);
        let top = self.parents.is_empty();
        if is_dir && self.no_header && named == base {
            return true;
        }
        let state = self
            .parents
            .last()
            .map(|parent| parent.state.clone())
            .unwrap_or_default();
        let verdict = self.filter.judge(inner, is_dir, &state);
        let selected = Selected {
            named: named.to_owned(),
            path: path.to_owned(),
            id,
            top,
        };
        let mut entry = Some(selected);
        if verdict.taken {
            let pending = self
                .parents
                .iter_mut()
                .filter_map(|parent| parent.entry.take());
            self.selection.selected.extend(pending);
            self.selection.selected.extend(entry.take());
        }
        if is_dir && verdict.enter {
            self.parents.push(Parent {
                entry,
                named: named.to_owned(),
                state: verdict.state,
            });
        }
        verdict.enter
    }

    /// Whether the selector's path matches `named`, or something above it.
    fn matches(&mut self, named: &Path) -> bool {
        let Some(pattern) = &self.pattern else {
            return true;
        };
        if self
            .matched
            .as_deref()
            .is_some_and(|above| named.starts_with(above))
        {
            return true;
        }
        // The root has no name that a wildcard could match.
        let named_so =
            || !named.as_os_str().is_empty() && go_match(pattern, named).unwrap_or(false);
        let matches = pattern.is_empty() || named_so();
        if matches {
            self.matched = Some(named.to_owned());
        }
        matches
    }
}
