//! The daemon as a program that service managers, monitors and builders start, and the client that
//! builders find beside it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use prost::Message as _;
use tempfile::TempDir;
use testing::daemon::program;

use crate::fixture::{Background, Fixture, LIMIT, Ran, eventually, run, tool};
use crate::graph::{self, Graph};

/// The program under another name.
pub(crate) fn called(name: &str, directory: &Path) -> PathBuf {
    let link = directory.join(name);
    if !link.exists() {
        std::os::unix::fs::symlink(program().unwrap(), &link).unwrap();
    }
    link
}

/// A daemon that is ended with the test.
struct Buildkitd(Child);

impl Drop for Buildkitd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_service_manager_and_a_monitor_are_told() {
    let directory = TempDir::with_prefix("program-").unwrap();
    let manager = directory.path().join("notify");
    let manager_socket = UnixDatagram::bind(&manager).unwrap();
    manager_socket.set_read_timeout(Some(LIMIT)).unwrap();
    let told = || {
        let mut text = [0; 64];
        let length = manager_socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let socket = format!("unix://{}", directory.path().join("sock").display());
    let mut command = Command::new(called("buildkitd", directory.path()));
    command
        .env("NOTIFY_SOCKET", &manager)
        .args(["--addr", &socket, "--debugaddr", "127.0.0.1:0"])
        // Of workers that this daemon does not have.
        .args(["--containerd-worker=false", "--containerd-worker-gc"])
        .args(["--containerd-cni-pool-size", "3"])
        .arg("--root")
        .arg(directory.path().join("root"))
        .env("DRYDOCK_LOG", "info")
        .stderr(Stdio::piped());
    let mut daemon = Buildkitd(command.spawn().unwrap());
    let log = BufReader::new(daemon.0.stderr.take().unwrap());
    assert_eq!(told(), "READY=1");
    let debug = log.lines().map(Result::unwrap).find_map(|line| {
        let (_, address) = line.split_once("debug address address=")?;
        Some(address.trim().to_owned())
    });
    let debug = debug.unwrap();
    let metrics = get(&debug, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(
        metrics.contains("\ndrydock_builds_running 0\n"),
        "{metrics}"
    );
    assert!(metrics.contains("# TYPE process_cpu_seconds_total counter"));
    assert!(get(&debug, "/debug/pprof/goroutine?debug=1").contains("thread "));
    assert!(get(&debug, "/nowhere").starts_with("HTTP/1.1 404"));

    let pid = daemon.0.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(killed.success());
    assert_eq!(told(), "STOPPING=1");
    assert!(daemon.0.wait().unwrap().success());
}

#[test]
fn buildctl_tells_of_workers_and_what_they_keep() {
    let fixture = Fixture::with("FROM busybox\nRUN true\n");
    let buildctl = called("buildctl", fixture.scratch());
    let buildctl = |arguments: &[&str]| -> Ran {
        let mut command = Command::new(&buildctl);
        command.args(["--addr", &fixture.daemon.address()]);
        run(command.args(arguments).stdin(Stdio::null()))
    };
    fixture.build(&[]).ran.ok();
    let workers = buildctl(&["debug", "workers"]);
    assert!(workers.ok().starts_with("ID\t"), "{workers:?}");
    let verbose = buildctl(&["debug", "workers", "-v"]);
    let text = verbose.ok();
    assert!(text.contains("GC Policy rule#0:\n\tAll:\t"), "{text}");
    assert!(text.contains("\tKeep duration:\t\t48h0m0s\n"), "{text}");
    let info = buildctl(&["debug", "info"]);
    assert!(
        info.ok()
            .starts_with("BuildKit:   github.com/moby/buildkit v0.")
    );

    let kept = buildctl(&["du"]);
    assert!(
        kept.ok()
            .starts_with("ID\t\t\t\t\t\t\t\t\tRECLAIMABLE\tSIZE")
    );
    assert!(kept.ok().contains("\nReclaimable:\t"));
    let verbose = buildctl(&["du", "-v", "--filter", "type==regular"]);
    assert!(
        verbose
            .ok()
            .contains("Description:\tmount / from exec /bin/sh -c true")
    );
    assert!(!verbose.ok().contains("Total:"));
    let pruned = buildctl(&["prune"]);
    assert!(pruned.ok().contains("\nTotal:\t"), "{pruned:?}");
    assert!(
        buildctl(&["du", "--filter", "type==regular"])
            .ok()
            .lines()
            .count()
            == 1
    );

    let mut nobody = Command::new(called("buildctl", fixture.scratch()));
    nobody.args([
        "--addr",
        "unix:///nowhere",
        "--timeout",
        "1",
        "debug",
        "info",
    ]);
    let begun = std::time::Instant::now();
    assert!(run(&mut nobody).err().contains("failed to connect"));
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn buildctl_tells_of_builds_that_are_over() {
    let fixture = Fixture::with("FROM busybox\nRUN echo hello from the step\n");
    let buildctl = called("buildctl", fixture.scratch());
    let buildctl = |arguments: &[&str]| -> Ran {
        let mut command = Command::new(&buildctl);
        command.args(["--addr", &fixture.daemon.address()]);
        run(command.args(arguments).stdin(Stdio::null()))
    };
    let name = |listed: &Ran| -> Option<String> {
        let line = listed.ok().lines().nth(1)?;
        line.split('\t').nth(1).map(ToOwned::to_owned)
    };
    fixture.build(&[]).ran.ok();
    let listed = buildctl(&["debug", "histories"]);
    let build = name(&listed).unwrap();
    let logs = buildctl(&["debug", "logs", &build]);
    logs.ok();
    assert!(logs.stdout.contains("hello from the step"), "{logs:?}");

    // What is pinned stays.
    buildctl(&["debug", "ctl", &build, "--pin"]).ok();
    buildctl(&["debug", "ctl", &build]).err();
    assert_eq!(name(&buildctl(&["prune-histories"])), None);
    assert_eq!(
        name(&buildctl(&["debug", "histories"])),
        Some(build.clone())
    );
    buildctl(&["debug", "ctl", &build, "--unpin"]).ok();
    assert_eq!(name(&buildctl(&["prune-histories"])), Some(build.clone()));
    assert_eq!(name(&buildctl(&["debug", "histories"])), None);
}

#[test]
fn a_dockerfile_is_checked_without_a_daemon() {
    let directory = TempDir::with_prefix("lint-").unwrap();
    let file = directory.path().join("Dockerfile");
    std::fs::write(&file, "FROM alpine AS a\nfrom alpine\nARG A=1\nRUN true\n").unwrap();
    let drydock = |arguments: &[&str]| -> Ran {
        let mut command = Command::new(program().unwrap());
        command.env("DRYDOCK_HOST", "unix:///nowhere");
        run(command.args(arguments).current_dir(directory.path()))
    };
    let text = drydock(&["lint"]);
    assert_eq!(text.code, 1, "{text:?}");
    assert!(
        text.stdout.starts_with("Dockerfile:2: warning: "),
        "{text:?}"
    );
    let sarif = drydock(&["lint", "--format", "sarif"]);
    let sarif: serde_json::Value = serde_json::from_str(&sarif.stdout).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let rule = &sarif["runs"][0]["results"][0]["ruleId"];
    assert_eq!(rule, "ConsistentInstructionCasing");
    let outline = drydock(&["outline", "--format", "json"]);
    let outline: serde_json::Value = serde_json::from_str(outline.ok()).unwrap();
    assert_eq!(outline["args"][0]["name"], "A");

    std::fs::write(&file, "FROM alpine\nRUN true\n").unwrap();
    assert_eq!(drydock(&["lint"]).ok(), "");

    // That it was not looked at is another code than that something was found.
    for arguments in [&["lint", "nothing"][..], &["outline", "nothing"]] {
        let missing = drydock(arguments);
        assert_eq!(missing.code, 2, "{missing:?}");
        assert!(missing.stderr.contains("`nothing`"), "{missing:?}");
    }
    let mut editor = Command::new(program().unwrap());
    let arguments = ["--stdin-filename", "a b/Dockerfile", "--format=sarif", "-"];
    editor.arg("lint").args(arguments);
    std::fs::write(&file, "FROM alpine\nRNU true\n").unwrap();
    editor.stdin(std::fs::File::open(&file).unwrap());
    let ran = run(&mut editor);
    assert_eq!(ran.code, 1, "{ran:?}");
    let sarif: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let place = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "a%20b/Dockerfile");
    assert_eq!(place["region"]["endColumn"], 9);
}

#[test]
fn buildctl_builds_with_a_frontend_and_from_a_graph() {
    let fixture = Fixture::with(
        "FROM busybox\nARG A\nRUN --mount=type=secret,id=s echo \"$A $(cat /run/secrets/s)\" > /file\n\
         COPY other /\n",
    );
    fixture.write("other", "other");
    let scratch = fixture.scratch();
    let path = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("secret"), "hidden").unwrap();
    let buildctl = called("buildctl", scratch);
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&buildctl);
        command.args(["--addr", &fixture.daemon.address()]);
        command.args(arguments).current_dir(fixture.context());
        command.env_remove("SOURCE_DATE_EPOCH").env("A_OF_ENV", "1");
        command
    };
    let (output, metadata) = (path("out"), path("metadata.json"));
    let output = format!("type=local,dest={output}");
    let secret = format!("id=s,src={}", path("secret"));
    let build = [
        "build",
        "--frontend",
        "dockerfile.v0",
        "--local",
        "context=.",
        "--local",
        "dockerfile=.",
    ];
    let more = [
        "--opt",
        "build-arg:A=value",
        "--secret",
        &secret,
        "--output",
        &output,
        "--output",
        "type=image,name=example.org/made:1",
        "--metadata-file",
        &metadata,
        "--ref-file",
        &path("ref"),
        "--progress",
        "plain",
    ];
    run(&mut command(&[&build[..], &more].concat())).ok();
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    assert_eq!(read("out/file"), "value hidden\n");
    assert_eq!(read("out/other"), "other");
    assert!(read("metadata.json").contains("\"image.name\": \"example.org/made:1\""));
    let histories = run(&mut command(&["debug", "histories"]));
    assert!(histories.ok().contains(&read("ref")), "{histories:?}");

    // A question is answered on standard output.
    let asked = [&build[..], &["--opt", "requestid=frontend.targets"]].concat();
    let answer = run(&mut command(&asked));
    assert!(answer.ok().contains("TARGET"), "{answer:?}");

    let policy = r#"{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://docker.io/library/busybox:*"}}]}"#;
    std::fs::write(path("policy.json"), policy).unwrap();
    let denied = [
        &build[..],
        &["--source-policy-file", &path("policy.json"), "--no-cache"],
    ];
    let denied = run(&mut command(&denied.concat()));
    assert!(denied.err().contains("denied by policy"), "{denied:?}");

    let mut graph = Graph::default();
    let file = graph.add(graph::file("/a", "content"), &[]);
    let definition = graph.definition((file, 0)).encode_to_vec();
    std::fs::write(path("graph"), definition).unwrap();
    let output = format!("type=tar,dest={}", path("graph.tar"));
    let mut built = command(&["b", "-o", &output]);
    run(built.stdin(std::fs::File::open(path("graph")).unwrap())).ok();
    assert_eq!(tool("tar", &["-xOf", &path("graph.tar"), "a"]), "content");
    let none = run(command(&["build"]).stdin(Stdio::null()));
    let expected = "please specify --frontend or pipe LLB definition to stdin";
    assert!(none.err().contains(expected), "{none:?}");
    let wrong = run(&mut command(&["build", "--frontend", "nope.v0"]));
    let expected = "error: failed to solve: invalid frontend: nope.v0";
    assert!(wrong.err().contains(expected), "{wrong:?}");
}

