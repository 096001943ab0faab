//! A git that runs, with all that it starts.

use std::io;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::command::{Failed, Status};

/// Output of git that is read; what comes after it is dropped.
const MAX_OUTPUT: usize = 16 << 20;
/// What is kept of what it says about a failure.
const MAX_ERROR: usize = 64 << 10;
/// How much is read at once.
const CHUNK: usize = 16 << 10;

/// What the shell does that git is started by: modes of files are what the repository says, of which
/// git takes the umask off; and when the daemon's end of its standard input is closed, as it is when
/// the daemon dies, the shell, git and all that git started are killed.
pub(super) const SCRIPT: &str = r#"umask 022
exec 3<&0 </dev/null
{ read -r line <&3; kill -KILL 0; } >/dev/null 2>&1 &
watcher=$!
git "$@" 3<&-
status=$?
{ kill -KILL $watcher; wait $watcher; } >/dev/null 2>&1
exit $status"#;

/// A process group. It is killed when this is dropped before the end of its leader: a git that is
/// killed alone leaves its helpers behind, and they go on writing into the repository.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // A leader that was waited for has no number any more.
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(leader) = leader.and_then(Pid::from_raw) {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Runs `command`, which has pipes for its standard input and output, to its end, and gives what it
/// prints. With `silence` it fails when it has printed nothing for so long.
pub(super) async fn run(
    mut command: Command,
    silence: Option<Duration>,
) -> Result<Vec<u8>, Failed> {
    command.process_group(0).kill_on_drop(true);
    let mut group = Group(command.spawn().map_err(Failed::Start)?);
    // Open until the end.
    let _alive = group.0.stdin.take();
    let (stdout, stderr) = (group.0.stdout.take(), group.0.stderr.take());
    let heard = Heard(Mutex::new(Instant::now()));
    let (mut output, mut said) = (Vec::new(), Said::default());
    let work = async {
        tokio::join!(
            read(stdout, &heard, |bytes| keep(&mut output, bytes, MAX_OUTPUT)),
            read(stderr, &heard, |bytes| said.hear(bytes)),
        );
        group.0.wait().await
    };
    let limit = silence.unwrap_or(Duration::MAX);
    let status = {
        let mut work = pin!(work);
        tokio::select! {
            status = &mut work => status.map_err(Failed::Start)?,
            () = heard.nothing_for(limit) => return Err(Failed::Silent(limit)),
        }
    };
    if status.success() {
        return Ok(output);
    }
    Err(Failed::Exit {
        stderr: said.end(),
        status: Status(status),
    })
}

/// When something was printed last.
struct Heard(Mutex<Instant>);

impl Heard {
    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing has been printed for `limit`.
    async fn nothing_for(&self, limit: Duration) {
        loop {
            let last = *self.last();
            let Some(until) = last.checked_add(limit) else {
                return std::future::pending().await;
            };
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Reads to the end. A pipe that breaks is one that ends.
async fn read(from: Option<impl AsyncRead + Unpin>, heard: &Heard, mut take: impl FnMut(&[u8])) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; CHUNK];
    loop {
        let read: io::Result<usize> = from.read(&mut chunk).await;
        match read {
            Ok(0) | Err(_) => return,
            Ok(length) => take(&chunk[..length]),
        }
        *heard.last() = Instant::now();
    }
}

fn keep(all: &mut Vec<u8>, bytes: &[u8], limit: usize) {
    let room = limit.saturating_sub(all.len()).min(bytes.len());
    all.extend_from_slice(&bytes[..room]);
}

/// What was printed for people, without reports of progress.
#[derive(Default)]
struct Said {
    lines: Vec<u8>,
    line: Vec<u8>,
    /// The last byte was a carriage return, which begins the line anew unless the line ends.
    returned: bool,
}

impl Said {
    fn hear(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                byte => {
                    if std::mem::replace(&mut self.returned, *byte == b'\r') {
                        self.line.clear();
                    }
                    if *byte != b'\r' {
                        keep(&mut self.line, &[*byte], MAX_ERROR);
                    }
                }
            }
        }
    }

    fn end_line(&mut self) {
        self.returned = false;
        let mut line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let is_progress = text.contains("% (") || text.trim_end().ends_with(", done.");
        if !is_progress {
            line.push(b'\n');
            keep(&mut self.lines, &line, MAX_ERROR);
        }
    }

    fn end(mut self) -> String {
        if !self.line.is_empty() {
            self.end_line();
        }
        String::from_utf8_lossy(&self.lines).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn progress_is_left_out_of_what_was_said() {
        let mut said = Said::default();
        said.hear(b"remote: Counting objects:  50% (1/2)\rremote: Counting objects: 100% (2/2)\r");
        said.hear(
            b"remote: Counting objects: 100% (2/2), done.\nremote: Enumerating objects: 3, done.",
        );
        said.hear(b"\nremote: no such repository\r\nfatal: gone");
        assert_eq!(said.end(), "remote: no such repository\nfatal: gone\n");
    }

    /// A command in place of git, found by its number among the processes.
    fn command(directory: &std::path::Path, script: &str) -> Command {
        let program = directory.join("git");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let path = format!("{}:/usr/bin:/bin", directory.display());
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "git", "argument"])
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn is_running(text: &str) -> bool {
        let mut all = std::fs::read_dir("/proc").unwrap().flatten();
        all.any(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..3000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    #[tokio::test]
    async fn the_end_is_told_with_what_was_printed() {
        let directory = tempfile::tempdir().unwrap();
        let script = "echo \"$1\"; echo bad >&2; exit $CODE";
        let mut good = command(directory.path(), script);
        good.env("CODE", "0");
        assert_eq!(run(good, None).await.unwrap(), b"argument\n");
        let mut bad = command(directory.path(), script);
        bad.env("CODE", "3");
        let error = run(bad, None).await.unwrap_err().to_string();
        assert_eq!(error, "git stderr:\nbad\n: exit status 3");
    }

    #[tokio::test]
    async fn helpers_end_with_a_git_that_is_dropped_or_silent() {
        let directory = tempfile::tempdir().unwrap();
        let script = "sleep 30071 & echo begun; sleep 30072";
        let dropped = tokio::spawn(run(command(directory.path(), script), None));
        let begun = || is_running("30071") && is_running("30072");
        until("git and its helper run", begun).await;
        dropped.abort();
        until("both have ended", || {
            !is_running("30071") && !is_running("30072")
        })
        .await;

        let limit = Duration::from_millis(300);
        let silent = run(command(directory.path(), script), Some(limit)).await;
        let error = silent.unwrap_err().to_string();
        assert_eq!(error, "git made no progress for 0.3 s");
        until("both have ended", || {
            !is_running("30071") && !is_running("30072")
        })
        .await;
    }

    #[tokio::test]
    async fn all_end_when_the_daemon_does() {
        let directory = tempfile::tempdir().unwrap();
        let script = "sleep 30073 & sleep 30074";
        let mut child = command(directory.path(), script)
            .process_group(0)
            .spawn()
            .unwrap();
        let begun = || is_running("30073") && is_running("30074");
        until("git and its helper run", begun).await;
        // As the kernel does it for a process that was killed.
        drop(child.stdin.take());
        child.wait().await.unwrap();
        until("both have ended", || {
            !is_running("30073") && !is_running("30074")
        })
        .await;
    }
}
