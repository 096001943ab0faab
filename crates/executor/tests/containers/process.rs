//! The life of processes: streams, exit, signals, terminals, users.

use executor::user::UserIds;
use executor::{CreateError, Exit, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Machine, read};

fn exited(code: i32) -> Exit {
    Exit {
        code,
        signal: None,
        oom: false,
    }
}

#[tokio::test]
async fn output_and_exit_code_arrive() {
    let machine = Machine::start().await;
    let (output, exit) = machine
        .shell("echo out; echo err >&2; exit 3")
        .output()
        .await;
    assert_eq!((output.as_str(), exit), ("out\nerr\n", exited(3)));
    machine.launcher.shutdown().await;
}

#[tokio::test]
async fn a_signal_ends_as_a_signal() {
    let machine = Machine::start().await;
    let (_, exit) = machine
        .shell("sh -c 'kill -TERM $$'; exit $?")
        .output()
        .await;
    assert_eq!(exit, exited(143));
    let container = machine.run(&["sleep", "60"]).start().await.unwrap();
    container.signal(libc::SIGTERM).unwrap(); // has no effect on a first process without handler
    container.signal(libc::SIGKILL).unwrap();
    let killed = Exit {
        code: 137,
        signal: Some(9),
        oom: false,
    };
    assert_eq!(container.wait().await.unwrap(), killed);
}

#[tokio::test]
async fn input_reaches_the_process_and_ends() {
    let machine = Machine::start().await;
    let run = machine
        .shell("tr a-z A-Z")
        .with(|run| run.stdio = Stdio::Pipes { stdin: true });
    let mut container = run.start().await.unwrap();
    let mut stdin = container.stdin.take().unwrap();
    let bytes = vec![b'x'; 300_000];
    let feed = async move {
        stdin.write_all(&bytes).await.unwrap();
    };
    let ((), output) = tokio::join!(feed, read(container.stdout.take()));
    assert_eq!(output, "X".repeat(300_000));
    assert_eq!(container.wait().await.unwrap(), exited(0));
}

#[tokio::test]
async fn without_streams_there_is_the_null_device() {
    let machine = Machine::start().await;
    let script = "cat; echo gone; test -c /proc/self/fd/0 && test -c /proc/self/fd/2";
    let (output, exit) = machine
        .shell(script)
        .with(|run| run.stdio = Stdio::Null)
        .output()
        .await;
    assert_eq!((output.as_str(), exit), ("", exited(0)));
}