#[test]
fn the_output_of_steps_can_be_limited() {
    let mut fixture = Fixture::with(
        "FROM busybox\nRUN head -c 3000 /dev/zero | tr '\\0' a; sleep 0.1; echo the end\n",
    );
    let printed = |fixture: &Fixture| {
        let build = fixture.build(&["--no-cache"]);
        build.ran.ok();
        build.step("head -c").log.clone()
    };
    assert_eq!(printed(&fixture), "a".repeat(3000) + "the end\n");
    let limit = ("BUILDKIT_STEP_LOG_MAX_SIZE", "1024");
    fixture.daemon.restart_with(&[limit]).unwrap();
    let shown = printed(&fixture);
    let clipped = "\n[output clipped, log limit 1KiB reached]\n";
    let (before, after) = shown.split_once(clipped).unwrap();
    assert_eq!(before, "a".repeat(1024));
    assert!(after.ends_with("the end\n"), "{after}");
    fixture.daemon.restart_with(&[(limit.0, "-1")]).unwrap();
    assert_eq!(printed(&fixture), "a".repeat(3000) + "the end\n");
}

#[test]
fn a_daemon_with_too_many_open_files_says_so_and_goes_on() {
    let fixture = Fixture::new();
    let pid = fixture.daemon.pid().to_string();
    let limit = |soft: &str| {
        tool("prlimit", &["--pid", &pid, &format!("--nofile={soft}:")]);
    };
    let before = tool(
        "prlimit",
        &["--pid", &pid, "--nofile", "-o", "SOFT", "--noheadings"],
    );
    eventually("it is ready", || fixture.daemon.log().contains(" ready "));
    // Fewer than it has: nothing more can be opened.
    limit("3");
    let mut waiting = Background::start(&mut fixture.command(&["ps"]));
    eventually("it is logged", || {
        fixture.daemon.log().contains("no connection can be taken")
    });
    assert!(waiting.is_running());
    limit(before.trim());
    assert_eq!(waiting.wait().unwrap().code, 0);
}
