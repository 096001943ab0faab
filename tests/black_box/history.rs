//! What a daemon remembers of builds that ended.

use std::fs;

use client::Client;
use client::history::{BuildFilter, BuildRecord};
use testing::http::{Answer, Server};
use tokio::runtime::Runtime;

use crate::fixture::{Fixture, Layout, eventually, untar};

/// Asks the daemon of `fixture`.
fn ask<T>(fixture: &Fixture, question: impl AsyncFnOnce(Client) -> T) -> T {
    Runtime::new().unwrap().block_on(async {
        let client = fixture.daemon.client().await.unwrap();
        question(client).await
    })
}

fn builds(fixture: &Fixture, filter: &str) -> Vec<BuildRecord> {
    let filter = BuildFilter {
        filter: vec![filter.to_owned()],
        limit: 50,
        ..BuildFilter::default()
    };
    ask(fixture, async |client| client.builds(filter).await.unwrap())
}

fn output(fixture: &Fixture, build: &str) -> String {
    ask(fixture, async |client| {
        let output = client.build_output(build).await.unwrap();
        let mut output = std::pin::pin!(output);
        let mut all = Vec::new();
        while let Some(part) = tokio_stream::StreamExt::next(&mut output).await {
            all.extend(part.unwrap());
        }
        String::from_utf8(all).unwrap()
    })
}

#[test]
fn a_build_that_ended_is_remembered_across_a_restart() {
    let mut fixture = Fixture::with("FROM busybox\nRUN echo first; echo second\n");
    let tar = fixture.scratch().join("image.tar");
    let to = format!("type=oci,dest={}", tar.display());
    fixture.build(&["--output", &to]).ran.ok();
    fixture.dockerfile("FROM busybox\nRUN echo broken; exit 9\n");
    fixture.build(&[]).ran.err();
    for build in builds(&fixture, "") {
        // Its trace comes a moment later, unless somebody asks for it.
        let finalize = async |client: Client| client.finalize_build(&build.build_ref).await;
        ask(&fixture, finalize).unwrap();
    }

    let good = builds(&fixture, "status==completed");
    let bad = builds(&fixture, "status==error");
    assert_eq!((good.len(), bad.len()), (1, 1));
    assert!(bad[0].error.contains("exit code: 9"), "{:?}", bad[0]);
    assert!(good[0].total_steps > 3 && good[0].error.is_empty());
    assert_eq!(output(&fixture, &good[0].build_ref), "first\nsecond\n");

    fixture.daemon.restart().unwrap();
    assert_eq!(builds(&fixture, "status==completed"), good);
    assert_eq!(builds(&fixture, "status==error"), bad);
    assert_eq!(output(&fixture, &good[0].build_ref), "first\nsecond\n");
    assert_eq!(output(&fixture, &bad[0].build_ref), "broken\n");
    let manifest = ask(&fixture, async |client| {
        client.read_blob(&good[0].result).await.unwrap()
    });
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["schemaVersion"], 2);

    let (kind, digest) = &good[0].attestations[0];
    assert_eq!(kind, "https://slsa.dev/provenance/v1");
    let provenance = ask(&fixture, async |client| {
        client.read_blob(digest).await.unwrap()
    });
    let provenance: serde_json::Value = serde_json::from_slice(&provenance).unwrap();
    let definition = &provenance["buildDefinition"];
    let dependency = definition["resolvedDependencies"][0]["uri"].as_str();
    assert!(dependency.unwrap().starts_with("pkg:docker/busybox@latest"));
    let steps = &definition["internalParameters"]["buildConfig"]["llbDefinition"];
    let run = &steps[1]["op"]["Op"]["exec"]["meta"]["args"][2];
    assert_eq!(run, "echo first; echo second");
}

