//! An OCI profile as a BPF program.
//!
//! The program looks the call up in a binary tree over its number, about ten comparisons deep. When
//! it is installed the kernel runs it for every number and remembers which are always allowed, so
//! depth counts at each start of a container as well as in calls.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use sys::process::BpfInstruction;

use super::numbers::NUMBERS;

/// Why a profile cannot be made a program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    /// Actions that need an agent outside, and the like.
    #[error("seccomp action `{0}` is not supported")]
    Action(LinuxSeccompAction),
    /// More arguments than a system call has.
    #[error("system call `{0}` has no argument {1}")]
    Argument(String, usize),
    /// The machine's architecture has no table of numbers.
    #[error("seccomp is not supported on `{0}`")]
    Architecture(&'static str),
    /// The kernel takes 4096 instructions.
    #[error("seccomp profile has too many rules")]
    TooLong,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// A value of `SECCOMP_RET_*`.
    Return(u32),
    /// The first rule that holds decides, and the value at the end where none does.
    Check(Vec<(Vec<LinuxSeccompArg>, u32)>, u32),
}

/// One architecture a program of this machine may use.
struct Machine {
    /// `AUDIT_ARCH_*`.
    audit: u32,
    /// Column of [`NUMBERS`].
    column: usize,
    /// First number that is not a call of this architecture.
    end: u32,
}

const MAX_INSTRUCTIONS: usize = 4096;
const ARGUMENTS: usize = 6;

/// Compiles `profile` for the architectures of this machine.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Vec<BpfInstruction>, CompileError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut program = vec![load(OFFSET_ARCHITECTURE)];
    for machine in machines()? {
        let tree = tree(&segments(profile, &machine, default)?);
        let mut body = vec![load(OFFSET_NUMBER)];
        body.extend(tree);
        // Skip the body where the architecture is another one.
        program.push(jump(JUMP_IF_EQUAL, machine.audit, 1, 0));
        program.push(skip(body.len()));
        program.extend(body);
    }
    program.push(ret(KILL_PROCESS));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong);
    }
    Ok(program)
}

fn machines() -> Result<[Machine; 2], CompileError> {
    // x32 calls are those of x86_64 with bit 30 set. No distribution turns them on; here they are
    // unknown numbers.
    const X32_BIT: u32 = 0x4000_0000;
    let machine = |audit, column, end| Machine { audit, column, end };
    match std::env::consts::ARCH {
        "x86_64" => Ok([
            machine(0xc000_003e, 0, X32_BIT),
            machine(0x4000_0003, 1, u32::MAX),
        ]),
        "aarch64" => Ok([
            machine(0xc000_00b7, 2, u32::MAX),
            machine(0x4000_0028, 3, u32::MAX),
        ]),
        other => Err(CompileError::Architecture(other)),
    }
}

/// The verdicts for all numbers of an architecture: each holds from its number to the next one's.
fn segments(
    profile: &LinuxSeccomp,
    machine: &Machine,
    default: u32,
) -> Result<Vec<(u32, Verdict)>, CompileError> {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for call in profile.syscalls().iter().flatten() {
        let value = action(call.action(), call.errno_ret())?;
        for name in call.names() {
            if let Some(number) = number(name, machine.column) {
                let verdict = verdicts
                    .entry(number)
                    .or_insert(Verdict::Check(Vec::new(), default));
                add_rule(verdict, call, name, value)?;
            }
        }
    }
    let known = NUMBERS
        .iter()
        .filter_map(|(_, numbers)| u32::try_from(numbers[machine.column]).ok());
    // The private calls of arm begin at 0xf0000, far behind the others.
    let last_known = known.filter(|number| *number < 0xf0000).max().unwrap_or(0);
    let enosys = action(
        LinuxSeccompAction::ScmpActErrno,
        Some(libc::ENOSYS.unsigned_abs()),
    )?;

    let mut segments: Vec<(u32, Verdict)> = Vec::new();
    let mut next = 0;
    let mut push = |from: u32, verdict: Verdict| {
        if segments.last().is_none_or(|(_, last)| *last != verdict) {
            segments.push((from, verdict));
        }
    };
    let unlisted = |number: u32| if number > last_known { enosys } else { default };
    for (number, verdict) in verdicts {
        if number > next {
            push(next, Verdict::Return(unlisted(next)));
            if next <= last_known && number > last_known + 1 {
                push(last_known + 1, Verdict::Return(enosys));
            }
        }
        push(number, verdict);
        next = number + 1;
    }
    if next <= last_known {
        push(next, Verdict::Return(default));
    }
    push(next.max(last_known + 1), Verdict::Return(enosys));
    if machine.end != u32::MAX {
        push(machine.end, Verdict::Return(enosys));
    }
    Ok(segments)
}

