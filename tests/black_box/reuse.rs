//! What a second build does not do again.

use crate::fixture::{Fixture, Layout};

const DOCKERFILE: &str = "\
FROM busybox
WORKDIR /app
RUN echo one > /one
COPY file.txt .
RUN cat file.txt > /copied
";

const STEPS: [&str; 4] = [
    "WORKDIR /app",
    "RUN echo one > /one",
    "COPY file.txt .",
    "RUN cat file.txt > /copied",
];

fn fixture() -> Fixture {
    let fixture = Fixture::with(DOCKERFILE);
    fixture.write("file.txt", "first\n");
    assert_eq!(built(&fixture), STEPS);
    fixture
}

/// Builds, and gives what ran.
fn built(fixture: &Fixture) -> Vec<String> {
    let build = fixture.build(&[]);
    build.ran.ok();
    build
        .executed()
        .into_iter()
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn the_same_build_again_runs_nothing() {
    let fixture = fixture();
    let build = fixture.build(&[]);
    build.ran.ok();
    assert!(build.executed().is_empty(), "{:?}", build.executed());
    for step in STEPS {
        assert!(
            build.reused().contains(&step),
            "{step}: {:?}",
            build.reused()
        );
    }
}

#[test]
fn a_changed_file_runs_its_copy_and_what_follows() {
    let fixture = fixture();
    fixture.write("file.txt", "second\n");
    assert_eq!(built(&fixture), STEPS[2..]);
    assert_eq!(fixture.files(&[]).text("copied"), "second");
}

#[test]
fn a_file_that_is_not_copied_changes_nothing() {
    let fixture = fixture();
    fixture.write("other.txt", "other\n");
    assert!(built(&fixture).is_empty());
}

#[test]
fn a_changed_command_runs_and_what_follows() {
    let fixture = fixture();
    fixture.dockerfile(&DOCKERFILE.replace("echo one", "echo uno"));
    let expected = [
        STEPS[1].replace("one >", "uno >"),
        STEPS[2].into(),
        STEPS[3].into(),
    ];
    assert_eq!(built(&fixture), expected);
}

#[test]
fn a_step_that_makes_the_same_files_ends_the_rerun() {
    let dockerfile = "FROM busybox AS made\nARG WHO\nRUN echo same > /same\n\
                      FROM busybox\nCOPY --from=made /same /\nRUN cat /same\n";
    let fixture = Fixture::with(dockerfile);
    fixture.build(&["--build-arg", "WHO=a"]).ran.ok();
    let build = fixture.build(&["--build-arg", "WHO=b"]);
    build.ran.ok();
    assert_eq!(build.executed(), ["RUN echo same > /same"]);
}

#[test]
fn no_cache_runs_everything() {
    let fixture = fixture();
    let build = fixture.build(&["--no-cache"]);
    build.ran.ok();
    // As in BuildKit, this is about commands and copies: the directory is there.
    assert_eq!(build.executed(), STEPS[1..]);
}

#[test]
fn no_cache_for_a_stage_runs_that_stage() {
    let dockerfile = "FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\n\
                      FROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n";
    let fixture = Fixture::with(dockerfile);
    fixture.build(&[]).ran.ok();
    let build = fixture.build(&["--no-cache-filter", "two"]);
    build.ran.ok();
    assert!(build.executed().contains(&"RUN echo 2 > /2"));
    assert!(build.reused().contains(&"RUN echo 1 > /1"));
}

#[test]
fn what_was_built_outlives_the_daemon() {
    let mut fixture = fixture();
    fixture.daemon.restart().unwrap();
    assert!(built(&fixture).is_empty());
    assert_eq!(fixture.files(&[]).text("copied"), "first");
}

#[test]
fn pruning_leaves_nothing_to_reuse() {
    let fixture = fixture();
    fixture.drydock(&["prune", "--all", "--force"]).ok();
    assert_eq!(built(&fixture), STEPS);
}

/// Layers of the daemon's that are kept as a change of another.
fn changes_of_layers(fixture: &Fixture) -> usize {
    let mut pending = vec![fixture.daemon.root()];
    let mut found = 0;
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            found += usize::from(path.ends_with("over") && path.is_file());
            let depth = path.components().count() - fixture.daemon.root().components().count();
            if depth < 5 && path.is_dir() && !path.is_symlink() {
                pending.push(path);
            }
        }
    }
    found
}

