//! The built program as a daemon, with everything that it keeps in a temporary directory.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A daemon that does not listen after this time does not work; recovery after a crash is included.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A daemon that is told to stop ends its containers first.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Of the log of a daemon in a failed test, this much is shown.
const SHOWN_LOG: usize = 8 << 10;

/// Names the program to test, instead of the one that cargo built beside the test.
const PROGRAM: &str = "DRYDOCK_PROGRAM";

/// A running daemon. Dropping it stops it and removes all that it kept.
pub struct Daemon {
    directory: TempDir,
    process: Child,
    environment: Vec<(String, String)>,
}

impl Daemon {
    /// Starts a daemon on an empty state, configured by `config`, the text of a `drydockd.toml`.
    pub fn start(config: &str) -> Result<Daemon> {
        Daemon::start_with(config, &[])
    }

    /// The same, with more in its environment.
    pub fn start_with(config: &str, environment: &[(&str, &str)]) -> Result<Daemon> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(owned).collect();
        let directory = TempDir::with_prefix("dd-")?;
        fs::write(directory.path().join("drydockd.toml"), config)?;
        fs::create_dir(directory.path().join("home"))?;
        let process = spawn(directory.path(), &environment)?;
        let mut daemon = Daemon {
            directory,
            process,
            environment,
        };
        daemon.wait_until_it_listens()?;
        Ok(daemon)
    }

    /// Directory of everything that the daemon keeps.
    pub fn root(&self) -> PathBuf {
        root(self.directory.path())
    }

    /// `unix://…`.
    pub fn address(&self) -> String {
        format!("unix://{}", socket(self.directory.path()).display())
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// `drydock` as a client of this daemon, with an empty home directory.
    pub fn drydock(&self) -> Result<Command> {
        let mut command = Command::new(program()?);
        command
            .env("DRYDOCK_HOST", self.address())
            .env("HOME", self.directory.path().join("home"))
            .env_remove("DOCKER_CONFIG")
            .env_remove("SOURCE_DATE_EPOCH")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// A connection to this daemon.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.address()).await?)
    }

    /// Ends the process with SIGKILL, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Asks the process to stop, and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(status);
        }
        let pid = Pid::from_raw(i32::try_from(self.process.id())?);
        kill(pid, Signal::SIGTERM)?;
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
        self.kill()?;
        bail!("the daemon does not stop");
    }

    /// Starts the daemon anew on what it kept.
    pub fn restart(&mut self) -> Result<()> {
        self.start_again()
    }

    /// The same, with other variables in its environment from now on.
    pub fn restart_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.environment = environment.iter().map(owned).collect();
        self.start_again()
    }

    fn start_again(&mut self) -> Result<()> {
        if self.process.try_wait()?.is_none() {
            self.stop()?;
        }
        self.process = spawn(self.directory.path(), &self.environment)?;
        self.wait_until_it_listens()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let begun = Instant::now();
        while UnixStream::connect(socket(self.directory.path())).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", self.log());
            }
            if begun.elapsed() > START_TIMEOUT {
                bail!("the daemon does not listen:\n{}", self.log());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let stopped = self.stop();
        let log = self.log();
        if thread::panicking() {
            let begin = log.floor_char_boundary(log.len().saturating_sub(SHOWN_LOG));
            eprintln!("--- the daemon's log\n{}\n---", &log[begin..]);
            return;
        }
        let status = stopped.expect("the daemon stops when it is told to");
        let was_killed = status.signal() == Some(Signal::SIGKILL as i32);
        assert!(status.success() || was_killed, "{status}\n{log}");
        assert!(!log.contains("panicked at"), "{log}");
    }
}

/// The program under test.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(PROGRAM) {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    // The test is `<profile>/deps/<name>`.
    let path = test.ancestors().nth(2).context("a test at the root")?;
    let path = path.join("drydock");
    if !path.exists() {
        bail!("there is no {}: `cargo build -p drydock`", path.display());
    }
    Ok(path)
}

fn root(directory: &Path) -> PathBuf {
    directory.join("state")
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("d.sock")
}

fn spawn(directory: &Path, environment: &[(String, String)]) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))?;
    Command::new(program()?)
        .arg0("drydockd")
        .arg("--root")
        .arg(root(directory))
        .arg("--config")
        .arg(directory.join("drydockd.toml"))
        .arg(format!("--addr=unix://{}", socket(directory).display()))
        .env_remove("DRYDOCK_LOG")
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("failed to run the program under test")
}
