//! Changing files without a container.

use bytes::Bytes;

/// A list of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOp {
    /// The changes; at least one.
    pub actions: Vec<FileAction>,
}

impl FileOp {
    /// The number of results.
    pub fn outputs(&self) -> u32 {
        self.actions
            .iter()
            .filter_map(|action| action.output)
            .max()
            .map_or(0, |last| last + 1)
    }
}

/// One change, made on top of `input`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAction {
    /// What is changed.
    pub input: ActionInput,
    /// What a copy copies from.
    pub secondary: ActionInput,
    /// Which output of the op the outcome becomes; `None` is none.
    pub output: Option<u32>,
    /// The change.
    pub kind: FileActionKind,
}

/// What an action works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionInput {
    /// An empty directory.
    Empty,
    /// An input of the op, by index.
    Input(u32),
    /// The outcome of another action of the op, by index.
    Action(u32),
}

/// The change that a [`FileAction`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileActionKind {
    /// Copies files.
    Copy(CopyAction),
    /// Writes a file.
    MkFile(MkFileAction),
    /// Makes a directory.
    MkDir(MkDirAction),
    /// Removes files.
    Rm(RmAction),
    /// Makes a symbolic link.
    Symlink(SymlinkAction),
}

/// Copies `src` of the secondary input to `dest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyAction {
    /// Path or pattern in the secondary input.
    pub src: String,
    /// Path in the input.
    pub dest: String,
    /// New owner; `None` keeps it.
    pub owner: Option<Owner>,
    /// New permission bits; `None` (−1 on the wire) keeps them.
    pub mode: Option<u32>,
    /// Whether a symbolic link `src` is resolved.
    pub follow_symlink: bool,
    /// Whether a directory `src` stands for its contents.
    pub dir_copy_contents: bool,
    /// Whether an archive `src` is unpacked.
    pub attempt_unpack: bool,
    /// Whether parents of `dest` are made.
    pub create_dest_path: bool,
    /// Whether `src` may be a pattern.
    pub allow_wildcard: bool,
    /// Whether a pattern may match nothing.
    pub allow_empty_wildcard: bool,
    /// Time of all that is made, in ns since 1970; `None` (−1 on the wire) keeps it.
    pub timestamp: Option<i64>,
    /// Only what matches one of these, if there are any.
    pub include: Vec<String>,
    /// Nothing that matches one of these.
    pub exclude: Vec<String>,
    /// Whether something of another kind at `dest` is replaced.
    pub always_replace: bool,
    /// New permission bits in chmod's symbolic form; empty keeps them.
    pub mode_str: String,
    /// Paths that `include` must have found.
    pub required: Vec<String>,
}

/// Writes a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MkFileAction {
    /// The file.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its content.
    pub data: Bytes,
    /// Its owner; `None` is root.
    pub owner: Option<Owner>,
    /// Its time, in ns since 1970; `None` (−1 on the wire) is now.
    pub timestamp: Option<i64>,
}

/// Makes a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MkDirAction {
    /// The directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Whether parents are made, and an existing directory is no error.
    pub make_parents: bool,
    /// Its owner; `None` is root.
    pub owner: Option<Owner>,
    /// Its time, in ns since 1970; `None` (−1 on the wire) is now.
    pub timestamp: Option<i64>,
}

/// Removes a file or a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RmAction {
    /// Path or pattern.
    pub path: String,
    /// Whether a missing path is no error.
    pub allow_not_found: bool,
    /// Whether `path` may be a pattern.
    pub allow_wildcard: bool,
}

/// Makes the symbolic link `newpath`, which holds `oldpath`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymlinkAction {
    /// What the link says.
    pub oldpath: String,
    /// The link.
    pub newpath: String,
    /// Its owner; `None` is root.
    pub owner: Option<Owner>,
    /// Its time, in ns since 1970; `None` (−1 on the wire) is now.
    pub timestamp: Option<i64>,
}

/// A user and a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user; `None` is root.
    pub user: Option<UserRef>,
    /// The group; `None` is the user's number.
    pub group: Option<UserRef>,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserRef {
    /// Looked up in the `/etc/passwd` or `/etc/group` of `input`.
    ByName {
        /// The name.
        name: String,
        /// Where it is looked up.
        input: ActionInput,
    },
    /// By number.
    ById(u32),
}
