//! Clients that leave in the middle: they harm their own builds only, and nothing of them stays.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::crash::{descendants, find_groups};
use crate::fixture::{Fixture, eventually};

/// How many clients leave, unless `DRYDOCK_BREAKS` says otherwise.
const CLIENTS: u64 = 40;

/// How many clients are there at a time.
const AT_A_TIME: u64 = 4;

/// The files of each.
const FILES: u64 = 100;

/// By how much longer a build takes when there are others.
const LONGER: f64 = 2.5;

/// How many clients leave between two looks at what the daemon holds.
const BETWEEN_LOOKS: u64 = 100;

/// By how much the daemon's memory may grow once it has seen half of the clients, for each client
/// after them: a record of a build and what was made in it stay, after all.
const GROWTH_PER_CLIENT: u64 = 12 << 10;

/// What the daemon holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    mounts: usize,
    processes: usize,
    groups: usize,
    memory: u64,
}

impl Held {
    fn by(fixture: &Fixture) -> Held {
        let mut groups = Vec::new();
        find_groups(Path::new("/sys/fs/cgroup"), &group(), 0, &mut groups);
        let pid = fixture.daemon.pid();
        let process = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| fs::read_to_string(process.join(name)).unwrap();
        let resident = read("status");
        let resident = resident
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Held {
            files: fs::read_dir(process.join("fd")).unwrap().count(),
            mounts: read("mountinfo").lines().count(),
            processes: descendants(pid).len(),
            groups: groups.len(),
            memory: resident.unwrap() << 10,
        }
    }

    /// Whether this is no more than `before`, but for what the daemon keeps ready.
    fn is_like(&self, before: &Held) -> bool {
        self.files <= before.files + 4
            && self.mounts <= before.mounts
            && self.processes <= before.processes + 2
            && self.groups <= before.groups + 2
    }
}

/// The name of the control group in which the daemon makes those of its containers.
fn group() -> String {
    format!("drydock-breaks-{}", std::process::id())
}

/// One of several that come again and again, and leave in the middle. Each has files of its own,
/// but those of one round are equal, so that steps have several who wait for them.
struct Client<'a> {
    fixture: &'a Fixture,
    directory: PathBuf,
}

impl Client<'_> {
    fn new(fixture: &Fixture, name: u64) -> Client<'_> {
        let directory = fixture.scratch().join(name.to_string());
        fs::create_dir_all(directory.join("files")).unwrap();
        fs::copy(
            fixture.context().join("Dockerfile"),
            directory.join("Dockerfile"),
        )
        .unwrap();
        let client = Client { fixture, directory };
        (0..FILES).for_each(|n| client.write(n, 0));
        client
    }

    fn write(&self, n: u64, round: u64) {
        let content = format!("{n} {round} ").repeat(2000);
        fs::write(self.directory.join(format!("files/{n}")), content).unwrap();
    }

    /// Begins to send files, run a step and take files back.
    fn start(&self, round: u64) -> Child {
        (0..FILES / 4).for_each(|n| self.write((round * 7 + n) % FILES, round));
        let argument = format!("N={round}");
        let output = self.directory.with_extension("out");
        let output = format!("type=local,dest={}", output.display());
        let build = ["build", "--progress", "rawjson", "--build-arg", &argument];
        let mut command = self.fixture.command(&build);
        command.args(["-o", &output, "."]);
        command.current_dir(&self.directory).stdout(Stdio::null());
        command.stderr(File::create(self.told()).unwrap());
        command.spawn().unwrap()
    }

    /// Where a build tells of itself.
    fn told(&self) -> PathBuf {
        self.directory.with_extension("told")
    }

    /// Begins to build and leaves after a while; says in the middle of what.
    fn come(&self, round: u64, stays: Duration) -> &'static str {
        let mut process = self.start(round);
        // The moments are what is tested, so there is nothing to wait for.
        sleep(stays);
        process.kill().unwrap();
        let has_ended = process.wait().unwrap().success();
        place(&self.told(), has_ended)
    }
}

