//! What each flag of `RUN`, and each option of a build for its steps, does to a step.

use crate::fixture::{Fixture, run};

/// What the step whose name has `part` printed.
fn printed<'a>(build: &'a crate::fixture::Build, part: &str) -> Vec<&'a str> {
    build.step(part).log.lines().map(str::trim).collect()
}

#[test]
fn a_step_has_the_network_that_it_asks_for() {
    let dockerfile = "\
FROM busybox
RUN --network=none echo none; ls /sys/class/net
RUN --network=default echo default; cat /etc/hosts | head -1
RUN --network=host echo host; readlink /proc/self/ns/net
";
    let fixture = Fixture::permissive();
    fixture.dockerfile(dockerfile);
    let refused = fixture.build(&[]).ran;
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("network.host"),
        "{}",
        refused.stderr
    );
    let build = fixture.build(&["--allow", "network.host"]);
    build.ran.ok();
    assert_eq!(printed(&build, "echo none"), ["none", "lo"]);
    assert_eq!(
        printed(&build, "echo default")[1],
        "127.0.0.1\tlocalhost buildkitsandbox"
    );
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(printed(&build, "echo host")[1], own.to_str().unwrap());

    fixture.dockerfile("FROM busybox\nRUN ls /sys/class/net\n");
    let build = fixture.build(&["--network", "none"]);
    assert_eq!(printed(&build, "ls /sys"), ["lo"]);
}

#[test]
fn an_insecure_step_may_do_what_others_may_not() {
    let dockerfile = "\
FROM busybox
RUN --security=sandbox mount -t tmpfs none /tmp 2> /dev/null || echo confined
RUN --security=insecure mount -t tmpfs none /tmp && echo free
";
    let fixture = Fixture::permissive();
    fixture.dockerfile(dockerfile);
    let refused = fixture.build(&[]).ran;
    assert!(
        refused.stderr.contains("security.insecure"),
        "{}",
        refused.stderr
    );
    let build = fixture.build(&["--allow", "security.insecure"]);
    build.ran.ok();
    assert_eq!(printed(&build, "security=sandbox"), ["confined"]);
    assert_eq!(printed(&build, "security=insecure"), ["free"]);
}

#[test]
fn bind_mounts_take_their_options() {
    let dockerfile = "\
FROM busybox AS other
RUN mkdir -p /o/p && echo deep > /o/p/q
FROM busybox
WORKDIR /work
RUN --mount=source=dir/f,target=/new/g cat /new/g; touch /new/g 2>&1 || echo read-only
RUN --mount=src=dir,dst=rel ls rel
RUN --mount=type=bind,target=/ctx,readwrite echo more > /ctx/dir/new; ls /ctx/dir
RUN --mount=target=/ctx,ro=false ls /ctx/dir
RUN --mount=from=other,source=o/p/q,destination=/m/q,readonly cat /m/q
RUN --mount=from=busybox,source=/bin,target=/tools /tools/echo from an image
RUN ls -d /new /m /tools 2>/dev/null; true
";
    let fixture = Fixture::with(dockerfile);
    fixture.write("dir/f", "file\n");
    let build = fixture.build(&[]);
    build.ran.ok();
    let read_only = printed(&build, "/new/g");
    assert_eq!((read_only[0], read_only[2]), ("file", "read-only"));
    assert_eq!(printed(&build, "dst=rel"), ["f"]);
    assert_eq!(printed(&build, "readwrite"), ["f", "new"]);
    assert_eq!(printed(&build, "ro=false"), ["f"]);
    assert_eq!(printed(&build, "from=other"), ["deep"]);
    assert_eq!(printed(&build, "from=busybox"), ["from an image"]);
    // What a mount point needed is gone with the mount.
    assert_eq!(printed(&build, "ls -d /new"), Vec::<&str>::new());
}

