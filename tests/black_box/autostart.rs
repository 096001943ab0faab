//! A daemon where there is none.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use testing::http::{Answer, Server};

use crate::fixture::{Background, Ran, eventually, run};

/// How long a daemon of these tests may have nothing to do. It hears of the first command before
/// that, also on a busy machine.
const IDLE: &str = "3s";

/// A place where no daemon runs.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            directory: TempDir::with_prefix("dd-").unwrap(),
        };
        let context = place.path("context");
        fs::create_dir(&context).unwrap();
        fs::write(
            context.join("Dockerfile"),
            "FROM scratch\nCOPY Dockerfile /\n",
        )
        .unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(testing::daemon::program().unwrap());
        command
            .args(arguments)
            .current_dir(self.path("context"))
            .env("DRYDOCK_ROOT", self.path("state"))
            .env(
                "DRYDOCK_HOST",
                format!("unix://{}", self.socket().display()),
            )
            .env("DRYDOCK_CONFIG", self.path("none.toml"))
            .env("HOME", self.directory.path())
            .stdin(Stdio::null());
        command
    }

    fn drydock(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    fn socket(&self) -> PathBuf {
        self.path("run/drydock.sock")
    }

    fn is_served(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stopped = self.drydock(&["daemon", "stop"]);
        if !std::thread::panicking() {
            stopped.ok();
        }
    }
}

#[test]
fn a_build_starts_a_daemon_and_the_next_finds_it() {
    let place = Place::new();
    assert!(!place.is_served());
    place.drydock(&["build", "-q", "."]).ok();
    assert!(place.is_served());
    let log = fs::read_to_string(place.path("state/drydockd.log")).unwrap();
    let ran = place.drydock(&["build", "--progress", "plain", "."]);
    ran.ok();
    assert!(ran.stderr.contains("CACHED"), "{}", ran.stderr);
    // No other daemon has begun to log.
    let begun = |log: &str| log.matches("ready").count();
    let later = fs::read_to_string(place.path("state/drydockd.log")).unwrap();
    assert_eq!((begun(&log), begun(&later)), (1, 1), "{later}");
    place.drydock(&["daemon", "stop"]).ok();
    assert!(!place.is_served());
    place.drydock(&["ps"]).ok();
    assert!(place.is_served());
}

#[test]
fn many_commands_start_one_daemon() {
    let place = Place::new();
    let start = |_| Background::start(&mut place.command(&["build", "-q", "."]));
    let builds: Vec<_> = (0..8).map(start).collect();
    for build in builds {
        build.wait().unwrap().ok();
    }
    let log = fs::read_to_string(place.path("state/drydockd.log")).unwrap();
    assert_eq!(log.matches("ready").count(), 1, "{log}");
}

#[test]
fn a_daemon_leaves_when_it_is_idle() {
    let place = Place::new();
    let address = format!("unix://{}", place.socket().display());
    fs::create_dir(place.path("run")).unwrap();
    let mut daemon = place.command(&["daemon", "run", "--idle-exit", IDLE, "--addr", &address]);
    let daemon = Background::start(daemon.arg("--root").arg(place.path("state")));
    eventually("it listens", || place.is_served());
    place.drydock(&["build", "-q", "."]).ok();
    let ran = daemon.wait().unwrap();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!place.is_served());
}

#[test]
fn a_daemon_is_not_idle_while_it_answers() {
    // Longer than it may be idle, and it looks at that twice a second.
    let server = Server::start(|_| {
        std::thread::sleep(Duration::from_secs(7));
        Answer::new(404, "")
    });
    let server = server.unwrap();
    let place = Place::new();
    let address = format!("unix://{}", place.socket().display());
    fs::create_dir(place.path("run")).unwrap();
    let mut daemon = place.command(&["daemon", "run", "--idle-exit", IDLE, "--addr", &address]);
    let daemon = Background::start(daemon.arg("--root").arg(place.path("state")));
    eventually("it listens", || place.is_served());
    let ran = place.drydock(&["pull", &format!("{}/late:1", server.host())]);
    assert!(ran.err().contains("late:1: not found"), "{}", ran.stderr);
    assert_eq!(daemon.wait().unwrap().code, 0);
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let place = Place::new();
    fs::write(place.path("none.toml"), "this is no toml").unwrap();
    let ran = place.drydock(&["build", "-q", "."]);
    assert!(ran.err().contains("none.toml"), "{}", ran.stderr);
    fs::remove_file(place.path("none.toml")).unwrap();
    assert!(!Path::new(&place.socket()).exists());
}

#[test]
fn a_root_has_one_daemon() {
    let place = Place::new();
    place.drydock(&["ps"]).ok();
    let address = format!("unix://{}", place.path("other.sock").display());
    let mut second = place.command(&["daemon", "run", "--addr", &address]);
    let ran = run(second.arg("--root").arg(place.path("state")));
    assert!(ran.err().contains("another daemon uses"), "{}", ran.stderr);
}
