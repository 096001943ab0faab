//! `frontend.lint`: what the rules find.

use std::fmt::Write as _;

use frontend::BuildResult;
use llb::builder::SourceFile;
use serde_json::{Value, json};

use super::json;
use crate::lint::LintWarning;
use crate::lower::Failure;
use crate::span::LineSpan;

/// The request.
pub(super) const NAME: &str = "frontend.lint";
const VERSION: &str = "1.0.0";

/// What rules found in a file, and why it cannot be built, if it cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LintReport {
    /// What rules found, in the order in which they ran.
    pub warnings: Vec<LintWarning>,
    /// The error of the build and the lines that it is about.
    pub error: Option<(String, Vec<LineSpan>)>,
    /// How to mend the error, where that is not plain from its message.
    pub help: Option<&'static str>,
}

impl LintReport {
    pub(crate) fn new(warnings: Vec<LintWarning>, failure: Option<Failure>) -> LintReport {
        let help = failure.as_ref().and_then(|failure| failure.error.mend());
        let error = failure.map(|failure| (failure.message(), failure.spans));
        LintReport {
            warnings,
            error,
            help,
        }
    }

    /// Whether there is nothing to say.
    pub fn is_clean(&self) -> bool {
        self.warnings.is_empty() && self.error.is_none()
    }

    pub(super) fn answer(&self, file: &SourceFile) -> BuildResult {
        let status = if self.is_clean() { "0" } else { "1" };
        super::metadata(&[
            ("result.json", &json::pretty(&self.json(file))),
            ("result.txt", &self.text(&file.filename, &file.data)),
            ("result.statuscode", status),
            ("version", VERSION),
        ])
    }

    fn json(&self, file: &SourceFile) -> Value {
        let warnings = self.warnings.iter().map(|warning| {
            json::object([
                ("ruleName", warning.rule.name().into()),
                ("description", warning.rule.description().into()),
                ("url", warning.rule.url().into()),
                ("detail", warning.message.as_str().into()),
                ("location", json::place(warning.span)),
            ])
        });
        let warnings: Vec<Value> = warnings.collect();
        let mut report = json!({
            // A list that was never added to is `null` in Go.
            "warnings": if warnings.is_empty() { Value::Null } else { warnings.into() },
            "sources": [json::source_file(file)],
        });
        if let Some((message, spans)) = &self.error {
            let known = spans.iter().filter(|span| span.start > 0);
            let mut lines: Vec<u32> = known.flat_map(|s| s.start..=s.end).collect();
            lines.sort_unstable();
            lines.dedup();
            let lines: Vec<LineSpan> = lines.into_iter().map(LineSpan::line).collect();
            report["buildError"] = json!({"message": message, "location": json::places(&lines)});
        }
        report
    }

    /// The warnings by line, each with the lines around it.
    pub fn text(&self, filename: &str, data: &[u8]) -> String {
        let mut warnings: Vec<&LintWarning> = self.warnings.iter().collect();
        warnings.sort_by_key(|warning| warning.span.start);
        let mut out = String::new();
        for warning in warnings {
            let url = warning.rule.url();
            let link = if url.is_empty() {
                String::new()
            } else {
                format!(" - {url}")
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "\nWARNING: {}{link}\n{}",
                warning.rule.name(),
                warning.message
            );
            excerpt(filename, data, warning.span, &mut out);
        }
        out
    }
}

impl LintReport {
    /// All that there is to say, for people: what is wrong, where, the marked lines, and how to mend
    /// it. Warnings come by line, the error last.
    pub fn page(&self, filename: &str, data: &[u8]) -> String {
        let mut warnings: Vec<&LintWarning> = self.warnings.iter().collect();
        warnings.sort_by_key(|warning| warning.span.start);
        let mut out = String::new();
        // Writing to a string cannot fail.
        for warning in warnings {
            let (name, message) = (warning.rule.name(), &warning.message);
            let _ = writeln!(out, "warning: {message} [{name}]");
            excerpt(filename, data, warning.span, &mut out);
            let _ = writeln!(out, "help: {}", warning.rule.mend());
            let url = warning.rule.url();
            if !url.is_empty() {
                let _ = writeln!(out, "more: {url}");
            }
            out.push('\n');
        }
        if let Some((message, spans)) = &self.error {
            let _ = writeln!(out, "error: {message}");
            match spans.iter().find(|span| span.start > 0) {
                Some(span) => excerpt(filename, data, *span, &mut out),
                None => drop(writeln!(out, "{filename}")),
            }
            if let Some(help) = self.help {
                let _ = writeln!(out, "help: {help}");
            }
            out.push('\n');
        }
        out
    }
}

/// Writes the lines of a span, marked, with some around them.
fn excerpt(filename: &str, data: &[u8], span: LineSpan, out: &mut String) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.split('\n').collect();
    let (mut start, mut end) = (span.start as usize, (span.end as usize).min(lines.len()));
    if start < 1 || start > lines.len() {
        return;
    }
    let first = start;
    let padding = if start == end { 4 } else { 2 };
    let mut added = 0;
    while added < padding {
        if start > 1 {
            start -= 1;
            added += 1;
        }
        if end != lines.len() {
            end += 1;
            added += 1;
        }
        added += 1;
    }
    let rule = "--------------------";
    let _ = writeln!(out, "{filename}:{first}\n{rule}");
    for number in start..=end {
        let marked = (span.start as usize..=span.end as usize).contains(&number);
        let mark = if marked { ">>>" } else { "   " };
        let _ = writeln!(out, " {number:3} | {mark} {}", lines[number - 1]);
    }
    let _ = writeln!(out, "{rule}");
}
