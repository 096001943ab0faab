//! A daemon, a registry and a build context, and builds in short words.

use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;
use testing::daemon::Daemon;
use testing::image::Image;
use testing::registry::DockerRegistry;

/// Nothing that a test waits for takes so long.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What most tests stand on.
pub(crate) struct Fixture {
    pub(crate) daemon: Daemon,
    pub(crate) registry: DockerRegistry,
    context: TempDir,
    /// Made when it is first asked for.
    scratch: OnceLock<TempDir>,
}

impl Fixture {
    /// A daemon with a registry in place of Docker Hub, which holds `busybox`.
    pub(crate) fn new() -> Fixture {
        Fixture::configured("")
    }

    /// The same, with more in the daemon's configuration.
    pub(crate) fn configured(more: &str) -> Fixture {
        Fixture::between("", more)
    }

    /// The same, where clients may ask for what is dangerous.
    pub(crate) fn permissive() -> Fixture {
        let granted = "insecure-entitlements = [\"network.host\", \"security.insecure\"]\n";
        Fixture::between(granted, "")
    }

    fn between(before: &str, after: &str) -> Fixture {
        let registry = DockerRegistry::start().unwrap();
        let busybox = Image::busybox().unwrap();
        registry.push("library/busybox:latest", &busybox).unwrap();
        let host = registry.host();
        let mirror = format!("[registry.\"docker.io\"]\nmirrors = [\"{host}\"]");
        let config = format!("{before}{mirror}\n\n{after}\n");
        Fixture {
            daemon: Daemon::start(&config).unwrap(),
            registry,
            context: TempDir::with_prefix("context-").unwrap(),
            scratch: OnceLock::new(),
        }
    }

    /// A fixture whose context holds this Dockerfile.
    pub(crate) fn with(dockerfile: &str) -> Fixture {
        let fixture = Fixture::new();
        fixture.dockerfile(dockerfile);
        fixture
    }

    /// Writes the Dockerfile.
    pub(crate) fn dockerfile(&self, text: &str) {
        self.write("Dockerfile", text);
    }

    /// Writes a file of the context.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The build context.
    pub(crate) fn context(&self) -> &Path {
        self.context.path()
    }

    /// A directory for whatever the test makes.
    pub(crate) fn scratch(&self) -> &Path {
        let make = || TempDir::with_prefix("scratch-").unwrap();
        self.scratch.get_or_init(make).path()
    }

    /// A command of the program against this daemon, in the context.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.daemon.drydock().unwrap();
        command.args(arguments).current_dir(self.context());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn drydock(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Builds the context.
    pub(crate) fn build(&self, arguments: &[&str]) -> Build {
        let mut command = self.command(&["build", "--progress", "rawjson"]);
        Build::new(run(command.args(arguments).arg(".")))
    }

    /// Builds the context's Dockerfile, anew, and gives the files of the result.
    pub(crate) fn files(&self, arguments: &[&str]) -> Files {
        let directory = TempDir::with_prefix("files-").unwrap();
        let output = format!("type=local,dest={}", directory.path().display());
        let build = self.build(&[&["--output", &output], arguments].concat());
        build.ran.ok();
        Files { directory, build }
    }

    /// Builds an image into an OCI layout, and gives its config.
    pub(crate) fn config(&self, arguments: &[&str]) -> Value {
        let layout = self.layout(arguments);
        layout.config()
    }

    /// Builds an image into an OCI layout.
    pub(crate) fn layout(&self, arguments: &[&str]) -> Layout {
        let directory = TempDir::with_prefix("layout-").unwrap();
        let (path, tar) = (
            directory.path().join("image"),
            directory.path().join("image.tar"),
        );
        let output = format!("type=oci,dest={}", tar.display());
        self.build(&[&["--output", &output], arguments].concat())
            .ran
            .ok();
        untar(&tar, &path);
        Layout {
            _directory: Some(directory),
            path,
        }
    }
}

/// Unpacks an archive into a new directory.
#[track_caller]
pub(crate) fn untar(archive: &Path, directory: &Path) {
    fs::create_dir(directory).unwrap();
    let (archive, directory) = (archive.to_str().unwrap(), directory.to_str().unwrap());
    tool("tar", &["-xf", archive, "-C", directory]);
}

/// A program that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// What it printed, if it went well.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout.trim_end()
    }

    /// What it said, if it did not.
    #[track_caller]
    pub(crate) fn err(&self) -> &str {
        assert_ne!(self.code, 0, "{}{}", self.stdout, self.stderr);
        &self.stderr
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// Runs `command` to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    let name = format!("{command:?}");
    command.output().context(name).unwrap().into()
}

