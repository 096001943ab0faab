//! What is said of wrong files: what, where, and what was meant.

use crate::engine::Engine;

/// Builds `text`. Fails unless the error is `message` and is about line `line`; 0 is no line.
#[track_caller]
fn check(engine: Engine, message: &str, line: i32) {
    let error = engine.build().result.expect_err("the build must fail");
    let place = error.locations().first();
    let found = place.and_then(|place| place.ranges.first());
    let found = found.map_or(0, |((line, _), _)| *line);
    assert_eq!((error.to_string().as_str(), found), (message, line));
    if let Some(place) = place {
        assert_eq!(place.filename, "Dockerfile");
        assert!(place.data.starts_with(b"FROM") || line == 1);
    }
}

#[test]
fn errors_name_the_line_and_what_was_meant() {
    for (text, message, line) in [
        (
            "FROM alpine\nRUNN make\n",
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
            2,
        ),
        (
            "FROM alpine\n\nCOPY --form=build /a /b\n",
            "dockerfile parse error on line 3: unknown flag: --form (did you mean from?)",
            3,
        ),
        (
            "FROM alpine\nRUN --mount=type=cahce,target=/x make\n",
            "unsupported mount type \"cahce\" (did you mean cache?)",
            2,
        ),
        (
            "FROM alpine\nRUN --mount=tpye=cache,target=/x make\n",
            "unexpected key 'tpye' in 'tpye=cache' (did you mean type?)",
            2,
        ),
        ("RUN make\n", "no build stage in current context", 1),
        ("ARG A\n", "dockerfile contains no stages to build", 0),
        ("", "the Dockerfile cannot be empty", 0),
        ("# nothing\n", "file with no instructions", 1),
        (
            "FROM alpine AS a\nCOPY --from=b /x /\nFROM a AS b\nCOPY --from=a /x /\n",
            "circular dependency detected on stage: a",
            2,
        ),
        ("FROM alpine\nRUN <<END\nmake\n", "unterminated heredoc", 2),
        (
            "FROM alpine\nRUN make \\\n  --all\nEXPOSE 99999\n",
            "invalid containerPort: 99999",
            4,
        ),
        (
            "FROM alpine\nENV A=${\n",
            "failed to process \"${\": syntax error: missing '}'",
            2,
        ),
    ] {
        check(Engine::new(text), message, line);
    }
}

#[test]
fn an_unknown_stage_suggests_one_that_exists() {
    let text = "FROM alpine AS build\nFROM scratch AS result\n";
    let engine = Engine::new(text).option("target", "biuld");
    let message = "target stage \"biuld\" could not be found (did you mean build?)";
    check(engine, message, 0);
    let text = "FROM alpine AS build\nFROM biuld\n";
    let message = "biuld: docker.io/library/biuld:latest: not found (did you mean build?)";
    check(Engine::new(text), message, 2);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let engine = Engine::new("").option("filename", "Other");
    let message = "failed to read dockerfile: open Other: no such file";
    check(engine, message, 0);
}

#[test]
fn endless_growth_is_refused() {
    let mut text = "FROM alpine\nENV A=0123456789\n".to_owned();
    for _ in 0..64 {
        text.push_str("ENV A=$A$A$A$A\n");
    }
    let error = Engine::new(&text).build().result.unwrap_err();
    assert!(error.to_string().ends_with("the expanded text is too long"));
}

#[test]
fn a_syntax_line_asks_for_another_frontend() {
    let text = "# syntax=docker/dockerfile:1\nFROM alpine\n";
    let error = Engine::new(text).build().result.unwrap_err();
    assert_eq!(error.to_string(), "gateway.v0 docker/dockerfile:1");
    let engine = Engine::new(text).option("build-arg:BUILDKIT_SYNTAX", "dockerfile.v0");
    assert!(engine.build().result.is_ok());
}
