//! A process that dies at any point leaves nothing broken and nothing behind.
//!
//! The test starts itself as a child that works on a store without end, kills it, and looks at what
//! it left.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{id, inside, meta, now};
use oci::{Descriptor, Digest, Platform, media_type};
use refs::{Image, Meta, MutableOptions, PruneOptions, RecordType, Ref, Refs, Sharing};

/// Where the child works; set only for the child.
const ROOT: &str = "CRASH_TEST_ROOT";
const SEED: &str = "CRASH_TEST_SEED";

const ROUNDS: u64 = 12;

/// Ids that the child makes and removes; those that it reports are never removed.
const NAMES: u64 = 40;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What the child does, if this is the child.
#[tokio::test]
async fn child() {
    let Ok(root) = env::var(ROOT) else { return };
    let mut random = Random(env::var(SEED).unwrap().parse().unwrap());
    let refs = common::open(Path::new(&root));
    let mut count = 0u64;
    let pid = std::process::id();
    loop {
        count += 1;
        let name = format!("n{}", random.below(NAMES));
        match random.below(12) {
            0..=4 => drop(make(&refs, &mut random, &name)),
            5 => {
                if let Some(found) = refs.get(&id(&name)) {
                    refs.alias(id(&format!("also {name}")), &found);
                }
            }
            6 => set_image(&refs, &name),
            7 => drop(refs.remove_image(&name)),
            8 => {
                let blob = refs.content().insert(name.repeat(1000).as_bytes()).unwrap();
                refs.hold(&name, vec![blob]).unwrap();
            }
            9 => change_source(&refs, &name, count).await,
            10 => {
                let options = PruneOptions {
                    max_used_space: 300_000,
                    ..PruneOptions::default()
                };
                refs.gc(&[options]).await.unwrap();
            }
            _ => {
                let durable = format!("durable {pid} {count}");
                let made = make(&refs, &mut random, &durable);
                // An image keeps it from being removed.
                refs.set_image(image(&durable, &made), &made).unwrap();
                refs.flush().await.unwrap();
                println!("{durable}");
                std::io::stdout().flush().unwrap();
            }
        }
    }
}

/// Makes a ref with a file named as it is on top of another or of nothing.
fn make(refs: &Refs, random: &mut Random, name: &str) -> Ref {
    let base = refs.get(&id(&format!("n{}", random.below(NAMES))));
    let base = base.filter(|base| base.keys().len() < 8);
    let lower = base
        .as_ref()
        .map(|base| base.snapshots().unwrap())
        .unwrap_or_default();
    let active = refs.snapshots().prepare(&lower).unwrap();
    let mount = active.mount().unwrap();
    fs::write(inside(&mount).join(name), name.repeat(1000)).unwrap();
    drop(mount);
    let below = base
        .as_ref()
        .and_then(Ref::meta)
        .map(|meta| meta.description + ",");
    let names: BTreeSet<String> = (below.unwrap_or_default() + name)
        .split(',')
        .map(str::to_owned)
        .collect();
    let names = names.into_iter().collect::<Vec<_>>().join(",");
    let made = refs
        .commit(id(name), base.as_ref(), active, meta(&names))
        .unwrap();
    if random.below(2) == 0 {
        let blob = refs.content().insert(name.repeat(500).as_bytes()).unwrap();
        let tar = Descriptor::new(media_type::OCI_LAYER, blob, 1);
        refs.add_blob(*made.keys().last().unwrap(), id(name), tar)
            .unwrap();
    }
    made
}

fn image(name: &str, made: &Ref) -> Image {
    Image {
        name: name.to_owned(),
        platform: Platform::host(),
        id: id("config"),
        config: "{}".to_owned(),
        manifest: None,
        ref_id: made.id(),
        created: now(),
        blobs: Vec::new(),
    }
}

fn set_image(refs: &Refs, name: &str) {
    if let Some(found) = refs.get(&id(name)) {
        refs.set_image(image(name, &found), &found).unwrap();
    }
}