#[tokio::test]
async fn a_terminal_controls_its_process_and_has_a_size() {
    let machine = Machine::start().await;
    let script = "tty; stty size; read line; echo got $line; ls -l /dev/console; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done";
    let tty = Stdio::Tty {
        rows: 33,
        cols: 101,
    };
    let mut container = machine
        .shell(script)
        .with(|run| run.stdio = tty)
        .start()
        .await
        .unwrap();
    container
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"typed\n")
        .await
        .unwrap();
    let mut stdout = container.stdout.take().unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains("ready") {
        let length = stdout.read(&mut buffer).await.unwrap();
        assert!(length > 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    container.resize(20, 40).unwrap();
    text.push_str(&read(Some(stdout)).await);
    assert_eq!(container.wait().await.unwrap(), exited(5), "{text}");
    for part in [
        "/dev/pts/0\r\n",
        "33 101\r\n",
        "typed\r\n",
        "got typed\r\n",
        "136,   0",
        "20 40\r\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(container.stderr.is_none());
}

async fn failure(machine: &Machine, args: &[&str]) -> (String, Option<i32>) {
    let error = machine.run(args).start().await.unwrap_err();
    assert!(matches!(error, CreateError::Exec { .. }), "{error:?}");
    (error.to_string(), error.exit_code())
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_told_in_the_words_of_runc() {
    let machine = Machine::start().await;
    for (args, message, code) in [
        (
            "nonexist",
            "exec: \"nonexist\": executable file not found in $PATH",
            127,
        ),
        (
            "/nonexist",
            "exec: \"/nonexist\": stat /nonexist: no such file or directory",
            127,
        ),
        ("/bin", "exec: \"/bin\": is a directory", 126),
        (
            "/etc/passwd",
            "exec: \"/etc/passwd\": permission denied",
            126,
        ),
    ] {
        let expected = (message.to_owned(), Some(code));
        assert_eq!(failure(&machine, &[args]).await, expected);
    }
    let rootfs = machine.rootfs("broken");
    std::fs::write(rootfs.upper.join("broken"), "no program").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(rootfs.upper.join("broken"), mode).unwrap();
    let mount = rootfs.mount();
    let error = machine
        .run(&["/broken"])
        .with(|run| run.rootfs = Some(mount))
        .start()
        .await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "exec /broken: exec format error"
    );
}

#[tokio::test]
async fn users_get_their_groups_home_and_streams() {
    let machine = Machine::start().await;
    let user = UserIds {
        uid: 1000,
        gid: 1000,
        groups: vec![1000, 77],
        home: None,
    };
    let script = "id; echo $HOME; echo through >/dev/stdout; echo $USER; umask; pwd; stat -c %u /new /new/dir";
    let text = machine
        .shell(script)
        .with(|run| {
            run.step.user = user.clone();
            run.step.cwd = "/new/dir".to_owned();
        })
        .text()
        .await;
    assert_eq!(
        text,
        "uid=1000(app) gid=1000 groups=77,1000\n/home/app\nthrough\n\n0022\n/new/dir\n1000\n1000\n"
    );
    assert_eq!(machine.shell("echo $HOME").text().await, "/root\n");
    let unknown = UserIds { uid: 4242, ..user };
    let text = machine
        .shell("echo $HOME")
        .with(|run| run.step.user = unknown)
        .text()
        .await;
    assert_eq!(text, "/\n");
}

#[tokio::test]
async fn the_last_value_of_a_variable_counts() {
    let machine = Machine::start().await;
    let run = machine.run(&["env"]).with(|run| {
        run.step
            .env
            .extend(["A=1", "B=2", "A=3", "HOME=/h"].map(str::to_owned));
    });
    let text = run.text().await;
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        ["B=2", "A=3", "HOME=/h"]
    );
}

#[tokio::test]
async fn limits_of_a_process_apply() {
    let machine = Machine::start().await;
    let run = machine.shell("ulimit -n; ulimit -Hn").with(|run| {
        run.step.ulimits.push(executor::spec::Ulimit {
            name: "nofile".to_owned(),
            soft: 77,
            hard: 99,
        });
    });
    assert_eq!(run.text().await, "77\n99\n");
    let own = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let text = machine.shell("ulimit -n; ulimit -Hn").text().await;
    assert_eq!(text, format!("{}\n{}\n", own.0, own.1));
}

#[tokio::test]
async fn further_processes_run_in_the_container_and_end_with_it() {
    let machine = Machine::start().await;
    let script = "trap 'exit 4' TERM; echo $$ > /started; echo up; while :; do sleep 0.05; done";
    let mut container = machine.shell(script).start().await.unwrap();
    let mut up = [0; 3];
    let stdout = container.stdout.as_mut().unwrap();
    stdout.read_exact(&mut up).await.unwrap();
    let exec = |args: &[&str]| {
        let spec = executor::spec::step(crate::fixture::step(args)).unwrap();
        spec.process().clone().unwrap()
    };
    let pipes = || Stdio::Pipes { stdin: false };
    let script = "cat /started; for ns in mnt pid net ipc uts cgroup; do readlink /proc/1/ns/$ns; readlink /proc/self/ns/$ns; done | sort -u | wc -l; \
                  grep -c . /proc/1/cgroup; cmp /proc/1/cgroup /proc/self/cgroup && \
                  grep -E 'CapEff|Seccomp:' /proc/self/status; exit 9";
    let mut process = container
        .exec(&exec(&["sh", "-c", script]), pipes())
        .await
        .unwrap();
    let (stdout, stderr) = tokio::join!(read(process.stdout.take()), read(process.stderr.take()));
    assert_eq!(process.wait().await.unwrap(), exited(9), "{stdout}{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[..2], ["1", "6"], "{stdout}{stderr}");
    assert_eq!(
        lines[3..],
        ["CapEff:\t00000000a80425fb", "Seccomp:\t2"],
        "{stdout}{stderr}"
    );

    let tty = Stdio::Tty { rows: 10, cols: 20 };
    let mut shell = container
        .exec(&exec(&["sh", "-c", "tty; stty size"]), tty)
        .await
        .unwrap();
    assert_eq!(read(shell.stdout.take()).await, "/dev/pts/0\r\n10 20\r\n");
    let error = container
        .exec(&exec(&["nonexist"]), pipes())
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), Some(127));

    let sleeper = container
        .exec(&exec(&["sleep", "60"]), pipes())
        .await
        .unwrap();
    container.signal(libc::SIGTERM).unwrap();
    assert_eq!(container.wait().await.unwrap(), exited(4));
    assert_eq!(sleeper.wait().await.unwrap().signal, Some(9));
    let late = container.exec(&exec(&["true"]), pipes()).await.unwrap_err();
    assert!(matches!(late, CreateError::Ended), "{late:?}");
}

