//! Nothing outlives a daemon that dies.
//!
//! The daemon here is this test program again, as a child: it starts a container and waits.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use executor::{Network, sweep};

use crate::fixture::{Machine, status};

/// How long the kernel may take to clear away what was killed.
const LIMIT: Duration = Duration::from_secs(10);

/// What the child does; as a test of its own it is over at once.
#[tokio::test]
async fn daemon_process() {
    if std::env::var_os("DRYDOCK_TEST_DAEMON").is_none() {
        return;
    }
    let machine = Machine::with_network(true).await;
    let run = machine
        .shell("sleep 1000 & sleep 1000")
        .with(|run| run.network = Network::Bridge);
    let container = run.start().await.unwrap();
    let state = machine.dir.path().join("state");
    println!("\nREADY {} {}", container.pid().unwrap(), state.display());
    container.wait().await.unwrap();
}

struct Daemon {
    child: Child,
    container: i32,
    launcher: i32,
    state: PathBuf,
}

impl Daemon {
    fn start() -> Daemon {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::daemon_process", "--nocapture"])
            .env("DRYDOCK_TEST_DAEMON", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let line = lines
            .into_iter()
            .find_map(|line| line.strip_prefix("READY ").map(str::to_owned));
        let line = line.expect("the daemon starts a container");
        let (pid, state) = line.split_once(' ').unwrap();
        let of_container = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let launcher = status(&of_container)["PPid"].parse().unwrap();
        Daemon {
            child,
            container: pid.parse().unwrap(),
            launcher,
            state: state.into(),
        }
    }

    fn kill(&mut self, launcher_first: bool) {
        let launcher = sys::pidfd::Process::open(self.launcher).unwrap();
        if launcher_first {
            // So that it cannot clean up.
            launcher.signal(libc::SIGSTOP).unwrap();
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if launcher_first {
            launcher.kill().unwrap();
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// Directories of control groups of tests, in all hierarchies.
fn groups() -> Vec<PathBuf> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let parents = hierarchies.map(|entry| entry.path().join("drydock-test"));
    parents
        .filter_map(|parent| std::fs::read_dir(parent).ok())
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect()
}

fn links() -> String {
    let route = sys::netlink::Route::open().unwrap();
    let links = route.links().unwrap();
    links
        .iter()
        .map(|link| format!("{} {:?}\n", link.name, link.alias))
        .collect()
}

fn filters() -> String {
    let output = Command::new("nft")
        .args(["list", "tables"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn check(launcher_first: bool) {
    let mut daemon = Daemon::start();
    let owner = owner(daemon.container);
    assert!(groups().iter().any(|path| path.ends_with(&owner)));
    assert!(links().contains(&format!("drydock {owner}")), "{}", links());
    assert!(filters().contains(&owner), "{}", filters());

    daemon.kill(launcher_first);
    eventually("the launcher is gone", || gone(daemon.launcher));
    eventually("the container is gone", || gone(daemon.container));
    if launcher_first {
        sweep(&daemon.state, "drydock-test").unwrap();
    }
    eventually("the links are gone", || {
        !links().contains(&owner) && !links().contains(&format!("dd{}", &owner[..6]))
    });
    eventually("the filter is gone", || !filters().contains(&owner));
    let left = || groups().iter().any(|path| path.ends_with(&owner));
    eventually("the control groups are gone", || !left());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(daemon.state.parent().unwrap().to_str().unwrap()),
        "{mounts}"
    );
}

/// The name that everything of the container's daemon has on the host.
fn owner(container: i32) -> String {
    let groups = std::fs::read_to_string(format!("/proc/{container}/cgroup")).unwrap();
    let inside = groups
        .lines()
        .find_map(|line| line.split("/drydock-test/").nth(1));
    inside
        .expect("a control group")
        .split('/')
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn a_killed_daemon_takes_its_containers_and_networks_along() {
    check(false);
}

#[test]
fn what_a_killed_launcher_leaves_is_swept() {
    check(true);
}

/// The number of the launcher, which is the parent of a container's first process.
fn launcher_of(container: &executor::Container) -> sys::pidfd::Process {
    let pid = container.pid().unwrap();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    sys::pidfd::Process::open(status(&text)["PPid"].parse().unwrap()).unwrap()
}

#[tokio::test]
async fn a_killed_launcher_takes_its_containers_along_and_is_replaced() {
    let machine = Machine::with_network(true).await;
    let sleep = || {
        let run = machine.run(&["sleep", "1000"]);
        run.with(|run| run.network = Network::Bridge)
    };
    for _ in 0..2 {
        let container = sleep().start().await.unwrap();
        launcher_of(&container).kill().unwrap();
        let error = container.wait().await.unwrap_err();
        assert_eq!(error.to_string(), "the container launcher has ended");
        let spec = executor::spec::step(crate::fixture::step(&["true"])).unwrap();
        let process = spec.process().as_ref().unwrap();
        let error = container.exec(process, executor::Stdio::Null).await;
        assert!(error.is_err());

        let script = "ping -c1 -W2 $(ip route | awk '/default/ {print $3}') >/dev/null && echo on";
        let run = machine
            .shell(script)
            .with(|run| run.network = Network::Bridge);
        assert_eq!(run.text().await, "on\n");
    }
    let state = machine.dir.path().join("state");
    let container = sleep().start().await.unwrap();
    let owner = owner(container.pid().unwrap());
    drop(container);
    machine.launcher.shutdown().await;
    assert!(
        !links().contains(&format!("drydock {owner}")),
        "{}",
        links()
    );
    assert!(!groups().iter().any(|path| path.ends_with(&owner)));
    sweep(&state, "drydock-test").unwrap();
}

#[tokio::test]
async fn containers_asked_for_at_once_share_the_launcher_that_replaces_a_killed_one() {
    let machine = Machine::start().await;
    let container = machine.run(&["sleep", "1000"]).start().await.unwrap();
    launcher_of(&container).kill().unwrap();
    container.wait().await.unwrap_err();
    let start = || async { machine.run(&["sleep", "1000"]).start().await.unwrap() };
    let (one, two, three) = tokio::join!(start(), start(), start());
    let parent = |container: &executor::Container| {
        let pid = container.pid().unwrap();
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status(&text)["PPid"].to_owned()
    };
    assert_eq!(parent(&one), parent(&two));
    assert_eq!(parent(&one), parent(&three));
}
