//! `drydock run` and the commands around it.

use std::net::TcpListener;

use serde_json::Value;
use testing::http::{Call, send};

use crate::fixture::{Background, Fixture, eventually};

/// Runs `command` in a container of busybox that is removed when it ends.
fn sh(fixture: &Fixture, options: &[&str], command: &str) -> crate::fixture::Ran {
    let run = [&["run", "--rm"], options, &["busybox", "sh", "-c", command]].concat();
    fixture.drydock(&run)
}

#[test]
fn output_and_exit_code_are_passed_on() {
    let fixture = Fixture::new();
    let ran = sh(&fixture, &[], "echo out; echo err >&2; exit 7");
    assert_eq!(ran.code, 7);
    assert_eq!(ran.stdout, "out\n");
    assert!(ran.stderr.ends_with("err\n"), "{}", ran.stderr);
    assert_eq!(
        fixture
            .drydock(&["run", "--rm", "busybox", "/missing"])
            .code,
        127
    );
    assert_eq!(
        fixture
            .drydock(&["run", "--rm", "busybox", "/etc/passwd"])
            .code,
        126
    );
    assert_eq!(
        fixture.drydock(&["run", "--pull", "never", "absent"]).code,
        125
    );
    assert_eq!(fixture.drydock(&["ps", "-aq"]).ok(), "");
}

#[test]
fn standard_input_is_passed_on() {
    let fixture = Fixture::new();
    let mut run = Background::start(&mut fixture.command(&["run", "--rm", "-i", "busybox", "cat"]));
    run.write("hello\n");
    run.read_until("hello\n");
    run.write("more\n");
    let ran = run.wait().unwrap();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "more\n"));
}

#[test]
fn options_decide_how_the_process_runs() {
    let fixture = Fixture::new();
    let directory = fixture.scratch().to_str().unwrap().to_owned();
    std::fs::write(fixture.scratch().join("in"), "from the machine").unwrap();
    let volume = format!("{directory}:/data");
    let readonly = format!("{directory}:/ro:ro");
    let options = [
        "-e",
        "A=1",
        "-v",
        &volume,
        "-v",
        &readonly,
        "-w",
        "/data",
        "-u",
        "65534:50",
        "--hostname",
        "me",
    ];
    let command = "echo $A $(pwd) $(id -u):$(id -g) $(hostname); cat in; touch /ro/x 2>/dev/null || echo refused";
    let ran = sh(&fixture, &options, command);
    assert_eq!(ran.ok(), "1 /data 65534:50 me\nfrom the machinerefused");
    sh(&fixture, &["-v", &volume], "echo written > /data/out").ok();
    let written = std::fs::read_to_string(fixture.scratch().join("out")).unwrap();
    assert_eq!(written, "written\n");
    let entry = [
        "run",
        "--rm",
        "--entrypoint",
        "/bin/echo",
        "busybox",
        "an",
        "argument",
    ];
    assert_eq!(fixture.drydock(&entry).ok(), "an argument");
}

#[test]
fn volumes_with_names_stay() {
    let fixture = Fixture::new();
    sh(&fixture, &["-v", "kept:/data"], "echo kept > /data/file").ok();
    assert_eq!(
        sh(&fixture, &["-v", "kept:/data"], "cat /data/file").ok(),
        "kept"
    );
}

#[test]
fn networks_differ_in_what_they_reach() {
    let fixture = Fixture::new();
    let devices = "ls /sys/class/net";
    assert_eq!(sh(&fixture, &["--network", "none"], devices).ok(), "lo");
    let bridge = sh(&fixture, &["--network", "bridge"], devices);
    assert_eq!(bridge.ok(), "eth0\nlo");
    // The registry listens on the machine's loopback, which only its own network has.
    let fetch = format!("wget -q -O - http://{}/v2/", fixture.registry.host());
    assert_eq!(sh(&fixture, &["--network", "host"], &fetch).ok(), "{}");
    assert_ne!(sh(&fixture, &["--network", "bridge"], &fetch).code, 0);
}

