//! A daemon where there is none.
//!
//! Many commands may find no daemon at the same moment. They take a lock beside the socket; the
//! first starts the daemon and waits until it listens, the others then find it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::FlockOperation;

use crate::paths::Family;

/// A daemon that was started for a command leaves when it had nothing to do for so long.
const IDLE_EXIT: &str = "10m";

/// A daemon that does not listen after this time is reported. Recovery after a crash is included.
const START_TIMEOUT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A log that has grown beyond this is begun anew.
const MAX_LOG: u64 = 16 << 20;

/// Of a log that tells why the daemon did not start, this much is shown.
const SHOWN_LOG: u64 = 4096;

/// Starts a daemon if `address` is a unix socket on which nobody listens.
pub(crate) fn ensure(address: &str) -> anyhow::Result<()> {
    let Some(socket) = address.strip_prefix("unix://").map(Path::new) else {
        return Ok(());
    };
    if is_served(socket) {
        return Ok(());
    }
    let directory = socket
        .parent()
        .context("the socket's path has no directory")?;
    fs::create_dir_all(directory)
        .with_context(|| format!("failed to create `{}`", directory.display()))?;
    let _lock = lock(&socket.with_added_extension("lock"))?;
    if is_served(socket) {
        return Ok(());
    }
    start(address, socket)
}

fn is_served(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Waits for the lock; it is given back when the file is closed.
fn lock(path: &Path) -> anyhow::Result<File> {
    let name = || format!("failed to lock `{}`", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = file.with_context(name)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).with_context(name)?;
    Ok(file)
}

fn start(address: &str, socket: &Path) -> anyhow::Result<()> {
    let root = Family::Drydock.root();
    fs::create_dir_all(&root).with_context(|| format!("failed to create `{}`", root.display()))?;
    let log = Log::open(root.join("drydockd.log"))?;
    let program = std::env::current_exe().context("failed to find the program itself")?;
    let mut child = Command::new(&program)
        .arg0("drydockd")
        .args(["--detached", "--idle-exit", IDLE_EXIT, "--addr", address])
        .arg("--root")
        .arg(&root)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.file.try_clone().context("failed to share the log")?)
        .stderr(log.file.try_clone().context("failed to share the log")?)
        .spawn()
        .with_context(|| format!("failed to run `{}`", program.display()))?;
    wait_until_served(&mut child, socket, &log)
}

fn wait_until_served(child: &mut Child, socket: &Path, log: &Log) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_served(socket) {
        if let Some(status) = child.try_wait().context("failed to wait for the daemon")? {
            bail!("the daemon ended with {status}{}", log.tail());
        }
        if begun.elapsed() > START_TIMEOUT {
            bail!(
                "the daemon does not listen after {}s{}",
                START_TIMEOUT.as_secs(),
                log.tail()
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// The daemon's log, and where this start begins in it.
struct Log {
    path: PathBuf,
    file: File,
    begin: u64,
}

impl Log {
    fn open(path: PathBuf) -> anyhow::Result<Log> {
        let name = || format!("failed to open the log `{}`", path.display());
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(name)?;
        let mut begin = file.metadata().with_context(name)?.len();
        if begin > MAX_LOG {
            file.set_len(0).with_context(name)?;
            begin = 0;
        }
        Ok(Log { path, file, begin })
    }

    /// What this start wrote last, for people.
    fn tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.path)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                self.begin.max(end.saturating_sub(SHOWN_LOG)),
            ))?;
            let mut bytes = Vec::new();
            file.take(SHOWN_LOG).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        match read() {
            Ok(text) if !text.is_empty() => format!(":\n{text}"),
            _ => format!("; its log is `{}`", self.path.display()),
        }
    }
}
