//! Build caches that travel from one daemon to another with no state of its own.

use std::fs;

use crate::fixture::Fixture;

const DOCKERFILE: &str = "FROM busybox AS tool\n\
    RUN cat /proc/sys/kernel/random/uuid > /made\n\
    FROM busybox\n\
    COPY data /data\n\
    RUN cat /data > /copy && cat /proc/sys/kernel/random/uuid > /when\n\
    COPY --from=tool /made /made\n\
    RUN cat /made /when > /all\n";

fn fixture() -> Fixture {
    let fixture = Fixture::with(DOCKERFILE);
    fixture.write("data", "data");
    fixture
}

/// Builds on one daemon with `to`, on another with `from`, and tells what the other ran.
fn carry(first: &Fixture, second: &Fixture, to: &[&str], from: &str) -> Vec<String> {
    let made = first.files(to);
    let found = second.files(&["--cache-from", from]);
    let ran = found.build.executed();
    if ran.is_empty() {
        assert_eq!(found.text("all"), made.text("all"));
    }
    ran.into_iter().map(ToOwned::to_owned).collect()
}

#[test]
fn a_directory_carries_all_steps() {
    let (first, second) = (fixture(), fixture());
    let directory = first.scratch().display().to_string();
    let to = format!("type=local,dest={directory},mode=max");
    let from = format!("type=local,src={directory}");
    let ran = carry(&first, &second, &["--cache-to", &to], &from);
    assert!(ran.is_empty(), "{ran:?}");

    // The same build tells the same, whether it ran or was found.
    let index = || fs::read_to_string(format!("{directory}/index.json")).unwrap();
    let before = index();
    first.files(&["--cache-to", &to]);
    assert_eq!(index(), before);
}

#[test]
fn a_registry_carries_what_the_result_consists_of() {
    let (first, second) = (fixture(), fixture());
    let name = format!("{}/build-cache:min", first.registry.host());
    let ran = carry(&first, &second, &["--cache-to", &name], &name);
    assert!(ran.is_empty(), "{ran:?}");

    // The stage that is not in the result did not go along.
    second.dockerfile(&DOCKERFILE.replace("/all", "/other"));
    let third = Fixture::with(&DOCKERFILE.replace("RUN cat /made /when", "RUN cat /made"));
    third.write("data", "data");
    let built = third.files(&["--cache-from", &name]);
    assert_eq!(built.build.executed(), ["RUN cat /made > /all"]);
    let stage = third.files(&["--cache-from", &name, "--target", "tool"]);
    assert_eq!(
        stage.build.executed(),
        ["RUN cat /proc/sys/kernel/random/uuid > /made"]
    );
}

#[test]
fn an_image_carries_the_steps_that_made_it() {
    let (first, second) = (fixture(), fixture());
    let name = format!("{}/app:1", first.registry.host());
    let output = format!("type=image,name={name},push=true");
    first
        .build(&["--cache-to", "type=inline", "--output", &output])
        .ran
        .ok();
    let found = second.files(&["--cache-from", &name]);
    assert!(found.build.executed().is_empty());
}

#[test]
fn what_cannot_be_had_is_run() {
    let (first, second) = (fixture(), fixture());
    let directory = first.scratch().display().to_string();
    let to = format!("type=local,dest={directory},mode=max");
    let made = first.files(&["--cache-to", &to]);
    for blob in fs::read_dir(format!("{directory}/blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let bytes = fs::read(blob.path()).unwrap();
        // All layers go; what tells of them stays.
        if !bytes.starts_with(b"{") {
            fs::remove_file(blob.path()).unwrap();
        }
    }
    let from = format!("type=local,src={directory}");
    // Only a step that is new needs files.
    second.write("data", "data");
    second.dockerfile(&DOCKERFILE.replace("/when > /all", "/copy > /all"));
    let found = second.files(&["--cache-from", &from]);
    assert!(found.text("all").ends_with("data"));
    assert_ne!(found.text("made"), made.text("made"));

    // Nor does a build cache that is not there stop a build.
    let name = format!("{}/no-build-cache:1", second.registry.host());
    let build = second.build(&["--cache-from", &name]);
    build.ran.ok();
    assert!(
        build
            .step("importing cache manifest")
            .error
            .contains("not found")
    );
}

#[test]
fn what_cannot_be_written_fails_the_build_unless_that_does_not_matter() {
    let fixture = fixture();
    let away = "type=registry,ref=127.0.0.1:1/build-cache:1";
    fixture.build(&["--cache-to", away]).ran.err();
    let ignored = format!("{away},ignore-error=true");
    fixture.build(&["--cache-to", &ignored]).ran.ok();
    let unknown = fixture.build(&["--cache-to", "type=nowhere"]);
    assert!(
        unknown
            .ran
            .err()
            .contains("unknown cache exporter: \"nowhere\"")
    );
}