/// Runs a program of the machine, which must succeed.
#[track_caller]
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let ran = run(Command::new(program).args(arguments).stdin(Stdio::null()));
    ran.ok().to_owned()
}

/// A build that ended, with what was told of its steps.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) ran: Ran,
    pub(crate) steps: Vec<Step>,
    pub(crate) warnings: Vec<String>,
}

/// What was told of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    digest: String,
    /// Such as `[stage 2/3] RUN true`.
    pub(crate) name: String,
    pub(crate) cached: bool,
    pub(crate) completed: bool,
    pub(crate) error: String,
    pub(crate) log: String,
}

impl Build {
    /// Takes the messages out of what the program printed.
    pub(crate) fn new(mut ran: Ran) -> Build {
        let (mut steps, mut warnings, mut rest) = (Vec::new(), Vec::new(), String::new());
        for line in ran.stderr.lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(message @ Value::Object(_)) => {
                    read_message(&message, &mut steps, &mut warnings);
                }
                _ => rest = rest + line + "\n",
            }
        }
        ran.stderr = rest;
        Build {
            ran,
            steps,
            warnings,
        }
    }

    /// The steps of the Dockerfile, without `internal` and the like: those with a `[` but no
    /// loading of files.
    fn instructions(&self) -> impl Iterator<Item = &Step> {
        let is_instruction = |step: &&Step| {
            let is_internal = ["[internal]", "[auth]"].iter();
            step.name.starts_with('[')
                && !is_internal.clone().any(|word| step.name.starts_with(word))
        };
        self.steps.iter().filter(is_instruction)
    }

    /// The instructions that ran, in the order in which they were first told of, without the
    /// number in the name.
    pub(crate) fn executed(&self) -> Vec<&str> {
        let ran = |step: &&Step| step.completed && !step.cached;
        self.instructions()
            .filter(ran)
            .map(Step::instruction)
            .filter(|instruction| !instruction.starts_with("FROM"))
            .collect()
    }

    /// The instructions that were found rather than run.
    pub(crate) fn reused(&self) -> Vec<&str> {
        let reused = self.instructions().filter(|step| step.cached);
        reused.map(Step::instruction).collect()
    }

    /// The step whose name has `part` in it.
    #[track_caller]
    pub(crate) fn step(&self, part: &str) -> &Step {
        let found = self.steps.iter().find(|step| step.name.contains(part));
        found.unwrap_or_else(|| panic!("no step `{part}` among {:#?}", self.steps))
    }
}

impl Step {
    /// The name without `[stage 2/3] `.
    fn instruction(&self) -> &str {
        let rest = self.name.split_once("] ").map(|(_, rest)| rest);
        rest.unwrap_or(&self.name)
    }
}

fn read_message(message: &Value, steps: &mut Vec<Step>, warnings: &mut Vec<String>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let decoded = |value: &Value| {
        let bytes = STANDARD.decode(value.as_str().unwrap_or_default());
        String::from_utf8_lossy(&bytes.unwrap()).into_owned()
    };
    let list = |name: &str| message[name].as_array().cloned().unwrap_or_default();
    for vertex in list("vertexes") {
        let step = step_of(steps, text(&vertex["digest"]));
        step.name = text(&vertex["name"]);
        step.cached = vertex["cached"].as_bool().unwrap_or_default();
        step.completed = vertex["completed"].is_string();
        step.error = text(&vertex["error"]);
    }
    for log in list("logs") {
        let data = decoded(&log["data"]);
        step_of(steps, text(&log["vertex"])).log.push_str(&data);
    }
    warnings.extend(
        list("warnings")
            .iter()
            .map(|warning| decoded(&warning["short"])),
    );
}

