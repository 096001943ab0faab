//! Checks file ops.

use proto::pb;

use super::InvalidOp;
use crate::{
    ActionInput, CopyAction, FileAction, FileActionKind, FileOp, MkDirAction, MkFileAction, Owner,
    RmAction, SymlinkAction, UserRef,
};

pub(super) fn decode(op: pb::FileOp, inputs: usize) -> Result<FileOp, InvalidOp> {
    if op.actions.is_empty() {
        return Err(InvalidOp::Missing {
            op: "file",
            part: "actions",
        });
    }
    let numbering = Numbering {
        inputs,
        actions: op.actions.len(),
    };
    let actions = op
        .actions
        .into_iter()
        .map(|action| numbering.action(action))
        .collect::<Result<Vec<_>, _>>()?;
    check_outputs(&actions)?;
    check_loops(&actions)?;
    Ok(FileOp { actions })
}

/// Outputs are numbered 0, 1, … in any order.
fn check_outputs(actions: &[FileAction]) -> Result<(), InvalidOp> {
    let mut seen = vec![false; actions.len()];
    for output in actions.iter().filter_map(|action| action.output) {
        if std::mem::replace(&mut seen[output as usize], true) {
            return Err(InvalidOp::DuplicateOutput(i64::from(output)));
        }
    }
    let count = seen.iter().filter(|&&seen| seen).count();
    match seen[..count].iter().position(|&seen| !seen) {
        _ if count == 0 => Err(InvalidOp::NoOutputs),
        Some(missing) => Err(InvalidOp::MissingOutput(missing)),
        None => Ok(()),
    }
}

/// Follows what each action builds on; an action that is met again on its own path is in a loop.
fn check_loops(actions: &[FileAction]) -> Result<(), InvalidOp> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; actions.len()];
    let mut stack: Vec<usize> = Vec::new();
    for start in 0..actions.len() {
        stack.push(start);
        while let Some(&at) = stack.last() {
            if marks[at] != Mark::New {
                marks[at] = Mark::Done;
                stack.pop();
                continue;
            }
            marks[at] = Mark::Open;
            for input in [actions[at].input, actions[at].secondary] {
                let ActionInput::Action(next) = input else {
                    continue;
                };
                match marks[next as usize] {
                    Mark::New => stack.push(next as usize),
                    Mark::Open => return Err(InvalidOp::ActionLoop(next as usize)),
                    Mark::Done => {}
                }
            }
        }
    }
    Ok(())
}

/// How an action names what it works on: first the op's inputs, then the op's actions.
#[derive(Clone, Copy)]
struct Numbering {
    inputs: usize,
    actions: usize,
}

impl Numbering {
    fn input(self, what: &'static str, index: i64) -> Result<ActionInput, InvalidOp> {
        if index == -1 {
            return Ok(ActionInput::Empty);
        }
        let error = InvalidOp::Index { what, index };
        let Ok(index) = usize::try_from(index) else {
            return Err(error);
        };
        if index >= self.inputs + self.actions {
            return Err(error);
        }
        let (number, make): (usize, fn(u32) -> ActionInput) = match index.checked_sub(self.inputs) {
            Some(action) => (action, ActionInput::Action),
            None => (index, ActionInput::Input),
        };
        u32::try_from(number).map(make).map_err(|_| error)
    }

    fn output(self, index: i64) -> Result<Option<u32>, InvalidOp> {
        match u32::try_from(index) {
            _ if index == -1 => Ok(None),
            Ok(output) if (output as usize) < self.actions => Ok(Some(output)),
            _ => Err(InvalidOp::Index {
                what: "output",
                index,
            }),
        }
    }

    fn action(self, action: pb::FileAction) -> Result<FileAction, InvalidOp> {
        use pb::file_action::Action;
        let kind = match action.action.ok_or(InvalidOp::Unknown)? {
            Action::Copy(copy) => FileActionKind::Copy(self.copy(copy)?),
            Action::Mkfile(file) => FileActionKind::MkFile(MkFileAction {
                path: file.path,
                mode: file.mode.cast_unsigned(),
                data: file.data,
                owner: self.owner(file.owner)?,
                timestamp: timestamp(file.timestamp),
            }),
            Action::Mkdir(dir) => FileActionKind::MkDir(MkDirAction {
                path: dir.path,
                mode: dir.mode.cast_unsigned(),
                make_parents: dir.make_parents,
                owner: self.owner(dir.owner)?,
                timestamp: timestamp(dir.timestamp),
            }),
            Action::Rm(rm) => FileActionKind::Rm(RmAction {
                path: rm.path,
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            }),
            Action::Symlink(link) => FileActionKind::Symlink(SymlinkAction {
                oldpath: link.oldpath,
                newpath: link.newpath,
                owner: self.owner(link.owner)?,
                timestamp: timestamp(link.timestamp),
            }),
        };
        Ok(FileAction {
            input: self.input("input", action.input)?,
            secondary: self.input("secondary input", action.secondary_input)?,
            output: self.output(action.output)?,
            kind,
        })
    }

    fn copy(self, copy: pb::FileActionCopy) -> Result<CopyAction, InvalidOp> {
        Ok(CopyAction {
            owner: self.owner(copy.owner)?,
            src: copy.src,
            dest: copy.dest,
            mode: (copy.mode != -1).then(|| copy.mode.cast_unsigned()),
            follow_symlink: copy.follow_symlink,
            dir_copy_contents: copy.dir_copy_contents,
            attempt_unpack: copy.attempt_unpack_docker_compatibility,
            create_dest_path: copy.create_dest_path,
            allow_wildcard: copy.allow_wildcard,
            allow_empty_wildcard: copy.allow_empty_wildcard,
            timestamp: timestamp(copy.timestamp),
            include: copy.include_patterns,
            exclude: copy.exclude_patterns,
            always_replace: copy.always_replace_existing_dest_paths,
            mode_str: copy.mode_str,
            required: copy.required_paths,
        })
    }

    fn owner(self, owner: Option<pb::ChownOpt>) -> Result<Option<Owner>, InvalidOp> {
        let Some(owner) = owner else { return Ok(None) };
        Ok(Some(Owner {
            user: self.user(owner.user)?,
            group: self.user(owner.group)?,
        }))
    }

    fn user(self, user: Option<pb::UserOpt>) -> Result<Option<UserRef>, InvalidOp> {
        use pb::user_opt::User;
        Ok(match user.and_then(|user| user.user) {
            None => None,
            Some(User::ById(id)) => Some(UserRef::ById(id)),
            Some(User::ByName(user)) => Some(UserRef::ByName {
                name: user.name,
                input: self.input("user", user.input)?,
            }),
        })
    }
}

fn timestamp(value: i64) -> Option<i64> {
    (value != -1).then_some(value)
}
