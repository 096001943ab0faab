//! What BuildKit's client can be asked for beside builds: answers by templates, graphs in words, ways to a
//! daemon through programs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde_json::Value;
use testing::http::{Answer, Server};

use crate::fixture::{Fixture, Ran, eventually, run};
use crate::graph::{self, Graph};
use crate::program::called;
use crate::shared::guarded_by;

/// `buildctl` for the daemon of `fixture`, in its context.
fn buildctl(fixture: &Fixture, arguments: &[&str]) -> Command {
    let mut command = Command::new(called("buildctl", fixture.scratch()));
    command.args(["--addr", &fixture.daemon.address()]);
    command.args(arguments).current_dir(fixture.context());
    command.stdin(Stdio::null());
    command
}

const BUILD: [&str; 7] = [
    "build",
    "--frontend",
    "dockerfile.v0",
    "--local",
    "context=.",
    "--local",
    "dockerfile=.",
];

#[test]
fn answers_are_printed_as_templates_say() {
    let fixture = Fixture::with("FROM busybox\nRUN true\n");
    let ask = |arguments: &[&str]| run(&mut buildctl(&fixture, arguments));
    let json = |ran: Ran| -> Value { serde_json::from_str(ran.ok()).unwrap() };
    ask(&BUILD).ok();

    let version = ask(&["debug", "info", "--format", "{{.BuildkitVersion.Package}}"]);
    assert_eq!(version.ok(), "github.com/moby/buildkit");
    let info = json(ask(&["debug", "info", "--format", "json"]));
    assert_eq!(
        info["buildkitVersion"]["package"],
        "github.com/moby/buildkit"
    );
    let workers = json(ask(&["debug", "workers", "--format", "{{json .}}"]));
    assert_eq!(workers[0]["platforms"][0]["os"], "linux");
    assert!(workers[0]["gcPolicy"][0]["keepDuration"].is_i64());

    let each = "{{range .}}{{if eq .RecordType \"regular\"}}{{.ID}} {{end}}{{end}}";
    let kept = ask(&["du", "--format", each]);
    let listed = ask(&["du", "--filter", "type==regular"]);
    for id in kept.ok().split_whitespace() {
        assert!(listed.ok().contains(id), "{id}: {listed:?}");
    }
    assert!(!kept.ok().is_empty());
    let event = json(ask(&["debug", "histories", "--format", "{{json .}}"]));
    assert_eq!(
        (&event["type"], event["record"]["Ref"].is_string()),
        (&1.into(), true)
    );
    let name = ask(&[
        "debug",
        "histories",
        "--format",
        "{{.Type}} {{.Record.Ref}}",
    ]);
    let build = name.ok().strip_prefix("COMPLETE ").unwrap().to_owned();

    let removed = ask(&["prune", "--all", "--format", "{{.ID}}"]);
    assert!(removed.ok().lines().count() > 1 && !removed.ok().contains("Total"));
    let forgotten = ask(&["prune-histories", "--format", "{{.Record.Ref}}"]);
    assert_eq!(forgotten.ok(), build);
    let wrong = ask(&["du", "--format", "{{.Nope"]);
    assert!(wrong.err().contains("unclosed action"), "{wrong:?}");
}

#[test]
fn a_build_tells_files_what_it_did() {
    let fixture = Fixture::with("FROM busybox\nRUN echo hello\n");
    let path = |name: &str| fixture.scratch().join(name).to_str().unwrap().to_owned();
    let (trace, metrics) = (path("trace"), path("metrics"));
    let more = ["--trace", &trace, "--debug-json-cache-metrics", &metrics];
    for _ in 0..2 {
        run(&mut buildctl(&fixture, &[&BUILD[..], &more].concat())).ok();
    }
    let told = fs::read_to_string(&trace).unwrap();
    let messages = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let vertexes = messages.filter_map(|message| message["vertexes"].as_array().cloned());
    let ran = vertexes
        .flatten()
        .filter(|vertex| vertex["name"] == "[2/2] RUN echo hello");
    // The second build is behind the first.
    let cached: Vec<bool> = ran.map(|vertex| vertex["cached"] == true).collect();
    assert!(
        cached.contains(&true) && cached.contains(&false),
        "{cached:?}"
    );
    let metrics = fs::read_to_string(metrics).unwrap();
    let counts: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!(counts["user_cached"].as_i64() >= Some(1), "{metrics}");
    assert_eq!(counts["miss"].as_i64(), Some(0), "{metrics}");
}

