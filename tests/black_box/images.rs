//! The daemon's images.

use serde_json::{Value, json};

use crate::fixture::{Fixture, tool};

fn names(fixture: &Fixture) -> Vec<String> {
    let list = fixture.drydock(&["images"]);
    let column = |line: &str| {
        let mut words = line.split_whitespace();
        format!("{}:{}", words.next().unwrap(), words.next().unwrap())
    };
    let mut names: Vec<_> = list.ok().lines().skip(1).map(column).collect();
    names.sort();
    names
}

#[test]
fn a_name_is_given_and_taken() {
    let fixture = Fixture::with("FROM busybox\nCMD [\"echo\", \"made\"]\n");
    fixture.build(&["-t", "made:1"]).ran.ok();
    assert_eq!(names(&fixture), ["made:1"]);
    fixture.drydock(&["tag", "made:1", "other:2"]).ok();
    assert_eq!(names(&fixture), ["made:1", "other:2"]);
    fixture.drydock(&["rmi", "made:1"]).ok();
    assert_eq!(names(&fixture), ["other:2"]);
    assert_eq!(fixture.drydock(&["run", "--rm", "other:2"]).ok(), "made");
    let inspected: Value =
        serde_json::from_str(fixture.drydock(&["inspect", "other:2"]).ok()).unwrap();
    assert!(inspected.to_string().contains("\"made\""), "{inspected}");
    fixture.drydock(&["rmi", "other:2"]).ok();
    assert!(names(&fixture).is_empty());
    assert!(
        fixture
            .drydock(&["rmi", "other:2"])
            .err()
            .contains("other:2")
    );
}

#[test]
fn images_are_pulled_and_pushed() {
    let fixture = Fixture::new();
    fixture.drydock(&["pull", "busybox"]).ok();
    assert_eq!(names(&fixture), ["busybox:latest"]);
    let name = fixture.registry.reference("mine/busybox:2");
    fixture.drydock(&["tag", "busybox", &name]).ok();
    fixture.drydock(&["push", &name]).ok();
    let pushed = fixture.registry.manifest("mine/busybox", "2").unwrap();
    let pulled = fixture
        .registry
        .manifest("library/busybox", "latest")
        .unwrap();
    assert_eq!(pushed, pulled, "the image keeps its digest");
    let missing = fixture.registry.reference("missing:1");
    assert!(
        fixture
            .drydock(&["pull", &missing])
            .err()
            .contains(&missing)
    );
}

#[test]
fn images_outlive_the_daemon_and_pruning() {
    let mut fixture =
        Fixture::with("FROM busybox\nRUN echo kept > /file\nCMD [\"cat\", \"/file\"]\n");
    fixture.build(&["-t", "made"]).ran.ok();
    fixture.daemon.restart().unwrap();
    fixture.drydock(&["prune", "--all", "--force"]).ok();
    assert_eq!(
        fixture
            .drydock(&["run", "--rm", "--pull", "never", "made"])
            .ok(),
        "kept"
    );
}

#[test]
fn an_image_is_saved_and_loaded() {
    let fixture = Fixture::with("FROM busybox\nRUN echo saved > /file\nCMD [\"cat\", \"/file\"]\n");
    fixture.build(&["-t", "made:1"]).ran.ok();
    let archive = fixture.scratch().join("image.tar");
    let path = archive.to_str().unwrap();
    fixture.drydock(&["save", "-o", path, "made:1"]).ok();
    tool("skopeo", &["inspect", &format!("docker-archive:{path}")]);
    let other = Fixture::new();
    other.drydock(&["load", "-i", path]).ok();
    assert_eq!(names(&other), ["made:1"]);
    assert_eq!(
        other
            .drydock(&["run", "--rm", "--pull", "never", "made:1"])
            .ok(),
        "saved"
    );
    // What skopeo writes is loaded, too.
    let archive = fixture.scratch().join("skopeo.tar");
    let copy = format!("oci-archive:{}:busybox:3", archive.display());
    let name = fixture.registry.reference("library/busybox:latest");
    let source = format!("docker://{name}");
    let arguments = ["copy", "-q", "--src-tls-verify=false", &source, &copy];
    tool("skopeo", &arguments);
    let loaded = other.drydock(&["load", "-i", archive.to_str().unwrap()]);
    assert!(loaded.ok().contains("busybox:3"), "{}", loaded.stdout);
    assert_eq!(names(&other), ["busybox:3", "made:1"]);
}

#[test]
fn several_images_are_saved_at_once() {
    let fixture = Fixture::with("FROM busybox\nRUN echo one > /file\n");
    fixture.build(&["-t", "one:1"]).ran.ok();
    fixture.drydock(&["tag", "one:1", "one:again"]).ok();
    fixture.dockerfile("FROM busybox\nRUN echo two > /file\n");
    fixture.build(&["-t", "two:1"]).ran.ok();
    let archive = fixture.scratch().join("images.tar");
    let path = archive.to_str().unwrap();
    let all = ["one:1", "one:again", "two:1"];
    fixture
        .drydock(&[&["save", "-o", path][..], &all].concat())
        .ok();
    let listed = tool("tar", &["-xOf", path, "manifest.json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let tags: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|image| &image["RepoTags"])
        .collect();
    assert_eq!(json!(tags), json!([["one:1", "one:again"], ["two:1"]]));
    for name in all {
        tool(
            "skopeo",
            &["inspect", &format!("docker-archive:{path}:{name}")],
        );
    }
    let other = Fixture::new();
    other.drydock(&["load", "-i", path]).ok();
    assert_eq!(names(&other), all);
    let missing = fixture.drydock(&["save", "-o", path, "one:1", "missing:1"]);
    assert!(missing.err().contains("missing:1"), "{missing:?}");
}

#[test]
fn a_build_starts_from_an_image_of_the_store() {
    let fixture = Fixture::with("FROM busybox\nRUN echo base > /base\n");
    // The registry has no such image.
    let name = fixture.registry.reference("mine/base:1");
    fixture.build(&["-t", &name]).ran.ok();
    fixture.dockerfile(&format!("FROM {name}\nRUN cat /base > /seen\n"));
    assert_eq!(fixture.files(&[]).text("seen"), "base");
    // With `--pull` it is the registry's word that counts.
    let build = fixture.build(&["--pull"]);
    let error = build.ran.err();
    assert!(error.contains("mine/base:1"), "{error}");
}