#[test]
fn cache_mounts_take_their_options() {
    let dockerfile = "\
FROM busybox AS seed
RUN mkdir -p /s/d && echo seed > /s/d/f
FROM busybox
RUN --mount=type=cache,target=/c,id=one,mode=0700,uid=5,gid=6 stat -c '%a %u %g' /c; echo x > /c/kept
RUN --mount=type=cache,target=/other,id=one,sharing=shared ls /other
RUN --mount=type=cache,target=/c,id=seeded,from=seed,source=/s find /c -type f; touch /c/more
RUN --mount=type=cache,target=/c,id=seeded,from=seed,source=/s,sharing=locked ls /c
RUN --mount=type=cache,target=/c,id=one,ro touch /c/y 2>&1 || echo read-only cache
RUN --mount=type=cache,target=/p,sharing=private echo p > /p/f; ls /p
";
    let fixture = Fixture::with(dockerfile);
    let build = fixture.build(&[]);
    build.ran.ok();
    assert_eq!(printed(&build, "mode=0700"), ["700 5 6"]);
    assert_eq!(printed(&build, "sharing=shared"), Vec::<&str>::new());
    assert_eq!(printed(&build, "find /c"), ["/c/d/f"]);
    assert_eq!(printed(&build, "sharing=locked"), ["d", "more"]);
    assert_eq!(printed(&build, "id=one,ro")[1], "read-only cache");
    assert_eq!(printed(&build, "sharing=private"), ["f"]);

    // Another namespace has caches of its own.
    fixture.dockerfile("FROM busybox\nRUN --mount=type=cache,id=one,target=/c ls /c\n");
    let build = fixture.build(&["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=elsewhere"]);
    assert_eq!(printed(&build, "ls /c"), Vec::<&str>::new());
    // So has one whose directory is made otherwise.
    let steps = "RUN --mount=type=cache,id=two,target=/c echo x > /c/kept\nRUN --mount=type=cache,id=two,target=/d ls /d\n";
    fixture.dockerfile(&format!("FROM busybox\n{steps}"));
    assert_eq!(printed(&fixture.build(&[]), "ls /d"), ["kept"]);
}

#[test]
fn a_tmpfs_has_its_size() {
    let dockerfile = "\
FROM busybox
RUN --mount=type=tmpfs,target=/t,size=2m df -k /t | tail -1 | awk '{print $2}'; touch /t/f
RUN ls -d /t 2> /dev/null || echo gone
";
    let fixture = Fixture::with(dockerfile);
    let build = fixture.build(&[]);
    build.ran.ok();
    assert_eq!(printed(&build, "type=tmpfs"), ["2048"]);
    assert_eq!(printed(&build, "ls -d"), ["gone"]);
}

#[test]
fn secrets_and_agents_take_their_options() {
    let dockerfile = "\
FROM busybox
RUN --mount=type=secret,id=s,target=/etc/app/s,mode=0440,uid=3,gid=4 stat -c '%a %u %g' /etc/app/s
RUN --mount=type=secret,id=s,env=TOKEN,target=/at echo $TOKEN; cat /at
RUN --mount=type=secret,id=s,dst=rel cat /rel
WORKDIR /home/me
RUN --mount=type=secret,id=s,dst=rel cat /home/me/rel rel
RUN --mount=type=ssh,required=false echo [$SSH_AUTH_SOCK]
";
    let fixture = Fixture::with(dockerfile);
    let path = fixture.scratch().join("s");
    std::fs::write(&path, "s3cret").unwrap();
    let secret = format!("id=s,src={}", path.display());
    let build = fixture.build(&["--secret", &secret]);
    build.ran.ok();
    assert_eq!(printed(&build, "mode=0440"), ["440 3 4"]);
    assert_eq!(printed(&build, "env=TOKEN"), ["s3cret", "s3cret"]);
    assert_eq!(printed(&build, "cat /rel"), ["s3cret"]);
    assert_eq!(printed(&build, "cat /home/me/rel"), ["s3crets3cret"]);
    assert_eq!(printed(&build, "type=ssh"), ["[/run/buildkit/ssh_agent.0]"]);
    for (step, error) in [
        ("--mount=type=secret,id=t,required", "secret t: not found"),
        (
            "--mount=type=secret,id=t,required,env=T",
            "failed to solve: secret t: not found",
        ),
        (
            "--mount=type=ssh,required",
            "no SSH key \"\" forwarded from the client",
        ),
    ] {
        fixture.dockerfile(&format!("FROM busybox\nRUN {step} true\n"));
        let ran = fixture.drydock(&["build", "--progress", "plain", "."]);
        assert!(ran.err().contains(error), "no `{error}` in {}", ran.stderr);
    }
}

