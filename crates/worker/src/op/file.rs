//! File ops: changing files without a container.
//!
//! Actions run in order, each on the state that another left behind or on an input of the op. A
//! state that only the next action uses is changed in place, so that a chain of actions makes one
//! layer; a state that is used again, or is an output, is committed.
//!
//! Actions that only add what was not there, which most do, write to the layer itself. The first
//! that needs to see the whole filesystem has it mounted.

use std::cell::{Cell, OnceCell};

use fstree::copy::{Changed, CopyOptions};
use llb::{ActionInput, CopyAction, FileAction, FileActionKind, FileOp};
use snapshot::{Active, LayerId, Snapshots};
use sys::root::RootDir;

use super::{Made, direct, owner};
use crate::copies::Step;
use crate::failure::Failure;
use crate::view::View;

/// A filesystem between two actions.
enum State {
    /// A finished stack of layers.
    Stack(Vec<LayerId>),
    /// A layer that is being changed.
    Open(Work),
    /// An open layer that went on into the next action.
    Moved,
}

/// An open layer, and the mount through which it is changed once there is one.
struct Work {
    /// The whole filesystem. Its mount goes before the layer is committed.
    whole: OnceCell<RootDir>,
    active: Active,
}

/// What the actions of an op have made.
pub(crate) struct Outcome {
    /// For each output.
    pub(crate) made: Vec<Made>,
    /// How many files were copied.
    pub(crate) files: u64,
}

impl Work {
    /// The whole filesystem, mounted now if it is not yet.
    fn whole(&self) -> Result<&RootDir, Failure> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let mount = self.active.mount().map_err(Failure::host)?;
        Ok(self.whole.get_or_init(|| RootDir::from_fd(mount.into_fd())))
    }
}

/// Runs all actions of `op` on the stacks of its inputs.
pub(crate) fn run(
    snapshots: &Snapshots,
    op: &FileOp,
    inputs: &[Vec<LayerId>],
) -> Result<Outcome, Failure> {
    let files = Cell::new(0);
    let mut states: Vec<State> = Vec::with_capacity(op.actions.len());
    let mut outputs: Vec<Option<Made>> = (0..op.outputs()).map(|_| None).collect();
    for (index, action) in op.actions.iter().enumerate() {
        let mut work = begin(snapshots, op, index, inputs, &mut states)?;
        apply(snapshots, &mut work, action, inputs, &mut states, &files)?;
        states.push(State::Open(work));
        if let Some(output) = action.output {
            // An output is committed at once: what follows builds on it and does not change it.
            let work = match states.pop() {
                Some(State::Open(work)) => work,
                _ => return Err(Failure::bug("the state of a file action is lost")),
            };
            let used_later = is_used_after(op, index);
            let made = if used_later {
                let stack = commit(work)?;
                states.push(State::Stack(stack.clone()));
                Made::Same(stack)
            } else {
                states.push(State::Moved);
                drop(work.whole);
                Made::New(work.active)
            };
            outputs[output as usize] = Some(made);
        }
    }
    let made = outputs.into_iter().enumerate().map(|(n, made)| {
        made.ok_or_else(|| Failure::bug(format!("no file action makes output {n}")))
    });
    Ok(Outcome {
        made: made.collect::<Result<_, _>>()?,
        files: files.get(),
    })
}

/// Makes the layer that `op` makes for `step` of the layer `over`, which it made when no more than
/// what has `changed` was different in the source. `None` if that cannot be done: then all has to be
/// copied.
pub(crate) fn bring_up_to_date(
    snapshots: &Snapshots,
    op: &FileOp,
    step: &Step,
    over: LayerId,
    changed: &Changed,
) -> Result<Option<Active>, Failure> {
    let [
        FileAction {
            kind: FileActionKind::Copy(action),
            input,
            ..
        },
    ] = &op.actions[..]
    else {
        return Ok(None);
    };
    let active = snapshots
        .prepare_over(&step.base, over)
        .map_err(Failure::host)?;
    let Some(active) = active else {
        return Ok(None);
    };
    let whole = RootDir::from_fd(active.mount().map_err(Failure::host)?.into_fd());
    let owner = owner::resolve(action.owner.as_ref(), |from| {
        if from != *input {
            return Err(Failure::bug("an owner is looked up elsewhere"));
        }
        // As they were before anything was copied.
        let base = View::of(snapshots, &step.base).map_err(Failure::host)?;
        base.try_clone().map_err(Failure::host)
    });
    // Whatever goes wrong goes wrong again when all is copied, which says so in its words.
    let Ok(owner) = owner else { return Ok(None) };
    let Ok(options) = copy_options(action, owner) else {
        return Ok(None);
    };
    let source = View::of(snapshots, &[step.source]).map_err(Failure::host)?;
    let (from, to) = (&action.src, &action.dest);
    let copied = fstree::copy::copy_changed(&source, from, &whole, to, &options, changed);
    drop(whole);
    Ok(copied.ok().flatten().map(|_| active))
}

