//! Descriptors of processes: a number that is used again never hits the wrong process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::process::{Pid, PidfdFlags};

/// A process, by descriptor. It is readable (in the sense of `poll`) once the process has ended.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process that has the number `pid` now.
    pub fn open(pid: i32) -> io::Result<Process> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Process(rustix::process::pidfd_open(
            pid,
            PidfdFlags::empty(),
        )?))
    }

    /// Takes a descriptor that came from `clone3` or another process.
    pub fn from_fd(fd: OwnedFd) -> Process {
        Process(fd)
    }

    /// The process's number in the pid namespace of the mounted `/proc`, or `None` once it has been
    /// waited for.
    pub fn pid(&self) -> io::Result<Option<i32>> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
        let pid = line.and_then(|pid| pid.trim().parse::<i32>().ok());
        Ok(pid.filter(|pid| *pid > 0))
    }

    /// Sends `signal` by number. A process that has ended already is not an error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: pidfd_send_signal(2) takes numbers and, for the details of the signal, a null
        // pointer, which means those of kill(2). `self.0` is open.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result != -1 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    /// Ends the process at once. One that has ended already is not an error.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn signals_reach_the_process_and_none_other() {
        let mut child = Command::new("/bin/busybox")
            .args(["sleep", "60"])
            .spawn()
            .unwrap();
        let process = Process::open(child.id().try_into().unwrap()).unwrap();
        assert_eq!(process.pid().unwrap(), Some(child.id() as i32));
        assert!(process.signal(1000).is_err());
        process.signal(libc::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(process.pid().unwrap(), None);
        process.kill().unwrap();
    }
}