/// A source whose two files always say the same in between.
async fn change_source(refs: &Refs, name: &str, count: u64) {
    let options = MutableOptions {
        key: format!("source {name}"),
        base: None,
        sharing: Sharing::Private,
        fresh: false,
        meta: Meta {
            record_type: RecordType::LocalSource,
            ..meta("source")
        },
    };
    let source = refs.mutable(options.clone()).await.unwrap();
    for file in ["a", "b"] {
        let root = source.fs().unwrap();
        let mut written = root.create(Path::new("new"), 0o644, false).unwrap();
        written.write_all(count.to_string().as_bytes()).unwrap();
        root.rename(Path::new("new"), Path::new(file)).unwrap();
    }
    if count.is_multiple_of(2) {
        drop(
            source
                .freeze(id(&format!("state {name} {count}")), meta("a,b"))
                .unwrap(),
        );
    }
}

/// Looks at everything that can be found.
async fn inspect(root: &Path, durable: &BTreeSet<String>) {
    let refs = common::open(root);
    refs.check();
    let names = (0..NAMES).map(|at| format!("n{at}"));
    let also = names.clone().map(|name| format!("also {name}"));
    let mut found = 0;
    for name in names.clone().chain(also).chain(durable.iter().cloned()) {
        let Some(reference) = refs.get(&id(&name)) else {
            assert!(!durable.contains(&name), "`{name}` was durable");
            continue;
        };
        found += 1;
        look_into(&refs, &reference);
    }
    for blob in refs.content().list().unwrap() {
        let mut bytes = Vec::new();
        refs.content()
            .open_blob(&blob.digest)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(Digest::of(bytes), blob.digest);
    }
    for name in names {
        for (_, reference) in refs.image(&name) {
            look_into(&refs, &reference);
        }
        let key = format!("source {name}");
        let meta = Meta {
            record_type: RecordType::LocalSource,
            ..meta("source")
        };
        let sharing = Sharing::Private;
        let source = MutableOptions {
            key,
            base: None,
            sharing,
            fresh: false,
            meta,
        };
        let source = refs.mutable(source).await.unwrap();
        let mount = source.mount().unwrap();
        let read = |name: &str| fs::read_to_string(inside(&mount).join(name)).ok();
        assert_eq!(read("a"), read("b"), "a change was cut short and kept");
    }
    // What is on the disk is what the records say.
    refs.flush().await.unwrap();
    refs.snapshots().wait_removed();
    let usage = refs.usage(&[], Duration::ZERO).await.unwrap();
    let sum: u64 = usage.iter().map(|record| record.size).sum();
    let (layers, blobs) = (
        dirs(&root.join("snapshots")),
        dirs(&root.join("content/sha256")),
    );
    let held: u64 = (0..NAMES)
        .flat_map(|at| refs.held(&format!("n{at}")))
        .map(|blob| refs.content().stat(&blob).unwrap().allocated)
        .sum();
    assert!(
        sum + held >= du(&[layers, blobs].concat()),
        "{sum} + {held}"
    );
    eprintln!(
        "{found} refs found, {} of them known to be durable",
        durable.len()
    );
}

fn look_into(refs: &Refs, reference: &Ref) {
    let view = refs
        .snapshots()
        .view(&reference.snapshots().unwrap())
        .unwrap();
    let names = reference.meta().unwrap().description;
    let mut files: Vec<String> = fs::read_dir(inside(&view))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files.join(","), names);
    for file in files.iter().filter(|file| file.len() > 1) {
        let content = fs::read_to_string(inside(&view).join(file)).unwrap();
        assert_eq!(content, file.repeat(1000));
    }
}

fn dirs(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| {
        !["merged", "trash", "empty", "ready"]
            .iter()
            .any(|name| path.ends_with(name))
    });
    paths
}

fn du(paths: &[PathBuf]) -> u64 {
    if paths.is_empty() {
        return 0;
    }
    let output = Command::new("du")
        .args(["-s", "--block-size=1", "--total"])
        .args(paths)
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    output
        .lines()
        .last()
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn start(root: &Path, seed: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(ROOT, root)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_broken_and_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let mut random = Random(42);
    let mut durable = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = start(root.path(), round);
        std::thread::sleep(Duration::from_millis(30 + random.below(600)));
        child.kill().unwrap();
        child.wait().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = output.lines().map(Result::unwrap);
        durable.extend(lines.filter(|line| line.starts_with("durable")));
        inspect(root.path(), &durable).await;
    }
    assert!(!durable.is_empty());
}
