//! Git repositories behind a real ssh server, whose keys an agent of the client has.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use prost::Message as _;

use crate::fixture::{Fixture, Ran, eventually, run, tool};
use crate::git::{commit, git};
use crate::graph::{Graph, source};
use crate::program::called;

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn key(directory: &Path, name: &str) -> PathBuf {
    key_of(directory, name, &["-t", "ed25519", "-N", ""])
}

/// A key as the arguments of `ssh-keygen` say.
fn key_of(directory: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let path = directory.join(name);
    let file = ["-q", "-C", "", "-f", path.to_str().unwrap()];
    tool("ssh-keygen", &[&file, arguments].concat());
    path
}

fn public(key: &Path) -> String {
    let text = fs::read_to_string(key.with_extension("pub")).unwrap();
    text.trim().to_owned()
}

/// An agent that has `key`, and its socket.
fn agent(directory: &Path, name: &str, key: &Path) -> (Running, PathBuf) {
    let socket = directory.join(name);
    let mut agent = Command::new("ssh-agent");
    let agent = agent.args(["-D", "-a"]).arg(&socket);
    let agent = Running(agent.stdout(Stdio::null()).spawn().unwrap());
    eventually("the agent answers", || UnixStream::connect(&socket).is_ok());
    let mut add = Command::new("ssh-add");
    add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket);
    assert!(add.stderr(Stdio::null()).status().unwrap().success());
    (agent, socket)
}

