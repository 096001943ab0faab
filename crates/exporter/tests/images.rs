//! Images and trees carried out, as other people's tools see them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Fixture, picture, view};
use exporter::{Kind, Source};

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The archive as a directory.
fn layout(fixture: &Fixture, archive: &Path, name: &str) -> PathBuf {
    let dir = fixture.dir.path().join(name);
    std::fs::create_dir(&dir).unwrap();
    run(
        "tar",
        &[
            "-xf",
            archive.to_str().unwrap(),
            "-C",
            dir.to_str().unwrap(),
        ],
    );
    dir
}

/// What umoci makes of an image.
fn unpacked(fixture: &Fixture, archive: &Path, name: &str) -> sys::root::RootDir {
    let layout = layout(fixture, archive, &format!("{name}-layout"));
    let bundle = fixture.dir.path().join(format!("{name}-bundle"));
    let image = format!("{}:1", layout.display());
    run(
        "umoci",
        &["unpack", "--image", &image, bundle.to_str().unwrap()],
    );
    sys::root::RootDir::open(&bundle.join("rootfs")).unwrap()
}

fn difference(ours: &[String], theirs: &[String]) -> String {
    let lines = |from: &[String], without: &[String], mark: &str| {
        from.iter()
            .filter(|line| !without.contains(line))
            .map(|line| format!("{mark} {line}\n"))
            .collect::<String>()
    };
    lines(ours, theirs, "-") + &lines(theirs, ours, "+")
}

async fn archive_of(fixture: &Fixture, source: &Source, attrs: &[(&str, &str)]) -> PathBuf {
    fixture.archive(Kind::Oci, source, attrs).await
}

#[tokio::test]
async fn an_image_unpacks_elsewhere_to_the_same_tree() {
    let fixture = Fixture::new();
    let source = fixture.full();
    let ours = picture(&view(&fixture, &source));
    for compression in ["uncompressed", "gzip", "zstd"] {
        let attrs = [
            ("name", "example.com/app:1"),
            ("compression", compression),
            ("force-compression", "true"),
        ];
        let archive = archive_of(&fixture, &source, &attrs).await;
        let target = format!("oci-archive:{}", archive.display());
        let inspected = run("skopeo", &["inspect", &target]);
        assert!(inspected.contains("\"Layers\""), "{inspected}");
        if compression == "zstd" {
            // The umoci at hand is from before zstd.
            continue;
        }
        let theirs = picture(&unpacked(&fixture, &archive, compression));
        let difference = difference(&ours, &theirs);
        assert!(difference.is_empty(), "{compression}:\n{difference}");
    }
}

#[tokio::test]
async fn an_archive_for_docker_is_read_by_others() {
    let fixture = Fixture::new();
    let source = fixture.full();
    let archive = fixture
        .archive(Kind::Docker, &source, &[("name", "example.com/app:1")])
        .await;
    let target = format!("docker-archive:{}", archive.display());
    let inspected = run("skopeo", &["inspect", &target]);
    assert!(inspected.contains("\"Layers\""), "{inspected}");
    let tags = run("skopeo", &["list-tags", &target]);
    assert!(tags.contains("example.com/app:1"), "{tags}");
}

#[tokio::test]
async fn the_same_result_gives_the_same_image_again() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let fixture = Fixture::new();
        let source = fixture.full();
        let attrs = [
            ("name", "example.com/app:1"),
            ("source-date-epoch", "1300000000"),
        ];
        let plain = fixture.root_digest(&source, &attrs).await;
        let attrs = [attrs[0], attrs[1], ("rewrite-timestamp", "true")];
        let rewritten = fixture.root_digest(&source, &attrs).await;
        assert_ne!(plain, rewritten);
        digests.push((plain, rewritten));
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn times_are_rewritten_up_to_the_epoch() {
    let fixture = Fixture::new();
    let source = fixture.full();
    let attrs = [
        ("name", "example.com/app:1"),
        ("source-date-epoch", "1300000000"),
        ("rewrite-timestamp", "true"),
    ];
    let archive = archive_of(&fixture, &source, &attrs).await;
    let root = unpacked(&fixture, &archive, "rewritten");
    let times = common::times(&root);
    assert_eq!(times["old"], 1_000_000_000);
    assert_eq!(times["etc/passwd"], 1_300_000_000);
    assert!(times.values().all(|time| *time <= 1_300_000_000));
    let config = run(
        "skopeo",
        &[
            "inspect",
            "--config",
            &format!("oci-archive:{}", archive.display()),
        ],
    );
    assert!(
        config.contains("\"created\": \"2011-03-13T07:06:40Z\""),
        "{config}"
    );
}

#[tokio::test]
async fn a_tree_gets_the_epoch_everywhere() {
    let fixture = Fixture::new();
    let source = fixture.full();
    let ours = picture(&view(&fixture, &source));
    for (epoch, want) in [(None, None), (Some("1300000000"), Some(1_300_000_000))] {
        let attrs: BTreeMap<&str, &str> = epoch
            .map(|epoch| ("source-date-epoch", epoch))
            .into_iter()
            .collect();
        for root in [
            fixture.local(&source, &attrs).await,
            fixture.tar(&source, &attrs).await,
        ] {
            match want {
                None => {
                    let difference = difference(&ours, &picture(&root));
                    assert!(difference.is_empty(), "{difference}");
                }
                Some(want) => {
                    let times = common::times(&root);
                    assert!(times.values().all(|time| *time == want), "{times:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn several_platforms_come_as_one_where_what_is_not_there_goes() {
    let fixture = Fixture::new();
    let mut source = fixture.full();
    let attestation = exporter::Attestation {
        predicate_type: "https://example.com/said".to_owned(),
        predicate: serde_json::json!({"said": true}),
        subjects: Vec::new(),
        inline_only: false,
        file_name: "said.json".to_owned(),
    };
    source.refs[0].key = "linux/amd64".to_owned();
    source.refs[0].attestations = vec![attestation];
    let mut other = source.refs[0].clone();
    other.key = "linux/arm64".to_owned();
    source.refs.push(other);
    source.multi_platform = true;

    let epoch = ("source-date-epoch", "1300000000");
    let split = BTreeMap::from([epoch, ("mode", "delete")]);
    assert_eq!(fixture.transfers(&source, &split), ["copying files"]);
    let apart = BTreeMap::from([epoch, ("mode", "copy")]);
    assert_eq!(
        fixture.transfers(&source, &apart),
        ["copying files linux/amd64", "copying files linux/arm64"]
    );
    let mut trees = Vec::new();
    for attrs in [&split, &apart] {
        trees.push(fixture.local(&source, attrs).await);
    }
    trees.push(fixture.tar(&source, &apart).await);
    // Names of platforms do not make a tar of several flat.
    let flat = BTreeMap::from([epoch, ("platform-split", "false")]);
    trees.push(fixture.tar(&source, &flat).await);
    for root in trees {
        let times = common::times(&root);
        assert!(times.values().all(|time| *time == 1_300_000_000));
        for dir in ["linux_amd64", "linux_arm64"] {
            for file in ["etc/passwd", "said.json"] {
                let file = format!("{dir}/{file}");
                assert!(times.contains_key(&file), "{file}: {times:?}");
            }
            let mode = root
                .stat(Path::new(dir), sys::root::Follow::No)
                .unwrap()
                .mode;
            assert_eq!(mode, 0o755);
        }
    }
    let collision = fixture.fails(&source, &flat);
    assert!(collision.contains("cannot overwrite"), "{collision}");
}
