//! Changes of permission bits: octal, or symbolic as chmod(1) takes them.

/// What to do to permission bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ModeChange {
    /// Leave them.
    #[default]
    Keep,
    /// Replace them with these (`0o7777`).
    Octal(u32),
    /// Change them.
    Symbolic(SymbolicMode),
}

/// Clauses like `u+rw,go=u-w,a+X`, with a umask of 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolicMode(Vec<Action>);

/// A text is not a mode as chmod(1) takes them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid mode `{0}`")]
pub struct ParseModeError(String);

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// One operator of a clause, with whom and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Action {
    /// The bits of whom it is about: `0o4700` for the user, and so on.
    who: u32,
    operator: Operator,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// These bits; and the execute bits, if `X` was given, of a directory or of what could be
    /// executed by anyone.
    Bits { bits: u32, execute_if_any: bool },
    /// The read, write and execute bits that the class at this shift has.
    CopyOf(u32),
}

impl ModeChange {
    /// Reads an octal or symbolic mode; nothing keeps the bits.
    pub fn parse(text: &str) -> Result<ModeChange, ParseModeError> {
        if text.is_empty() {
            return Ok(ModeChange::Keep);
        }
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return Ok(ModeChange::Symbolic(SymbolicMode::parse(text)?));
        }
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(ModeChange::Octal(mode)),
            _ => Err(ParseModeError(text.to_owned())),
        }
    }

    /// The permission bits that `mode` becomes.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            ModeChange::Keep => mode,
            ModeChange::Octal(mode) => mode & 0o7777,
            ModeChange::Symbolic(symbolic) => symbolic.apply(mode, is_dir),
        }
    }
}

impl SymbolicMode {
    /// Reads clauses separated by `,`.
    pub fn parse(text: &str) -> Result<SymbolicMode, ParseModeError> {
        let mut actions = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut actions).ok_or_else(|| ParseModeError(text.to_owned()))?;
        }
        Ok(SymbolicMode(actions))
    }

    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        // `X` looks at the bits before any change, as BSD's chmod does.
        let executable = is_dir || mode & 0o111 != 0;
        self.0.iter().fold(mode & 0o7777, |mode, action| {
            let bits = match &action.what {
                What::Bits {
                    bits,
                    execute_if_any,
                } => {
                    bits | if *execute_if_any && executable {
                        0o111
                    } else {
                        0
                    }
                }
                What::CopyOf(shift) => ((mode >> shift) & 0o7) * 0o111,
            };
            let bits = bits & action.who;
            match action.operator {
                Operator::Add => mode | bits,
                Operator::Remove => mode & !bits,
                // Setting leaves the sticky bit to those who name it.
                Operator::Set => (mode & !(action.who & !STICKY | bits)) | bits,
            }
        })
    }
}

fn parse_clause(clause: &str, actions: &mut Vec<Action>) -> Option<()> {
    let classes = clause.len() - clause.trim_start_matches(['u', 'g', 'o', 'a']).len();
    let (classes, mut rest) = clause.split_at(classes);
    let named = classes.chars().fold(0, |who, class| {
        who | match class {
            'u' => SET_UID | 0o700,
            'g' => SET_GID | 0o070,
            'o' => 0o007,
            _ => SET_UID | SET_GID | 0o777,
        }
    });
    let mut who = if named == 0 {
        SET_UID | SET_GID | 0o777
    } else {
        named
    };
    if named & !0o007 != 0 || named == 0 {
        who |= STICKY;
    }
    loop {
        let operator = match rest.as_bytes().first()? {
            b'+' => Operator::Add,
            b'-' => Operator::Remove,
            b'=' => Operator::Set,
            _ => return None,
        };
        let end = rest[1..]
            .find(['+', '-', '='])
            .map_or(rest.len(), |at| at + 1);
        parse_permissions(&rest[1..end], who, operator, actions)?;
        rest = &rest[end..];
        if rest.is_empty() {
            return Some(());
        }
    }
}

fn parse_permissions(
    text: &str,
    who: u32,
    operator: Operator,
    actions: &mut Vec<Action>,
) -> Option<()> {
    let (mut bits, mut execute_if_any) = (0, false);
    let mut copies = Vec::new();
    for char in text.chars() {
        match char {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            's' => bits |= SET_UID | SET_GID,
            't' => bits |= STICKY,
            // There is no condition on what is taken away.
            'X' if operator == Operator::Remove => bits |= 0o111,
            'X' => execute_if_any = true,
            'u' => copies.push(What::CopyOf(6)),
            'g' => copies.push(What::CopyOf(3)),
            'o' => copies.push(What::CopyOf(0)),
            _ => return None,
        }
    }
    let mut whats = copies;
    if bits != 0 || execute_if_any || whats.is_empty() {
        whats.push(What::Bits {
            bits,
            execute_if_any,
        });
    }
    // Only the first of several sets clears; the others add to it.
    let mut operator = operator;
    for what in whats {
        actions.push(Action {
            who,
            operator,
            what,
        });
        if operator == Operator::Set {
            operator = Operator::Add;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (text, file, want_file, dir, want_dir) in [
            ("", 0o644, 0o644, 0o755, 0o755),
            ("0600", 0o644, 0o600, 0o755, 0o600),
            ("4755", 0o644, 0o4755, 0o755, 0o4755),
            ("u+x", 0o644, 0o744, 0o644, 0o744),
            ("+x", 0o644, 0o755, 0o644, 0o755),
            ("a+X", 0o644, 0o644, 0o644, 0o755),
            ("go+X", 0o744, 0o755, 0o700, 0o711),
            ("go-X", 0o755, 0o744, 0o755, 0o744),
            ("go-rwx", 0o777, 0o700, 0o777, 0o700),
            ("go=u", 0o740, 0o777, 0o700, 0o777),
            ("go=u-w", 0o740, 0o755, 0o700, 0o755),
            ("u=rwX,go=rX", 0o600, 0o644, 0o700, 0o755),
            ("=", 0o755, 0o000, 0o1755, 0o1000),
            ("u+s,g+s", 0o755, 0o6755, 0o755, 0o6755),
            ("o+s", 0o755, 0o755, 0o755, 0o755),
            ("+t", 0o755, 0o1755, 0o755, 0o1755),
            ("a=r", 0o4755, 0o444, 0o1755, 0o1444),
            ("u=g", 0o251, 0o551, 0o040, 0o440),
        ] {
            let change = ModeChange::parse(text).unwrap();
            assert_eq!(change.apply(file, false), want_file, "file {text}");
            assert_eq!(change.apply(dir, true), want_dir, "directory {text}");
        }
        for bad in ["8", "10000", "u", "u+q", "u+r,", "z+r", "u!r", "0x1"] {
            assert_eq!(ModeChange::parse(bad), Err(ParseModeError(bad.to_owned())));
        }
    }
}
