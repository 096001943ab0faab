//! Trees that tests make and look at.

#![allow(clippy::unwrap_used, dead_code, reason = "shared by tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use snapshot::{Kind, LayerId, Snapshots};

/// A store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) root: tempfile::TempDir,
    pub(crate) store: Snapshots,
}

impl Fixture {
    pub(crate) fn new(kind: Kind) -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let store = Snapshots::open(&root.path().join("snapshots"), kind).unwrap();
        Fixture { root, store }
    }

    /// Commits a layer that `change` makes in the mounted stack.
    pub(crate) fn layer(&self, lower: &[LayerId], change: impl FnOnce(&Path)) -> LayerId {
        let active = self.store.prepare(lower).unwrap();
        let mount = active.mount().unwrap();
        change(&inside(&mount));
        drop(mount);
        active.commit().unwrap()
    }

    /// What a stack shows.
    pub(crate) fn show(&self, layers: &[LayerId]) -> Tree {
        let mount = self.store.view(layers).unwrap();
        read_tree(&inside(&mount))
    }

    pub(crate) fn dir(&self, layer: LayerId) -> PathBuf {
        self.root.path().join("snapshots").join(layer.to_string())
    }
}

/// A path through a descriptor, for the standard library.
pub(crate) fn inside(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/", fd.as_fd().as_raw_fd()))
}

/// Kind, mode and content by path.
pub(crate) type Tree = BTreeMap<PathBuf, String>;

pub(crate) fn read_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    read_into(root, Path::new(""), &mut tree);
    tree
}

fn read_into(root: &Path, at: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(root.join(at)).unwrap() {
        let entry = entry.unwrap();
        let path = at.join(entry.file_name());
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full)
            .unwrap_or_else(|error| panic!("{} is listed but {error}", path.display()));
        let mode = metadata.permissions().mode();
        let content = if metadata.is_dir() {
            read_into(root, &path, tree);
            "dir".to_owned()
        } else if metadata.is_symlink() {
            format!("-> {}", fs::read_link(&full).unwrap().display())
        } else if metadata.is_file() {
            format!("file {:?}", fs::read_to_string(&full).unwrap())
        } else {
            format!("device {}", metadata.rdev())
        };
        tree.insert(path, format!("{mode:o} {content}"));
    }
}

/// What `du` says of all `paths` together, in bytes.
pub(crate) fn du(paths: &[PathBuf]) -> u64 {
    let output = Command::new("du")
        .args(["--summarize", "--block-size=1", "--total"])
        .args(paths)
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let total = output.lines().last().unwrap();
    total.split_whitespace().next().unwrap().parse().unwrap()
}

/// Numbers that are the same for the same seed.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Makes the same random changes under each of `roots`.
pub(crate) fn change(random: &mut Random, roots: &[&Path]) {
    for _ in 0..=random.below(4) {
        let depth = 1 + random.below(3);
        let names: Vec<String> = (0..depth)
            .map(|_| format!("n{}", random.below(3)))
            .collect();
        let (what, content) = (random.below(6), random.below(1000).to_string());
        for root in roots {
            apply(root, &names, what, &content);
        }
    }
}

fn apply(root: &Path, names: &[String], what: u64, content: &str) {
    let path = root.join(names.join("/"));
    let parent = path.parent().unwrap();
    if what == 0 {
        remove(&path);
        return;
    }
    if fs::symlink_metadata(parent).is_err() {
        // A file may be in the way.
        let mut at = root.to_owned();
        for name in &names[..names.len() - 1] {
            at.push(name);
            if fs::symlink_metadata(&at).is_ok_and(|found| !found.is_dir()) {
                fs::remove_file(&at).unwrap();
            }
        }
        fs::create_dir_all(parent).unwrap();
    }
    // The root itself is named by a link of `/proc`.
    if names.len() > 1 && !fs::symlink_metadata(parent).unwrap().is_dir() {
        fs::remove_file(parent).unwrap();
        fs::create_dir(parent).unwrap();
    }
    match what {
        1 | 2 => {
            if path.is_dir() && !path.is_symlink() {
                remove(&path);
            }
            let _ = fs::remove_file(&path);
            fs::write(&path, content).unwrap();
        }
        3 => {
            // A directory that replaces whatever was there hides all of it.
            remove(&path);
            fs::create_dir(&path).unwrap();
        }
        4 => {
            remove(&path);
            std::os::unix::fs::symlink(content, &path).unwrap();
        }
        _ => {
            if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_symlink()) {
                let mode = 0o700 + (content.len() as u32);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}
