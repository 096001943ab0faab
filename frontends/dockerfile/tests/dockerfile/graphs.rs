//! What instructions become.

use std::collections::HashMap;
use std::fmt::Write as _;

use expect_test::{Expect, expect};
use llb::{ExecOp, FileActionKind, FileOp, Graph, MountKind, OpKind, SourceOp};
use oci::Digest;

use crate::engine::Engine;

fn check(engine: Engine, expected: Expect) {
    expected.assert_eq(&show(engine.build().graph()));
}

/// A line for each vertex: its number, what it does, and the numbers of its inputs.
fn show(graph: &Graph) -> String {
    let mut numbers: HashMap<Digest, usize> = HashMap::new();
    let mut text = String::new();
    for (number, vertex) in graph.vertices().enumerate() {
        numbers.insert(vertex.digest(), number);
        let inputs = vertex.inputs().iter();
        let inputs: Vec<usize> = inputs.map(|input| numbers[&input.digest]).collect();
        let what = match &vertex.op().kind {
            OpKind::Source(source) => show_source(source),
            OpKind::Exec(exec) => show_exec(exec),
            OpKind::File(file) => show_file(file),
            OpKind::Merge(_) => "merge".to_owned(),
            other => format!("{other:?}"),
        };
        writeln!(text, "{number} {what} {inputs:?} {}", vertex.name()).unwrap();
    }
    text
}

fn show_source(source: &SourceOp) -> String {
    let name = source.identifier.split('@').next().unwrap();
    let attrs = ["local.followpaths", "local.excludepatterns"];
    let attrs = attrs.iter().filter_map(|key| source.attrs.get(*key));
    let attrs: String = attrs.map(|value| format!(" {value}")).collect();
    format!("{name}{attrs}")
}

fn show_exec(exec: &ExecOp) -> String {
    let mut text = format!("exec {:?} in {}", exec.meta.args, exec.meta.cwd);
    if !exec.meta.user.is_empty() {
        write!(text, " as {}", exec.meta.user).unwrap();
    }
    for variable in exec.meta.env.iter().filter(|v| *v != "PATH=/bin") {
        write!(text, " {variable}").unwrap();
    }
    for mount in exec.mounts.iter().filter(|mount| mount.dest != "/") {
        let kind = match &mount.kind {
            MountKind::Bind => "bind".to_owned(),
            MountKind::Cache(cache) => format!("cache {}", cache.id),
            MountKind::Tmpfs { .. } => "tmpfs".to_owned(),
            MountKind::Secret(secret) => format!("secret {}", secret.id),
            MountKind::Ssh(ssh) => format!("ssh {}", ssh.id),
        };
        let how = if mount.readonly { " ro" } else { "" };
        write!(text, " <{kind}{how} at {}{}>", mount.dest, mount.selector).unwrap();
    }
    text
}

fn show_file(file: &FileOp) -> String {
    let actions = file.actions.iter().map(|action| match &action.kind {
        FileActionKind::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
        FileActionKind::MkDir(mkdir) => format!("mkdir {}", mkdir.path),
        FileActionKind::MkFile(file) => format!("write {} {:?}", file.path, file.data),
        other => format!("{other:?}"),
    });
    actions.collect::<Vec<_>>().join(", ")
}

