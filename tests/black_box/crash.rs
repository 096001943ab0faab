//! A daemon that is killed leaves nothing, and the next one goes on from what was recorded.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

use crate::fixture::{Background, Fixture, eventually, processes};

const DOCKERFILE: &str = "\
FROM busybox
RUN echo before > /before
COPY file /
RUN sleep 1 && echo sta''rted && sleep 3002
";

/// What is new is recorded many at a time; the second in the Dockerfile is more than that takes.
const LAST: &str = "RUN sleep 1 && echo sta''rted && sleep 3002";

/// A daemon whose things on the machine have names of their own.
struct Named {
    fixture: Fixture,
    parent: String,
    bridge: String,
}

impl Named {
    fn new() -> Named {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Tests may be threads of one process.
        let (id, number) = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let parent = format!("drydock-crash-{id}-{number}");
        let bridge = format!("ddc{id}-{number}");
        let config = format!(
            "[worker.oci]\ndefaultCgroupParent = \"{parent}\"\nbridgeName = \"{bridge}\"\n"
        );
        let fixture = Fixture::configured(&config);
        fixture.dockerfile(DOCKERFILE);
        fixture.write("file", "content");
        Named {
            fixture,
            parent,
            bridge,
        }
    }

    /// Control groups of the daemon's, in whatever hierarchy there is.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        find_groups(Path::new("/sys/fs/cgroup"), &self.parent, 0, &mut found);
        found
    }

    /// The bridge and what is plugged into it.
    fn devices(&self) -> Vec<PathBuf> {
        let bridge = Path::new("/sys/class/net").join(&self.bridge);
        let ports = fs::read_dir(bridge.join("brif")).into_iter().flatten();
        let ports = ports.map(|port| Path::new("/sys/class/net").join(port.unwrap().file_name()));
        let mut all: Vec<_> = ports.collect();
        all.push(bridge);
        all.retain(|device| device.exists());
        all
    }

    fn mounts(&self) -> Vec<String> {
        let root = self.fixture.daemon.root();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let ours = mounts
            .lines()
            .filter(|line| line.contains(root.to_str().unwrap()));
        ours.map(ToOwned::to_owned).collect()
    }

    /// Packet filter rules that name the bridge.
    fn rules(&self) -> usize {
        let rules = crate::fixture::tool("nft", &["list", "ruleset"]);
        rules
            .lines()
            .filter(|line| line.contains(&self.bridge))
            .count()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // The parent is this test's; what is in it would be the daemon's, and make this fail.
        for group in self.groups() {
            let _ = fs::remove_dir(group);
        }
    }
}

/// Control groups called `name`, and those in them. They are few levels deep.
pub(crate) fn find_groups(directory: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
    if depth > 8 {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        find_groups(&entry.path(), name, depth + 1, found);
        if entry.path().to_string_lossy().contains(name) {
            found.push(entry.path());
        }
    }
}

/// The processes that `parent` has started, and those that they have.
pub(crate) fn descendants(parent: u32) -> Vec<u32> {
    let mut all = vec![parent];
    let mut at = 0;
    while at < all.len() {
        let task = format!("/proc/{0}/task", all[at]);
        for thread in fs::read_dir(task).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
        at += 1;
    }
    all.split_off(1)
}

fn runs(pid: u32) -> bool {
    // A process that has ended and is not waited for has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_daemon_that_is_killed_leaves_nothing_and_the_next_goes_on() {
    let mut named = Named::new();
    let fixture = &named.fixture;
    let detached = [
        "run",
        "-d",
        "--network",
        "bridge",
        "-p",
        "80",
        "busybox",
        "sleep",
        "3003",
    ];
    fixture.drydock(&detached).ok();
    let mut build = Background::start(&mut fixture.command(&["build", "--progress", "plain", "."]));
    build.error_until("started");

    let (groups, devices) = (named.groups(), named.devices());
    let processes = descendants(fixture.daemon.pid());
    // The launcher, the step and the container, at least.
    assert!(processes.len() >= 3, "{processes:?}");
    assert!(groups.len() >= 3, "{groups:?}");
    assert!(devices.len() >= 2, "{devices:?}");
    assert!(named.rules() > 0);

    named.fixture.daemon.kill().unwrap();
    let ran = build.wait().unwrap();
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    eventually("the processes have ended", || {
        !processes.iter().any(|pid| runs(*pid))
    });
    eventually("the devices are gone", || {
        !devices.iter().any(|path| path.exists())
    });
    // The parent itself is the configuration's.
    let left = || -> Vec<PathBuf> {
        let groups = named.groups().into_iter();
        groups
            .filter(|path| !path.ends_with(&named.parent))
            .collect()
    };
    eventually("the control groups are gone", || left().is_empty());
    assert_eq!(named.mounts(), [""; 0]);
    assert_eq!(named.rules(), 0);

    named.fixture.daemon.restart().unwrap();
    let fixture = &named.fixture;
    fixture.dockerfile(&DOCKERFILE.replace("sleep 3002", "echo again > /again"));
    let files = fixture.files(&[]);
    let last = LAST.replace("sleep 3002", "echo again > /again");
    assert_eq!(files.build.executed(), [last]);
    assert_eq!(
        (files.text("before"), files.text("again")),
        ("before".into(), "again".into())
    );
    // The container is known and has ended.
    let list = fixture.drydock(&["ps", "-a"]);
    assert!(list.ok().contains("sleep 3003"), "{}", list.stdout);
    assert_eq!(fixture.drydock(&["ps", "-q"]).ok(), "");
}

#[test]
fn a_daemon_that_is_stopped_leaves_nothing() {
    let mut named = Named::new();
    let fixture = &named.fixture;
    let detached = [
        "run",
        "-d",
        "--network",
        "bridge",
        "busybox",
        "sleep",
        "3004",
    ];
    fixture.drydock(&detached).ok();
    let mut build = Background::start(&mut fixture.command(&["build", "--progress", "plain", "."]));
    build.error_until("started");
    let (devices, children) = (named.devices(), descendants(fixture.daemon.pid()));
    named.fixture.daemon.stop().unwrap();
    assert_ne!(build.wait().unwrap().code, 0);
    // Those that nobody waits for any more may be left as zombies for a moment.
    assert!(!children.iter().any(|pid| runs(*pid)));
    // The kernel takes network namespaces apart in its own time.
    eventually("the devices are gone", || {
        !devices.iter().any(|path| path.exists())
    });
    assert!(
        named
            .groups()
            .iter()
            .all(|path| path.ends_with(&named.parent))
    );
    assert_eq!(named.mounts(), [""; 0]);
    assert!(!processes().iter().any(|line| line == "sleep 3004"));
}

#[test]
fn crashes_at_any_time_lose_no_finished_step() {
    let dockerfile =
        "FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\nRUN echo 3 > /3\nRUN echo 4 > /4\n";
    let mut fixture = Fixture::with(dockerfile);
    for round in 0..4 {
        let marker = format!("RUN echo {} >", round + 1);
        let mut build = fixture.command(&["build", "--progress", "rawjson", "."]);
        let mut build = Background::start(&mut build);
        // The first message of the step, or the end of a build that found it.
        build.error_until_or_end(&marker);
        fixture.daemon.kill().unwrap();
        build.wait().unwrap();
        fixture.daemon.restart().unwrap();
    }
    let files = fixture.files(&[]);
    for name in ["1", "2", "3", "4"] {
        assert_eq!(files.text(name), name);
    }
}