/// How often the state that action `index` leaves is used by others, as base or as source.
fn uses(op: &FileOp, index: usize) -> usize {
    let is =
        |input: ActionInput| input == ActionInput::Action(u32::try_from(index).unwrap_or(u32::MAX));
    op.actions
        .iter()
        .map(|a| usize::from(is(a.input)) + usize::from(is(a.secondary)))
        .sum()
}

fn is_used_after(op: &FileOp, index: usize) -> bool {
    uses(op, index) > 0
}

/// The layer that action `index` changes.
fn begin(
    snapshots: &Snapshots,
    op: &FileOp,
    index: usize,
    inputs: &[Vec<LayerId>],
    states: &mut [State],
) -> Result<Work, Failure> {
    let base: Vec<LayerId> = match op.actions[index].input {
        ActionInput::Empty => Vec::new(),
        ActionInput::Input(n) => input(inputs, n)?.clone(),
        ActionInput::Action(n) => {
            let n = n as usize;
            let state = states
                .get_mut(n)
                .ok_or_else(|| Failure::bug("a file action uses a later one"))?;
            let only_here = uses(op, n) == 1;
            match std::mem::replace(state, State::Moved) {
                State::Open(work) if only_here => return Ok(work),
                State::Open(work) => {
                    let stack = commit(work)?;
                    *state = State::Stack(stack.clone());
                    stack
                }
                State::Stack(stack) => {
                    *state = State::Stack(stack.clone());
                    stack
                }
                State::Moved => return Err(Failure::bug("a file action's state is used twice")),
            }
        }
    };
    let active = snapshots.prepare(&base).map_err(Failure::host)?;
    Ok(Work {
        whole: OnceCell::new(),
        active,
    })
}

fn commit(work: Work) -> Result<Vec<LayerId>, Failure> {
    drop(work.whole);
    let mut stack = work.active.lower().to_vec();
    stack.push(work.active.commit().map_err(Failure::host)?);
    Ok(stack)
}

fn input(inputs: &[Vec<LayerId>], n: u32) -> Result<&Vec<LayerId>, Failure> {
    inputs
        .get(n as usize)
        .ok_or_else(|| Failure::bug(format!("file op without input {n}")))
}

/// A view of another state, to read from.
fn view(
    snapshots: &Snapshots,
    from: ActionInput,
    inputs: &[Vec<LayerId>],
    states: &mut [State],
) -> Result<View, Failure> {
    let stack = match from {
        ActionInput::Empty => Vec::new(),
        ActionInput::Input(n) => input(inputs, n)?.clone(),
        ActionInput::Action(n) => {
            let state = states
                .get_mut(n as usize)
                .ok_or_else(|| Failure::bug("a file action uses a later one"))?;
            match std::mem::replace(state, State::Moved) {
                State::Open(work) => {
                    let stack = commit(work)?;
                    *state = State::Stack(stack.clone());
                    stack
                }
                State::Stack(stack) => {
                    *state = State::Stack(stack.clone());
                    stack
                }
                State::Moved => return Err(Failure::bug("a file action's state is used twice")),
            }
        }
    };
    View::of(snapshots, &stack).map_err(Failure::host)
}