#[test]
fn a_published_port_is_reached_and_the_rest_of_a_life() {
    let fixture = Fixture::new();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let publish = format!("127.0.0.1:{port}:8080");
    let serve = "echo page > /index.html; echo serving; trap 'echo bye; exit 5' TERM; httpd -f -p 8080 -h / & wait";
    let run = [
        "run", "-d", "--name", "web", "-p", &publish, "-e", "WHO=me", "busybox", "sh", "-c", serve,
    ];
    let id = fixture.drydock(&run).ok().to_owned();
    assert_eq!(id.len(), 64);
    let host = format!("127.0.0.1:{port}");
    let mut page = None;
    eventually("the page comes", || {
        page = send(&host, Call::new("GET", "/"))
            .ok()
            .filter(|answer| answer.status == 200);
        page.is_some()
    });
    assert_eq!(page.unwrap().body, b"page\n");

    let list = fixture.drydock(&["ps"]);
    assert!(
        list.ok().contains("web") && list.stdout.contains(&format!("{port}->8080/tcp")),
        "{}",
        list.stdout
    );
    assert_eq!(fixture.drydock(&["logs", "web"]).ok(), "serving");
    let exec = fixture.drydock(&[
        "exec",
        "-e",
        "B=2",
        "-w",
        "/tmp",
        "web",
        "sh",
        "-c",
        "echo $WHO $B $(pwd); exit 3",
    ]);
    assert_eq!((exec.code, exec.stdout.as_str()), (3, "me 2 /tmp\n"));
    let inspected: Value = serde_json::from_str(fixture.drydock(&["inspect", "web"]).ok()).unwrap();
    assert!(inspected.to_string().contains(&id), "{inspected}");

    let again = fixture.drydock(&["run", "-d", "--name", "web", "busybox"]);
    assert!(again.err().contains("web"), "{}", again.stderr);
    let refused = fixture.drydock(&["rm", "web"]);
    assert!(
        refused.err().contains("stop it first"),
        "{}",
        refused.stderr
    );

    let mut follow = Background::start(&mut fixture.command(&["logs", "-f", "web"]));
    follow.read_until("serving\n");
    fixture.drydock(&["stop", "web"]).ok();
    let followed = follow.wait().unwrap();
    assert_eq!((followed.code, followed.stdout.as_str()), (0, "bye\n"));
    assert!(
        send(&host, Call::new("GET", "/")).is_err(),
        "the port is published still"
    );
    assert_eq!(fixture.drydock(&["ps", "-q"]).ok(), "");
    assert!(fixture.drydock(&["ps", "-a"]).ok().contains("Exited (5)"));
    fixture.drydock(&["rm", "web"]).ok();
    assert_eq!(fixture.drydock(&["ps", "-aq"]).ok(), "");
    assert!(fixture.drydock(&["logs", "web"]).err().contains("web"));
}

#[test]
fn signals_are_passed_on() {
    let fixture = Fixture::new();
    let command = "trap 'echo got; exit 9' USR1; echo ready; while true; do sleep 0.02; done";
    let run = [
        "run", "--rm", "--name", "trap", "busybox", "sh", "-c", command,
    ];
    let mut first = Background::start(&mut fixture.command(&run));
    first.read_until("ready");
    fixture.drydock(&["kill", "-s", "USR1", "trap"]).ok();
    let ran = first.wait().unwrap();
    assert_eq!((ran.code, ran.stdout.trim()), (9, "got"));

    let command = command.replace("USR1", "TERM");
    let run = ["run", "--rm", "busybox", "sh", "-c", &command];
    let mut second = Background::start(&mut fixture.command(&run));
    second.read_until("ready");
    second.signal("TERM");
    assert_eq!(second.wait().unwrap().code, 9);
}

#[test]
fn a_container_that_does_not_stop_is_killed() {
    let fixture = Fixture::new();
    let command = "trap '' TERM; echo ready; while true; do sleep 0.02; done";
    fixture
        .drydock(&[
            "run", "-d", "--name", "deaf", "busybox", "sh", "-c", command,
        ])
        .ok();
    eventually("it is ready", || {
        fixture.drydock(&["logs", "deaf"]).ok() == "ready"
    });
    fixture.drydock(&["stop", "-t", "0", "deaf"]).ok();
    assert!(fixture.drydock(&["ps", "-a"]).ok().contains("Exited (137)"));
    fixture.drydock(&["rm", "deaf"]).ok();
}

#[test]
fn a_terminal_is_one() {
    let fixture = Fixture::new();
    let command = "test -t 0 && test -t 1 && stty size";
    // Without a terminal of our own the container still gets one.
    let ran = sh(&fixture, &["-t"], command);
    assert_eq!(ran.code, 0, "{ran:?}");
    // `script` gives us one.
    let address = fixture.daemon.address();
    let program = testing::daemon::program().unwrap();
    let inner = format!(
        "stty rows 33 cols 77; {} -H {address} run --rm -it busybox stty size",
        program.display()
    );
    let output = crate::fixture::tool("script", &["-qec", &inner, "/dev/null"]);
    assert!(output.contains("33 77"), "{output}");
}

#[test]
fn a_directory_is_built_and_run() {
    let fixture =
        Fixture::with("FROM busybox\nCOPY file /\nENTRYPOINT [\"cat\"]\nCMD [\"/file\"]\n");
    fixture.write("file", "from the context");
    let ran = fixture.drydock(&["run", "--rm", "--build", "."]);
    assert_eq!(ran.ok(), "from the context");
    fixture.write("file", "changed");
    assert_eq!(
        fixture.drydock(&["run", "--rm", "--build", "."]).ok(),
        "changed"
    );
}

#[test]
fn what_a_container_writes_is_its_own() {
    let fixture = Fixture::new();
    sh(&fixture, &[], "echo x > /made && rm /etc/passwd").ok();
    assert_eq!(
        sh(
            &fixture,
            &[],
            "test ! -e /made && test -e /etc/passwd && echo clean"
        )
        .ok(),
        "clean"
    );
}
