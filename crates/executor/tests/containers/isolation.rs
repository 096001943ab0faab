//! What a container sees of the world, and may do to it.

use std::path::Path;

use executor::spec::{Entitlement, Security};
use executor::user::UserIds;
use executor::{Exit, Network};
use sys::cgroup::Limits;

use crate::fixture::{Machine, status};

#[tokio::test]
async fn privileges_are_those_of_docker() {
    let machine = Machine::start().await;
    let text = machine.run(&["cat", "/proc/self/status"]).text().await;
    let status = status(&text);
    for (name, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "00000000a80425fb"),
        ("CapEff", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "2"),
        ("Seccomp_filters", "1"),
        ("Groups", "0 "),
        ("Pid", "1"),
        ("PPid", "0"),
    ] {
        assert_eq!(status[name], value, "{name}");
    }
    let user = UserIds {
        uid: 1000,
        gid: 1000,
        groups: vec![1000],
        home: None,
    };
    let run = machine
        .run(&["cat", "/proc/self/status"])
        .with(|run| run.step.user = user);
    let text = run.text().await;
    let status = self::status(&text);
    assert_eq!(
        (status["CapPrm"], status["CapEff"]),
        ("0000000000000000", "0000000000000000")
    );
    assert_eq!(status["CapBnd"], "00000000a80425fb");
}

#[tokio::test]
async fn an_insecure_container_has_everything() {
    let machine = Machine::start().await;
    let script = "cat /proc/self/status; test -b /dev/loop0 && test -c /dev/net/tun && \
                  mount -t tmpfs none /tmp && mkdir /sys/fs/cgroup/memory/below && \
                  test -d /sys/firmware && head -c1 /dev/kmsg >/dev/null && echo free";
    let entitlement = Entitlement::insecure_was_granted();
    let run = machine.shell(script);
    let text = run
        .with(|run| run.step.security = Security::Insecure(entitlement))
        .text()
        .await;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status(&text)[name], status(&own)[name], "{name}");
        assert_eq!(status(&text)["CapAmb"], status(&own)[name]);
    }
    assert_eq!(status(&text)["Seccomp"], "0");
    assert!(text.ends_with("free\n"), "{text}");
}

#[tokio::test]
async fn the_kernels_secrets_are_hidden_and_its_switches_cannot_be_written() {
    let machine = Machine::start().await;
    let script = "
        wc -c < /proc/timer_list; wc -c < /proc/keys; ls /sys/firmware | wc -l
        for file in /proc/sys/kernel/panic /sys/kernel/mm/ksm/run /proc/irq/x /proc/sysrq-trigger; do
            (echo 1 > $file) 2>/dev/null && echo wrote $file; done
        mount -t tmpfs none /tmp 2>&1 | grep -c 'Operation not permitted\\|permission denied'
        (: > /proc/timer_list) && echo null
        umount /proc/keys 2>/dev/null && echo uncovered
        echo $$; ls /proc | grep -c '^[0-9]*$'; hostname; ls /sys/class/net | xargs";
    let text = machine.shell(script).text().await;
    // `ls`, `grep` and the shell itself.
    assert_eq!(text, "0\n0\n0\n1\nnull\n1\n3\nbuildkitsandbox\nlo\n");
}

#[tokio::test]
async fn devices_can_be_made_but_not_opened() {
    let machine = Machine::start().await;
    let script = "
        mknod /disk b 254 0 && mknod /zero c 1 5 && echo made
        head -c1 /disk 2>&1 | grep -c 'Operation not permitted'
        head -c2 /zero | od -An -tx1
        ls /dev | xargs; ls -l /dev/null | cut -c1-10; readlink /dev/ptmx; readlink /dev/fd";
    let text = machine.shell(script).text().await;
    assert_eq!(
        text,
        "made\n1\n 00 00\nfd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom \
         zero\ncrw-rw-rw-\npts/ptmx\n/proc/self/fd\n"
    );
}

