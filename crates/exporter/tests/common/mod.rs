//! A store with a result that has all that a layer can have.

#![allow(clippy::unwrap_used, dead_code, reason = "shared by tests")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use content::Content;
use exporter::{Caller, Exporter, ImageOptions, Kind, Source, SourceRef, TreeKind, TreeOptions};
use futures::StreamExt as _;
use oci::{Descriptor, Digest};
use refs::{Db, Meta, Options, RecordType, Ref, Refs};
use registry::{Anonymous, BlobSource, Origin, Progress, Providers, Registry};
use snapshot::{Kind as SnapshotKind, Snapshots};
use sys::root::{FileKind, Follow, RootDir};

/// What the files of the first layer have for their time.
const OLD: i64 = 1_000_000_000;
/// And those of the second.
const NEW: i64 = 1_500_000_000;

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    refs: Refs,
    exporter: Exporter,
}

/// No layer is anywhere else.
struct Nowhere;

impl Providers for Nowhere {
    fn blob(&self, origin: &Origin, _: &Descriptor) -> Arc<dyn BlobSource> {
        panic!("nothing is to be read from {origin}")
    }
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let db = Db::open(&at("drydock.db")).unwrap();
        let snapshots = Snapshots::open(&at("snapshots"), SnapshotKind::Auto).unwrap();
        let content = Content::open(&at("content")).unwrap();
        let clock = SystemTime::now;
        let refs = Refs::open(db, snapshots, content, Options { clock }).unwrap();
        let registry = Registry::new(registry::Options::default()).unwrap();
        let exporter = Exporter::new(refs.clone(), registry);
        Fixture {
            dir,
            refs,
            exporter,
        }
    }

    fn caller(&self) -> Caller {
        Caller {
            credentials: Arc::new(Anonymous),
            providers: Arc::new(Nowhere),
            progress: Progress::new(|_| {}),
            lease: self.refs.lease("test"),
        }
    }

    fn layer(&self, base: Option<&Ref>, name: &str, write: impl FnOnce(&RootDir, &Path)) -> Ref {
        let lower = base.map(|base| base.snapshots().unwrap());
        let active = self
            .refs
            .snapshots()
            .prepare(&lower.unwrap_or_default())
            .unwrap();
        let root = RootDir::from_fd(active.mount().unwrap().into_fd());
        write(&root, &inside(&root));
        drop(root);
        let meta = Meta {
            description: name.to_owned(),
            record_type: RecordType::Regular,
            created: SystemTime::now(),
        };
        self.refs
            .commit(Digest::of(name), base, active, meta)
            .unwrap()
    }

    /// Two layers, of which the second deletes, replaces and adds.
    pub(crate) fn full(&self) -> Source {
        let base = self.layer(None, "base", lower_layer);
        let top = self.layer(Some(&base), "top", upper_layer);
        Source {
            refs: vec![SourceRef {
                key: String::new(),
                filesystem: Some(top),
                platform: "linux/amd64".parse().unwrap(),
                config: Vec::new(),
                attestations: Vec::new(),
                inline_cache: None,
            }],
            multi_platform: false,
            metadata: BTreeMap::new(),
        }
    }

    pub(crate) async fn root_digest(&self, source: &Source, attrs: &[(&str, &str)]) -> Digest {
        let options = ImageOptions::parse(Kind::Oci, &owned(attrs.iter().copied())).unwrap();
        let built = self.exporter.build(source, &options, &self.caller()).await;
        built.unwrap().root.digest
    }

    /// Exports an archive to a file.
    pub(crate) async fn archive(
        &self,
        kind: Kind,
        source: &Source,
        attrs: &[(&str, &str)],
    ) -> PathBuf {
        let options = ImageOptions::parse(kind, &owned(attrs.iter().copied())).unwrap();
        let caller = self.caller();
        let built = self.exporter.build(source, &options, &caller).await;
        let built = built.unwrap();
        let path = self
            .dir
            .path()
            .join(format!("{}.tar", built.root.digest.hex()));
        let mut file = tokio::fs::File::create(&path).await.unwrap();
        self.exporter
            .write_archive(std::slice::from_ref(&built), kind, &caller, &mut file)
            .await
            .unwrap();
        file.sync_all().await.unwrap();
        path
    }

    /// Exports to a directory as a client would have it.
    pub(crate) async fn local(&self, source: &Source, attrs: &BTreeMap<&str, &str>) -> RootDir {
        let attrs = owned(attrs.iter().map(|(key, value)| (*key, *value)));
        let options = TreeOptions::parse(TreeKind::Local, &attrs).unwrap();
        let tree = self.exporter.tree(source, &options).unwrap();
        let to = RootDir::open(&self.fresh()).unwrap();
        for transfer in tree.transfers(options.mode).unwrap() {
            receive(transfer.trees, to.try_clone().unwrap()).await;
        }
        to
    }

    /// What a client's directory gets, one after the other.
    pub(crate) fn transfers(&self, source: &Source, attrs: &BTreeMap<&str, &str>) -> Vec<String> {
        let attrs = owned(attrs.iter().map(|(key, value)| (*key, *value)));
        let options = TreeOptions::parse(TreeKind::Local, &attrs).unwrap();
        let tree = self.exporter.tree(source, &options).unwrap();
        let transfers = tree.transfers(options.mode).unwrap().into_iter();
        transfers.map(|transfer| transfer.name).collect()
    }

    /// Why a client's directory gets nothing.
    pub(crate) fn fails(&self, source: &Source, attrs: &BTreeMap<&str, &str>) -> String {
        let attrs = owned(attrs.iter().map(|(key, value)| (*key, *value)));
        let options = TreeOptions::parse(TreeKind::Local, &attrs).unwrap();
        let tree = self.exporter.tree(source, &options);
        tree.unwrap_err().to_string()
    }

    /// Exports a tar, and unpacks it with GNU tar.
    pub(crate) async fn tar(&self, source: &Source, attrs: &BTreeMap<&str, &str>) -> RootDir {
        let attrs = owned(attrs.iter().map(|(key, value)| (*key, *value)));
        let options = TreeOptions::parse(TreeKind::Tar, &attrs).unwrap();
        let tree = self.exporter.tree(source, &options).unwrap();
        let path = self.dir.path().join("tree.tar");
        let file = tokio::fs::File::create(&path).await.unwrap();
        tree.write_tar(file).await.unwrap();
        let to = self.fresh();
        let flags = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"];
        let status = Command::new("tar")
            .args(flags)
            .arg(&path)
            .arg("-C")
            .arg(&to)
            .status()
            .unwrap();
        assert!(status.success());
        RootDir::open(&to).unwrap()
    }

    fn fresh(&self) -> PathBuf {
        tempfile::tempdir_in(self.dir.path()).unwrap().keep()
    }
}

