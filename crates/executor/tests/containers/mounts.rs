//! What is mounted in a container, and what stays of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use executor::files::file_mount;
use executor::{CreateError, MountAt, Stubs};
use sys::mount::{Bind, bind_clone_path};

use crate::fixture::Machine;

fn bind(source: &Path, destination: &str, readonly: bool) -> MountAt {
    let mount = bind_clone_path(
        source,
        Bind {
            readonly: false,
            recursive: true,
        },
    )
    .unwrap();
    MountAt {
        mount,
        destination: destination.into(),
        readonly,
    }
}

fn file(contents: &str, destination: &str) -> MountAt {
    let mount = file_mount(contents.as_bytes(), 0o644, 0, 0).unwrap();
    MountAt {
        mount,
        destination: destination.into(),
        readonly: true,
    }
}

#[tokio::test]
async fn the_usual_filesystems_are_there_with_their_flags() {
    let machine = Machine::start().await;
    // Some of them are there before the root is, if the container was made ahead.
    let script = "cut -d' ' -f5,6 /proc/self/mountinfo | sed 's/,relatime//' | head -7 | sort; df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm /dev/mqueue";
    let text = machine.shell(script).text().await;
    assert_eq!(
        text,
        "/ rw\n\
         /dev rw,nosuid\n\
         /dev/mqueue rw,nosuid,nodev,noexec\n\
         /dev/pts rw,nosuid,noexec\n\
         /dev/shm rw,nosuid,nodev,noexec\n\
         /proc rw,nosuid,nodev,noexec\n\
         /sys ro,nosuid,nodev,noexec\n\
         65536\n1777\n1777\n"
    );
    let script = "df -k /dev/shm | tail -1 | awk '{print $2}'";
    let run = machine
        .shell(script)
        .with(|run| run.step.shm_size_bytes = 1 << 20);
    assert_eq!(run.text().await, "1024\n");
}