fn step_of(steps: &mut Vec<Step>, digest: String) -> &mut Step {
    let at = steps.iter().position(|step| step.digest == digest);
    let at = at.unwrap_or_else(|| {
        steps.push(Step {
            digest,
            ..Step::default()
        });
        steps.len() - 1
    });
    &mut steps[at]
}

/// The files of a build's result.
pub(crate) struct Files {
    directory: TempDir,
    pub(crate) build: Build,
}

impl Files {
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// The text of a file, without white space at the end.
    #[track_caller]
    pub(crate) fn text(&self, path: &str) -> String {
        let text = fs::read_to_string(self.path(path)).context(path.to_owned());
        text.unwrap().trim_end().to_owned()
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// The names in a directory, sorted.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<_> = fs::read_dir(self.path(path)).unwrap().map(name).collect();
        names.sort();
        names
    }
}

/// An OCI layout with one image.
pub(crate) struct Layout {
    _directory: Option<TempDir>,
    pub(crate) path: PathBuf,
}

impl Layout {
    /// The layout at `path`.
    pub(crate) fn at(path: &Path) -> Layout {
        Layout {
            _directory: None,
            path: path.to_owned(),
        }
    }

    pub(crate) fn index(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path.join("index.json")).unwrap()).unwrap()
    }

    /// The manifest that the index names first.
    pub(crate) fn manifest(&self) -> Value {
        self.json(&self.index()["manifests"][0]["digest"])
    }

    pub(crate) fn config(&self) -> Value {
        self.json(&self.manifest()["config"]["digest"])
    }

    fn json(&self, digest: &Value) -> Value {
        serde_json::from_slice(&self.blob(digest)).unwrap()
    }

    /// A blob by the digest in a descriptor.
    pub(crate) fn blob(&self, digest: &Value) -> Vec<u8> {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        fs::read(self.path.join("blobs/sha256").join(hex)).unwrap()
    }
}

/// Waits for `condition`, which must come true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program that runs in the background and is killed when this is dropped.
pub(crate) struct Background(Child);

impl Background {
    pub(crate) fn start(command: &mut Command) -> Background {
        let pipes = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Background(pipes.spawn().unwrap())
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: &str) {
        let input = self.0.stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
    }

    /// Reads its standard output until `text` has come.
    #[track_caller]
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let read = read_until(self.0.stdout.as_mut().unwrap(), text);
        assert!(read.contains(text), "only: {read}");
        read
    }

    /// Reads its standard error until `text` has come.
    #[track_caller]
    pub(crate) fn error_until(&mut self, text: &str) {
        let read = self.error_until_or_end(text);
        assert!(read.contains(text), "only: {read}");
    }

    /// Reads its standard error until `text` has come, or there is no more.
    pub(crate) fn error_until_or_end(&mut self, text: &str) -> String {
        read_until(self.0.stderr.as_mut().unwrap(), text)
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Sends it a signal, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        tool("kill", &["-s", name, &pid]);
    }

    /// Waits for its end, and gives the rest of what it printed.
    pub(crate) fn wait(mut self) -> Result<Ran> {
        drop(self.0.stdin.take());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let mut errors = self.0.stderr.take().context("taken")?;
        std::thread::scope(|scope| {
            scope.spawn(|| errors.read_to_string(&mut stderr));
            self.0
                .stdout
                .take()
                .map(|mut out| out.read_to_string(&mut stdout))
        });
        let code = self.0.wait()?.code().unwrap_or(-1);
        Ok(Ran {
            code,
            stdout,
            stderr,
        })
    }
}

/// Reads until `text` has come or there is no more.
fn read_until(from: &mut impl Read, text: &str) -> String {
    let (mut read, mut byte) = (Vec::new(), [0]);
    // Byte by byte, as what comes after the text is somebody else's.
    while !read.ends_with(text.as_bytes()) && from.read(&mut byte).unwrap() == 1 {
        read.push(byte[0]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// The command lines of all processes of the machine.
pub(crate) fn processes() -> Vec<String> {
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let bytes = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
        Some(line.trim_end().to_owned())
    });
    lines.collect()
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