fn owned<'a>(attrs: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    attrs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Sends `trees` and receives them in `to`.
async fn receive(trees: Vec<filesync::Tree>, to: RootDir) {
    let (to_sender, requests) = tokio::sync::oneshot::channel::<filesync::Packets>();
    let requests = futures::stream::once(requests).filter_map(|packets| async { packets.ok() });
    let requests = Box::pin(requests.flatten().map(Ok));
    let (packets, sending) = filesync::send(trees, filesync::SendOptions::default(), requests);
    let options = filesync::ReceiveOptions {
        keep: true,
        ..filesync::ReceiveOptions::default()
    };
    let (requests, receiving) = filesync::receive(to, options, packets.map(Ok));
    drop(to_sender.send(requests));
    let (sent, received) = tokio::join!(sending, receiving);
    sent.unwrap();
    received.unwrap();
}

/// The result's files.
pub(crate) fn view(fixture: &Fixture, source: &Source) -> RootDir {
    let filesystem = source.refs[0].filesystem.as_ref().unwrap();
    let stack = filesystem.snapshots().unwrap();
    RootDir::from_fd(fixture.refs.snapshots().view(&stack).unwrap().into_fd())
}

/// A path through a descriptor, for the standard library.
pub(crate) fn inside(root: &RootDir) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", root.as_fd().as_raw_fd()))
}

fn lower_layer(root: &RootDir, at: &Path) {
    for dir in ["etc", "opaque/in", "gone/in", "changes"] {
        fs::create_dir_all(at.join(dir)).unwrap();
    }
    for file in [
        "etc/passwd",
        "etc/gone",
        "opaque/x",
        "opaque/in/y",
        "gone/in/z",
        "changes/f",
        "old",
        "twice",
    ] {
        fs::write(at.join(file), format!("lower {file}")).unwrap();
    }
    fs::hard_link(at.join("twice"), at.join("etc/twice")).unwrap();
    settle(root, OLD, &[]);
}

