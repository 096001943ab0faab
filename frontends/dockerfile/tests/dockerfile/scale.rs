//! Time grows as the file does.

use std::fmt::Write as _;

use crate::engine::{Engine, Outcome};

/// Seconds of a processor: many times what a linear build takes with a debug build on a slow one, and
/// much less than one takes that compares all lines with all others.
const BOUND: u64 = 60;
const MANY: usize = 10_000;

fn build(text: &str) -> Outcome {
    let begun = worked();
    let outcome = Engine::new(text).build();
    let took = worked() - begun;
    assert!(took < BOUND, "{} bytes took {took} s", text.len());
    outcome
}

/// The seconds that processors have worked for this process. Who else works on them does not count.
fn worked() -> u64 {
    const TICKS: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the name, which may be anything.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let times = fields.split(' ').skip(11).take(2);
    times
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum::<u64>()
        / TICKS
}

#[test]
fn ten_thousand_stages_on_one_another() {
    let mut text = "FROM alpine AS s0\nRUN 0\n".to_owned();
    for stage in 1..MANY {
        writeln!(text, "FROM s{} AS s{stage}\nRUN {stage}", stage - 1).unwrap();
    }
    assert_eq!(build(&text).graph().len(), MANY + 1);
}

#[test]
fn ten_thousand_stages_copied_from() {
    let mut text = String::new();
    for stage in 0..MANY {
        writeln!(text, "FROM alpine AS s{stage}\nRUN {stage}").unwrap();
    }
    text.push_str("FROM scratch\n");
    for stage in 0..MANY {
        writeln!(text, "COPY --from=s{stage} /a /{stage}").unwrap();
    }
    assert_eq!(build(&text).graph().len(), 2 * MANY + 1);
}

#[test]
fn ten_thousand_arguments_and_variables() {
    let mut text = "FROM alpine\n".to_owned();
    for number in 0..MANY {
        writeln!(
            text,
            "ARG a{number}=$a{}\nENV b{number}=$a{number}",
            number / 2
        )
        .unwrap();
    }
    text.push_str("RUN make\n");
    let outcome = build(&text);
    assert_eq!(outcome.graph().len(), 2);
    let image = outcome.image();
    assert_eq!(image["config"]["Env"].as_array().unwrap().len(), MANY + 1);
}

#[test]
fn ten_thousand_undefined_variables() {
    let mut text = "FROM alpine\n".to_owned();
    for number in 0..MANY {
        writeln!(text, "ENV variable_{number}=$undefined_{number}").unwrap();
    }
    assert_eq!(build(&text).warnings.len(), MANY);
}

#[test]
fn lines_of_64_kib() {
    let words = "word\\ $HOME \"a 'b' c\" ";
    let long = words.repeat(65_000 / words.len());
    let mut text = "FROM alpine\nENV HOME=/root\n".to_owned();
    for _ in 0..20 {
        writeln!(
            text,
            "RUN {long}\nLABEL a=\"{}\"\nCOPY {long} /x/",
            "$HOME".repeat(13_000)
        )
        .unwrap();
    }
    build(&text);
    let mut text = "FROM alpine\nENV A=x\nLABEL a=".to_owned();
    text.push_str(&"${A%".repeat(16_000));
    build(&text);
}

#[test]
fn a_megabyte_of_continuation_lines() {
    let text = format!(
        "FROM alpine\nRUN true \\\n{}",
        "  && true \\\n".repeat(100_000)
    );
    assert_eq!(build(&text).graph().len(), 2);
}

#[test]
fn a_graph_that_fills_the_memory_is_refused() {
    let mut text = "FROM alpine\n".to_owned();
    for number in 0..100 {
        writeln!(text, "ENV a{number}={}", "x".repeat(60_000)).unwrap();
    }
    text.push_str(&"RUN make\n".repeat(100));
    let error = build(&text).result.unwrap_err();
    let message = "the Dockerfile makes a graph of more than 256 MiB";
    assert_eq!(error.to_string(), message);
}
