//! `frontend.outline`: what a target takes from outside.

use frontend::BuildResult;
use llb::builder::SourceFile;
use serde_json::Value;

use super::json;
use crate::go::Table;
use crate::lower::Outline;

/// The request.
pub(super) const NAME: &str = "frontend.outline";
pub(super) const VERSION: &str = "1.0.0";

pub(super) fn answer(outline: &Outline, file: &SourceFile) -> BuildResult {
    super::metadata(&[
        ("result.json", &json::pretty(&to_json(outline, file))),
        ("result.txt", &outline.text()),
        ("version", VERSION),
    ])
}

fn to_json(outline: &Outline, file: &SourceFile) -> Value {
    let args = outline.args.iter().map(|arg| {
        json::object([
            ("name", arg.name.as_str().into()),
            ("description", arg.description.as_str().into()),
            ("value", arg.value.as_str().into()),
            ("location", json::place(arg.span)),
        ])
    });
    let needs = |needs: &[crate::lower::OutlineNeed]| {
        let needs = needs.iter().map(|need| {
            json::object([
                ("name", need.name.as_str().into()),
                ("required", need.required.into()),
                ("location", json::place(need.span)),
            ])
        });
        needs.collect::<Value>()
    };
    json::object([
        ("name", outline.name.as_str().into()),
        ("description", outline.description.as_str().into()),
        ("args", args.collect()),
        ("secrets", needs(&outline.secrets)),
        ("ssh", needs(&outline.ssh)),
        ("sources", vec![json::bytes(&file.data)].into()),
    ])
}

impl Outline {
    /// The outline as tables.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut add = |table: Table| {
            out.push_str(&table.render());
            out.push('\n');
        };
        if !self.name.is_empty() || !self.description.is_empty() {
            let mut table = Table::new(1);
            table.row([
                "TARGET:",
                if self.name.is_empty() {
                    "(default)"
                } else {
                    &self.name
                },
            ]);
            if !self.description.is_empty() {
                table.row(["DESCRIPTION:", &self.description]);
            }
            add(table);
        }
        if !self.args.is_empty() {
            let mut table = Table::new(3);
            table.row(["BUILD ARG", "VALUE", "DESCRIPTION"]);
            for arg in &self.args {
                table.row([&arg.name, &arg.value, &arg.description]);
            }
            add(table);
        }
        for (title, needs) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if needs.is_empty() {
                continue;
            }
            let mut table = Table::new(3);
            table.row([title, "REQUIRED"]);
            for need in needs {
                table.row([&need.name, if need.required { "true" } else { "" }]);
            }
            add(table);
        }
        out
    }
}
