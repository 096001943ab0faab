//! A launcher, an image of busybox, and a short way to run something in it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use executor::spec::{Security, StepSpec};
use executor::user::UserIds;
use executor::{
    Container, ContainerRequest, CreateError, Exit, Launcher, LauncherOptions, MountAt, Network,
    NetworkOptions, Output, Spec, Stdio, Stubs,
};
use sys::mount::MountFd;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A launcher with a directory of its own and an image.
pub(crate) struct Machine {
    pub(crate) launcher: Launcher,
    pub(crate) dir: TempDir,
}

/// A root filesystem made for one container, or several after one another.
pub(crate) struct Rootfs {
    lower: PathBuf,
    pub(crate) upper: PathBuf,
    work: PathBuf,
}

impl Rootfs {
    pub(crate) fn mount(&self) -> MountFd {
        sys::mount::overlay(&[&self.lower], Some((&self.upper, &self.work))).unwrap()
    }
}

pub(crate) fn options(dir: &TempDir, network: bool) -> LauncherOptions {
    // The test is `target/<profile>/deps/containers-…`, the example beside `deps`.
    let test = std::env::current_exe().unwrap();
    let program = test
        .parent()
        .unwrap()
        .with_file_name("examples")
        .join("launcher");
    LauncherOptions {
        program,
        arguments: Vec::new(),
        state_dir: dir.path().join("state"),
        cgroup_parent: "drydock-test".to_owned(),
        network: NetworkOptions {
            enabled: network,
            ..NetworkOptions::default()
        },
    }
}

impl Machine {
    pub(crate) async fn start() -> Machine {
        Machine::with_network(false).await
    }

    pub(crate) async fn with_network(network: bool) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        make_image(&dir.path().join("image"));
        let launcher = Launcher::start(options(&dir, network)).await.unwrap();
        Machine { launcher, dir }
    }

    pub(crate) fn rootfs(&self, name: &str) -> Rootfs {
        let dir = self.dir.path().join(name);
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        Rootfs {
            lower: self.dir.path().join("image"),
            upper,
            work,
        }
    }

    /// Starts `script` in a shell.
    pub(crate) fn shell(&self, script: &str) -> Run<'_> {
        self.run(&["/bin/sh", "-c", script])
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run<'_> {
        Run {
            machine: self,
            step: step(args),
            run: executor::spec::RunOptions::default(),
            change: None,
            rootfs: None,
            mounts: Vec::new(),
            stdio: Stdio::Pipes { stdin: false },
            network: Network::None,
            stubs: Stubs::Leaves,
            parent: String::new(),
        }
    }
}

pub(crate) fn step(args: &[&str]) -> StepSpec {
    StepSpec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![PATH.to_owned()],
        cwd: "/".to_owned(),
        user: UserIds {
            uid: 0,
            gid: 0,
            groups: vec![0],
            home: None,
        },
        hostname: String::new(),
        ulimits: Vec::new(),
        limits: sys::cgroup::Limits::default(),
        security: Security::Sandbox,
        readonly_rootfs: false,
        shm_size_bytes: 0,
        oom_score_adj: None,
    }
}

fn make_image(image: &std::path::Path) {
    for dir in ["bin", "etc", "tmp", "root", "proc", "sys", "dev"] {
        fs::create_dir_all(image.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
    let list = std::process::Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines() {
        if applet != "busybox" {
            symlink("busybox", image.join("bin").join(applet)).unwrap();
        }
    }
    let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
    fs::write(image.join("etc/passwd"), passwd).unwrap();
}

/// What a container is to be; see [`Run::output`].
pub(crate) struct Run<'a> {
    machine: &'a Machine,
    pub(crate) step: StepSpec,
    pub(crate) run: executor::spec::RunOptions,
    pub(crate) change: Option<fn(&mut Spec)>,
    pub(crate) rootfs: Option<MountFd>,
    pub(crate) mounts: Vec<MountAt>,
    pub(crate) stdio: Stdio,
    pub(crate) network: Network,
    pub(crate) stubs: Stubs,
    /// Directory of its control group; empty: the launcher's.
    pub(crate) parent: String,
}

impl Run<'_> {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) async fn start(self) -> Result<Container, CreateError> {
        let mut spec = executor::spec::container(self.step, self.run).unwrap();
        executor::spec::set_cgroup_parent(&mut spec, &self.parent);
        if let Some(change) = self.change {
            change(&mut spec);
        }
        let rootfs = self.rootfs.unwrap_or_else(|| {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            self.machine.rootfs(&format!("rootfs-{number}")).mount()
        });
        let request = ContainerRequest {
            id: "test".to_owned(),
            spec,
            rootfs,
            mounts: self.mounts,
            stdio: self.stdio,
            network: self.network,
            stubs: self.stubs,
        };
        self.machine.launcher.create(request).await
    }

    /// Runs to the end; returns all output and how it ended.
    pub(crate) async fn output(self) -> (String, Exit) {
        let mut container = self.start().await.unwrap();
        let (stdout, stderr) = (container.stdout.take(), container.stderr.take());
        let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
        (stdout + &stderr, container.wait().await.unwrap())
    }

    /// Runs to a good end; returns all output.
    pub(crate) async fn text(self) -> String {
        let (output, exit) = self.output().await;
        assert_eq!(
            exit,
            Exit {
                code: 0,
                signal: None,
                oom: false
            },
            "{output}"
        );
        output
    }
}

pub(crate) async fn read(output: Option<Output>) -> String {
    let mut text = Vec::new();
    if let Some(mut output) = output {
        output.read_to_end(&mut text).await.unwrap();
    }
    String::from_utf8(text).unwrap()
}

/// The lines `Name: value` of a `/proc/…/status`.
pub(crate) fn status(text: &str) -> HashMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.split_once(":\t"))
        .collect()
}
