//! Which devices the processes of a group may open or make nodes of.
//!
//! Version 1 has files for that; in version 2 a BPF program attached to the group decides.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::hierarchy::Version;
use super::{Place, write};

/// Kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// Uses of a device that a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// Make nodes of it.
    pub make: bool,
}

/// Allows some uses of some devices; what no rule allows is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Kind.
    pub kind: DeviceKind,
    /// Major number; `None` for all.
    pub major: Option<u32>,
    /// Minor number; `None` for all.
    pub minor: Option<u32>,
    /// Uses.
    pub access: Access,
}

/// Like [`restrict`], where the hierarchy of `place` can do it; returns whether it has.
pub(super) fn restrict_place(dir: BorrowedFd<'_>, place: &Place, rules: &[DeviceRule]) -> bool {
    let able = match place.version {
        Version::One => place.controllers.iter().any(|name| name == "devices"),
        Version::Two => true,
    };
    able && restrict(dir, place.version, rules).is_ok()
}

/// Lets the processes in and below the group `dir` use only what `rules` allow.
pub(super) fn restrict(
    dir: BorrowedFd<'_>,
    version: Version,
    rules: &[DeviceRule],
) -> io::Result<()> {
    match version {
        Version::One => {
            write(dir, "devices.deny", "a")?;
            rules
                .iter()
                .try_for_each(|rule| write(dir, "devices.allow", &rule.line()))
        }
        Version::Two => attach(dir, &program(rules)),
    }
}

