//! Clients that leave in the middle: they harm their own builds only, and nothing of them stays.

use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::fixture::{Fixture, eventually};

/// How many clients leave; the moments are spread over all that a build does.
const CLIENTS: u64 = 40;

/// What the daemon's process holds.
fn held(fixture: &Fixture) -> (usize, usize) {
    let process = format!("/proc/{}", fixture.daemon.pid());
    let files = fs::read_dir(format!("{process}/fd")).unwrap().count();
    let mounts = fs::read_to_string(format!("{process}/mountinfo")).unwrap();
    (files, mounts.lines().count())
}

/// A client that sends files, runs a step and takes files back.
fn client(fixture: &Fixture, n: u64) -> Child {
    let output = format!("type=local,dest={}/{n}", fixture.scratch().display());
    // Some of them build the same, so that steps have several who wait for them.
    let argument = format!("N={}", n / 3);
    let mut command = fixture.command(&["build", "--build-arg", &argument, "-o", &output, "."]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn clients_that_leave_harm_nobody_and_leave_nothing() {
    let fixture = Fixture::with(
        "FROM busybox AS other\nARG OTHER\nRUN echo $OTHER > /other\n\
         FROM busybox AS main\nARG N\nCOPY . /c\nRUN echo $N > /n; sleep 0.1\n",
    );
    for n in 0..100 {
        fixture.write(&format!("files/{n}"), vec![n; 20_000]);
    }
    let other = |n: u64| {
        let argument = format!("OTHER={n}");
        let build = fixture.build(&["--target", "other", "--build-arg", &argument]);
        build.ran.ok();
    };
    other(0);
    let before = held(&fixture);

    let mut leaving: Vec<Child> = Vec::new();
    for n in 0..CLIENTS {
        leaving.push(client(&fixture, n));
        // The moments are what is tested, so there is nothing to wait for.
        sleep(Duration::from_millis(n * 37 % 90));
        if leaving.len() == 4 {
            let mut first = leaving.remove(0);
            first.kill().unwrap();
            first.wait().unwrap();
        }
        if n % 10 == 0 {
            other(n + 1);
        }
    }
    for mut client in leaving {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    other(CLIENTS + 1);
    eventually("nothing is held for those who left", || {
        let now = held(&fixture);
        now.0 <= before.0 + 4 && now.1 <= before.1
    });
}
