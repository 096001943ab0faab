//! `FROM`.

use super::flags::Flags;
use super::read::{check_description, doc_comment, words};
use super::{InstructionError, Stage};
use crate::lint::{Linter, Rule};
use crate::parse::Node;

pub(super) fn read_stage(node: &Node, lint: &Linter) -> Result<Stage, InstructionError> {
    let words = words(node);
    check_stage_casing(node, words, lint);
    let name = stage_name(words)?;
    let flags = Flags::new(&node.flags).texts(&["platform"]).read()?;
    let stage = Stage {
        keyword: node.keyword.clone(),
        base: words[0].clone(),
        platform: flags.text("platform"),
        doc: doc_comment(&node.comments, &name),
        source: node.original.trim().to_owned(),
        span: node.span,
        comments: node.comments.clone(),
        commands: Vec::new(),
        name,
    };
    if !stage.name.is_empty() {
        check_description(lint, "FROM", &[&stage.name], node);
    }
    Ok(stage)
}

fn check_stage_casing(node: &Node, words: &[String], lint: &Linter) {
    if let [_, _, name] = words
        && *name != name.to_lowercase()
    {
        lint.warn(Rule::StageNameCasing, node.span, &[name]);
    }
    // Also applied to a line that has too many words, which fails afterwards.
    let [_, word, _, ..] = words else {
        return;
    };
    let keyword = &node.keyword;
    let consistent = if *keyword == keyword.to_lowercase() {
        *word == word.to_lowercase()
    } else if *keyword == keyword.to_uppercase() {
        *word == word.to_uppercase()
    } else {
        // The casing of the instruction itself is another rule.
        true
    };
    if !consistent {
        lint.warn(Rule::FromAsCasing, node.span, &[keyword, word]);
    }
}

fn stage_name(words: &[String]) -> Result<String, InstructionError> {
    match words {
        [_] => Ok(String::new()),
        [_, word, name] if word.to_lowercase() == "as" => {
            let lower = name.to_lowercase();
            let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
            if !lower.starts_with(|c: char| c.is_ascii_lowercase()) || !lower.chars().all(rest) {
                return Err(InstructionError::StageName(name.clone()));
            }
            Ok(lower)
        }
        _ => Err(InstructionError::FromArity),
    }
}
