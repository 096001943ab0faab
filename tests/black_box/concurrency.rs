//! Many steps and many builds at a time.

use crate::fixture::{Background, Fixture};

#[test]
fn identical_builds_run_each_step_once() {
    let count = 20;
    let dockerfile = "\
FROM busybox
COPY file /
RUN --mount=type=cache,target=/c echo first >> /c/runs && sleep 0.5
RUN --mount=type=cache,target=/c echo second >> /c/runs && sleep 0.1
";
    let fixture = Fixture::with(dockerfile);
    fixture.write("file", "x");
    let start = |_| Background::start(&mut fixture.command(&["build", "-q", "."]));
    let builds: Vec<_> = (0..count).map(start).collect();
    for build in builds {
        build.wait().unwrap().ok();
    }
    fixture.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c cp /c/runs /\n");
    assert_eq!(fixture.files(&[]).text("runs"), "first\nsecond");
}

#[test]
fn a_build_that_is_given_up_leaves_its_step_to_others() {
    let fixture = Fixture::with("FROM busybox\nRUN echo sta''rted && sleep 2 && echo x > /out\n");
    let mut given_up = Background::start(&mut fixture.command(&[
        "build",
        "--progress",
        "plain",
        "-o",
        "type=tar,dest=/dev/null",
        ".",
    ]));
    let other = Background::start(&mut fixture.command(&["build", "-q", "."]));
    given_up.error_until("started");
    given_up.signal("INT");
    assert_eq!(given_up.wait().unwrap().code, 130);
    other.wait().unwrap().ok();
}
