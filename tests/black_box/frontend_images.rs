//! `# syntax=` lines: frontends that are images, and the built-in one in their place.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use oci::Platform;
use testing::image::{Image, Node, Tree};

use crate::fixture::{Fixture, tool};

/// The program of `tests/frontend`, without its symbols.
fn program() -> Vec<u8> {
    let mut directory = std::env::current_exe().unwrap();
    while !directory.join("examples").is_dir() {
        assert!(directory.pop(), "no examples above the tests");
    }
    let stripped = tempfile::tempdir().unwrap();
    let path = stripped.path().join("frontend");
    let example = directory.join("examples/frontend");
    tool(
        "strip",
        &["-o", path.to_str().unwrap(), example.to_str().unwrap()],
    );
    fs::read(path).unwrap()
}

/// The libraries that the program is linked with, by path.
fn libraries() -> BTreeMap<String, Vec<u8>> {
    let mut directory = std::env::current_exe().unwrap();
    while !directory.join("examples").is_dir() {
        directory.pop();
    }
    let listed = Command::new("ldd")
        .arg(directory.join("examples/frontend"))
        .output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let paths = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    let read = |path: &str| (path.to_owned(), fs::read(path).unwrap());
    paths.map(read).collect()
}

/// An image whose program is the frontend of the tests.
fn image(edit: impl FnOnce(&mut oci::ImageConfig)) -> Image {
    let mut tree = Tree::from([("frontend".to_owned(), Node::File(0o755, program()))]);
    for directory in ["home", "proc", "sys", "dev", "run", "etc"] {
        tree.insert(directory.to_owned(), Node::Dir(0o755));
    }
    for (path, content) in libraries() {
        let path = PathBuf::from(path);
        let path = path.strip_prefix("/").unwrap();
        for above in path
            .ancestors()
            .skip(1)
            .filter(|above| above.parent().is_some())
        {
            tree.insert(above.to_str().unwrap().to_owned(), Node::Dir(0o755));
        }
        tree.insert(
            path.to_str().unwrap().to_owned(),
            Node::File(0o755, content),
        );
    }
    Image::new(&Platform::host(), &[tree], |config| {
        config.config.entrypoint = Some(vec!["/frontend".to_owned()]);
        config.config.env.push("OWN=1".to_owned());
        config.config.working_dir = "/home".to_owned();
        edit(config);
    })
    .unwrap()
}

const DOCKERFILE: &str =
    "# syntax=test/frontend:1\nFROM busybox\nARG do\nRUN echo $do > /made\nCMD [\"x\"]\n";

#[test]
fn a_frontend_image_makes_the_build() {
    let fixture = Fixture::new();
    let plain = image(|_| {});
    fixture.registry.push("test/frontend:1", &plain).unwrap();
    fixture.dockerfile(DOCKERFILE);

    let files = fixture.files(&["--build-arg", "do=dockerfile"]);
    assert_eq!(files.text("made"), "dockerfile");
    let named = "resolve image config for docker-image://docker.io/test/frontend:1";
    assert!(files.build.step(named).completed);
    // What the image is told of itself is no step of the build.
    let steps = files.build.steps.iter().map(|step| step.name.as_str());
    assert_eq!(
        steps.filter(|name| name.contains("rontend image")).count(),
        0
    );
    let config = fixture.config(&["--build-arg", "do=dockerfile"]);
    assert_eq!(config["config"]["Cmd"][0], "x");

    let told = fixture
        .files(&["--build-arg", "do=tell", "--target", "none"])
        .text("told");
    for line in [
        "cmdline=test/frontend:1",
        "source=test/frontend:1",
        "target=none",
        "OWN=1",
        "BUILDKIT_EXPORTEDPRODUCT=buildkit",
        "definition=true",
        "directory=/home",
        "network=true",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} in\n{told}");
    }
    assert!(told.contains("\"platforms\":[{\"architecture\":"), "{told}");

    let refused = fixture.build(&["--build-arg", "do=refuse"]);
    let error = refused.ran.err();
    assert!(error.contains("this frontend builds nothing"), "{error}");
    assert!(error.contains(">>> # syntax=test/frontend:1"), "{error}");
    let fallen = fixture.build(&["--build-arg", "do=fall"]);
    let error = fallen.ran.err();
    assert!(error.contains("exit code: 7: fell over"), "{error}");
    fixture.dockerfile("# syntax=test/none:1\nFROM busybox\n");
    let missing = fixture.build(&[]);
    assert!(missing.ran.err().contains("test/none:1"), "{missing:?}");
}

#[test]
fn a_frontend_image_says_what_it_needs() {
    let fixture = Fixture::new();
    let alone = image(|config| {
        let label = "moby.buildkit.frontend.network.none".to_owned();
        config.config.labels.insert(label, "true".to_owned());
    });
    fixture.registry.push("test/frontend:1", &alone).unwrap();
    fixture.dockerfile(DOCKERFILE);
    let told = fixture.files(&["--build-arg", "do=tell"]).text("told");
    assert!(told.contains("network=false"), "{told}");
}

#[test]
fn the_built_in_frontend_stands_in_for_images() {
    let config = "[frontend.\"dockerfile.v0\"]\nstandsInFor = [\"docker/dockerfile\"]\n";
    let fixture = Fixture::configured(config);
    // Nothing can be pulled: the registry has no such image.
    fixture.dockerfile("# syntax=docker/dockerfile:1.7\nFROM busybox\nRUN echo made > /made\n");
    let files = fixture.files(&[]);
    assert_eq!(files.text("made"), "made");
    fixture.dockerfile("# syntax=docker/dockerfile-upstream:1\nFROM busybox\n");
    assert!(
        fixture
            .build(&[])
            .ran
            .err()
            .contains("docker/dockerfile-upstream:1")
    );
    // The labs channel has devices.
    let labs = "# syntax=docker/dockerfile:1-labs\nFROM busybox\n\
                RUN --device=vendor.com/thing=none true\n";
    fixture.dockerfile(labs);
    fixture.build(&[]).ran.ok();
    fixture.dockerfile(&labs.replace("=none", "=none,required"));
    let error = fixture.build(&[]).ran;
    let text = "required device \"vendor.com/thing=none\" is not registered";
    assert!(error.err().contains(text), "{error:?}");
}
