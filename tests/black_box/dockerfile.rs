//! What each instruction does to the files and the config of the result.

use serde_json::json;

use crate::fixture::Fixture;

#[test]
fn scratch_is_empty() {
    let fixture = Fixture::with("FROM scratch\nCOPY a /b\n");
    fixture.write("a", "content");
    let files = fixture.files(&[]);
    assert_eq!(files.names("."), ["b"]);
    assert_eq!(files.text("b"), "content");
}

#[test]
fn only_stages_that_the_target_needs_are_built() {
    let dockerfile = "\
FROM busybox AS base
RUN echo base > /base
FROM busybox AS unneeded
RUN exit 1
FROM base AS first
RUN echo first > /first
FROM base AS second
RUN echo second > /second
FROM scratch
COPY --from=first /first /base /
";
    let fixture = Fixture::with(dockerfile);
    let files = fixture.files(&[]);
    assert_eq!(files.names("."), ["base", "first"]);
    let names: Vec<_> = files.build.steps.iter().map(|step| &step.name).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.contains("unneeded") || name.contains("second")),
        "{names:?}"
    );
    let second = fixture.files(&["--target", "second"]);
    assert!(second.has("second") && !second.has("first"));
}

#[test]
fn arguments_and_variables_are_expanded_where_they_are_in_scope() {
    let dockerfile = "\
ARG IMAGE=nothing
FROM $IMAGE
ARG WHO=world
ARG SET
ENV GREETING=hello FULL=\"${WHO}-$SET\"
RUN echo \"$GREETING $WHO $SET [$IMAGE]\" > /out
COPY ${FULL}.txt /
LABEL full=$FULL other=${MISSING:-default} alt=${WHO:+set}
WORKDIR /$WHO
";
    let fixture = Fixture::with(dockerfile);
    fixture.write("you-given.txt", "copied");
    let arguments = ["IMAGE=busybox", "WHO=you", "SET=given"];
    let arguments: Vec<_> = arguments
        .iter()
        .flat_map(|text| ["--build-arg", *text])
        .collect();
    let files = fixture.files(&arguments);
    assert_eq!(files.text("out"), "hello you given []");
    assert_eq!(files.text("you-given.txt"), "copied");
    let config = fixture.config(&arguments);
    let config = &config["config"];
    assert_eq!(
        config["Labels"],
        json!({"full": "you-given", "other": "default", "alt": "set"})
    );
    assert_eq!(config["WorkingDir"], "/you");
    let env = config["Env"].as_array().unwrap();
    assert!(env.contains(&json!("GREETING=hello")) && env.contains(&json!("FULL=you-given")));
    assert!(
        !env.iter()
            .any(|variable| variable.as_str().unwrap().starts_with("WHO="))
    );
}

#[test]
fn a_user_runs_what_follows() {
    let dockerfile = "\
FROM busybox
RUN id -u > /root-id && chmod 777 /tmp
USER nobody:staff
RUN echo $(id -u) $(id -g) > /tmp/ids
COPY file /tmp/copied
COPY --chown=nobody:nogroup --chmod=640 file /tmp/owned
WORKDIR /made
RUN stat -c '%u:%g %a' /tmp/ids /tmp/copied /tmp/owned /made > /tmp/stat
";
    let fixture = Fixture::with(dockerfile);
    fixture.write("file", "x");
    let files = fixture.files(&[]);
    assert_eq!(files.text("root-id"), "0");
    assert_eq!(files.text("tmp/ids"), "65534 50");
    let expected = ["65534:50 644", "0:0 644", "65534:65534 640", "65534:50 755"];
    assert_eq!(files.text("tmp/stat").lines().collect::<Vec<_>>(), expected);
    assert_eq!(fixture.config(&[])["config"]["User"], "nobody:staff");
}