#[tokio::test]
async fn the_programs_own_executable_cannot_be_overwritten() {
    let machine = Machine::start().await;
    let container = machine.run(&["sleep", "60"]).start().await.unwrap();
    // Between being cloned and executing, a process in a container runs the launcher's executable.
    let parent = std::fs::read_to_string(format!("/proc/{}/status", container.pid().unwrap()));
    let parent = status(&parent.unwrap())["PPid"].to_owned();
    let executable = format!("/proc/{parent}/exe");
    let error = std::fs::OpenOptions::new()
        .write(true)
        .open(executable)
        .unwrap_err();
    let kinds = [
        std::io::ErrorKind::ReadOnlyFilesystem,
        std::io::ErrorKind::ExecutableFileBusy,
    ];
    assert!(kinds.contains(&error.kind()), "{error}");
}

#[tokio::test]
async fn memory_limits_kill_and_say_so() {
    let machine = Machine::start().await;
    let limits = Limits {
        memory_bytes: Some(32 << 20),
        memory_swap_bytes: Some(32 << 20),
        pids: Some(50),
        ..Limits::default()
    };
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max; \
                  touch /sys/fs/cgroup/memory/x 2>/dev/null; cut -d: -f3 /proc/self/cgroup | \
                  grep -c '^/$'; exec tail /dev/zero";
    let (text, exit) = machine
        .shell(script)
        .with(|run| run.step.limits = limits)
        .output()
        .await;
    assert_eq!(
        exit,
        Exit {
            code: 137,
            signal: Some(9),
            oom: true
        }
    );
    assert!(text.starts_with("33554432\n50\n"), "{text}");
}

#[tokio::test]
async fn host_network_and_no_network_are_what_they_say() {
    let machine = Machine::start().await;
    let here = std::fs::read_link("/proc/self/ns/net")
        .unwrap()
        .display()
        .to_string();
    let namespace = |network| {
        machine
            .run(&["readlink", "/proc/self/ns/net"])
            .with(|run| run.network = network)
    };
    assert_eq!(namespace(Network::Host).text().await.trim(), here);
    assert_ne!(namespace(Network::None).text().await.trim(), here);
    let script = "ping -c1 -W1 127.0.0.1 >/dev/null && echo up; ip -o link | wc -l";
    assert_eq!(machine.shell(script).text().await, "up\n1\n");
}

#[tokio::test]
async fn sysctls_apply_to_the_container_only() {
    let machine = Machine::start().await;
    let run = machine
        .run(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"])
        .with(|run| {
            let key = "net.ipv4.ip_unprivileged_port_start".to_owned();
            run.run.sysctls.insert(key, "77".to_owned());
        });
    assert_eq!(run.text().await, "77\n");
    let here = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_eq!(here.trim(), "1024");
}

#[tokio::test]
async fn a_container_can_have_the_limits_of_another_directory_of_groups() {
    let machine = Machine::start().await;
    let parent = format!("drydock-test-parent/{}", std::process::id());
    let outer = Path::new("/sys/fs/cgroup/pids").join(&parent);
    std::fs::create_dir_all(&outer).unwrap();
    std::fs::write(outer.join("pids.max"), "1").unwrap();
    let script = "cut -d: -f3 /proc/self/cgroup | grep -c '^/$'; sleep 0 & wait";
    for place in [format!("/{parent}"), format!("{parent}:prefix:name")] {
        let mut run = machine.shell(script);
        run.parent = place;
        let (text, _) = run.output().await;
        assert!(text.contains("can't fork"), "{text}");
    }
    // The device policy holds there, too.
    std::fs::write(outer.join("pids.max"), "max").unwrap();
    let mut run = machine.shell("mknod /disk b 254 0 && head -c1 /disk 2>&1");
    run.parent = parent.clone();
    let (text, _) = run.output().await;
    assert!(text.contains("Operation not permitted"), "{text}");
    let below = || std::fs::read_dir(&outer).unwrap().flatten();
    assert!(below().any(|entry| entry.path().is_dir()));
    let lists = machine.dir.path().join("state/cgroup-parents");
    assert!(
        std::fs::read_to_string(&lists)
            .unwrap()
            .starts_with(&parent)
    );
    let dir = machine.dir;
    machine.launcher.shutdown().await;
    assert!(!below().any(|entry| entry.path().is_dir()));
    executor::sweep(&dir.path().join("state"), "drydock-test").unwrap();
    assert!(!lists.exists());
    std::fs::remove_dir(outer).unwrap();
}