#[test]
fn a_large_copy_is_brought_up_to_date_as_if_it_were_made_again() {
    let dockerfile = "FROM busybox\nWORKDIR /src\nCOPY . .\n\
                      RUN find . -type f -exec sha256sum {} + | sort > /sums\n";
    let mut fixture = Fixture::with(dockerfile);
    for n in 0..300 {
        fixture.write(&format!("d{}/e/f{n}", n % 20), format!("content {n}"));
    }
    let layout = fixture.layout(&[]);
    let first = layout.config()["rootfs"]["diff_ids"].clone();
    assert_eq!(changes_of_layers(&fixture), 0);

    fixture.write("d3/e/f3", "changed");
    fixture.write("d4/new/file", "new");
    let text = fixture.files(&[]).text("src/d3/e/f3");
    assert_eq!(text, "changed");
    fixture.write("d5/e/f5", "changed as well");
    // Only the time of its directory changes.
    fixture.write(".dockerignore", "**/ignored\n");
    fixture.write("d6/e/ignored", "");
    let updated = fixture.files(&[]);
    assert_eq!(changes_of_layers(&fixture), 2);
    assert_eq!(updated.text("src/d5/e/f5"), "changed as well");
    assert_eq!(updated.text("src/d4/new/file"), "new");
    assert_eq!(
        updated.names("src").len(),
        22,
        "and the Dockerfile and .dockerignore"
    );
    assert_eq!(updated.text("sums").lines().count(), 303);

    // The same layers as when all is copied, also for a daemon that has found them on the disk.
    fixture.daemon.stop().unwrap();
    fixture.daemon.restart().unwrap();
    let updated = fixture.layout(&[]);
    let whole = fixture.layout(&["--no-cache"]);
    let ids = |layout: &Layout| layout.config()["rootfs"]["diff_ids"].clone();
    assert_ne!(ids(&updated)[2], first[2]);
    assert_eq!(ids(&updated)[2], ids(&whole)[2]);

    // What is gone from the context is gone from the copy.
    std::fs::remove_file(fixture.context().join("d5/e/f5")).unwrap();
    let files = fixture.files(&[]);
    assert!(!files.has("src/d5/e/f5") && files.has("src/d5/e/f25"));
}

/// A context with enough files for a copy of it to be brought up to date.
fn large(dockerfile: &str) -> Fixture {
    let fixture = Fixture::with(dockerfile);
    for n in 0..300 {
        fixture.write(&format!("f{n}"), format!("content {n}"));
    }
    fixture
}

#[test]
fn what_was_no_directory_for_a_while_is_copied_without_what_was_in_it_before() {
    let copy_to = |place: &str| format!("FROM busybox\nCOPY . {place}\n");
    let fixture = large(&copy_to("/one"));
    let (dir, link) = (fixture.context().join("d"), fixture.context().join("l"));
    let refill = |name: &str| {
        fixture.write(&format!("d/{name}"), name);
        fixture.write(&format!("l/{name}"), name);
    };
    refill("old");
    assert!(fixture.files(&[]).has("one/d/old"));

    // Only another step sees what they are meanwhile.
    fixture.write("Dockerfile", copy_to("/two"));
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::remove_dir_all(&link).unwrap();
    fixture.write("d", "a file");
    std::os::unix::fs::symlink("f1", &link).unwrap();
    assert_eq!(fixture.files(&[]).text("two/d"), "a file");

    fixture.write("Dockerfile", copy_to("/one"));
    std::fs::remove_file(&dir).unwrap();
    std::fs::remove_file(&link).unwrap();
    refill("new");
    let files = fixture.files(&[]);
    for name in ["d", "l"] {
        assert!(files.has(&format!("one/{name}/new")));
        assert!(!files.has(&format!("one/{name}/old")), "{name}");
    }
}

#[test]
fn a_copy_that_turns_a_link_to_its_destination_stays_where_it_was() {
    let fixture = large("FROM busybox\nRUN ln -s / /s\nCOPY . /s\n");
    std::os::unix::fs::symlink("/etc", fixture.context().join("s")).unwrap();
    assert_eq!(fixture.files(&[]).text("f1"), "content 1");
    fixture.write("f1", "changed");
    let files = fixture.files(&[]);
    assert_eq!(files.text("f1"), "changed");
    assert!(!files.has("etc/f1"));
}

#[test]
fn a_context_that_is_listed_in_parts_arrives_whole() {
    let dockerfile = "FROM busybox AS all\nWORKDIR /src\nCOPY . .\n\
                      RUN mkdir /out && find . -type f | wc -l > /out/count && \
                      stat -c '%h %s' d0/f0 d7/f7 > /out/links && cat d*/f1 > /out/changed && \
                      cat d*/new/* e > /out/new || true\n\
                      FROM scratch\nCOPY --from=all /out /\n";
    let fixture = Fixture::with(dockerfile);
    // Each of another size, so that none may be one with another.
    for n in 0..4_200 {
        fixture.write(&format!("d{}/f{}", n / 525, n % 525), "x".repeat(n));
    }
    let at = |path: &str| fixture.context().join(path);
    let first = fixture.files(&[]);
    assert_eq!(first.text("count"), "4201");
    assert_eq!(first.text("links"), "1 0\n1 3682");
    assert_eq!(first.text("new"), "");

    // Something in each part, and beside them.
    for dir in 0..8 {
        fixture.write(&format!("d{dir}/f1"), format!("changed in {dir}\n"));
        fixture.write(&format!("d{dir}/new/file"), format!("new in {dir}\n"));
        std::fs::remove_file(at(&format!("d{dir}/f2"))).unwrap();
    }
    fixture.write("e", "at the top");
    let changed = fixture.files(&[]);
    let in_each =
        |text: &str| -> Vec<String> { (0..8).map(|dir| format!("{text} {dir}")).collect() };
    assert_eq!(changed.text("count"), "4202");
    assert_eq!(changed.text("changed"), in_each("changed in").join("\n"));
    let new = in_each("new in").join("\n") + "\nat the top";
    assert_eq!(changed.text("new"), new);

    // Names of one file in two directories, which different calls had listed.
    std::fs::remove_file(at("d7/f7")).unwrap();
    std::fs::hard_link(at("d0/f0"), at("d7/f7")).unwrap();
    assert_eq!(fixture.files(&[]).text("links"), "2 0\n2 0");
}
