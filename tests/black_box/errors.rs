//! What a person is told when a build fails: the place and the cause.

use testing::http::{Answer, Server};

use crate::fixture::{Background, Fixture};

/// Fails to build `dockerfile`, and gives what is said. The daemon goes on serving.
fn failure(fixture: &Fixture, dockerfile: &str) -> String {
    fixture.dockerfile(dockerfile);
    let ran = fixture.drydock(&["build", "--progress", "plain", "."]);
    assert_eq!(ran.code, 1);
    fixture.dockerfile("FROM busybox\nRUN true\n");
    fixture.drydock(&["build", "-q", "."]).ok();
    ran.err().to_owned()
}

#[track_caller]
fn check(error: &str, expected: &[&str]) {
    for part in expected {
        assert!(error.contains(part), "no `{part}` in:\n{error}");
    }
}

#[test]
fn a_step_that_fails_shows_its_last_lines_and_its_place() {
    let fixture = Fixture::new();
    let dockerfile = "\
FROM busybox
RUN true
RUN echo first line && \\
    echo the last line >&2 && \\
    exit 42
RUN never
";
    let error = failure(&fixture, dockerfile);
    let expected = [
        "the last line\n",
        "Dockerfile:3\n",
        "   2 |     RUN true\n",
        "   3 | >>> RUN echo first line && \\\n",
        "   4 | >>>     echo the last line >&2 && \\\n",
        "   5 | >>>     exit 42\n",
        "   6 |     RUN never\n",
        "did not complete successfully: exit code: 42",
    ];
    check(&error, &expected);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let fixture = Fixture::new();
    let error = failure(&fixture, "FROM busybox\nRUN [\"/no/such/program\"]\n");
    check(
        &error,
        &[
            ">>> RUN [\"/no/such/program\"]",
            "/no/such/program",
            "no such file or directory",
        ],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let fixture = Fixture::new();
    let error = failure(&fixture, "FROM scratch\n\nCOPY missing.txt /\n");
    check(
        &error,
        &[
            "Dockerfile:3\n",
            "   3 | >>> COPY missing.txt /\n",
            "failed to solve: failed to compute cache key: failed to calculate checksum of ref ",
            "/missing.txt",
            "not found",
        ],
    );
}

#[test]
fn a_file_that_is_ignored_is_said_to_be() {
    let fixture = Fixture::new();
    fixture.write("secret.txt", "x");
    fixture.write(".dockerignore", "secret.txt\n");
    let error = failure(&fixture, "FROM scratch\nCOPY secret.txt /\n");
    check(
        &error,
        &[">>> COPY secret.txt /", "secret.txt", "not found"],
    );
}

#[test]
fn an_unknown_instruction_is_marked() {
    let fixture = Fixture::new();
    let error = failure(&fixture, "FROM busybox\nCOPPY a b\n");
    check(
        &error,
        &[
            "Dockerfile:2\n",
            "   2 | >>> COPPY a b\n",
            "unknown instruction: COPPY",
            "COPY",
        ],
    );
}

#[test]
fn an_unknown_stage_is_named() {
    let fixture = Fixture::new();
    fixture.dockerfile("FROM busybox AS build\nRUN true\n");
    let ran = fixture.drydock(&["build", "--progress", "plain", "--target", "biuld", "."]);
    check(ran.err(), &["target stage \"biuld\" could not be found"]);
    let error = failure(
        &fixture,
        "FROM busybox AS build\nFROM scratch\nCOPY --from=biuld /a /\n",
    );
    check(
        &error,
        &["Dockerfile:3\n", ">>> COPY --from=biuld /a /", "biuld"],
    );
}

#[test]
fn an_empty_dockerfile_is_refused() {
    let fixture = Fixture::new();
    let error = failure(&fixture, "# nothing\n");
    check(&error, &["Dockerfile", "file with no instructions"]);
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let fixture = Fixture::new();
    let image = fixture.registry.reference("missing:1");
    let error = failure(&fixture, &format!("FROM {image}\n"));
    check(
        &error,
        &[
            "Dockerfile:1\n",
            &format!(">>> FROM {image}"),
            &format!("{image}: not found"),
        ],
    );
}

#[test]
fn a_registry_that_refuses_is_named() {
    let fixture = Fixture::new();
    let server = Server::start(|_| Answer::new(403, "no")).unwrap();
    let image = format!("{}/private:1", server.host());
    let error = failure(&fixture, &format!("FROM {image}\n"));
    check(
        &error,
        &[
            "Dockerfile:1\n",
            &format!(">>> FROM {image}"),
            &image,
            "403",
        ],
    );
    // Nobody listens on a port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/private:1", listener.local_addr().unwrap());
    drop(listener);
    let error = failure(&fixture, &format!("FROM {image}\n"));
    check(&error, &["Dockerfile:1\n", &image, "refused"]);
}

#[test]
fn a_push_that_is_refused_is_told() {
    let fixture = Fixture::with("FROM scratch\nLABEL a=b\n");
    let server = Server::start(|_| Answer::new(401, "who are you")).unwrap();
    let name = format!("{}/made:1", server.host());
    let build = fixture.build(&["--tag", &name, "--push"]);
    check(build.ran.err(), &[&name, "authorization failed"]);
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_is_built() {
    let fixture = Fixture::new();
    let ran = fixture.drydock(&["build", "."]);
    check(ran.err(), &["there is no Dockerfile at `./Dockerfile`"]);
    fixture.dockerfile("FROM busybox\n");
    let ran = fixture.drydock(&["build", "-o", "type=nothing", "."]);
    check(ran.err(), &["nothing"]);
    let ran = fixture.drydock(&["build", "--secret", "id=a,src=/missing", "."]);
    check(ran.err(), &["/missing"]);
}

#[test]
fn the_failure_of_one_build_is_not_that_of_another() {
    let fixture = Fixture::with(
        "FROM busybox AS bad\nRUN sleep 0.3 && exit 3\nFROM busybox AS good\nRUN sleep 0.6\n",
    );
    let start = |target| {
        let mut command = fixture.command(&["build", "-q", "--target", target, "."]);
        Background::start(&mut command)
    };
    let (bad, good) = (start("bad"), start("good"));
    check(bad.wait().unwrap().err(), &["exit code: 3"]);
    good.wait().unwrap().ok();
}