fn add_rule(
    verdict: &mut Verdict,
    call: &LinuxSyscall,
    name: &str,
    value: u32,
) -> Result<(), CompileError> {
    // A rule without conditions outdoes all others, as in libseccomp.
    let Verdict::Check(rules, _) = verdict else {
        return Ok(());
    };
    let arguments: Vec<LinuxSeccompArg> = call.args().iter().flatten().copied().collect();
    if let Some(bad) = arguments
        .iter()
        .find(|argument| argument.index() >= ARGUMENTS)
    {
        return Err(CompileError::Argument(name.to_owned(), bad.index()));
    }
    if arguments.is_empty() {
        *verdict = Verdict::Return(value);
    } else {
        rules.push((arguments, value));
    }
    Ok(())
}

fn number(name: &str, column: usize) -> Option<u32> {
    let row = NUMBERS.binary_search_by_key(&name, |(name, _)| name).ok()?;
    u32::try_from(NUMBERS[row].1[column]).ok()
}

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, CompileError> {
    let data = errno.unwrap_or(libc::EPERM.unsigned_abs()) & 0xffff;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | data,
        LinuxSeccompAction::ScmpActTrace => TRACE | data,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => return Err(CompileError::Action(action)),
    })
}

/// The search: everything below the middle segment's number goes left, the rest right.
fn tree(segments: &[(u32, Verdict)]) -> Vec<BpfInstruction> {
    match segments {
        [] => vec![ret(KILL_PROCESS)],
        [(_, verdict)] => leaf(verdict),
        _ => {
            let (left, right) = segments.split_at(segments.len() / 2);
            let (left, right_code) = (tree(left), tree(right));
            let mut code = match u8::try_from(left.len()) {
                Ok(distance) => vec![jump(JUMP_IF_AT_LEAST, right[0].0, distance, 0)],
                Err(_) => {
                    vec![jump(JUMP_IF_AT_LEAST, right[0].0, 0, 1), skip(left.len())]
                }
            };
            code.extend(left);
            code.extend(right_code);
            code
        }
    }
}

fn leaf(verdict: &Verdict) -> Vec<BpfInstruction> {
    match verdict {
        Verdict::Return(value) => vec![ret(*value)],
        Verdict::Check(rules, otherwise) => {
            let mut code = Vec::new();
            for (arguments, value) in rules {
                code.extend(rule(arguments, *value));
            }
            code.push(ret(*otherwise));
            code
        }
    }
}

/// Returns `value` where all arguments fit; else runs off its end.
fn rule(arguments: &[LinuxSeccompArg], value: u32) -> Vec<BpfInstruction> {
    let Some((first, rest)) = arguments.split_first() else {
        return vec![ret(value)];
    };
    let inner = rule(rest, value);
    let mut code = condition(*first);
    // A condition runs off its end where it holds, and over one instruction more where not.
    code.push(skip(1));
    code.push(skip(inner.len()));
    code.extend(inner);
    code
}