fn upper_layer(root: &RootDir, at: &Path) {
    fs::write(at.join("etc/passwd"), "upper").unwrap();
    fs::remove_file(at.join("etc/gone")).unwrap();
    fs::remove_dir_all(at.join("gone")).unwrap();
    fs::remove_dir_all(at.join("opaque")).unwrap();
    fs::create_dir(at.join("opaque")).unwrap();
    fs::write(at.join("opaque/new"), "new").unwrap();
    fs::remove_dir_all(at.join("changes")).unwrap();
    symlink("x".repeat(300), at.join("changes")).unwrap();
    fs::write(at.join("a"), "linked").unwrap();
    fs::hard_link(at.join("a"), at.join("b")).unwrap();
    fs::hard_link(at.join("a"), at.join("opaque/c")).unwrap();
    fs::write(at.join(OsStr::from_bytes(b"caf\xe9")), "odd").unwrap();
    fs::write(at.join("n".repeat(255)), "long name").unwrap();
    let deep = (0..20).fold(PathBuf::new(), |path, n| {
        path.join(format!("directory-number-{n}"))
    });
    fs::create_dir_all(at.join(&deep)).unwrap();
    fs::write(at.join(&deep).join("file"), "deep").unwrap();
    let mut sparse = fs::File::create(at.join("sparse")).unwrap();
    sparse.write_all(b"start").unwrap();
    sparse.seek(SeekFrom::Start(40 << 20)).unwrap();
    sparse.write_all(b"end").unwrap();
    let path = Path::new;
    let device = rustix::fs::makedev;
    root.mknod(path("null"), FileKind::CharDevice, 0o666, device(1, 3))
        .unwrap();
    root.mknod(
        path("disk"),
        FileKind::BlockDevice,
        0o660,
        device(259, 70_000),
    )
    .unwrap();
    root.mknod(path("pipe"), FileKind::Fifo, 0o600, 0).unwrap();
    fs::write(at.join("ping"), "#!").unwrap();
    root.chown(path("ping"), 70_000, 3_000_000, Follow::No)
        .unwrap();
    root.chmod(path("ping"), 0o6755).unwrap();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    root.set_xattr(path("ping"), OsStr::new("security.capability"), capability)
        .unwrap();
    root.set_xattr(path("opaque"), OsStr::new("user.note"), b"\0\xff=\n")
        .unwrap();
    root.chmod(path("opaque"), 0o1777).unwrap();
    settle(root, NEW, &["old", "twice", "etc/twice"]);
}

/// Gives everything but `without` a time.
fn settle(root: &RootDir, seconds: i64, without: &[&str]) {
    let entries: Vec<_> = fstree::walk(root, &<_>::default())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for entry in entries.iter().rev() {
        if !without.iter().any(|path| entry.path == Path::new(path)) {
            root.set_mtime(&entry.path, seconds * 1_000_000_000, Follow::No)
                .unwrap();
        }
    }
}

/// Everything about every entry.
pub(crate) fn picture(root: &RootDir) -> Vec<String> {
    let options = fstree::walk::WalkOptions {
        xattrs: true,
        ..<_>::default()
    };
    let entries = fstree::walk(root, &options).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let digest = match entry.metadata.kind {
                FileKind::File => {
                    let mut file = root.open_file(&entry.path).unwrap();
                    let mut hasher = oci::Hasher::new();
                    std::io::copy(&mut file, &mut hasher).unwrap();
                    hasher.finish().to_string()
                }
                _ => String::new(),
            };
            let metadata = &entry.metadata;
            format!(
                "{:?} {:?} {:o} {}:{} {} {:?} {} {:?} {:?} {:?} {digest}",
                entry.path,
                metadata.kind,
                metadata.mode,
                metadata.uid,
                metadata.gid,
                match metadata.kind {
                    FileKind::File => metadata.size,
                    _ => 0,
                },
                metadata.device(),
                metadata.mtime_ns / 1_000_000_000,
                entry.link,
                entry.hardlink_to,
                entry
                    .xattrs
                    .iter()
                    .filter(|(name, _)| !name.as_bytes().starts_with(b"trusted.overlay."))
                    .collect::<Vec<_>>(),
            )
        })
        .collect()
}

/// The time of every entry, in seconds since 1970.
pub(crate) fn times(root: &RootDir) -> BTreeMap<String, i64> {
    let entries = fstree::walk(root, &<_>::default()).unwrap();
    entries
        .map(Result::unwrap)
        .map(|entry| {
            (
                entry.path.to_string_lossy().into_owned(),
                entry.metadata.mtime_ns / 1_000_000_000,
            )
        })
        .collect()
}
