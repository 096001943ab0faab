//! Messages in, text out.

use std::time::{Duration, SystemTime};

use client::progress::{Progress, ProgressGroup, Vertex, VertexLog, VertexStatus, VertexWarning};

use super::Plain;

fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_millis(milliseconds)
}

fn started(name: &str, start: u64) -> Vertex {
    Vertex {
        digest: name.into(),
        name: name.into(),
        started: Some(at(start)),
        ..Vertex::default()
    }
}

fn completed(name: &str, start: u64, end: u64) -> Vertex {
    Vertex {
        completed: Some(at(end)),
        ..started(name, start)
    }
}

fn step(vertex: Vertex) -> Progress {
    Progress {
        vertexes: vec![vertex],
        ..Progress::default()
    }
}

fn log(name: &str, time: u64, data: &str) -> Progress {
    let log = VertexLog {
        vertex: name.into(),
        timestamp: at(time),
        stream: 1,
        data: data.as_bytes().to_vec(),
    };
    Progress {
        logs: vec![log],
        ..Progress::default()
    }
}

fn check(messages: impl IntoIterator<Item = Progress>, expected: &str) {
    let mut out = Vec::new();
    let mut plain = Plain::new(&mut out);
    for message in messages {
        plain.update(message);
        plain.refresh();
    }
    plain.finish();
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn steps_are_numbered_as_they_are_printed() {
    check(
        [
            step(Vertex {
                digest: "b".into(),
                name: "b".into(),
                ..Vertex::default()
            }),
            step(completed("a", 0, 40)),
            step(Vertex {
                cached: true,
                ..completed("b", 50, 50)
            }),
        ],
        "#1 a\n#1 DONE 0.0s\n\n#2 b\n#2 CACHED\n",
    );
}

#[test]
fn a_line_carries_its_time_and_may_come_in_pieces() {
    check(
        [
            step(started("run", 0)),
            log("run", 250, "one\ntw"),
            log("run", 300, "o\n"),
            step(completed("run", 0, 1200)),
        ],
        "#1 run\n#1 0.250 one\n#1 0.250 two\n#1 DONE 1.2s\n",
    );
}

#[test]
fn an_unfinished_line_is_ended_with_its_step() {
    check(
        [
            step(started("run", 0)),
            log("run", 0, "no newline"),
            step(completed("run", 0, 100)),
        ],
        "#1 run\n#1 0.000 no newline\n#1 DONE 0.1s\n",
    );
}

#[test]
fn a_completed_step_interrupts_and_the_first_is_named_again() {
    check(
        [
            step(started("a", 0)),
            step(completed("b", 0, 2000)),
            log("a", 12_345, "late\n"),
            step(completed("a", 0, 123_400)),
        ],
        "#1 a\n#1 ...\n\n#2 b\n#2 DONE 2.0s\n\n#1 a\n#1 12.35 late\n#1 DONE 123.4s\n",
    );
}

#[test]
fn a_failure_ends_with_its_last_lines() {
    let lines: String = (1..=12).map(|n| format!("line {n}\n")).collect();
    let failed = Vertex {
        error: "exit code: 3".into(),
        ..completed("run", 0, 100)
    };
    let tail: String = (3..=12).map(|n| format!("0.010 line {n}\n")).collect();
    let printed: String = (1..=12).map(|n| format!("#1 0.010 line {n}\n")).collect();
    check(
        [
            step(started("run", 0)),
            log("run", 10, &lines),
            step(failed),
        ],
        &format!("#1 run\n{printed}#1 ERROR: exit code: 3\n------\n > run:\n{tail}------\n"),
    );
}

#[test]
fn a_cancelled_step_is_not_reported_as_failed() {
    let canceled = Vertex {
        error: "context canceled".into(),
        ..completed("run", 0, 100)
    };
    check([step(canceled)], "#1 run\n#1 CANCELED\n");
}

#[test]
fn small_moves_of_a_sub_step_are_left_out() {
    let status = |current, time, done: bool| {
        let status = VertexStatus {
            id: "sha256:1".into(),
            vertex: "pull".into(),
            name: String::new(),
            current,
            total: 10_000,
            timestamp: at(time),
            started: Some(at(0)),
            completed: done.then(|| at(time)),
        };
        Progress {
            statuses: vec![status],
            ..Progress::default()
        }
    };
    check(
        [
            step(started("pull", 0)),
            status(0, 0, false),
            status(100, 100, false),
            status(5000, 200, false),
            status(10_000, 300, true),
            step(completed("pull", 0, 400)),
        ],
        "#1 pull\n#1 sha256:1 0B / 10.00kB\n#1 sha256:1 5.00kB / 10.00kB 0.2s\n\
         #1 sha256:1 10.00kB / 10.00kB 0.3s done\n#1 DONE 0.4s\n",
    );
}

#[test]
fn a_group_is_one_step_and_a_weak_member_does_not_show_it() {
    let member = |digest: &str, weak, vertex: Vertex| Vertex {
        digest: digest.into(),
        group: Some(ProgressGroup {
            id: "g".into(),
            name: "copy all".into(),
            weak,
        }),
        ..vertex
    };
    check(
        [
            step(member("w", true, completed("w", 0, 100))),
            step(member("s", false, completed("s", 200, 300))),
        ],
        "#1 copy all\n#1 DONE 0.2s\n",
    );
}

#[test]
fn warnings_follow_the_step() {
    let warning = VertexWarning {
        vertex: "lint".into(),
        short: "be careful".into(),
        ..Default::default()
    };
    check(
        [
            step(started("lint", 0)),
            Progress {
                warnings: vec![warning],
                ..Progress::default()
            },
            step(completed("lint", 0, 0)),
        ],
        "#1 lint\n#1 WARN: be careful\n#1 DONE 0.0s\n",
    );
}