#[test]
fn a_shell_runs_what_follows() {
    let dockerfile = "\
FROM busybox
SHELL [\"/bin/sh\", \"-e\", \"-c\"]
RUN echo $- > /flags
SHELL [\"/bin/echo\"]
RUN is not a shell
RUN [\"/bin/sh\", \"-c\", \"echo exec > /exec\"]
CMD run by the shell
";
    let fixture = Fixture::with(dockerfile);
    let files = fixture.files(&[]);
    assert!(files.text("flags").contains('e'));
    assert_eq!(files.text("exec"), "exec");
    assert_eq!(
        files.build.step("is not a shell").log.trim(),
        "is not a shell"
    );
    let config = fixture.config(&[]);
    assert_eq!(
        config["config"]["Cmd"],
        json!(["/bin/echo", "run by the shell"])
    );
    assert_eq!(config["config"]["Shell"], json!(["/bin/echo"]));
}

#[test]
fn instructions_without_files_are_in_the_config() {
    let dockerfile = "\
FROM busybox
HEALTHCHECK --interval=5s --timeout=2s --retries=3 CMD wget -q localhost || exit 1
EXPOSE 80 53/udp
VOLUME /data /more
STOPSIGNAL SIGQUIT
ENTRYPOINT [\"/bin/echo\", \"entry\"]
CMD [\"and\", \"command\"]
ONBUILD RUN echo later > /later
";
    let fixture = Fixture::with(dockerfile);
    let config = fixture.config(&[]);
    let expected = json!({
        "Test": ["CMD-SHELL", "wget -q localhost || exit 1"],
        "Interval": 5_000_000_000_u64,
        "Timeout": 2_000_000_000_u64,
        "Retries": 3,
    });
    let config = &config["config"];
    assert_eq!(config["Healthcheck"], expected);
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
    assert_eq!(config["Volumes"], json!({"/data": {}, "/more": {}}));
    assert_eq!(config["StopSignal"], "SIGQUIT");
    assert_eq!(config["Entrypoint"], json!(["/bin/echo", "entry"]));
    assert_eq!(config["Cmd"], json!(["and", "command"]));
    assert_eq!(config["OnBuild"], json!(["RUN echo later > /later"]));
}

#[test]
fn triggers_run_in_the_image_built_on_theirs() {
    let fixture = Fixture::with("FROM busybox\nONBUILD RUN echo later > /later\n");
    let name = fixture.registry.reference("triggers:1");
    let build = fixture.build(&["--tag", &name, "--push"]);
    build.ran.ok();
    assert!(build.executed().is_empty());
    fixture.dockerfile(&format!("FROM {name}\nRUN cat /later > /seen\n"));
    assert_eq!(fixture.files(&[]).text("seen"), "later");
    assert!(fixture.config(&[])["config"]["OnBuild"].is_null());
}

#[test]
fn heredocs_are_scripts_and_files() {
    let dockerfile = "\
FROM busybox
ARG WHO=you
RUN <<EOF
set -e
echo one > /one
echo two > /two
EOF
RUN <<EOF cat > /cat
to a program
EOF
RUN <<EOF
#!/bin/awk -f
BEGIN { print \"awk\" > \"/awk\" }
EOF
COPY <<EOF <<\"RAW\" /texts/
hello $WHO
EOF
hello $WHO
RAW
";
    let fixture = Fixture::with(dockerfile);
    let files = fixture.files(&[]);
    for (path, text) in [
        ("one", "one"),
        ("two", "two"),
        ("cat", "to a program"),
        ("awk", "awk"),
        ("texts/EOF", "hello you"),
        ("texts/RAW", "hello $WHO"),
    ] {
        assert_eq!(files.text(path), text, "{path}");
    }
}

#[test]
fn dockerignore_keeps_files_out() {
    let fixture = Fixture::with("FROM scratch\nCOPY . /\n");
    fixture.write(
        ".dockerignore",
        "# comment\n*.log\n!keep.log\nsecret\n**/target\n/Dockerfile\n",
    );
    for path in [
        "a.txt",
        "b.log",
        "keep.log",
        "secret/key",
        "src/target/o",
        "src/main.rs",
    ] {
        fixture.write(path, path);
    }
    let files = fixture.files(&[]);
    assert_eq!(
        files.names("."),
        [".dockerignore", "a.txt", "keep.log", "src"]
    );
    assert_eq!(files.names("src"), ["main.rs"]);
}

#[test]
fn copies_follow_the_rules_of_paths() {
    let dockerfile = "\
FROM scratch
COPY dir /whole
COPY dir/a* single/x /many/
COPY single/x /renamed
COPY [\"with space\", \"/quoted\"]
COPY --exclude=*.md dir /excluded/
ADD archive.tar /unpacked/
";
    let fixture = Fixture::with(dockerfile);
    for path in [
        "dir/a1",
        "dir/a2",
        "dir/b.md",
        "dir/sub/c",
        "single/x",
        "with space",
    ] {
        fixture.write(path, path);
    }
    let archive = fixture.context().join("archive.tar");
    let archived = ["-cf", archive.to_str().unwrap(), "-C"];
    let directory = fixture.context().join("dir");
    crate::fixture::tool(
        "tar",
        &[&archived[..], &[directory.to_str().unwrap(), "a1", "sub"]].concat(),
    );
    let files = fixture.files(&[]);
    assert_eq!(files.names("whole"), ["a1", "a2", "b.md", "sub"]);
    assert_eq!(files.names("many"), ["a1", "a2", "x"]);
    assert_eq!(files.text("renamed"), "single/x");
    assert_eq!(files.text("quoted"), "with space");
    assert_eq!(files.names("excluded"), ["a1", "a2", "sub"]);
    assert_eq!(files.names("unpacked"), ["a1", "sub"]);
}

#[test]
fn secrets_are_there_for_a_step_and_in_no_image() {
    let dockerfile = "\
FROM busybox
RUN --mount=type=secret,id=token cat /run/secrets/token | wc -c > /length
RUN --mount=type=secret,id=name,env=NAME test \"$NAME\" = from-the-environment
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
";
    let fixture = Fixture::with(dockerfile);
    let token = "correct-horse-battery-staple";
    let path = fixture.scratch().join("token");
    std::fs::write(&path, token).unwrap();
    let secret = format!("id=token,src={}", path.display());
    let layout = fixture.scratch().join("image");
    let archive = fixture.scratch().join("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let arguments = [
        "--secret",
        &secret,
        "--secret",
        "id=name,env=SECRET_NAME",
        "-o",
        &output,
    ];
    let mut command = fixture.command(&["build", "--progress", "plain"]);
    command.env("SECRET_NAME", "from-the-environment");
    let ran = crate::fixture::run(command.args(arguments).arg("."));
    ran.ok();
    crate::fixture::untar(&archive, &layout);
    assert!(!ran.stderr.contains(token));
    // Without a name the image has no tag, which umoci wants.
    let (untagged, tagged) = (layout.display(), fixture.scratch().join("tagged:1"));
    let (source, tagged) = (format!("oci:{untagged}"), tagged.display().to_string());
    crate::fixture::tool("skopeo", &["copy", "-q", &source, &format!("oci:{tagged}")]);
    let directory = fixture.scratch().join("rootfs");
    let unpack = [
        "raw",
        "unpack",
        "--image",
        &tagged,
        directory.to_str().unwrap(),
    ];
    crate::fixture::tool("umoci", &unpack);
    let length = std::fs::read_to_string(directory.join("length")).unwrap();
    assert_eq!(length.trim(), token.len().to_string());
    assert!(!directory.join("run/secrets/token").exists());
    let root = fixture.daemon.root();
    let search = ["-rlF", token, root.to_str().unwrap()];
    let found = crate::fixture::run(std::process::Command::new("grep").args(search));
    assert_eq!(found.stdout, "", "the daemon keeps a secret");
}

#[test]
fn mounts_are_there_for_a_step_only() {
    let dockerfile = "\
FROM busybox AS other
RUN mkdir /d && echo other > /d/file
FROM busybox
RUN --mount=type=bind,target=/in cat /in/a.txt > /context
RUN --mount=type=bind,from=other,source=/d,target=/d cat /d/file > /other
RUN --mount=type=bind,target=/in,rw touch /in/written && test ! -e /written
RUN --mount=type=tmpfs,target=/t grep ' /t tmpfs' /proc/mounts > /tmpfs
RUN --mount=type=cache,target=/c echo kept > /c/kept
RUN --mount=type=cache,target=/c cat /c/kept > /cached
";
    let fixture = Fixture::with(dockerfile);
    fixture.write("a.txt", "context");
    let files = fixture.files(&[]);
    assert_eq!(files.text("context"), "context");
    assert_eq!(files.text("other"), "other");
    assert_eq!(files.text("cached"), "kept");
    assert!(!files.has("in/a.txt") && !files.has("c/kept") && !files.has("d/file"));
    assert!(!fixture.context().join("written").exists());
}

#[test]
fn named_contexts_and_dockerfiles_are_found_where_they_are_said_to_be() {
    let fixture = Fixture::with("FROM scratch\n");
    fixture.write(
        "sub/Other.Dockerfile",
        "FROM base\nCOPY --from=more file /copied\n",
    );
    let more = fixture.scratch().join("more");
    std::fs::create_dir(&more).unwrap();
    std::fs::write(more.join("file"), "more").unwrap();
    let more = format!("more={}", more.display());
    let arguments = ["-f", "sub/Other.Dockerfile", "--build-context", &more];
    let base = ["--build-context", "base=docker-image://busybox"];
    let files = fixture.files(&[&arguments[..], &base].concat());
    assert_eq!(files.text("copied"), "more");
    assert!(files.has("bin/busybox"));
}

#[test]
fn a_dockerfile_comes_from_standard_input() {
    let fixture = Fixture::new();
    fixture.write("a", "content");
    let directory = fixture.scratch().join("out");
    let mut command = fixture.command(&["build", "-q", "-f", "-", "-o"]);
    let mut child = command
        .arg(&directory)
        .arg(".")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"FROM scratch\nCOPY a /b\n").unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!(
        std::fs::read_to_string(directory.join("b")).unwrap(),
        "content"
    );
}

#[test]
fn lints_are_warnings() {
    let fixture = Fixture::with("from busybox\nENV legacy form\n");
    let build = fixture.build(&[]);
    build.ran.ok();
    let has = |name: &str| build.warnings.iter().any(|warning| warning.contains(name));
    assert!(has("LegacyKeyValueFormat"), "{:?}", build.warnings);
}

#[test]
fn the_last_maintainer_is_the_author() {
    let fixture =
        Fixture::with("FROM scratch\nMAINTAINER one\nMAINTAINER two <two@b.c>\nENV A=1\n");
    let config = fixture.config(&[]);
    assert_eq!(config["author"], "two <two@b.c>");
    let history = config["history"].as_array().unwrap();
    let steps: Vec<_> = history.iter().map(|entry| &entry["created_by"]).collect();
    assert_eq!(
        steps,
        [
            &json!("MAINTAINER one"),
            &json!("MAINTAINER two <two@b.c>"),
            &json!("ENV A=1"),
        ]
    );
}