#[test]
fn a_graph_is_shown_without_a_daemon() {
    let fixture = Fixture::new();
    let mut steps = Graph::default();
    let file = steps.add(graph::file("/a", "<content>"), &[]);
    let image = fixture.scratch().join("graph");
    fs::write(&image, steps.definition((file, 0)).encode_to_vec()).unwrap();
    let show = |arguments: &[&str]| {
        let mut command = Command::new(called("buildctl", fixture.scratch()));
        command.args(["--addr", "unix:///nowhere", "debug", "dump-llb"]);
        run(command
            .args(arguments)
            .stdin(fs::File::open(&image).unwrap()))
    };
    let named = show(&[image.to_str().unwrap()]);
    assert_eq!(named.ok(), show(&[]).ok());
    let ops: Vec<Value> = named
        .ok()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let action = &ops[0]["Op"]["Op"]["file"]["actions"][0];
    assert_eq!(action["Action"]["mkfile"]["path"], "/a");
    assert_eq!(ops[0]["Digest"], steps.digest(file).to_string());
    assert_eq!(ops.len(), 2);
    let drawn = show(&["--dot", "-"]);
    assert!(drawn.ok().starts_with("digraph {\n"), "{drawn:?}");
    assert!(
        drawn
            .ok()
            .contains("label=\"mkfile{path=/a}\" shape=\"note\""),
        "{drawn:?}"
    );
}

#[test]
fn a_daemon_is_reached_through_a_program() {
    let fixture = Fixture::with("FROM scratch\nCOPY file /\n");
    fixture.write("file", "content");
    let programs = fixture.scratch().join("programs");
    fs::create_dir(&programs).unwrap();
    let client = called("buildctl", fixture.scratch());
    let (client, address) = (client.display(), fixture.daemon.address());
    for (program, address_of_it, asked) in [
        (
            "docker",
            "docker-container://c?context=x",
            "--context=x exec -i c buildctl dial-stdio",
        ),
        (
            "podman",
            "podman-container://c",
            "exec -i c buildctl dial-stdio",
        ),
        (
            "nerdctl",
            "nerdctl-container://c",
            "exec -i c buildctl dial-stdio",
        ),
        (
            "kubectl",
            "kube-pod://p?namespace=n&container=c",
            "--context= --namespace=n exec --container=c -i p -- buildctl dial-stdio",
        ),
        (
            "ssh",
            "ssh://me@h:22",
            "-l me -p 22 -- h buildctl dial-stdio",
        ),
    ] {
        let script = format!(
            "#!/bin/sh\n[ \"$*\" = '{asked}' ] || {{ echo \"$*\" >&2; exit 1; }}\n\
             exec {client} --addr {address} dial-stdio\n"
        );
        let file = programs.join(program);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(called("buildctl", fixture.scratch()));
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).current_dir(fixture.context());
        let out = fixture.scratch().join(program);
        let output = format!("type=local,dest={}", out.display());
        command
            .args(["--addr", address_of_it])
            .args(BUILD)
            .args(["-o", &output]);
        run(command.stdin(Stdio::null())).ok();
        assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "content");
    }
    let mut nobody = Command::new(called("buildctl", fixture.scratch()));
    nobody.args(["--addr", "docker-container://", "debug", "info"]);
    assert!(run(&mut nobody).err().contains("names no container"));
}

