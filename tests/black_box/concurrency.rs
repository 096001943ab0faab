//! Many steps and many builds at a time.

use crate::crash::descendants;
use crate::fixture::{Background, Fixture};

#[test]
fn stages_that_do_not_need_each_other_run_at_a_time() {
    // Each waits until it sees the other: one after the other, the first would give up.
    let wait = |own: &str, other: &str| {
        format!(
            "FROM busybox AS {own}\n\
             RUN --mount=type=cache,target=/c touch /c/{own} && i=0 && \
             until test -e /c/{other}; do i=$((i+1)); test $i -lt 600 || exit 1; sleep 0.05; done; \
             touch /{own}\n"
        )
    };
    let copies = "FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
    let fixture = Fixture::with(&(wait("a", "b") + &wait("b", "a") + copies));
    assert_eq!(fixture.files(&[]).names("."), ["a", "b"]);
}

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
fn builds_of_one_directory_do_not_lose_each_others_files() {
    let fixture = Fixture::new();
    let numbers = 0..8;
    for number in numbers.clone() {
        fixture.write(&format!("file{number}"), number.to_string());
        // Each asks for other files of the directory, and looks at them late.
        let text = format!(
            "FROM busybox\nRUN sleep 0.{number} && echo {number} > /ran\nCOPY file{number} /\n"
        );
        fixture.write(&format!("Dockerfile{number}"), text);
    }
    let start = |number: i32| {
        let dockerfile = format!("Dockerfile{number}");
        Background::start(&mut fixture.command(&["build", "-q", "-f", &dockerfile, "."]))
    };
    let builds: Vec<_> = numbers.map(start).collect();
    for build in builds {
        build.wait().unwrap().ok();
    }
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

#[test]
fn a_step_that_nobody_waits_for_ends() {
    let fixture = Fixture::with("FROM busybox\nRUN echo sta''rted && sleep 3001\n");
    let mut build = fixture.command(&["build", "--progress", "plain", "."]);
    let mut build = Background::start(&mut build);
    build.error_until("started");
    assert!(runs(&fixture, "sleep 3001"));
    build.signal("INT");
    assert_eq!(build.wait().unwrap().code, 130);
    crate::fixture::eventually("the step has ended", || !runs(&fixture, "sleep 3001"));
}

/// Whether a process with this command line comes from the daemon.
fn runs(fixture: &Fixture, command: &str) -> bool {
    // Each word has an end.
    let wanted = format!("{command} ").replace(' ', "\0");
    let mut all = descendants(fixture.daemon.pid()).into_iter();
    all.any(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| line == wanted.as_bytes())
    })
}
