//! Processes: forking a small one into new namespaces, and starting a program from a large one.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr;

/// Which side of [`fork`] this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old process; `pid` is the child as seen here, `pidfd` refers to it for ever.
    Parent {
        /// The child's process id in the caller's pid namespace.
        pid: i32,
        /// The child.
        pidfd: OwnedFd,
    },
}

/// Forks the calling process, which must have a single thread, with `flags` (`CLONE_NEW*` of
/// `clone(2)`), and into the version 2 control group `cgroup` if one is given.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when `flags` has anything but new namespaces, or the process has
/// more than one thread: the child would keep locks that other threads hold.
pub fn fork(flags: c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    if flags & !NAMESPACES != 0 {
        return Err(invalid(
            "only flags of new namespaces can be given to a fork",
        ));
    }
    // The link count of a directory in /proc is its sub directories plus two.
    if fs::metadata("/proc/self/task")?.nlink() != 3 {
        return Err(invalid("a process with several threads cannot be forked"));
    }
    let request = Clone3 { flags, cgroup };
    // SAFETY: the kernel duplicates the whole process, so every pointer stays good in the child.
    // The process has one thread (checked above), so no lock is left held by a thread that is
    // gone, and the child may go on like any program.
    let (pid, pidfd) = unsafe { request.call() }?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    Ok(Fork::Parent {
        pid,
        pidfd: pidfd.ok_or_else(|| invalid("no descriptor of the child"))?,
    })
}

const NAMESPACES: c_int = libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWCGROUP;

/// Of `<linux/sched.h>`; the C library's binding has a type too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

struct Clone3<'fd> {
    flags: c_int,
    cgroup: Option<BorrowedFd<'fd>>,
}

impl Clone3<'_> {
    /// Clones without sharing memory. Returns 0 and no descriptor in the child.
    ///
    /// # Safety
    /// If the caller has other threads, the child may only do what is safe in a signal handler.
    unsafe fn call(&self) -> io::Result<(i32, Option<OwnedFd>)> {
        let mut pidfd: c_int = -1;
        // SAFETY: `clone_args` is integers only, for which zero is a value ("not given").
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = (self.flags | libc::CLONE_PIDFD) as u64;
        arguments.pidfd = (&raw mut pidfd) as u64;
        arguments.exit_signal = libc::SIGCHLD as u64;
        if let Some(cgroup) = self.cgroup {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = cgroup.as_raw_fd() as u64;
        }
        // SAFETY: clone3(2) reads `size_of::<clone_args>()` bytes of `arguments`, a live local of
        // that type, and writes one `int` to `pidfd`, a live local, before it returns in the parent.
        // With neither CLONE_VM nor a stack it behaves like fork(2): the child has its own copy.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw mut arguments,
                size_of::<libc::clone_args>(),
            )
        };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok((0, None)),
            pid => {
                // SAFETY: on success in the parent the kernel has stored a new descriptor in
                // `pidfd`, which nothing else owns.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Ok((pid as i32, Some(pidfd)))
            }
        }
    }
}

/// A program to be started as the first process of a new pid namespace.
#[derive(Debug)]
pub struct Program<'fd> {
    /// The executable.
    pub executable: BorrowedFd<'fd>,
    /// Arguments, beginning with the name.
    pub arguments: Vec<CString>,
    /// Environment, `NAME=value` each.
    pub environment: Vec<CString>,
    /// Descriptors the program gets, numbered from 3 in this order. Besides them it has the
    /// standard three of the caller, and no others.
    pub descriptors: Vec<BorrowedFd<'fd>>,
}

/// Starts `program` in a new pid namespace, so that the kernel kills everything the program started
/// when the program ends, however it ends. Returns a descriptor of the process, which is a child of
/// the caller and has to be waited for.
pub fn spawn_in_pid_namespace(program: &Program<'_>) -> io::Result<OwnedFd> {
    let arguments = pointers(&program.arguments);
    let environment = pointers(&program.environment);
    // Copies above all targets, so that moving one into place never closes another.
    let first_free = 3 + program.descriptors.len() as c_int;
    let executable = duplicate_above(program.executable, first_free)?;
    let descriptors = program
        .descriptors
        .iter()
        .map(|fd| duplicate_above(*fd, first_free))
        .collect::<io::Result<Vec<_>>>()?;

    let request = Clone3 {
        flags: libc::CLONE_NEWPID,
        cgroup: None,
    };
    // SAFETY: the child only runs `become_program`, which makes system calls on values prepared
    // above and allocates nothing.
    let (pid, pidfd) = unsafe { request.call() }?;
    if pid == 0 {
        become_program(&executable, &descriptors, &arguments, &environment);
    }
    pidfd.ok_or_else(|| invalid("no descriptor of the child"))
}

