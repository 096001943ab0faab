//! Files from git repositories.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use proto::frontend as wire;

use crate::fixture::{Background, Fixture, eventually, processes, run, tool};
use crate::gateway::Driven;
use crate::sources::resolve;

/// Served repositories: `repo`, and `inner`, which it has as a submodule.
pub(crate) struct Served {
    daemon: Child,
    pub(crate) url: String,
    /// The commit that the tag `v1` is for, and the one at the end of `main`.
    pub(crate) commits: [String; 2],
}

impl Served {
    pub(crate) fn start(directory: &Path) -> Served {
        let inner = directory.join("inner");
        commit(&inner, &[("inside", "inner")], "one");
        let repository = directory.join("repo");
        commit(
            &repository,
            &[("README", "one"), ("dir/deep/file", "deep")],
            "one",
        );
        let add = ["submodule", "--quiet", "add", "../inner", "sub"];
        let files = ["-c", "protocol.file.allow=always"];
        git(&repository, &[&files[..], &add].concat());
        git(&repository, &["commit", "-q", "-m", "with a submodule"]);
        git(&repository, &["tag", "-a", "-m", "first", "v1"]);
        let first = git(&repository, &["rev-parse", "HEAD"]);
        git(&repository, &["branch", "side/branch"]);
        commit(&repository, &[("README", "two")], "two");
        let last = git(&repository, &["rev-parse", "HEAD"]);
        let served = directory.join("served");
        std::fs::create_dir(&served).unwrap();
        for name in ["inner", "repo"] {
            let (from, to) = (directory.join(name), served.join(name));
            let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
            git(directory, &["clone", "-q", "--bare", from, to]);
            let any = ["config", "uploadpack.allowAnySHA1InWant", "true"];
            git(&served.join(name), &any);
        }
        let (daemon, port) = serve(&served);
        Served {
            daemon,
            url: format!("git://127.0.0.1:{port}/repo"),
            commits: [first, last],
        }
    }
}