#[test]
fn a_log_of_megabytes_is_replayed_whole() {
    let fixture = Fixture::with("FROM busybox\nRUN yes 0123456789abcde | head -n 200000\n");
    fixture.build(&["--no-cache"]).ran.ok();
    let build = builds(&fixture, "status==completed").remove(0);
    let text = output(&fixture, &build.build_ref);
    assert_eq!(text.len(), 200_000 * 16);
    // A log of that size is a blob, which is told of as long as it is there.
    let blobs = fixture.daemon.root().join("content/sha256");
    let large = || {
        let sizes = fs::read_dir(&blobs)
            .unwrap()
            .map(|blob| blob.unwrap().metadata().unwrap().len());
        sizes.filter(|size| *size > 3_000_000).count()
    };
    let told = || {
        let all = ask(&fixture, async |client| {
            client.disk_usage(Vec::new()).await.unwrap()
        });
        all.into_iter()
            .find(|record| record.description.contains("of builds in the history"))
    };
    assert_eq!(large(), 1);
    assert!(told().unwrap().size > 3_000_000);
    ask(&fixture, async |client| {
        client.delete_build(&build.build_ref).await.unwrap();
        assert!(
            client
                .builds(BuildFilter::default())
                .await
                .unwrap()
                .is_empty()
        );
    });
    eventually("the log of the deleted build goes", || large() == 0);
    assert_eq!(told(), None);
}

#[test]
fn records_are_pinned_and_deleted() {
    let fixture = Fixture::with("FROM busybox\n");
    fixture.build(&[]).ran.ok();
    let name = builds(&fixture, "").remove(0).build_ref;
    ask(&fixture, async |client| {
        client.pin_build(&name, true).await.unwrap();
        let pinned = client.builds(BuildFilter::default()).await.unwrap();
        assert!(pinned[0].pinned);
        client.delete_build(&name).await.unwrap();
        assert!(
            client
                .builds(BuildFilter::default())
                .await
                .unwrap()
                .is_empty()
        );
        assert!(client.pin_build(&name, true).await.is_err());
        // What is gone can be deleted again.
        client.delete_build(&name).await.unwrap();
    });
}

#[test]
fn credentials_in_urls_are_seen_nowhere() {
    let server = Server::start(|call| {
        // `me:s3cret`.
        match call.header("Authorization") {
            Some("Basic bWU6czNjcmV0") if call.path == "/file" => Answer::new(200, "content"),
            _ => Answer::new(404, ""),
        }
    });
    let server = server.unwrap();
    let fixture = Fixture::new();
    let url = |path: &str| server.url(path).replacen("://", "://me:s3cret@", 1);
    fixture.dockerfile(&format!(
        "FROM busybox\nADD {} /\nRUN : {}\n",
        url("/file"),
        url("/x")
    ));
    let tar = fixture.scratch().join("image.tar");
    let layout = fixture.scratch().join("image");
    let output = format!("type=oci,dest={}", tar.display());
    let build = fixture.build(&["--output", &output]);
    build.ran.ok();
    let masked = url("/file").replacen("me:s3cret", "xxxxx:xxxxx", 1);
    assert!(build.step(&format!("ADD {masked} /")).completed);
    untar(&tar, &layout);
    let config = Layout::at(&layout).config().to_string();
    assert!(
        config.contains(&format!("ADD {masked} / # buildkit")),
        "{config}"
    );

    fixture.dockerfile(&format!("FROM busybox\nRUN : {}; exit 3\n", url("/y")));
    let step = fixture.build(&[]);
    let ran = step.ran.err();
    assert!(ran.contains("xxxxx:xxxxx@"), "{ran}");
    fixture.dockerfile(&format!("FROM scratch\nADD {} /\n", url("/missing")));
    let missing = fixture.build(&[]);
    missing.ran.err();

    let all = builds(&fixture, "status!=running");
    assert_eq!(all.len(), 3);
    let kept = fixture.drydock(&["du"]);
    for told in [
        format!("{:?}", build.steps),
        // What is said of the place in the Dockerfile shows the Dockerfile.
        format!("{:?} {ran:?}", step.steps).replace(&url("/y"), ""),
        format!("{:?}", missing.steps),
        format!("{all:?}"),
        kept.ok().to_owned(),
    ] {
        assert!(!told.contains("s3cret"), "{told}");
    }
    let provenance = ask(&fixture, async |client| {
        let built = all.iter().find(|build| build.error.is_empty()).unwrap();
        client.read_blob(&built.attestations[0].1).await.unwrap()
    });
    let mut provenance: serde_json::Value = serde_json::from_slice(&provenance).unwrap();
    let dependencies = provenance["buildDefinition"]["resolvedDependencies"].take();
    assert!(dependencies.to_string().contains(&masked), "{dependencies}");
}
