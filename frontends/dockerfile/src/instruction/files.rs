//! `ADD` and `COPY`.

use super::flags::Flags;
use super::read::words;
use super::{Add, CommandKind, Copy, Files, InlineFile, InstructionError};
use crate::parse::{HeredocMark, Node, chomp};

pub(super) fn read_add(node: &Node, flags: Flags<'_>) -> Result<CommandKind, InstructionError> {
    if words(node).len() < 2 {
        return Err(InstructionError::NoDestination("ADD"));
    }
    let flags = flags
        .bools(&["link", "keep-git-dir", "unpack"])
        .texts(&["chown", "chmod", "checksum"])
        .lists(&["exclude"])
        .read()?;
    Ok(CommandKind::Add(Add {
        files: files(node, &flags, "ADD")?,
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.bool("unpack"),
    }))
}

pub(super) fn read_copy(node: &Node, flags: Flags<'_>) -> Result<CommandKind, InstructionError> {
    if words(node).len() < 2 {
        return Err(InstructionError::NoDestination("COPY"));
    }
    let flags = flags
        .bools(&["link", "parents"])
        .texts(&["chown", "from", "chmod"])
        .lists(&["exclude"])
        .read()?;
    Ok(CommandKind::Copy(Copy {
        files: files(node, &flags, "COPY")?,
        from: flags.text("from"),
        parents: flags.bool("parents").unwrap_or(false),
    }))
}

fn files(node: &Node, flags: &Flags<'_>, name: &'static str) -> Result<Files, InstructionError> {
    let Some((dest, sources)) = words(node).split_last() else {
        return Err(InstructionError::NoDestination(name));
    };
    // A word that cannot be read as a heredoc is a path.
    let mark = |word: &str| HeredocMark::parse(word).ok().flatten();
    if mark(dest).is_some() {
        return Err(InstructionError::HeredocDestination(name));
    }
    let mut files = Files {
        dest: dest.clone(),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        exclude: flags.list("exclude"),
        ..Files::default()
    };
    for source in sources {
        let Some(mark) = mark(source) else {
            files.sources.push(source.clone());
            continue;
        };
        // Of heredocs with the same name, the last one counts.
        let body = node
            .heredocs
            .iter()
            .rev()
            .find(|heredoc| heredoc.mark.name == mark.name);
        let content = body
            .map(|heredoc| heredoc.content.clone())
            .unwrap_or_default();
        files.inline.push(InlineFile {
            content: if mark.chomp { chomp(&content) } else { content },
            name: mark.name,
            expand: mark.expand,
        });
    }
    Ok(files)
}