#[tokio::test]
async fn nothing_of_the_host_is_mounted() {
    let machine = Machine::start().await;
    let text = machine.run(&["cat", "/proc/self/mountinfo"]).text().await;
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let kind = line.split(" - ").nth(1).unwrap().split(' ').next().unwrap();
        assert!(
            [
                "overlay", "proc", "tmpfs", "devpts", "mqueue", "sysfs", "cgroup"
            ]
            .contains(&kind),
            "{line}"
        );
        assert!(
            !fields[4].starts_with("/rootfs") && !fields[3].contains("drydock"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn binds_are_writable_or_not_and_files_come_from_memory() {
    let machine = Machine::start().await;
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("in"), "in").unwrap();
    let script = "cat /a/deep/place/in /etc/hosts; echo out > /a/deep/place/out; \
                  (echo x > /ro/out) 2>&1 | grep -c Read-only; (echo x > /etc/hosts) 2>&1 | grep -c Read-only";
    let mounts = vec![
        bind(source.path(), "/a/deep/place", false),
        bind(source.path(), "/ro", true),
        file("hosts\n", "/etc/hosts"),
    ];
    let rootfs = machine.rootfs("binds");
    let text = machine
        .shell(script)
        .with(|run| {
            run.mounts = mounts;
            run.rootfs = Some(rootfs.mount());
        })
        .text()
        .await;
    assert_eq!(text, "inhosts\n1\n1\n");
    assert_eq!(
        fs::read_to_string(source.path().join("out")).unwrap(),
        "out\n"
    );
    // Of the mount points only the directories on the way stay.
    assert!(rootfs.upper.join("a/deep").exists());
    for gone in ["a/deep/place", "ro", "etc/hosts", "sys/fs"] {
        assert!(!rootfs.upper.join(gone).exists(), "{gone}");
    }
}

#[tokio::test]
async fn recursive_stubs_leave_no_trace() {
    let machine = Machine::start().await;
    let source = tempfile::tempdir().unwrap();
    let rootfs = machine.rootfs("stubs");
    let (mount, place) = (rootfs.mount(), bind(source.path(), "/a/deep/place", false));
    let run = machine.run(&["true"]).with(|run| {
        run.rootfs = Some(mount);
        run.mounts = vec![place];
        run.stubs = Stubs::Recursive;
    });
    run.text().await;
    assert!(!rootfs.upper.join("a").exists());
}

#[tokio::test]
async fn mount_points_of_the_kernels_filesystems_stay() {
    let machine = Machine::start().await;
    let image = machine.dir.path().join("image");
    for dir in ["proc", "sys", "dev"] {
        fs::remove_dir(image.join(dir)).unwrap();
    }
    let rootfs = machine.rootfs("bare");
    let mount = rootfs.mount();
    let run = machine.run(&["true"]).with(|run| {
        run.rootfs = Some(mount);
        run.mounts = vec![file("hosts\n", "/etc/hosts")];
        run.stubs = Stubs::Recursive;
    });
    run.text().await;
    // As BuildKit leaves them, whose layers are compared with ours.
    let left = |dir: &str| fs::read_dir(rootfs.upper.join(dir)).map(Iterator::count);
    for dir in ["proc", "sys", "dev"] {
        assert_eq!(left(dir).unwrap(), 0, "{dir}");
    }
    assert!(!rootfs.upper.join("etc/hosts").exists());
}

#[tokio::test]
async fn links_in_the_image_never_lead_a_mount_out() {
    let machine = Machine::start().await;
    let outside = tempfile::tempdir().unwrap();
    let rootfs = machine.rootfs("links");
    fs::create_dir_all(rootfs.upper.join("etc")).unwrap();
    symlink(
        "../run/systemd/resolv.conf",
        rootfs.upper.join("etc/resolv.conf"),
    )
    .unwrap();
    symlink(outside.path(), rootfs.upper.join("abs")).unwrap();
    symlink("../../../../../../there", rootfs.upper.join("up")).unwrap();
    let (mount, data) = (rootfs.mount(), tempfile::tempdir().unwrap());
    fs::write(data.path().join("f"), "data\n").unwrap();
    let inside = outside.path().display().to_string();
    let script = format!("cat /etc/resolv.conf /run/systemd/resolv.conf {inside}/f /there/f");
    let run = machine.shell(&script).with(|run| {
        run.rootfs = Some(mount);
        run.mounts = vec![
            file("dns\n", "/etc/resolv.conf"),
            bind(data.path(), "/abs", false),
            bind(data.path(), "/up/", false),
        ];
    });
    assert_eq!(run.text().await, "dns\ndns\ndata\ndata\n");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_loop_of_links_is_an_error() {
    let machine = Machine::start().await;
    let rootfs = machine.rootfs("loop");
    symlink("two", rootfs.upper.join("one")).unwrap();
    symlink("one", rootfs.upper.join("two")).unwrap();
    let run = machine.run(&["true"]).with(|run| {
        run.rootfs = Some(rootfs.mount());
        run.mounts = vec![file("x", "/one")];
    });
    let error = run.start().await.unwrap_err();
    assert!(matches!(error, CreateError::Setup(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "failed to mount `/one`: too many levels of symbolic links"
    );
}

#[tokio::test]
async fn the_working_directory_does_not_lead_out_by_a_descriptor() {
    let machine = Machine::start().await;
    for number in 3..20 {
        let run = machine
            .run(&["pwd"])
            .with(|run| run.step.cwd = format!("/proc/self/fd/{number}"));
        let error = run.start().await.unwrap_err();
        assert!(matches!(error, CreateError::Exec { .. }), "{error:?}");
    }
    // Nor does the program, once it runs, have any descriptor but its own three.
    let text = machine.shell("ls /proc/self/fd | xargs").text().await;
    assert_eq!(text, "0 1 2 3\n"); // 3 is the directory `ls` reads
}

#[tokio::test]
async fn a_readonly_root_refuses_writes_and_its_mounts_do_not() {
    let machine = Machine::start().await;
    let script = "(: > /x) 2>&1 | grep -c Read-only; : > /dev/shm/x && echo shm";
    let run = machine
        .shell(script)
        .with(|run| run.step.readonly_rootfs = true);
    assert_eq!(run.text().await, "1\nshm\n");
}