impl DeviceRule {
    /// The line of `devices.allow`, like `c 1:3 rwm`.
    fn line(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let kind = match self.kind {
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let Access { read, write, make } = self.access;
        let access: String = [(read, 'r'), (write, 'w'), (make, 'm')]
            .into_iter()
            .filter_map(|(allowed, letter)| allowed.then_some(letter))
            .collect();
        format!(
            "{kind} {}:{} {access}",
            number(self.major),
            number(self.minor)
        )
    }
}

/// One eBPF instruction as the kernel takes it (little-endian bit fields: `dst` is the low half).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61; // dst = *(u32 *)(src + offset)
const AND: u8 = 0x54; // 32 bit: dst &= immediate
const SHIFT_RIGHT: u8 = 0x74; // 32 bit: dst >>= immediate
const MOVE: u8 = 0xb4; // 32 bit: dst = immediate
const MOVE_REGISTER: u8 = 0xbc; // 32 bit: dst = src
const JUMP_UNLESS_EQUAL: u8 = 0x56; // 32 bit: if dst != immediate skip offset
const EXIT: u8 = 0x95;

/// A program over `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, where the
/// low half of `access_type` is the kind (1 block, 2 char) and the high half the uses (1 make node,
/// 2 read, 4 write). Returns 1 to allow.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let make = |code, dst: u8, src: u8, offset, immediate| Instruction {
        code,
        registers: (src << 4) | dst,
        offset,
        immediate,
    };
    // r1 holds the context on entry. r2: kind, r3: uses, r4: major, r5: minor.
    let mut program = vec![
        make(LOAD_WORD, 2, 1, 0, 0),
        make(MOVE_REGISTER, 3, 2, 0, 0),
        make(AND, 2, 0, 0, 0xffff),
        make(SHIFT_RIGHT, 3, 0, 0, 16),
        make(LOAD_WORD, 4, 1, 4, 0),
        make(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = match rule.kind {
            DeviceKind::Block => 1,
            DeviceKind::Char => 2,
        };
        let Access {
            read,
            write,
            make: node,
        } = rule.access;
        let allowed = i32::from(node) | i32::from(read) << 1 | i32::from(write) << 2;
        // Each test skips the rest of its rule; the distances are filled in below.
        let mut block = vec![make(JUMP_UNLESS_EQUAL, 2, 0, 0, kind)];
        block.push(make(MOVE_REGISTER, 0, 3, 0, 0));
        block.push(make(AND, 0, 0, 0, !allowed & 7));
        block.push(make(JUMP_UNLESS_EQUAL, 0, 0, 0, 0));
        if let Some(major) = rule.major {
            block.push(make(JUMP_UNLESS_EQUAL, 4, 0, 0, major.cast_signed()));
        }
        if let Some(minor) = rule.minor {
            block.push(make(JUMP_UNLESS_EQUAL, 5, 0, 0, minor.cast_signed()));
        }
        block.push(make(MOVE, 0, 0, 0, 1));
        block.push(make(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (index, instruction) in block.iter_mut().enumerate() {
            if instruction.code == JUMP_UNLESS_EQUAL {
                instruction.offset = (length - index - 1) as i16;
            }
        }
        program.extend(block);
    }
    program.push(make(MOVE, 0, 0, 0, 0));
    program.push(make(EXIT, 0, 0, 0, 0));
    program
}

/// Loads `program` and attaches it to the group, where it stays until the group is removed.
fn attach(dir: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    const PROG_LOAD: c_int = 5;
    const PROG_ATTACH: c_int = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    /// A group below may attach programs of its own, and then all have to agree.
    const ALLOW_MULTI: u32 = 2;

    /// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
    }
    /// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }

    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    // SAFETY: bpf(2) reads `size_of::<Load>()` bytes of `load`, a live local laid out like the
    // kernel's struct, `count` instructions from the slice of that length, and the license up to its
    // NUL. With no log buffer it writes nothing.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let fd = checked(fd)?;
    // SAFETY: on success the call returned a new descriptor that nothing else owns.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = Attach {
        target: dir.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: bpf(2) reads `size_of::<Attach>()` bytes of `attach`, a live local laid out like the
    // kernel's struct; both descriptors in it are open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    };
    checked(done).map(drop)
}

fn checked(result: c_long) -> io::Result<c_int> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as c_int)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    const ALL: Access = Access {
        read: true,
        write: true,
        make: true,
    };

    #[test]
    fn rules_read_like_the_kernels_files() {
        let null = DeviceRule {
            kind: DeviceKind::Char,
            major: Some(1),
            minor: Some(3),
            access: ALL,
        };
        assert_eq!(null.line(), "c 1:3 rwm");
        let nodes = Access {
            read: false,
            write: false,
            make: true,
        };
        let any = DeviceRule {
            kind: DeviceKind::Block,
            major: None,
            minor: None,
            access: nodes,
        };
        assert_eq!(any.line(), "b *:* m");
    }

    #[test]
    fn every_test_of_a_rule_skips_to_the_next_rule() {
        let rule = DeviceRule {
            kind: DeviceKind::Char,
            major: Some(1),
            minor: Some(3),
            access: ALL,
        };
        let program = program(&[rule, rule]);
        let next = program.len() - 2 - 8;
        for (index, instruction) in program[..next].iter().enumerate() {
            if instruction.code == JUMP_UNLESS_EQUAL {
                assert_eq!(index + 1 + instruction.offset as usize, next);
            }
        }
    }

    #[test]
    fn the_version_2_program_lets_only_the_listed_devices_pass() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .expect("these tests need a version 2 hierarchy");
        let path = Path::new(mount).join("drydock-test-devices");
        fs::create_dir_all(&path).unwrap();
        let dir = File::open(&path).unwrap();
        let read_only = Access {
            read: true,
            write: false,
            make: false,
        };
        let rule = |minor| DeviceRule {
            kind: DeviceKind::Char,
            major: Some(1),
            minor: Some(minor),
            access: if minor == 3 { ALL } else { read_only },
        };
        restrict(dir.as_fd(), Version::Two, &[rule(3), rule(5)]).unwrap();
        let script = "echo 0 > cgroup.procs
            : </dev/null && : 2>/dev/null >/dev/null && echo null; head -c0 /dev/zero && echo zero
            (: >/dev/zero) || echo no write; head -c0 /dev/urandom || echo no urandom";
        let output = Command::new("/bin/sh")
            .current_dir(&path)
            .args(["-c", script])
            .output();
        let output = String::from_utf8(output.unwrap().stdout).unwrap();
        fs::remove_dir(&path).unwrap();
        assert_eq!(output, "null\nzero\nno write\nno urandom\n");
    }
}