#[test]
fn options_of_the_build_hold_for_its_steps() {
    let dockerfile = "\
FROM busybox
RUN ulimit -n; ulimit -Hn
RUN df -k /dev/shm | tail -1 | awk '{print $2}'
RUN grep known /etc/hosts
RUN hostname
RUN cat /proc/self/cgroup | head -1
RUN echo $HTTP_PROXY $http_proxy $no_proxy
";
    let fixture = Fixture::with(dockerfile);
    let mut command = fixture.command(&["build", "--progress", "rawjson"]);
    command.args(["--ulimit", "nofile=100:200", "--shm-size", "32m"]);
    command.args(["--add-host", "known:1.2.3.4", "--cgroup-parent", "/under"]);
    command.args(["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=named"]);
    command.args(["--build-arg", "HTTP_PROXY=http://proxy", "--build-arg"]);
    let build = crate::fixture::Build::new(run(command.args(["no_proxy=here", "."])));
    build.ran.ok();
    assert_eq!(printed(&build, "ulimit"), ["100", "200"]);
    assert_eq!(printed(&build, "/dev/shm"), ["32768"]);
    assert_eq!(printed(&build, "known"), ["1.2.3.4\tknown"]);
    assert_eq!(printed(&build, "hostname"), ["named"]);
    assert_eq!(
        printed(&build, "$no_proxy"),
        ["http://proxy http://proxy here"]
    );
    assert_eq!(printed(&build, "cgroup").len(), 1);
}

#[test]
fn lines_of_user_files_count_for_what_they_have() {
    let passwd = "root:x:0:0::/:\nodd:x:none:7::/odd:\nalice:x:1000:1001::/home/alice:\n";
    let dockerfile = "\
FROM busybox
COPY passwd group /etc/
USER odd
RUN grep -E '^(Uid|Gid)' /proc/self/status | awk '{print $2}'; echo $HOME
USER alice
RUN id -u; id -G
USER 7777:staff
RUN id -u; id -g
";
    let fixture = Fixture::with(dockerfile);
    fixture.write("passwd", passwd);
    fixture.write("group", "# a comment\nroot:x:0:\nstaff:x:50:alice\n");
    let build = fixture.build(&[]);
    build.ran.ok();
    assert_eq!(printed(&build, "$HOME"), ["0", "7", "/"]);
    assert_eq!(printed(&build, "id -G"), ["1000", "1001 50"]);
    assert_eq!(printed(&build, "id -g"), ["7777", "50"]);
}

#[test]
fn a_program_that_cannot_be_executed_is_a_step_that_failed() {
    let fixture = Fixture::new();
    for (step, reason) in [
        (
            "[\"nonexistent\"]",
            "exec: \"nonexistent\": executable file not found in $PATH",
        ),
        (
            "[\"/etc/passwd\"]",
            "exec: \"/etc/passwd\": permission denied",
        ),
    ] {
        fixture.dockerfile(&format!("FROM busybox\nRUN {step}\n"));
        let build = fixture.build(&[]);
        let end = format!("did not complete successfully: exit code: 1: {reason}");
        assert!(
            build.ran.stderr.contains(&end.replace('"', "\\\"")) || build.ran.stderr.contains(&end),
            "{}",
            build.ran.stderr
        );
        let line = format!("unable to start container process: {reason}");
        assert_eq!(printed(&build, "RUN"), [line]);
    }
}
