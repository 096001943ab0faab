//! `drydock outline`: what a Dockerfile takes from outside.

use dockerfile::{LineSpan, Outline, OutlineArg, OutlineNeed, SourceText};
use serde_json::{Value, json};

use super::place::{COLUMN_KIND, Lines};
use super::{lines, range};

pub(super) fn as_text(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() {
        text += &format!("TARGET: {}\n", outline.name);
    }
    if !outline.description.is_empty() {
        text += &format!("DESCRIPTION: {}\n", outline.description);
    }
    let mut part = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            text += &format!("{gap}{title}\n");
            lines.iter().for_each(|line| text += &format!("  {line}\n"));
        }
    };
    let args = outline.args.iter().map(|arg| {
        let value = if arg.value.is_empty() {
            String::new()
        } else {
            format!("={}", arg.value)
        };
        let about = if arg.description.is_empty() {
            String::new()
        } else {
            format!("  # {}", arg.description)
        };
        format!("{}{value}{about}", arg.name)
    });
    part("BUILD ARGUMENTS", args.collect());
    for (title, needs) in [("SECRETS", &outline.secrets), ("SSH AGENTS", &outline.ssh)] {
        let need = |need: &OutlineNeed| {
            let required = if need.required { "  (required)" } else { "" };
            format!("{}{required}", need.name)
        };
        part(title, needs.iter().map(need).collect());
    }
    text
}

pub(super) fn as_json(text: &SourceText, outline: &Outline) -> Value {
    let file = Lines::of(&text.data);
    let place = |mut item: Value, span: LineSpan| {
        item["lines"] = lines(span);
        item["range"] = range(&file, span);
        item
    };
    let arg = |arg: &OutlineArg| {
        let item = json!({
            "name": arg.name,
            "description": arg.description,
            "value": arg.value,
        });
        place(item, arg.span)
    };
    let need = |need: &OutlineNeed| {
        let item = json!({ "name": need.name, "required": need.required });
        place(item, need.span)
    };
    json!({
        "file": text.filename,
        "columnKind": COLUMN_KIND,
        "name": outline.name,
        "description": outline.description,
        "args": outline.args.iter().map(arg).collect::<Vec<_>>(),
        "secrets": outline.secrets.iter().map(need).collect::<Vec<_>>(),
        "ssh": outline.ssh.iter().map(need).collect::<Vec<_>>(),
    })
}
