//! A store in a directory of its own.

#![allow(clippy::unwrap_used, dead_code, reason = "shared by tests")]

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use content::Content;
use oci::Digest;
use refs::{Db, Meta, Options, RecordType, Ref, Refs};
use snapshot::{Active, Kind, Snapshots};

pub(crate) struct Fixture {
    pub(crate) root: tempfile::TempDir,
    pub(crate) refs: Refs,
}

/// Seconds since 1970 that the tests' clock shows; each test is a process of its own.
static NOW: AtomicU64 = AtomicU64::new(1_000_000);

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.load(Ordering::Relaxed))
}

pub(crate) fn pass(time: Duration) {
    NOW.fetch_add(time.as_secs(), Ordering::Relaxed);
}

pub(crate) fn open(root: &Path) -> Refs {
    let db = Db::open(&root.join("drydock.db")).unwrap();
    let snapshots = Snapshots::open(&root.join("snapshots"), Kind::Auto).unwrap();
    let content = Content::open(&root.join("content")).unwrap();
    Refs::open(db, snapshots, content, Options { clock: now }).unwrap()
}

/// What is in `root` at this moment, as a killed process would leave it.
pub(crate) fn copy(root: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("cp");
    command.arg("-a").arg(root.join(".")).arg(copy.path());
    assert!(command.status().unwrap().success());
    copy
}

pub(crate) fn meta(description: &str) -> Meta {
    Meta {
        description: description.to_owned(),
        record_type: RecordType::Regular,
        created: now(),
    }
}

pub(crate) fn id(name: &str) -> Digest {
    Digest::of(name)
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let refs = open(root.path());
        Fixture { root, refs }
    }

    /// Opens what is on the disk again, as after a normal end.
    pub(crate) fn reopen(self) -> Fixture {
        let Fixture { root, refs } = self;
        drop(refs);
        let refs = open(root.path());
        Fixture { root, refs }
    }

    /// A new layer with the file `name` of `size` bytes on top of `base`.
    pub(crate) fn active(&self, base: Option<&Ref>, name: &str, size: usize) -> Active {
        let lower = base
            .map(|base| base.snapshots().unwrap())
            .unwrap_or_default();
        let active = self.refs.snapshots().prepare(&lower).unwrap();
        let mount = active.mount().unwrap();
        fs::write(inside(&mount).join(name), vec![b'x'; size]).unwrap();
        drop(mount);
        active
    }

    /// A ref named after its file.
    pub(crate) fn commit(&self, base: Option<&Ref>, name: &str) -> Ref {
        self.commit_of(base, name, 1000)
    }

    pub(crate) fn commit_of(&self, base: Option<&Ref>, name: &str, size: usize) -> Ref {
        let active = self.active(base, name, size);
        self.refs
            .commit(id(name), base, active, meta(name))
            .unwrap()
    }

    /// The names of the files in a ref.
    pub(crate) fn files(&self, reference: &Ref) -> Vec<String> {
        let view = self
            .refs
            .snapshots()
            .view(&reference.snapshots().unwrap())
            .unwrap();
        let mut names: Vec<String> = fs::read_dir(inside(&view))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// How many layers have a directory.
    pub(crate) fn stored(&self) -> usize {
        self.refs.snapshots().list().unwrap().len()
    }
}

/// A path through a descriptor, for the standard library.
pub(crate) fn inside(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/", fd.as_fd().as_raw_fd()))
}
