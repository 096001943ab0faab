//! `frontend.targets`: the stages of a file.

use frontend::BuildResult;
use llb::builder::SourceFile;
use serde_json::{Value, json};

use super::json;
use crate::go::Table;
use crate::instruction;
use crate::lint::Linter;
use crate::lower::{Failure, LowerError};
use crate::parse;
use crate::span::LineSpan;

/// The request.
pub(super) const NAME: &str = "frontend.targets";
pub(super) const VERSION: &str = "1.0.0";

/// A stage that can be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name; empty when it has none.
    pub name: String,
    /// Whether it is built when no other is asked for.
    pub default: bool,
    /// Its description.
    pub description: String,
    /// What it starts from, as written.
    pub base: String,
    /// Its platform, as written.
    pub platform: String,
    /// Its `FROM`.
    pub span: LineSpan,
}

/// The stages of a file.
pub(crate) fn list(data: &[u8]) -> Result<Vec<Target>, Failure> {
    let document = parse::parse(data).map_err(|(error, span)| Failure {
        error: LowerError::Parse(error),
        spans: vec![span],
    })?;
    let (_, stages) = instruction::read_document(&document, &Linter::silent())?;
    let count = stages.len();
    let targets = stages.into_iter().enumerate().map(|(index, stage)| Target {
        name: stage.name,
        default: index + 1 == count,
        description: stage.doc,
        base: stage.base,
        platform: stage.platform,
        span: stage.span,
    });
    Ok(targets.collect())
}

pub(super) fn answer(targets: &[Target], file: &SourceFile) -> BuildResult {
    let items = targets.iter().map(|target| {
        json::object([
            ("name", target.name.as_str().into()),
            ("default", target.default.into()),
            ("description", target.description.as_str().into()),
            ("base", target.base.as_str().into()),
            ("platform", target.platform.as_str().into()),
            ("location", json::place(target.span)),
        ])
    });
    let items: Vec<Value> = items.collect();
    let items = if items.is_empty() {
        Value::Null
    } else {
        items.into()
    };
    let report = json!({"targets": items, "sources": [json::bytes(&file.data)]});
    super::metadata(&[
        ("result.json", &json::pretty(&report)),
        ("result.txt", &text(targets)),
        ("version", VERSION),
    ])
}

fn text(targets: &[Target]) -> String {
    let mut table = Table::new(1);
    table.row(["TARGET", "DESCRIPTION"]);
    for target in targets {
        let name = match (target.name.as_str(), target.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        table.row([&name, &target.description]);
    }
    table.render()
}