#[test]
fn only_what_the_target_needs_is_in_the_graph() {
    let text = "
        FROM alpine AS build
        RUN make
        FROM debian:12 AS unused
        RUN apt
        FROM scratch
        COPY --from=build /app /bin/
        ";
    check(
        Engine::new(text),
        expect![[r#"
        0 docker-image://docker.io/library/alpine:latest [] [build 1/2] FROM docker.io/library/alpine:latest@sha256:c9ef5b1f0b442255774ae31a839ff48ce1206a606a97052db8b4a13ae153fb7c
        1 exec ["/bin/sh", "-c", "make"] in / [0] [build 2/2] RUN make
        2 copy /app /bin/ [1] [stage-2 1/1] COPY --from=build /app /bin/
    "#]],
    );
}

#[test]
fn the_target_is_chosen_by_name() {
    let text = "FROM alpine AS one\nRUN 1\nFROM one AS two\nRUN 2\n";
    check(
        Engine::new(text).option("target", "ONE"),
        expect![[r#"
        0 docker-image://docker.io/library/alpine:latest [] [one 1/2] FROM docker.io/library/alpine:latest@sha256:c9ef5b1f0b442255774ae31a839ff48ce1206a606a97052db8b4a13ae153fb7c
        1 exec ["/bin/sh", "-c", "1"] in / [0] [one 2/2] RUN 1
    "#]],
    );
}

#[test]
fn commands_run_where_and_as_what_was_set_before_them() {
    let text = r#"
        ARG VERSION=1
        FROM alpine
        ARG VERSION
        ENV HOME=/home/$VERSION
        WORKDIR app
        USER me
        SHELL ["/bin/bash", "-c"]
        RUN echo $HOME
        RUN ["ls", "$HOME"]
        "#;
    let engine = Engine::new(text).option("build-arg:VERSION", "2");
    check(
        engine,
        expect![[r#"
        0 docker-image://docker.io/library/alpine:latest [] [1/4] FROM docker.io/library/alpine:latest@sha256:c9ef5b1f0b442255774ae31a839ff48ce1206a606a97052db8b4a13ae153fb7c
        1 mkdir /app [0] [2/4] WORKDIR app
        2 exec ["/bin/bash", "-c", "echo $HOME"] in /app as me VERSION=2 HOME=/home/2 [1] [3/4] RUN echo /home/2
        3 exec ["ls", "$HOME"] in /app as me VERSION=2 HOME=/home/2 [2] [4/4] RUN ["ls", "/home/2"]
    "#]],
    );
}

#[test]
fn of_the_context_only_what_is_used_is_taken() {
    let text = "FROM alpine\nCOPY a b/* /c/\nADD c.tar /d\n";
    let ignore = "# all but\n*.log\n!keep.log\n";
    let engine = Engine::new(text).file("context", ".dockerignore", ignore);
    check(
        engine,
        expect![[r#"
        0 docker-image://docker.io/library/alpine:latest [] [1/3] FROM docker.io/library/alpine:latest@sha256:c9ef5b1f0b442255774ae31a839ff48ce1206a606a97052db8b4a13ae153fb7c
        1 local://context ["a","b/*","c.tar"] ["*.log","!keep.log"] [] [internal] load build context
        2 copy /a /c/, copy /b/* /c/ [0, 1] [2/3] COPY a b/* /c/
        3 copy /c.tar /d [2, 1] [3/3] ADD c.tar /d
    "#]],
    );
}

#[test]
fn an_ignore_file_of_the_dockerfiles_own_comes_first() {
    let engine = Engine::new("FROM scratch\nCOPY . .\n")
        .file("context", ".dockerignore", "all\n")
        .file("dockerfile", "Dockerfile.dockerignore", "own\n");
    check(
        engine,
        expect![[r#"
        0 local://context ["own"] [] [internal] load build context
        1 copy / / [0] [1/1] COPY . .
    "#]],
    );
}

#[test]
fn heredocs_are_scripts_and_files() {
    let text = r#"
FROM alpine
RUN <<END
echo one
echo two
END
RUN <<-"END"
	#!/bin/python
	print("$HOME")
	END
ARG A=b
COPY <<one <<"two" /etc/
is $A
one
is $A
two
"#;
    check(
        Engine::new(text),
        expect![[r##"
        0 docker-image://docker.io/library/alpine:latest [] [1/4] FROM docker.io/library/alpine:latest@sha256:c9ef5b1f0b442255774ae31a839ff48ce1206a606a97052db8b4a13ae153fb7c
        1 exec ["/bin/sh", "-c", "echo one\necho two\n"] in / [0] [2/4] RUN <<END (echo one...)
        2 write /END b"#!/bin/python\nprint(\"$HOME\")\n" [] [internal] preparing inline document
        3 exec ["/bin/sh", "-c", "/dev/pipes/END"] in / <bind ro at /dev/pipes//> [1, 2] [3/4] RUN <<-"END" (#!/bin/python...)
        4 write /two b"is $A\n" [] [internal] preparing inline document
        5 write /one b"is b\n" [] [internal] preparing inline document
        6 copy /one /etc/, copy /two /etc/ [3, 5, 4] [4/4] COPY <<one <<two /etc/
    "##]],
    );
}

#[test]
fn mounts_come_from_stages_the_context_and_the_client() {
    let text = r"
        FROM debian:12 AS tools
        FROM alpine
        WORKDIR /src
        RUN --mount=from=tools,source=/opt,target=/opt \
            --mount=target=. \
            --mount=type=cache,target=/root/.cache \
            --mount=type=tmpfs,target=/tmp \
            --mount=type=secret,id=token \
            --mount=type=ssh \
            make
        ";
    check(
        Engine::new(text),
        expect![[r#"
        0 docker-image://docker.io/library/alpine:latest [] [stage-1 1/3] FROM docker.io/library/alpine:latest@sha256:c9ef5b1f0b442255774ae31a839ff48ce1206a606a97052db8b4a13ae153fb7c
        1 mkdir /src [0] [stage-1 2/3] WORKDIR /src
        2 docker-image://docker.io/library/debian:12 [] [tools 1/1] FROM docker.io/library/debian:12@sha256:2c6047a3e5437e109e09dadb2c4d0b8f0756e1a1a2caa78e31a6dd10ee7fda01
        3 local://context [] [internal] load build context
        4 exec ["/bin/sh", "-c", "make"] in /src SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0 <bind ro at /opt/opt> <cache //root/.cache at /root/.cache> <bind ro at /src> <tmpfs at /tmp> <secret token at /run/secrets/token> <ssh  at /run/buildkit/ssh_agent.0> [1, 2, 3] [stage-1 3/3] RUN --mount=from=tools,source=/opt,target=/opt             --mount=target=.             --mount=type=cache,target=/root/.cache             --mount=type=tmpfs,target=/tmp             --mount=type=secret,id=token             --mount=type=ssh             make
    "#]],
    );
}

#[test]
fn a_linked_copy_is_stacked_on_its_stage() {
    check(
        Engine::new("FROM alpine\nCOPY --link a /\n"),
        expect![[r#"
        0 docker-image://docker.io/library/alpine:latest [] [1/2] FROM docker.io/library/alpine:latest@sha256:c9ef5b1f0b442255774ae31a839ff48ce1206a606a97052db8b4a13ae153fb7c
        1 local://context ["a"] [] [internal] load build context
        2 copy /a / [1] [2/2] COPY --link a /
        3 merge [0, 2] [2/2] LINK COPY --link a /
    "#]],
    );
}

#[test]
fn triggers_of_a_base_image_come_first() {
    let config = r#"{"architecture":"amd64","os":"linux",
        "config":{"Env":["PATH=/bin"],"OnBuild":["COPY . /src","RUN make"]},
        "history":[{"created_by":"base"}],"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let engine = Engine::new("FROM triggered\nRUN test\n")
        .image("docker.io/library/triggered:latest", config);
    check(
        engine,
        expect![[r#"
        0 docker-image://docker.io/library/triggered:latest [] [1/2] FROM docker.io/library/triggered:latest@sha256:dae041caefb8d9ddc042748ea1e1e249be0662fe274ba47645076f8a7287c922
        1 local://context [] [internal] load build context
        2 copy / /src [0, 1] [2/4] ONBUILD COPY . /src
        3 exec ["/bin/sh", "-c", "make"] in / [2] [3/4] ONBUILD RUN make
        4 exec ["/bin/sh", "-c", "test"] in / [3] [4/4] RUN test
    "#]],
    );
}

#[test]
fn a_context_stands_in_for_an_image() {
    let engine = Engine::new("FROM base\nRUN x\n").option("context:base", "docker-image://alpine");
    check(
        engine,
        expect![[r#"
        0 docker-image://docker.io/library/alpine:latest [] [context base] alpine
        1 exec ["/bin/sh", "-c", "x"] in / [0] [1/2] RUN x
    "#]],
    );
}

#[test]
fn an_argument_of_the_client_chooses_the_base() {
    let text = "ARG BASE=alpine\nFROM ${BASE}\nRUN x\n";
    let engine = Engine::new(text).option("build-arg:BASE", "debian:12");
    check(
        engine,
        expect![[r#"
        0 docker-image://docker.io/library/debian:12 [] [1/2] FROM docker.io/library/debian:12@sha256:2c6047a3e5437e109e09dadb2c4d0b8f0756e1a1a2caa78e31a6dd10ee7fda01
        1 exec ["/bin/sh", "-c", "x"] in / [0] [2/2] RUN x
    "#]],
    );
}

#[test]
fn downloads_and_repositories_are_sources() {
    let text = "
        FROM scratch
        ADD https://example.com/a.tgz /a/
        ADD https://github.com/moby/buildkit.git#v0.10.0 /b
        ";
    check(
        Engine::new(text),
        expect![[r#"
        0 https://example.com/a.tgz [] [1/2] ADD https://example.com/a.tgz /a/
        1 copy /a.tgz /a/ [0] [1/2] ADD https://example.com/a.tgz /a/
        2 git://github.com/moby/buildkit.git#v0.10.0 [] [2/2] ADD https://github.com/moby/buildkit.git#v0.10.0 /b
        3 copy / /b [1, 2] [2/2] ADD https://github.com/moby/buildkit.git#v0.10.0 /b
    "#]],
    );
}