fn apply(
    snapshots: &Snapshots,
    work: &mut Work,
    action: &FileAction,
    inputs: &[Vec<LayerId>],
    states: &mut [State],
    files: &Cell<u64>,
) -> Result<(), Failure> {
    let work = &*work;
    let mut look_up = |owner: &Option<llb::Owner>| -> Result<Option<(u32, u32)>, Failure> {
        owner::resolve(owner.as_ref(), |from| {
            if from == action.input {
                return work.whole()?.try_clone().map_err(Failure::host);
            }
            let view = view(snapshots, from, inputs, states)?;
            view.try_clone().map_err(Failure::host)
        })
    };
    match &action.kind {
        FileActionKind::MkFile(a) => {
            let made = fstree::edit::Made {
                owner: look_up(&a.owner)?,
                timestamp_ns: a.timestamp,
            };
            let root = target(work, direct::new_entry(&work.active, &a.path)?)?;
            fstree::edit::mkfile(&root, &a.path, a.mode, &a.data, made).map_err(edit_failure)
        }
        FileActionKind::MkDir(a) => {
            let made = fstree::edit::Made {
                owner: look_up(&a.owner)?,
                timestamp_ns: a.timestamp,
            };
            // What exists is left as it is.
            if direct::is_dir(&work.active, &a.path)? {
                return Ok(());
            }
            let direct = direct::new_dir(&work.active, &a.path, a.make_parents)?;
            let root = target(work, direct)?;
            fstree::edit::mkdir(&root, &a.path, a.mode, a.make_parents, made).map_err(edit_failure)
        }
        FileActionKind::Symlink(a) => {
            let made = fstree::edit::Made {
                owner: look_up(&a.owner)?,
                timestamp_ns: a.timestamp,
            };
            let root = target(work, direct::new_entry(&work.active, &a.newpath)?)?;
            fstree::edit::symlink(&root, &a.oldpath, &a.newpath, made).map_err(edit_failure)
        }
        FileActionKind::Rm(a) => {
            fstree::edit::remove(work.whole()?, &a.path, a.allow_not_found, a.allow_wildcard)
                .map_err(edit_failure)
        }
        FileActionKind::Copy(a) => {
            let owner = look_up(&a.owner)?;
            let source = view(snapshots, action.secondary, inputs, states)?;
            files.set(files.get() + copy(&source, work, a, owner)?);
            Ok(())
        }
    }
}

/// Where an action writes: to the layer itself if that will do, else to the whole filesystem.
fn target(work: &Work, direct: bool) -> Result<RootDir, Failure> {
    if direct && work.whole.get().is_none() {
        return work.active.fs().map_err(Failure::host);
    }
    work.whole()?.try_clone().map_err(Failure::host)
}

fn edit_failure(error: fstree::edit::EditError) -> Failure {
    Failure::user(crate::failure::chain(&error))
}

fn copy_options(action: &CopyAction, owner: Option<(u32, u32)>) -> Result<CopyOptions, Failure> {
    let mode = match (action.mode_str.as_str(), action.mode) {
        ("", None) => fstree::copy::ModeChange::Keep,
        ("", Some(mode)) => fstree::copy::ModeChange::Octal(mode),
        (text, _) => fstree::copy::ModeChange::parse(text)
            .map_err(|e| Failure::user(crate::failure::chain(&e)))?,
    };
    Ok(CopyOptions {
        mode,
        owner,
        follow_symlinks: action.follow_symlink,
        copy_dir_contents: action.dir_copy_contents,
        create_dest_path: action.create_dest_path,
        allow_wildcard: action.allow_wildcard,
        allow_empty_wildcard: action.allow_empty_wildcard,
        timestamp_ns: action.timestamp,
        include: action.include.clone(),
        exclude: action.exclude.clone(),
        always_replace: action.always_replace,
        required: action.required.clone(),
    })
}

/// Answers how many files were copied.
fn copy(
    source: &RootDir,
    work: &Work,
    action: &CopyAction,
    owner: Option<(u32, u32)>,
) -> Result<u64, Failure> {
    let options = copy_options(action, owner)?;
    let direct = !action.attempt_unpack
        && direct::new_copy(&work.active, source, &action.src, &action.dest, &options)?;
    let root = &target(work, direct)?;
    if action.attempt_unpack {
        layer::add(source, &action.src, root, &action.dest, &options).map_err(add_failure)?;
        return Ok(0);
    }
    let copied = fstree::copy(source, &action.src, root, &action.dest, &options);
    Ok(copied.map_err(copy_failure)?.files)
}

fn add_failure(error: layer::AddError) -> Failure {
    match error {
        layer::AddError::Copy(error) => copy_failure(error),
        error @ layer::AddError::Unpack { .. } => Failure::user(crate::failure::chain(&error)),
    }
}

fn copy_failure(error: fstree::copy::CopyError) -> Failure {
    match &error {
        // BuildKit's words for a file that is not there.
        fstree::copy::CopyError::NotFound(path) => {
            Failure::not_found(format!("lstat {path}: no such file or directory"))
        }
        _ => Failure::user(crate::failure::chain(&error)),
    }
}
