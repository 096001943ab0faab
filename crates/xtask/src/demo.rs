//! The README's first command: a web application from its Dockerfile to its page.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::standin::{self, Mirror};
use crate::{needs, shell};

const DOCKERFILE: &str = r#"FROM python:3.10
EXPOSE 5000
WORKDIR /app
RUN pip install flask
COPY . .
CMD ["flask", "run", "--host", "0.0.0.0"]
"#;

const APPLICATION: &str = r#"from flask import Flask

app = Flask(__name__)


@app.route("/")
def hello():
    return "Hello from a container that drydock built and runs.\n"
"#;

/// The application needs a moment to listen.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Builds, runs, fetches, prints, and cleans up.
pub(crate) fn run() -> anyhow::Result<()> {
    needs::root_user()?;
    needs::install(needs::DEMO)?;
    // The same profile as the tests': the two commands of the README build everything once.
    let build = ["build", "--package", "drydock", "--locked"];
    shell::run(&mut shell::cargo(build))?;
    let directory = shell::target().join("demo");
    let application = write_application(&directory)?;
    let mirror = match standin::hub_is_reachable() {
        true => None,
        false => {
            eprintln!("Docker Hub cannot be reached from here");
            Some(Mirror::start(&directory)?)
        }
    };
    let drydock = Drydock::new(&directory, mirror.as_ref())?;
    drydock.run(&["build", "--tag", "demo", &application])?;
    eprintln!("\nthe same build again");
    drydock.run(&["build", "--tag", "demo", &application])?;
    let address = standin::free_address()?;
    let publish = format!("{address}:5000");
    drydock.run(&[
        "run",
        "--detach",
        "--name",
        "demo",
        "--publish",
        &publish,
        "demo",
    ])?;
    let page = page(address);
    if page.is_err() {
        drydock.run(&["logs", "demo"])?;
    }
    println!("\nhttp://{address}/ says:\n{}", page?);
    drydock.run(&["rm", "--force", "demo"])
}

fn write_application(directory: &Path) -> anyhow::Result<String> {
    let application = directory.join("application");
    fs::create_dir_all(&application)?;
    fs::write(application.join("Dockerfile"), DOCKERFILE)?;
    fs::write(application.join("app.py"), APPLICATION)?;
    application
        .into_os_string()
        .into_string()
        .ok()
        .context("the checkout's path is no UTF-8")
}

/// The built program with a state of its own. Its daemon is stopped when this is dropped.
struct Drydock {
    program: PathBuf,
    state: PathBuf,
    config: PathBuf,
    socket: PathBuf,
}

impl Drydock {
    /// Begins with an empty state. A daemon that an interrupted demo left is stopped.
    fn new(directory: &Path, mirror: Option<&Mirror>) -> anyhow::Result<Drydock> {
        let config = directory.join("drydockd.toml");
        fs::write(&config, mirror.map(Mirror::config).unwrap_or_default())?;
        let drydock = Drydock {
            program: shell::target().join("debug/drydock"),
            state: directory.join("state"),
            config,
            socket: socket(directory),
        };
        if drydock.socket.exists() {
            drydock.run(&["daemon", "stop"])?;
        }
        if drydock.state.exists() {
            fs::remove_dir_all(&drydock.state)
                .context("failed to clear the state of the last demo")?;
        }
        Ok(drydock)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("DRYDOCK_HOST", format!("unix://{}", self.socket.display()))
            .env("DRYDOCK_ROOT", &self.state)
            .env("DRYDOCK_CONFIG", &self.config);
        command
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        shell::run(self.command().args(arguments))
    }
}

/// A socket's path must be short, which the checkout's need not be; each checkout has its own.
fn socket(directory: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    let name = format!("drydock-demo-{:016x}", hasher.finish());
    std::env::temp_dir().join(name).join("drydock.sock")
}

impl Drop for Drydock {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["daemon", "stop"]) {
            eprintln!("error: {error:#}");
        }
        if let Some(directory) = self.socket.parent() {
            // Only the lock of the start is left in it; a directory that stays harms nobody.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Fetches `/`, as soon as somebody answers.
fn page(address: SocketAddr) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        match fetch(address) {
            Ok(page) => return Ok(page),
            Err(error) if begun.elapsed() > PAGE_TIMEOUT => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn fetch(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).context("failed to connect to the application")?;
    stream.set_read_timeout(Some(PAGE_TIMEOUT))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .context("failed to read the page")?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .context("the answer is no HTTP")?;
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => bail!(
            "the application answered: {}",
            head.lines().next().unwrap_or_default()
        ),
    }
}
