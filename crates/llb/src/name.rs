//! What a vertex is called where it has been given no name.

use crate::{FileAction, FileActionKind, Op, OpKind};

/// Names of merges and diffs hold the names of their inputs, which could double at every step.
const MAX_NAME_LEN: usize = 2048;

/// The name by which BuildKit shows an op (`solver/llbsolver/vertex.go`, `llbOpName`).
/// `input_name` tells what the input of an index is called.
pub(crate) fn default_name<'a>(op: &Op, input_name: impl Fn(u32) -> &'a str) -> String {
    match &op.kind {
        OpKind::Source(source) => source.identifier.clone(),
        OpKind::Exec(exec) => exec.meta.args.join(" "),
        OpKind::File(file) => file
            .actions
            .iter()
            .map(action_name)
            .collect::<Vec<_>>()
            .join(", "),
        OpKind::Build(_) => "build".to_owned(),
        OpKind::Merge(_) => {
            let mut name = "merge (".to_owned();
            for index in 0..op.inputs.len() {
                if name.len() > MAX_NAME_LEN {
                    break;
                }
                if index > 0 {
                    name.push_str(", ");
                }
                name.push_str(input_name(u32::try_from(index).unwrap_or(u32::MAX)));
            }
            name.push(')');
            bounded(name)
        }
        OpKind::Diff(diff) => {
            let side = |input: Option<u32>| match input {
                None => "scratch".to_owned(),
                Some(index) => format!("({})", input_name(index)),
            };
            bounded(format!("diff {} -> {}", side(diff.lower), side(diff.upper)))
        }
        OpKind::Passthrough(passthrough) => format!("passthrough {}", passthrough.id),
    }
}

fn bounded(mut name: String) -> String {
    if name.len() > MAX_NAME_LEN {
        name.truncate(name.floor_char_boundary(MAX_NAME_LEN));
        name.push('…');
    }
    name
}

fn action_name(action: &FileAction) -> String {
    match &action.kind {
        FileActionKind::MkDir(dir) => format!("mkdir {}", dir.path),
        FileActionKind::MkFile(file) => format!("mkfile {}", file.path),
        FileActionKind::Symlink(link) => format!("symlink {} -> {}", link.newpath, link.oldpath),
        FileActionKind::Rm(rm) => format!("rm {}", rm.path),
        FileActionKind::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
    }
}
