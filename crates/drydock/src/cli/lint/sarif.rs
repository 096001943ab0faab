//! What was found as SARIF 2.1.0.

use dockerfile::{LineSpan, LintReport, Rule, SourceText};
use serde_json::{Value, json};

use super::place::{COLUMN_KIND, Lines, uri};

/// The rule for what keeps the file from being built.
pub(super) const ERROR: &str = "BuildError";

/// One log with one run.
pub(super) fn log(text: &SourceText, report: &LintReport) -> Value {
    let mut rules: Vec<Rule> = Vec::new();
    for warning in &report.warnings {
        if !rules.contains(&warning.rule) {
            rules.push(warning.rule);
        }
    }
    let mut described: Vec<Value> = rules.iter().map(describe).collect();
    let places = Places {
        lines: Lines::of(&text.data),
        uri: uri(&text.filename),
    };
    let warnings = report.warnings.iter();
    let mut results: Vec<Value> = warnings
        .map(|warning| {
            let index = rules.iter().position(|rule| *rule == warning.rule);
            let mut result = places.result("warning", &warning.message, &[warning.span]);
            result["ruleId"] = warning.rule.name().into();
            result["ruleIndex"] = index.into();
            result
        })
        .collect();
    if let Some((message, spans)) = &report.error {
        let mut result = places.result("error", message, spans);
        result["ruleId"] = ERROR.into();
        result["ruleIndex"] = described.len().into();
        results.push(result);
        described.push(describe_error(report.help));
    }
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "drydock",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": described,
            }},
            "columnKind": COLUMN_KIND,
            "results": results,
        }],
    })
}

fn describe(rule: &Rule) -> Value {
    let mut text = json!({
        "id": rule.name(),
        "shortDescription": { "text": rule.description() },
        "help": { "text": rule.mend() },
        "defaultConfiguration": { "level": "warning" },
    });
    if !rule.url().is_empty() {
        text["helpUri"] = rule.url().into();
    }
    text
}

fn describe_error(help: Option<&str>) -> Value {
    let mut text = json!({
        "id": ERROR,
        "shortDescription": { "text": "The file cannot be built." },
        "defaultConfiguration": { "level": "error" },
    });
    if let Some(help) = help {
        text["help"] = json!({ "text": help });
    }
    text
}

struct Places<'a> {
    lines: Lines<'a>,
    uri: String,
}

impl Places<'_> {
    /// A result without its rule. SARIF takes several locations for those of several changes that
    /// are needed together, so that lines that follow each other are one.
    fn result(&self, level: &str, message: &str, spans: &[LineSpan]) -> Value {
        let mut locations: Vec<Value> = super::joined(spans)
            .into_iter()
            .map(|span| self.location(span))
            .collect();
        if locations.is_empty() {
            locations.push(self.location(LineSpan::default()));
        }
        json!({
            "level": level,
            "message": { "text": message },
            "locations": locations,
        })
    }

    fn location(&self, span: LineSpan) -> Value {
        let region = match self.lines.region(span) {
            Some(region) => json!({
                "startLine": region.start.line,
                "startColumn": region.start.column,
                "endLine": region.end.line,
                "endColumn": region.end.column,
            }),
            // About the whole file: shown at its beginning, for those who want a line.
            None => json!({ "startLine": 1 }),
        };
        json!({ "physicalLocation": {
            "artifactLocation": { "uri": self.uri },
            "region": region,
        }})
    }
}