/// Compares one argument of 64 bits in two halves. Falls through where the comparison holds and
/// skips one instruction where it does not.
fn condition(argument: LinuxSeccompArg) -> Vec<BpfInstruction> {
    use LinuxSeccompOperator::{
        ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe,
    };

    let base = OFFSET_ARGUMENTS + 8 * argument.index() as u32;
    let (low, high) = (load(base), load(base + 4));
    let value = argument.value();
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (value_high, value_low) = halves(value);
    // In each array the distances lead to its end (holds) or one past it (does not hold).
    let equal = |mask: u64, value: u64| {
        let (value_high, value_low) = halves(value);
        let (mask_high, mask_low) = halves(mask);
        vec![
            high,
            and(mask_high),
            jump(JUMP_IF_EQUAL, value_high, 0, 4),
            low,
            and(mask_low),
            jump(JUMP_IF_EQUAL, value_low, 0, 1),
        ]
    };
    let ordered = |operation: u8, holds: u8, fails: u8| {
        // A larger or smaller high half decides; an equal one leaves it to the low half.
        vec![
            high,
            jump(JUMP_IF_ABOVE, value_high, 3 + holds, 0),
            jump(JUMP_IF_EQUAL, value_high, 0, 2 + fails),
            low,
            jump(operation, value_low, holds, fails),
        ]
    };
    match argument.op() {
        ScmpCmpEq => equal(u64::MAX, value),
        ScmpCmpNe => {
            vec![
                high,
                jump(JUMP_IF_EQUAL, value_high, 0, 2),
                low,
                jump(JUMP_IF_EQUAL, value_low, 1, 0),
            ]
        }
        ScmpCmpMaskedEq => equal(value, argument.value_two().unwrap_or(0)),
        ScmpCmpGt => ordered(JUMP_IF_ABOVE, 0, 1),
        ScmpCmpGe => ordered(JUMP_IF_AT_LEAST, 0, 1),
        ScmpCmpLe => ordered(JUMP_IF_ABOVE, 1, 0),
        ScmpCmpLt => ordered(JUMP_IF_AT_LEAST, 1, 0),
    }
}

// Offsets into `struct seccomp_data`, whose words are little-endian here.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_ABOVE: u8 = 0x25;
const JUMP_IF_AT_LEAST: u8 = 0x35;

fn load(offset: u32) -> BpfInstruction {
    BpfInstruction {
        code: 0x20,
        if_true: 0,
        if_false: 0,
        operand: offset,
    }
}

fn and(mask: u32) -> BpfInstruction {
    BpfInstruction {
        code: 0x54,
        if_true: 0,
        if_false: 0,
        operand: mask,
    }
}

fn jump(operation: u8, operand: u32, if_true: u8, if_false: u8) -> BpfInstruction {
    BpfInstruction {
        code: operation.into(),
        if_true,
        if_false,
        operand,
    }
}

fn skip(instructions: usize) -> BpfInstruction {
    BpfInstruction {
        code: 0x05,
        if_true: 0,
        if_false: 0,
        operand: instructions as u32,
    }
}