/// What was under way last, in a build that told of itself in the file `told`.
fn place(told: &Path, has_ended: bool) -> &'static str {
    if has_ended {
        return "after the end";
    }
    let text = fs::read_to_string(told).unwrap();
    let mut running = BTreeMap::new();
    for line in text.lines() {
        // The last line may be cut off.
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        for vertex in message["vertexes"].as_array().into_iter().flatten() {
            let name = vertex["name"].as_str().unwrap_or_default().to_owned();
            if vertex["started"].is_string() {
                running.insert(name, vertex["completed"].is_string());
            }
        }
    }
    let is_running = |part: &str| {
        let mut all = running.iter();
        all.any(|(name, completed)| !completed && name.contains(part))
    };
    if is_running("exporting") {
        "in an export"
    } else if is_running("RUN") {
        "in a step"
    } else if is_running("load build context") {
        "in a transfer of files"
    } else {
        "elsewhere"
    }
}

#[test]
fn clients_that_leave_harm_nobody_and_leave_nothing() {
    let clients = std::env::var("DRYDOCK_BREAKS");
    let clients = clients.map_or(CLIENTS, |count| count.parse().unwrap());
    let fixture = Fixture::configured(&format!(
        "[worker.oci]\ndefaultCgroupParent = \"{}\"\n",
        group()
    ));
    fixture.dockerfile(
        "FROM busybox AS other\nARG OTHER\nRUN echo $OTHER > /other\n\
         FROM busybox AS main\nCOPY . /c\nARG N\nRUN echo $N > /n; sleep 0.1\n",
    );
    let other = |n: u64| {
        let argument = format!("OTHER={n}");
        let build = fixture.build(&["--target", "other", "--build-arg", &argument]);
        build.ran.ok();
    };
    let all: Vec<Client<'_>> = (0..AT_A_TIME).map(|n| Client::new(&fixture, n)).collect();
    other(0);
    let whole = {
        let begun = Instant::now();
        assert!(all[0].start(0).wait().unwrap().success());
        begun.elapsed()
    };
    let before = Held::by(&fixture);

    let places = Mutex::new(BTreeMap::new());
    let (come, mut looks) = (AtomicU64::new(0), Vec::new());
    while come.load(Relaxed) < clients {
        let until = clients.min(come.load(Relaxed) + BETWEEN_LOOKS);
        std::thread::scope(|scope| {
            for client in &all {
                scope.spawn(|| {
                    loop {
                        let n = come.fetch_add(1, Relaxed);
                        if n >= until {
                            return;
                        }
                        // Moments all over the build, and a few after it.
                        let stays = whole.mul_f64((n * 37 % 100) as f64 / 100.0 * LONGER);
                        let place = client.come(1 + n / AT_A_TIME, stays);
                        *places.lock().unwrap().entry(place).or_insert(0_u64) += 1;
                    }
                });
            }
            while come.load(Relaxed) < until {
                other(1 + come.load(Relaxed));
            }
        });
        come.store(until, Relaxed);
        let mut now = Held::by(&fixture);
        eventually("nothing is held for those who left", || {
            now = Held::by(&fixture);
            now.is_like(&before)
        });
        eprintln!("after {until}: {now:?}");
        looks.push((until, now));
    }
    other(u64::MAX);
    let places = places.into_inner().unwrap();
    eprintln!("before: {before:?}\nleft: {places:?}");
    // So many leave that some do in each place, however the machine is.
    let all = ["in a transfer of files", "in a step", "in an export"];
    for place in all.iter().filter(|_| clients >= 10 * CLIENTS) {
        assert!(
            places.contains_key(place),
            "nobody left {place}: {places:?}"
        );
    }
    // What is kept for a minute, or up to a size, is as much as it gets halfway.
    let half = looks.len().saturating_sub(1) / 2;
    let (Some((seen, halfway)), Some((_, last))) = (looks.get(half), looks.last()) else {
        return;
    };
    let most = halfway.memory + (clients - seen) * GROWTH_PER_CLIENT;
    assert!(last.memory <= most, "the daemon grows: {looks:?}");
}
