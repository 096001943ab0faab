//! File ops.

use super::{Builder, Options, Output, State, VertexKind};
use crate::{CopyAction, MkDirAction, MkFileAction};

/// One change of a file op.
#[derive(Clone, Debug)]
pub enum FileStep {
    /// Copies from another state.
    Copy(Box<Copy>),
    /// Makes a directory.
    MkDir {
        /// The directory; its owner is given by `owner`.
        action: MkDirAction,
        /// Its owner.
        owner: Option<OwnerSpec>,
    },
    /// Writes a file.
    MkFile(MkFileAction),
}

/// A copy of a file op.
#[derive(Clone, Debug)]
pub struct Copy {
    /// What is copied from; relative paths start at its working directory.
    pub source: State,
    /// How; its owner is given by `owner`.
    pub action: CopyAction,
    /// The new owner.
    pub owner: Option<OwnerSpec>,
}

/// A user and a group by name or number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerSpec {
    /// The user.
    pub user: Option<UserSpec>,
    /// The group.
    pub group: Option<UserSpec>,
}

/// A user or a group by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserSpec {
    /// Looked up in what the op changes.
    Name(String),
    /// By number.
    Id(u32),
}

/// The owner of `user[:group]`; `root` is 0 without a look-up.
pub fn copy_owner(text: &str) -> OwnerSpec {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    OwnerSpec {
        user: Some(user_spec(user)),
        group: group.map(user_spec),
    }
}

fn user_spec(text: &str) -> UserSpec {
    // As BuildKit: a 32-bit signed number, an empty name is 0.
    let digits = text.strip_prefix('+').unwrap_or(text);
    let number = text.strip_prefix('-').unwrap_or(digits);
    let numeric = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    match digits.parse::<i32>() {
        Ok(id) if numeric => UserSpec::Id(id.cast_unsigned()),
        _ if text.is_empty() || text == "root" => UserSpec::Id(0),
        _ => UserSpec::Name(text.to_owned()),
    }
}

#[derive(Debug)]
pub(super) struct FileVertex {
    pub(super) base: Option<Output>,
    pub(super) steps: Vec<FileStep>,
}

impl Builder {
    /// Changes files of a state.
    pub fn file(&mut self, state: &State, mut steps: Vec<FileStep>, mut options: Options) -> State {
        for step in &mut steps {
            match step {
                FileStep::Copy(copy) => {
                    copy.action.src = join(copy.source.dir(), &copy.action.src);
                    copy.action.dest = normalize(state.dir(), &copy.action.dest, true);
                }
                FileStep::MkDir { action, .. } => {
                    action.path = normalize(state.dir(), &action.path, false);
                    action.mode &= 0o777;
                }
                FileStep::MkFile(action) => {
                    action.path = normalize(state.dir(), &action.path, false);
                    action.mode &= 0o777;
                }
            }
        }
        options.cap("file.base");
        let vertex = FileVertex {
            base: state.output,
            steps,
        };
        let output = self.add(VertexKind::File(vertex), options);
        state.with_output(output)
    }
}

/// `path`, or below `dir` when it is relative; cleaned.
pub(super) fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') {
        clean(path)
    } else {
        clean(&format!("{dir}/{path}"))
    }
}

/// A path below `dir`, cleaned, but with the trailing `/` or `/.` that a copy's target may have.
fn normalize(dir: &str, path: &str, keep_slash: bool) -> String {
    let mut clean = if path.starts_with('/') {
        clean(path)
    } else {
        join(&format!("/{dir}"), path)
    };
    if keep_slash && path.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    } else if keep_slash && path.ends_with("/.") {
        clean.push_str(if clean == "/" { "." } else { "/." });
    }
    clean
}

/// The shortest spelling of an absolute path.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