#[test]
fn the_client_fetches_tokens_and_the_daemon_keeps_them() {
    let fixture = Fixture::new();
    // It takes forms only, as some do.
    let tokens = Server::start(|call| {
        let body = String::from_utf8_lossy(&call.body);
        match call.method.as_str() {
            "POST" if body.contains("username=u&password=p") => {
                Answer::new(200, r#"{"access_token":"good","expires_in":300}"#)
            }
            _ => Answer::new(401, "{}"),
        }
    })
    .unwrap();
    let registry = guarded_by(fixture.registry.host(), Some(tokens.url("/token")));
    let host = registry.host();
    fixture.dockerfile(&format!("FROM {host}/library/busybox\nRUN true\n"));
    let config = fixture.scratch().join("docker");
    fs::create_dir(&config).unwrap();
    let login = |password: &str| {
        let auth = STANDARD.encode(format!("u:{password}"));
        let text = format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"{auth}\"}}}}}}");
        fs::write(config.join("config.json"), text).unwrap();
    };
    login("p");
    let build = |more: &[(&str, &str)]| {
        let mut buildctl = buildctl(&fixture, &BUILD);
        buildctl.env("DOCKER_CONFIG", &config);
        run(buildctl.envs(more.iter().copied()))
    };
    build(&[]).ok();
    assert_eq!(tokens.calls().len(), 1);
    assert!(config.join(".token_seed").is_file());
    // The daemon knows the user again and has the token.
    build(&[]).ok();
    assert_eq!(tokens.calls().len(), 1);
    // One that the user is not known by, and so has to fetch it: first as most servers want it.
    build(&[("BUILDKIT_NO_CLIENT_TOKEN", "1")]).ok();
    let methods: Vec<String> = tokens.calls().into_iter().map(|call| call.method).collect();
    assert_eq!(methods, ["POST", "GET", "POST"]);

    login("wrong");
    fs::remove_file(config.join(".token_seed")).unwrap();
    let refused = build(&[]);
    let reason =
        "failed to authorize: failed to fetch oauth token: unexpected status from GET request to";
    assert!(refused.err().contains(reason), "{}", refused.stderr);
}

#[test]
fn tls_for_token_servers_is_checked_before_the_build() {
    let fixture = Fixture::with("FROM scratch\n");
    let with = |setting: &str| {
        let setting = ["--registry-auth-tlscontext", setting];
        run(&mut buildctl(&fixture, &[&BUILD[..], &setting].concat()))
    };
    with("host=r.example,insecure=true").ok();
    let refused = with("host=r.example");
    let reason =
        "--registry-auth-tlscontext requires ca=<ca> or cert=<cert>,key=<key> or insecure=true";
    assert!(refused.err().contains(reason), "{}", refused.stderr);
}

#[test]
fn the_database_of_a_daemon_that_does_not_run_is_shown() {
    let mut fixture = Fixture::with("FROM busybox\nRUN true\n");
    run(&mut buildctl(&fixture, &BUILD)).ok();
    let root = fixture.daemon.root();
    let dump = ["debug", "dump-metadata", "--root", root.to_str().unwrap()];
    let in_use = run(&mut buildctl(&fixture, &dump));
    assert!(in_use.err().contains("is in use"), "{}", in_use.stderr);
    fixture.daemon.stop().unwrap();
    let dumped = run(&mut buildctl(&fixture, &dump));
    let text = dumped.ok();
    assert!(text.starts_with("===== "), "{text}");
    for table in ["refs-meta", "layers", "refs", "ids", "usage", "history"] {
        assert!(
            text.contains(&format!("bucket \"{table}\":\n  ")),
            "{table}: {text}"
        );
    }
    assert!(text.contains("docker.io/library/busybox"), "{text}");
}

#[test]
fn what_is_held_for_the_history_is_as_old_as_the_oldest_of_it() {
    let fixture = Fixture::with("FROM busybox\nRUN yes | head -c 2000000\n");
    let before = std::time::SystemTime::now();
    run(&mut buildctl(&fixture, &BUILD)).ok();
    let held = || -> Value {
        let usage = run(&mut buildctl(&fixture, &["du", "--format", "json"]));
        let records: Value = serde_json::from_str(usage.ok()).unwrap();
        let records = records.as_array().unwrap();
        let held = records.iter().find(|record| record["id"] == "held-blobs");
        held.cloned().unwrap_or_default()
    };
    // The record of a build is written a moment after its answer.
    eventually("the log is kept", || !held().is_null());
    let made = held()["createdAt"].as_str().unwrap().to_owned();
    let hour = |time: std::time::SystemTime| {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_secs() / 3600
    };
    let date = run(Command::new("date").args(["+%s", "-d", &made]));
    let made: u64 = date.ok().trim().parse().unwrap();
    assert!(
        (hour(before)..=hour(before) + 1).contains(&(made / 3600)),
        "{made}"
    );
}