fn ret(value: u32) -> BpfInstruction {
    BpfInstruction {
        code: 0x06,
        if_true: 0,
        if_false: 0,
        operand: value,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use oci_spec::runtime::{
        Capability, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder,
    };

    use super::super::default_profile;
    use super::*;

    const NATIVE: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    /// Runs a program as the kernel would.
    fn run(program: &[BpfInstruction], machine: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = vec![number, machine, 0, 0];
        for argument in arguments {
            data.extend([argument as u32, (argument >> 32) as u32]);
        }
        let (mut at, mut value) = (0, 0);
        loop {
            let BpfInstruction {
                code,
                if_true,
                if_false,
                operand,
            } = program[at];
            at += 1;
            let holds = match code {
                0x20 => {
                    value = data[operand as usize / 4];
                    continue;
                }
                0x54 => {
                    value &= operand;
                    continue;
                }
                0x05 => {
                    at += operand as usize;
                    continue;
                }
                0x06 => return operand,
                0x15 => value == operand,
                0x25 => value > operand,
                0x35 => value >= operand,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += usize::from(if holds { if_true } else { if_false });
        }
    }

    fn call(program: &[BpfInstruction], name: &str, first: u64) -> u32 {
        let number = number(name, 0).unwrap();
        run(program, NATIVE, number, [first, 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_default_profile_decides_every_known_call() {
        let program = compile(&default_profile(&HashSet::new())).unwrap();
        assert!(program.len() < 700, "{}", program.len());
        for (name, numbers) in NUMBERS {
            for (machine, column) in [(NATIVE, 0), (I386, 1)] {
                let Ok(number) = u32::try_from(numbers[column]) else {
                    continue;
                };
                let verdict = run(&program, machine, number, [1 << 60, 0, 0, 0, 0, 0]);
                let expected = match *name {
                    "clone3" => ERRNO | 38,
                    "clone" => ALLOW,
                    "socket" => ALLOW,
                    "personality" => ERRNO | 1,
                    name if super::super::NEVER.contains(&name) => ERRNO | 1,
                    name if super::super::UNLOCKED
                        .iter()
                        .any(|(_, all)| all.contains(&name)) =>
                    {
                        ERRNO | 1
                    }
                    _ => ALLOW,
                };
                assert_eq!(verdict, expected, "{name} {number}");
            }
        }
        for unknown in [468, 1000, 0x4000_0000, 0x4000_0001, u32::MAX] {
            assert_eq!(
                run(&program, NATIVE, unknown, [0; 6]),
                ERRNO | 38,
                "{unknown}"
            );
        }
        assert_eq!(run(&program, 0xdead, 0, [0; 6]), KILL_PROCESS);
    }

    #[test]
    fn arguments_decide_where_the_profile_says_so() {
        let plain = compile(&default_profile(&HashSet::new())).unwrap();
        let admin = compile(&default_profile(&HashSet::from([Capability::SysAdmin]))).unwrap();
        for (name, first, without, with) in [
            ("socket", 2, ALLOW, ALLOW),
            ("socket", 38, ERRNO | 1, ERRNO | 1),
            ("socket", 39, ALLOW, ALLOW),
            ("socket", 40, ERRNO | 1, ERRNO | 1),
            ("socket", 41, ALLOW, ALLOW),
            ("personality", 0, ALLOW, ALLOW),
            ("personality", 0xffff_ffff, ALLOW, ALLOW),
            ("personality", 1, ERRNO | 1, ERRNO | 1),
            ("clone", 0x11, ALLOW, ALLOW),
            ("clone", 0x1000_0011, ERRNO | 1, ALLOW),
            ("clone3", 0, ERRNO | 38, ALLOW),
            ("mount", 0, ERRNO | 1, ALLOW),
            ("keyctl", 0, ERRNO | 1, ERRNO | 1),
            ("read", 0, ALLOW, ALLOW),
        ] {
            assert_eq!(call(&plain, name, first), without, "{name} {first:#x}");
            assert_eq!(call(&admin, name, first), with, "{name} {first:#x}");
        }
    }

    #[test]
    fn every_comparison_compares_all_64_bits() {
        use LinuxSeccompOperator::{
            ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe,
        };
        let values = [
            0,
            1,
            5,
            6,
            7,
            1 << 32,
            (1 << 32) + 5,
            (6 << 32) + 6,
            u64::MAX,
        ];
        let two = 4;
        for op in [
            ScmpCmpEq,
            ScmpCmpNe,
            ScmpCmpLt,
            ScmpCmpLe,
            ScmpCmpGt,
            ScmpCmpGe,
            ScmpCmpMaskedEq,
        ] {
            for value in values {
                let argument = |index: usize| {
                    LinuxSeccompArgBuilder::default()
                        .index(index)
                        .value(value)
                        .value_two(two)
                        .op(op)
                        .build()
                        .unwrap()
                };
                let call = LinuxSyscallBuilder::default()
                    .names(vec!["read".to_owned()])
                    .action(LinuxSeccompAction::ScmpActAllow)
                    .args(vec![argument(0), argument(2)])
                    .build()
                    .unwrap();
                let profile = LinuxSeccompBuilder::default()
                    .default_action(LinuxSeccompAction::ScmpActErrno)
                    .syscalls(vec![call])
                    .build()
                    .unwrap();
                let program = compile(&profile).unwrap();
                let holds = |given: u64| match op {
                    ScmpCmpEq => given == value,
                    ScmpCmpNe => given != value,
                    ScmpCmpLt => given < value,
                    ScmpCmpLe => given <= value,
                    ScmpCmpGt => given > value,
                    ScmpCmpGe => given >= value,
                    ScmpCmpMaskedEq => given & value == two,
                };
                for (first, third) in values.iter().flat_map(|a| values.map(|b| (*a, b))) {
                    let verdict = run(&program, NATIVE, 0, [first, 9, third, 9, 9, 9]);
                    let expected = if holds(first) && holds(third) {
                        ALLOW
                    } else {
                        ERRNO | 1
                    };
                    assert_eq!(
                        verdict, expected,
                        "{op:?} {value:#x}: {first:#x} {third:#x}"
                    );
                }
            }
        }
    }
}