#[tokio::test]
async fn a_dropped_container_is_killed_with_all_it_started() {
    let machine = Machine::start().await;
    let mut container = machine
        .shell("sleep 61 & echo up; wait")
        .start()
        .await
        .unwrap();
    let mut stdout = container.stdout.take().unwrap();
    let mut word = [0; 3];
    stdout.read_exact(&mut word).await.unwrap();
    let pid = container.pid().unwrap();
    drop(container);
    // The pipe ends when the last process that has it is gone.
    assert_eq!(stdout.read(&mut word).await.unwrap(), 0);
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists());
}

#[tokio::test]
async fn two_hundred_containers_run_at_once() {
    let machine = std::sync::Arc::new(Machine::start().await);
    let mut all = tokio::task::JoinSet::new();
    for number in 0..200 {
        let machine = std::sync::Arc::clone(&machine);
        all.spawn(async move {
            let script = format!("echo {number}; sleep 0.5; exit {number}");
            let (output, exit) = machine.shell(&script).output().await;
            assert_eq!((output, exit), (format!("{number}\n"), exited(number)));
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn what_the_first_process_leaves_behind_ends_with_it() {
    let machine = Machine::start().await;
    // Both children have the output open, and one has a session of its own.
    let script = "sleep 1001 & setsid sh -c 'trap \"\" TERM HUP; sleep 1002' & echo up; exit 6";
    let (output, exit) = machine.shell(script).output().await;
    assert_eq!((output.as_str(), exit), ("up\n", exited(6)));
}

#[tokio::test]
async fn a_further_process_ends_before_what_it_leaves_behind() {
    let machine = Machine::start().await;
    let container = machine.run(&["sleep", "1003"]).start().await.unwrap();
    let spec = executor::spec::step(crate::fixture::step(&["sh", "-c", "sleep 1004 & exit 7"]));
    let spec = spec.unwrap().process().clone().unwrap();
    let pipes = Stdio::Pipes { stdin: false };
    let mut process = container.exec(&spec, pipes).await.unwrap();
    assert_eq!(process.wait().await.unwrap(), exited(7));
    // Its child has the output still, and its new parent is the container's first process.
    let mut stdout = process.stdout.take().unwrap();
    let mut buffer = [0; 1];
    let early = std::time::Duration::from_millis(50);
    let read = tokio::time::timeout(early, stdout.read(&mut buffer)).await;
    assert!(read.is_err(), "{read:?}");
    container.kill().unwrap();
    assert_eq!(stdout.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test]
async fn much_output_arrives_whole_and_slow_readers_are_waited_for() {
    const BYTES: usize = 10 << 20;
    let machine = Machine::start().await;
    let script = format!("head -c {BYTES} /dev/zero & head -c {BYTES} /dev/zero >&2; wait");
    let mut container = machine.shell(&script).start().await.unwrap();
    // The first process cannot end before its output has gone somewhere.
    let early = std::time::Duration::from_millis(50);
    let ended = tokio::time::timeout(early, container.wait()).await;
    assert!(ended.is_err(), "{ended:?}");
    let (stdout, stderr) = (container.stdout.take(), container.stderr.take());
    let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
    assert_eq!((stdout.len(), stderr.len()), (BYTES, BYTES));
    assert_eq!(container.wait().await.unwrap(), exited(0));
}
