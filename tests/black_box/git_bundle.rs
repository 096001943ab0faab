//! Bundles of git, in the place of repositories and in the place of files.

use std::fs;
use std::path::Path;
use std::process::Command;

use oci::Digest;
use prost::Message as _;

use crate::fixture::{Fixture, Ran, run, untar};
use crate::git::{Served, git};
use crate::graph::{Graph, source};
use crate::program::called;

/// A directory that is an OCI layout with one blob, and the blob's digest.
fn layout(directory: &Path, blob: &Path) -> Digest {
    let bytes = fs::read(blob).unwrap();
    let digest = Digest::of(&bytes);
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(digest.hex()), bytes).unwrap();
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    fs::write(directory.join("oci-layout"), version).unwrap();
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    fs::write(directory.join("index.json"), index).unwrap();
    digest
}

struct Bundles {
    fixture: Fixture,
    served: Served,
}

impl Bundles {
    fn new() -> Bundles {
        let fixture = Fixture::new();
        let served = Served::start(fixture.scratch());
        Bundles { fixture, served }
    }

    fn scratch(&self) -> &Path {
        self.fixture.scratch()
    }

    /// Builds the source of `reference` into the directory `into`, with the client's layout.
    fn build(&self, reference: &str, attrs: &[(&str, &str)], into: &Path) -> Ran {
        let url = ("git.fullurl", self.served.url.as_str());
        let mut graph = Graph::default();
        let name = format!("git://127.0.0.1/repo{reference}");
        let files = graph.add(source(&name, &[&[url], attrs].concat()), &[]);
        let definition = self.scratch().join("definition");
        fs::write(&definition, graph.definition((files, 0)).encode_to_vec()).unwrap();
        let archive = into.with_extension("tar");
        let mut buildctl = Command::new(called("buildctl", self.scratch()));
        buildctl
            .args(["--addr", &self.fixture.daemon.address(), "build"])
            .args(["--output", &format!("type=tar,dest={}", archive.display())])
            .stdin(fs::File::open(&definition).unwrap());
        let layout = self.scratch().join("layout");
        if layout.exists() {
            buildctl.args(["--oci-layout", &format!("my/store={}", layout.display())]);
        }
        let ran = run(&mut buildctl);
        if ran.code == 0 {
            untar(&archive, into);
        }
        ran
    }

    /// Offers a bundle of `refs` of the repository, and gives what locates it.
    fn offer(&self, refs: &[&str]) -> String {
        let bundle = self.scratch().join("offered");
        let create = ["bundle", "create", "-q", bundle.to_str().unwrap()];
        git(&self.scratch().join("repo"), &[&create[..], refs].concat());
        let layout = self.scratch().join("layout");
        format!(
            "oci-layout+blob://my/store@{}",
            self::layout(&layout, &bundle)
        )
    }
}

#[test]
fn a_bundle_has_the_whole_history_of_a_commit() {
    let bundles = Bundles::new();
    let [first, last] = &bundles.served.commits;
    let all = bundles.scratch().join("all.git");
    for (number, (reference, name, commit)) in [
        ("", "refs/heads/main", last),
        ("#main", "refs/heads/main", last),
        ("#side/branch", "refs/heads/side/branch", first),
        (&format!("#{last}"), "refs/heads/main", last),
        ("#refs/tags/v1", "refs/tags/v1", first),
    ]
    .into_iter()
    .enumerate()
    {
        let made = bundles.scratch().join(format!("made-{number}"));
        bundles
            .build(reference, &[("git.checkoutbundle", "true")], &made)
            .ok();
        let names: Vec<_> = fs::read_dir(&made)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["bundle"]);
        let _ = fs::remove_dir_all(&all);
        git(bundles.scratch(), &["init", "-q", "--bare", "all.git"]);
        let file = made.join("bundle");
        let fetch = ["fetch", "-q", file.to_str().unwrap(), "+refs/*:refs/*"];
        git(&all, &fetch);
        let refs = git(&all, &["for-each-ref", "--format=%(refname)"]);
        assert_eq!(refs, name);
        let found = git(&all, &["rev-parse", &format!("{name}^{{commit}}")]);
        assert_eq!(found, *commit);
        // Nothing is left out.
        git(&all, &["fsck", "--full", "--strict", "--connectivity-only"]);
        assert!(!all.join("shallow").exists());
    }
    let refused = |attr: &str, reason: &str| {
        let attrs = [("git.checkoutbundle", "true"), (attr, "true")];
        let ran = bundles.build("#main", &attrs, &bundles.scratch().join("refused"));
        assert!(ran.err().contains(reason), "{}", ran.stderr);
    };
    refused(
        "git.keepgitdir",
        "git.checkoutbundle is incompatible with git.keepgitdir",
    );
}

#[test]
fn a_bundle_stands_in_for_its_repository() {
    let bundles = Bundles::new();
    let [first, last] = &bundles.served.commits;
    let locator = bundles.offer(&["main", "v1"]);
    // The repository itself has something else now, and is not asked.
    let served = bundles.scratch().join("served/repo");
    git(&served, &["update-ref", "-d", "refs/heads/main"]);
    let build = |reference: &str, checksum: &str, into: &str| {
        let attrs = [
            ("git.bundle", locator.as_str()),
            ("git.checksum", checksum),
            ("git.skipsubmodules", "true"),
        ];
        let attrs = &attrs[..if checksum.is_empty() { 1 } else { 3 }];
        bundles.build(reference, attrs, &bundles.scratch().join(into))
    };
    for (number, (reference, checksum, content)) in [
        ("#main", last, "two"),
        ("", last, "two"),
        ("", first, "one"),
        ("#v1", first, "one"),
        ("#refs/tags/v1", first, "one"),
    ]
    .into_iter()
    .enumerate()
    {
        let into = format!("files-{number}");
        build(reference, checksum, &into).ok();
        let readme = bundles.scratch().join(into).join("README");
        assert_eq!(fs::read_to_string(readme).unwrap(), content, "{reference}");
    }
    let missing = "1".repeat(40);
    for (reference, checksum, reason) in [
        ("#main", "", "git.bundle requires git.checksum to be set"),
        (
            "#main",
            first,
            &format!("expected checksum to match {first}, got {last}")[..],
        ),
        ("#side/branch", first, "does not contain ref side/branch"),
        (
            "",
            &missing,
            &format!("commit {missing} not found in bundle my/store@")[..],
        ),
    ] {
        let ran = build(reference, checksum, "refused");
        assert!(ran.err().contains(reason), "{}", ran.stderr);
    }

    // What is no bundle, and what is not there.
    let offer = |content: &str| {
        let file = bundles.scratch().join("junk");
        fs::write(&file, content).unwrap();
        layout(&bundles.scratch().join("layout"), &file)
    };
    // Git itself would read the repository there.
    let elsewhere = bundles.scratch().join("repo/.git");
    let elsewhere = offer(&format!("gitdir: {}\n", elsewhere.display()));
    let other = Digest::of("nothing");
    for (digest, reason) in [
        (offer("junk"), "it is not a bundle"),
        (elsewhere, "it is not a bundle"),
        (
            offer("# v2 git bundle\njunk"),
            "failed to import git bundle",
        ),
        (other, "failed to fetch git bundle my/store@"),
    ] {
        let locator = format!("oci-layout+blob://my/store@{digest}");
        let attrs = [("git.bundle", locator.as_str()), ("git.checksum", last)];
        let ran = bundles.build("#main", &attrs, &bundles.scratch().join("refused"));
        assert!(ran.err().contains(reason), "{}", ran.stderr);
    }
}