/// A server of the repositories in a directory, and its port.
pub(crate) fn serve(directory: &Path) -> (Child, u16) {
    loop {
        let free = TcpListener::bind("127.0.0.1:0");
        let port = free.and_then(|free| free.local_addr()).unwrap().port();
        let mut daemon = Command::new("git")
            .args([
                "daemon",
                "--export-all",
                "--reuseaddr",
                "--listen=127.0.0.1",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", directory.display()))
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stderr(Stdio::null())
            // What it starts ends with it.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut has_ended = false;
        eventually("git answers", || {
            has_ended = daemon.try_wait().unwrap().is_some();
            has_ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        // Else somebody else has taken the port.
        if !has_ended {
            return (daemon, port);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.daemon.id()).unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.daemon.wait();
    }
}

pub(crate) fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "name")
            .env(format!("GIT_{role}_EMAIL"), "mail")
            .env(format!("GIT_{role}_DATE"), "1577836800 +0000");
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .arg("-C")
        .arg(directory)
        .args(arguments);
    run(&mut command).ok().to_owned()
}

pub(crate) fn commit(directory: &Path, files: &[(&str, &str)], message: &str) {
    for (path, content) in files {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    if !directory.join(".git").exists() {
        git(directory, &["init", "-q", "-b", "main"]);
    }
    git(directory, &["add", "-A"]);
    git(directory, &["commit", "-q", "-m", message]);
}

#[test]
fn references_of_all_kinds_are_checked_out() {
    let fixture = Fixture::new();
    let served = Served::start(fixture.scratch());
    let (url, [first, last]) = (&served.url, &served.commits);
    fixture.dockerfile(&format!(
        "FROM scratch\n\
         ADD {url} /default/\n\
         ADD {url}#side/branch /branch/\n\
         ADD {url}#v1 /tag/\n\
         ADD {url}#{first} /commit/\n\
         ADD {url}#main:dir/deep /subdir/\n\
         ADD --checksum={last} {url}#main /checked/\n\
         ADD {url}?tag=v1&submodules=false /query/\n"
    ));
    let files = fixture.files(&[]);
    for (path, content) in [
        ("default/README", "two"),
        ("branch/README", "one"),
        ("tag/README", "one"),
        ("commit/README", "one"),
        ("subdir/file", "deep"),
        ("checked/README", "two"),
        ("default/sub/inside", "inner"),
        ("commit/sub/inside", "inner"),
    ] {
        assert_eq!(files.text(path), content, "{path}");
    }
    assert_eq!(files.names("subdir"), ["file"]);
    assert_eq!(files.names("tag"), [".gitmodules", "README", "dir", "sub"]);
    assert!(!files.has("default/.git") && !files.has("default/sub/.git"));
    assert!(!files.has("query/sub/inside"));
}

#[test]
fn a_kept_repository_can_be_used() {
    let fixture = Fixture::new();
    let served = Served::start(fixture.scratch());
    let (url, [first, _]) = (&served.url, &served.commits);
    fixture.dockerfile(&format!(
        "FROM scratch\nADD --keep-git-dir=true {url}#v1 /\n"
    ));
    let files = fixture.files(&[]);
    let directory = files.path(".");
    tool("chown", &["-R", "0:0", directory.to_str().unwrap()]);
    assert_eq!(&git(&directory, &["rev-parse", "HEAD"]), first);
    assert_eq!(git(&directory, &["describe", "--tags"]), "v1");
    assert_eq!(git(&directory, &["remote", "get-url", "origin"]), *url);
    assert_eq!(
        git(
            &directory,
            &["status", "--porcelain", "--ignore-submodules"]
        ),
        ""
    );
}

#[test]
fn an_unchanged_commit_is_not_checked_out_again() {
    let fixture = Fixture::new();
    let served = Served::start(fixture.scratch());
    fixture.dockerfile(&format!(
        "FROM busybox\nADD {}#v1 /src\nRUN cat /src/README\n",
        served.url
    ));
    assert_eq!(fixture.build(&[]).step("cat").log.trim(), "one");
    let again = fixture.build(&[]);
    // The commit is looked up, and nothing needs its files.
    let name = format!("ADD {}#v1 /src", served.url);
    assert_eq!(again.executed(), [name.as_str()]);
}

#[test]
fn what_a_repository_does_not_have_is_said() {
    let fixture = Fixture::new();
    let served = Served::start(fixture.scratch());
    let (url, [first, last]) = (&served.url, &served.commits);
    for (source, said) in [
        (
            format!("{url}#nosuch"),
            "repository does not contain ref nosuch".to_owned(),
        ),
        (
            format!("{url}#main:nosuch"),
            "invalid subdir nosuch".to_owned(),
        ),
        (
            format!("{url}.gone"),
            "error fetching default branch for repository".to_owned(),
        ),
        (
            format!("--checksum={first} {url}#main"),
            format!("expected checksum to match {first}, got {last}"),
        ),
    ] {
        fixture.dockerfile(&format!("FROM scratch\nADD {source} /x/\n"));
        let build = fixture.build(&[]);
        let error = build.ran.err();
        assert!(error.contains(&said), "{source}: {error}");
    }
}

/// Files below `directory` that are called `name` and have one called `beside` next to them.
fn find(directory: &Path, name: &str, beside: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let is_it = directory.join(name).exists() && directory.join(beside).exists();
        found.extend(is_it.then(|| directory.join(name)));
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        pending.extend(directories.map(|entry| entry.path()));
    }
    found
}

#[test]
fn a_damaged_repository_is_fetched_anew() {
    let fixture = Fixture::new();
    let served = Served::start(fixture.scratch());
    let (url, last) = (&served.url, &served.commits[1]);
    let build = |reference: &str| {
        fixture.dockerfile(&format!("FROM scratch\nADD {url}#{reference} /x/\n"));
        fixture.build(&[]).ran
    };
    let head = || {
        let mut found = Vec::new();
        eventually("there is one repository", || {
            found = find(&fixture.daemon.root(), "HEAD", "objects");
            found.len() == 1
        });
        found.remove(0)
    };
    build("v1").ok();
    let lock = head().with_file_name(format!("refs/drydock/{last}.lock"));
    std::fs::write(&lock, "").unwrap();
    build("main").ok();
    eventually("the damaged one is gone", || !lock.exists());
    std::fs::write(head(), "").unwrap();
    build("side/branch").ok();
    // What the server does not have costs no repository.
    let kept = head();
    let none = "0123456789012345678901234567890123456789";
    assert!(build(none).err().contains(none));
    assert_eq!(head(), kept);
}

#[tokio::test]
async fn objects_are_told_from_a_new_repository_if_the_kept_one_is_damaged() {
    let fixture = Fixture::new();
    let served = Served::start(fixture.scratch());
    let build = Driven::begin(&fixture, "git").await;
    let ask = async |reference: &str| {
        let name = format!("{}#{reference}", served.url);
        let request = wire::ResolveSourceMetaRequest {
            git: Some(wire::ResolveSourceGitRequest {
                return_object: true,
            }),
            ..wire::ResolveSourceMetaRequest::default()
        };
        let attrs = [("git.fullurl", served.url.as_str())];
        let told = resolve(&build, &name, &attrs, request).await;
        told.unwrap().git.unwrap().commit_object
    };
    let object = ask("v1").await;
    let kept = find(&fixture.daemon.root(), "HEAD", "objects").remove(0);
    std::fs::write(&kept, "").unwrap();
    assert_ne!(ask("main").await, object);
    std::fs::remove_dir_all(
        find(&fixture.daemon.root(), "HEAD", "objects")
            .remove(0)
            .with_file_name("objects"),
    )
    .unwrap();
    assert_eq!(ask("v1").await, object);
}

#[test]
fn git_ends_with_its_build_and_with_the_daemon() {
    let mut fixture = Fixture::new();
    // Takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = silent.local_addr().unwrap().to_string();
    let agent = fixture.scratch().join("agent");
    let _agent = UnixListener::bind(&agent).unwrap();
    let ssh = format!("default={}", agent.display());
    let arguments = ["build", "--progress", "plain", "--ssh", &ssh, "."];
    let asks = || processes().iter().any(|line| line.contains(&place));

    fixture.dockerfile(&format!(
        "FROM scratch\nADD http://{place}/r.git#main /x/\n"
    ));
    let build = Background::start(&mut fixture.command(&arguments));
    eventually("git asks", asks);
    build.signal("KILL");
    eventually("git has ended", || !asks());
    build.wait().unwrap();

    let step = "FROM busybox\n\
        RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo sta''rted && sleep 2\n";
    let build = Background::start(&mut fixture.command(&arguments));
    eventually("git asks", asks);
    fixture.dockerfile(step);
    let mut with_agent = Background::start(&mut fixture.command(&arguments));
    with_agent.error_until("started");
    fixture.daemon.kill().unwrap();
    eventually("git has ended", || !asks());
    build.wait().unwrap();
    with_agent.wait().unwrap();
    // The socket of the agent was left behind.
    fixture.daemon.restart().unwrap();
    fixture.build(&["--ssh", &ssh]).ran.ok();
}

#[tokio::test]
async fn what_pins_a_repository_is_told() {
    let fixture = Fixture::new();
    let served = Served::start(fixture.scratch());
    let build = Driven::begin(&fixture, "git").await;
    let ask = async |reference: &str, return_object| {
        let name = format!("{}#{reference}", served.url);
        let request = wire::ResolveSourceMetaRequest {
            git: Some(wire::ResolveSourceGitRequest { return_object }),
            ..wire::ResolveSourceMetaRequest::default()
        };
        let attrs = [("git.fullurl", served.url.as_str())];
        resolve(&build, &name, &attrs, request).await
    };
    let [first, last] = &served.commits;
    let branch = ask("", false).await.unwrap().git.unwrap();
    assert_eq!(
        (&branch.checksum, branch.r#ref.as_str()),
        (last, "refs/heads/main")
    );
    assert!(branch.commit_checksum.is_empty() && branch.commit_object.is_empty());
    let tag = ask("v1", true).await.unwrap().git.unwrap();
    assert_eq!(
        (&tag.commit_checksum, tag.r#ref.as_str()),
        (first, "refs/tags/v1")
    );
    assert_ne!(tag.checksum, *first);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(text(&tag.tag_object).starts_with(&format!("object {first}\n")));
    assert!(text(&tag.commit_object).ends_with("\n\nwith a submodule\n"));
    let commit = ask(first, true).await.unwrap().git.unwrap();
    assert_eq!((&commit.checksum, &commit.r#ref), (first, first));
    assert_eq!(commit.commit_object, tag.commit_object);
    let missing = ask("nope", false).await.unwrap_err();
    let expected = "repository does not contain ref nope, output: \"\"";
    assert_eq!(missing.message(), expected);
}