/// The child's side of [`spawn_in_pid_namespace`]: only system calls, no allocation, no return.
fn become_program(
    executable: &OwnedFd,
    descriptors: &[OwnedFd],
    arguments: &[*const c_char],
    environment: &[*const c_char],
) -> ! {
    for (index, fd) in descriptors.iter().enumerate() {
        // SAFETY: dup2(2) takes two numbers. The target is below every descriptor in use here
        // (`duplicate_above`), and the copy is not close-on-exec, so the program gets it.
        unsafe { libc::dup2(fd.as_raw_fd(), 3 + index as c_int) };
    }
    // All others, the executable among them, close with the exec.
    let _ = close_on_exec_from(3 + descriptors.len() as u32);
    reset_signals();
    // SAFETY: execveat(2) reads the empty C string literal and the two arrays up to their null
    // pointer, which `pointers` put there; the strings they point to are owned by the caller of
    // `spawn_in_pid_namespace`, whose frame this copy of the process still has.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            executable.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    // SAFETY: `_exit` takes a number, runs no handlers and does not return.
    unsafe { libc::_exit(127) }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

fn duplicate_above(fd: BorrowedFd<'_>, lowest: c_int) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, lowest)?)
}

/// Unblocks all signals and gives them their default action, as a new program expects. Allocates
/// nothing.
pub fn reset_signals() {
    // Real-time signals end at 64 on every architecture there is support for.
    for signal in 1..=64 {
        // SAFETY: signal(2) with SIG_DFL installs no code. Numbers that cannot be changed (SIGKILL,
        // SIGSTOP, the two of the C library) are refused and stay as they are.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) writes the set it is given, a live local.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: sigprocmask(2) reads the set, which the line above made; the old set is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
}

/// Marks every descriptor from `lowest` on to be closed when a program is executed.
pub fn close_on_exec_from(lowest: u32) -> io::Result<()> {
    // SAFETY: close_range(2) takes three numbers. With CLOSE_RANGE_CLOEXEC it closes nothing now, so
    // no `OwnedFd` of this process is left with a descriptor that is gone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            lowest,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A copy of descriptor `number`, which this program got when it was executed, closed on exec. Fails
/// where there is no such descriptor.
pub fn inherited_descriptor(number: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the number is only given to fcntl(2), in the next call. If nothing is open there, or
    // something else by now, that fails or duplicates what is there; nothing gets closed.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    duplicate_above(inherited, 0)
}

/// Gives the process a new, anonymous session keyring, so that it cannot read its parent's keys.
/// Kernels without keyrings have none to protect, which is not an error.
pub fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: keyctl(2) with this operation takes a name or, as here, a null pointer for none.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<c_char>(),
        )
    };
    if result != -1 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM) => Ok(()),
        _ => Err(error),
    }
}

/// One instruction of a classic BPF program, as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfInstruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip where a comparison holds.
    pub if_true: u8,
    /// Instructions to skip where it does not.
    pub if_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Restricts the system calls of this process and all its descendants to what `program` lets pass.
/// Needs `CAP_SYS_ADMIN` or the no-new-privileges flag; it does not set that flag.
///
/// # Errors
/// `EACCES` without that permission, `EINVAL` for a program the kernel refuses.
pub fn install_seccomp_filter(program: &[BpfInstruction]) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        length: u16,
        instructions: *const BpfInstruction,
    }
    let length = u16::try_from(program.len()).map_err(|_| invalid("filter too long"))?;
    let header = Header {
        length,
        instructions: program.as_ptr(),
    };
    // SAFETY: seccomp(2) reads `header`, a live local laid out like `struct sock_fprog`, and
    // `length` instructions from its pointer, which is the slice of exactly that length;
    // `BpfInstruction` is laid out like `struct sock_filter`. The kernel copies and verifies both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            (&raw const header).cast::<c_void>(),
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Replaces this process by the program at `path` (no lookup in `PATH`). Returns only to say why
/// that failed.
pub fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    match nix::unistd::execve(path, arguments, environment) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        // The test harness runs this on a second thread.
        assert_eq!(
            fork(0, None).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(fork(libc::CLONE_VM, None).is_err());
    }

    #[test]
    fn a_spawned_program_is_first_in_its_namespace_and_has_only_its_descriptors() {
        let executable = File::open("/bin/busybox").unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let (other, mut feed) = io::pipe().unwrap();
        feed.write_all(b"fed").unwrap();
        drop(feed);
        let script = c"echo $$ >&4; cat <&3 >&4; cd /proc/self/fd && echo * >&4";
        let program = Program {
            executable: executable.as_fd(),
            arguments: [c"sh", c"-c", script].map(CStr::to_owned).to_vec(),
            environment: vec![c"PATH=/bin".to_owned()],
            descriptors: vec![other.as_fd(), writer.as_fd()],
        };
        let pidfd = spawn_in_pid_namespace(&program).unwrap();
        drop(writer);
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        assert!(output.starts_with("1\nfed0 1 2 3 4"), "{output}");
        let status = rustix::process::waitid(
            rustix::process::WaitId::PidFd(pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
        assert_eq!(status.unwrap().unwrap().exit_status(), Some(0));
    }
}