/// A server that lets in who has one of the keys `allowed`, and its port.
fn server(directory: &Path, host_key: &Path, allowed: &[PathBuf]) -> (Running, u16) {
    // Where the server keeps the rights of those who are not let in yet from its own.
    fs::create_dir_all("/run/sshd").unwrap();
    let keys = directory.join("authorized");
    let lines = allowed.iter().map(|key| public(key) + "\n");
    fs::write(&keys, lines.collect::<String>()).unwrap();
    let config = directory.join("sshd_config");
    let text = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nListenAddress 127.0.0.1\nPidFile none\nStrictModes no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
        host_key.display(),
        keys.display()
    );
    fs::write(&config, text).unwrap();
    loop {
        let free = TcpListener::bind("127.0.0.1:0");
        let port = free.and_then(|free| free.local_addr()).unwrap().port();
        let log = fs::File::create(directory.join("sshd.log")).unwrap();
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-p", &port.to_string(), "-f"]);
        let mut sshd = Running(sshd.arg(&config).stderr(log).spawn().unwrap());
        let mut has_ended = false;
        eventually("the server answers", || {
            has_ended = sshd.0.try_wait().unwrap().is_some();
            has_ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let said = || fs::read_to_string(directory.join("sshd.log")).unwrap();
        // Else somebody else has taken the port.
        if !has_ended {
            return (sshd, port);
        }
        assert!(said().contains("in use"), "{}", said());
    }
}

/// The graph of the fixture's Dockerfile.
fn converted(fixture: &Fixture) -> String {
    let mut buildctl = Command::new(called("buildctl", fixture.scratch()));
    let context = fixture.context().display();
    buildctl
        .args(["--addr", &fixture.daemon.address(), "build"])
        .args(["--frontend", "dockerfile.v0"])
        .args(["--local", &format!("context={context}")])
        .args(["--local", &format!("dockerfile={context}")])
        .args(["--opt", "requestid=frontend.convertllb"]);
    run(&mut buildctl).ok().to_owned()
}

#[test]
fn a_repository_behind_ssh_is_reached_with_the_keys_of_the_client() {
    let fixture = Fixture::new();
    let directory = fixture.scratch();
    commit(&directory.join("repo"), &[("file", "over ssh")], "one");
    git(directory, &["clone", "-q", "--bare", "repo", "served"]);
    let [mine, other, host, other_host] =
        ["mine", "other", "host", "other-host"].map(|name| key(directory, name));
    let (_server, port) = server(directory, &host, std::slice::from_ref(&mine));
    let (_agent, socket) = agent(directory, "agent", &mine);
    let (_other_agent, other_socket) = agent(directory, "other-agent", &other);

    let url = format!(
        "ssh://root@127.0.0.1:{port}{}",
        directory.join("served").display()
    );
    fixture.dockerfile(&format!("FROM scratch\nADD {url}#main /x/\n"));
    let with = |socket: &Path| format!("default={}", socket.display());
    // A server that nothing is known of is trusted with the key that it has now, and with no other.
    let files = fixture.files(&["--ssh", &with(&socket)]);
    assert_eq!(files.text("x/file"), "over ssh");
    let key = public(&host);
    let line = format!("[127.0.0.1]:{port} {key}");
    let graph = converted(&fixture);
    assert_eq!(graph.matches(&line).count(), 1, "{graph}");
    let refused = |ran: &Ran, reason: &str| assert!(ran.err().contains(reason), "{}", ran.stderr);
    let build = |arguments: &[&str]| fixture.build(&[&["--no-cache"], arguments].concat()).ran;
    refused(
        &build(&["--ssh", &with(&other_socket)]),
        "Permission denied (publickey)",
    );
    // The keys of whoever runs the daemon are not used.
    refused(
        &build(&[]),
        "no SSH key \"default\" forwarded from the client",
    );

    // One that another key is known of is not.
    let known = |key: &Path| format!("[127.0.0.1]:{port} {}\n", public(key));
    for (hosts, is_trusted) in [(known(&host), true), (known(&other_host), false)] {
        let mut graph = Graph::default();
        let attrs = [
            ("git.fullurl", url.as_str()),
            ("git.mountsshsock", "default"),
            ("git.knownsshhosts", hosts.as_str()),
        ];
        let name = format!("git://127.0.0.1{}#main", directory.join("served").display());
        let files = graph.add(source(&name, &attrs), &[]);
        let definition = directory.join("definition");
        fs::write(&definition, graph.definition((files, 0)).encode_to_vec()).unwrap();
        let mut buildctl = Command::new(called("buildctl", directory));
        buildctl
            .args([
                "--addr",
                &fixture.daemon.address(),
                "build",
                "--ssh",
                &with(&socket),
            ])
            .stdin(fs::File::open(&definition).unwrap());
        let ran = run(&mut buildctl);
        match is_trusted {
            true => drop(ran.ok()),
            false => refused(&ran, "Host key verification failed"),
        }
    }
}

#[test]
fn keys_are_offered_without_an_agent() {
    let fixture = Fixture::new();
    let directory = fixture.scratch();
    commit(&directory.join("repo"), &[("file", "over ssh")], "one");
    git(directory, &["clone", "-q", "--bare", "repo", "served"]);
    let kinds: [(&str, &[&str]); 6] = [
        ("ed25519", &["-t", "ed25519"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("rsa-pkcs1", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
        ("ecdsa", &["-t", "ecdsa", "-b", "256"]),
        ("ecdsa-sec1", &["-t", "ecdsa", "-b", "384", "-m", "PEM"]),
        ("ecdsa-pkcs8", &["-t", "ecdsa", "-b", "256", "-m", "PKCS8"]),
    ];
    let keys =
        kinds.map(|(name, arguments)| key_of(directory, name, &[arguments, &["-N", ""]].concat()));
    let [other, host] = ["other", "host"].map(|name| key(directory, name));
    let (_server, port) = server(directory, &host, &keys);

    let url = format!(
        "ssh://root@127.0.0.1:{port}{}",
        directory.join("served").display()
    );
    fixture.dockerfile(&format!("FROM scratch\nADD {url}#main /x/\n"));
    let build = |given: &str| fixture.build(&["--no-cache", "--ssh", given]).ran;
    for key in &keys {
        build(&format!("default={}", key.display())).ok();
    }
    // Several keys are tried one after the other.
    let several = format!("default={},{}", other.display(), keys[0].display());
    build(&several).ok();
    let refused = |given: &str, reason: &str| {
        let ran = build(given);
        assert!(ran.err().contains(reason), "{}", ran.stderr);
    };
    refused(
        &format!("default={}", other.display()),
        "Permission denied (publickey)",
    );

    let locked = key_of(
        directory,
        "locked",
        &["-t", "ed25519", "-N", "a passphrase"],
    );
    refused(
        &format!("default={}", locked.display()),
        "this private key is passphrase protected",
    );
    let (_agent, socket) = agent(directory, "agent", &keys[0]);
    let both = format!("default={},{}", socket.display(), keys[0].display());
    refused(&both, "invalid combination of keys and sockets");
    build(&format!("default={},raw=true", socket.display())).ok();
}
