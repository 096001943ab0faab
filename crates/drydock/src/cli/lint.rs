//! `drydock lint` and `drydock outline`: a Dockerfile looked at here, without a daemon.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use dockerfile::{LineSpan, LintReport, Outline, Rule, SourceText};
use serde_json::{Value, json};

use crate::error::Exit;

/// Largest Dockerfile that is read.
const MAX_SIZE: u64 = 16 << 20;
/// The name of the rule for what keeps the file from being built.
const ERROR: &str = "BuildError";

/// Check a Dockerfile. Ends with exit code 1 when there is something to say.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// How to print what was found.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Show what a Dockerfile takes from outside: arguments, secrets and ssh agents.
#[derive(Debug, clap::Args)]
pub(super) struct OutlineArguments {
    #[command(flatten)]
    input: Input,
    /// How to print it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: OutlineFormat,
}

#[derive(Debug, clap::Args)]
struct Input {
    /// The Dockerfile; `-` reads standard input.
    #[arg(value_name = "FILE", default_value = "Dockerfile")]
    file: String,
    /// Only what this stage needs.
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set a build argument.
    #[arg(long, value_name = "NAME=VALUE")]
    build_arg: Vec<String>,
    /// Build for this platform.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// A line for each finding, as compilers print them.
    Text,
    /// Each finding with the lines that it is about, and how to mend it.
    Page,
    Json,
    /// SARIF 2.1.0, for editors and code hosts.
    Sarif,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OutlineFormat {
    Text,
    Json,
}

impl Input {
    /// The file, with the ignore file that goes with it.
    fn read(&self) -> anyhow::Result<SourceText> {
        let mut data = Vec::new();
        let (filename, ignore) = if self.file == "-" {
            let read = std::io::stdin().take(MAX_SIZE).read_to_end(&mut data);
            read.context("failed to read standard input")?;
            ("Dockerfile".to_owned(), None)
        } else {
            let path = Path::new(&self.file);
            let file = std::fs::File::open(path);
            let read = file.and_then(|file| file.take(MAX_SIZE).read_to_end(&mut data));
            read.with_context(|| format!("failed to read `{}`", self.file))?;
            let own = format!("{}.dockerignore", self.file);
            let ignore = std::fs::read(own);
            let ignore = ignore.or_else(|_| std::fs::read(path.with_file_name(".dockerignore")));
            (self.file.clone(), ignore.ok())
        };
        Ok(SourceText {
            filename,
            data,
            ignore,
        })
    }

    /// What a client would say of the build.
    fn options(&self) -> BTreeMap<String, String> {
        let mut options = BTreeMap::new();
        for argument in &self.build_arg {
            let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
            options.insert(format!("build-arg:{name}"), value.to_owned());
        }
        options.extend(
            self.target
                .clone()
                .map(|target| ("target".to_owned(), target)),
        );
        let platform = self.platform.clone();
        options.extend(platform.map(|platform| ("platform".to_owned(), platform)));
        options
    }
}

/// Prints what the rules found.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let text = arguments.input.read()?;
    let report = dockerfile::lint(&text, &arguments.input.options());
    let report = report.context("failed to check the file")?;
    match arguments.format {
        Format::Text => print!("{}", as_text(&text.filename, &report)),
        Format::Page => print!("{}", report.page(&text.filename, &text.data)),
        Format::Json => println!("{:#}", as_json(&text.filename, &report)),
        Format::Sarif => println!("{:#}", as_sarif(&text.filename, &report)),
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err(Exit(crate::error::FAILURE).into())
    }
}

/// Prints what the target takes.
pub(super) fn outline(arguments: &OutlineArguments) -> anyhow::Result<()> {
    let text = arguments.input.read()?;
    let outline = dockerfile::outline(&text, &arguments.input.options());
    let outline = outline.context("failed to read the file")?;
    match arguments.format {
        OutlineFormat::Text => print!("{}", outline_as_text(&outline)),
        OutlineFormat::Json => println!("{:#}", outline_as_json(&outline)),
    }
    Ok(())
}

fn as_text(file: &str, report: &LintReport) -> String {
    let mut text = String::new();
    for warning in &report.warnings {
        let (line, rule, message) = (warning.span.start, warning.rule, &warning.message);
        text += &format!("{file}:{line}: warning: {message} [{}]\n", rule.name());
    }
    if let Some((message, spans)) = &report.error {
        let line = spans.first().map_or(1, |span| span.start);
        text += &format!("{file}:{line}: error: {message}\n");
    }
    text
}

fn lines(span: LineSpan) -> Value {
    json!({ "start": span.start, "end": span.end })
}

fn as_json(file: &str, report: &LintReport) -> Value {
    let warning = |warning: &dockerfile::LintWarning| {
        json!({
            "rule": warning.rule.name(),
            "description": warning.rule.description(),
            "url": warning.rule.url(),
            "help": warning.rule.mend(),
            "message": warning.message,
            "lines": lines(warning.span),
        })
    };
    let error = report.error.as_ref().map(|(message, spans)| {
        let spans: Vec<Value> = spans.iter().copied().map(lines).collect();
        json!({ "message": message, "lines": spans, "help": report.help })
    });
    json!({
        "file": file,
        "warnings": report.warnings.iter().map(warning).collect::<Vec<_>>(),
        "error": error,
    })
}

fn as_sarif(file: &str, report: &LintReport) -> Value {
    let mut rules: Vec<Rule> = Vec::new();
    for warning in &report.warnings {
        if !rules.contains(&warning.rule) {
            rules.push(warning.rule);
        }
    }
    let described = |rule: &Rule| {
        let mut text = json!({
            "id": rule.name(),
            "shortDescription": { "text": rule.description() },
        });
        if !rule.url().is_empty() {
            text["helpUri"] = rule.url().into();
        }
        text
    };
    let found = |id: &str, level: &str, message: &str, spans: &[LineSpan]| {
        let location = |span: &LineSpan| {
            json!({ "physicalLocation": {
                "artifactLocation": { "uri": file },
                // Lines count from 1; a finding about the whole file is shown at its beginning.
                "region": { "startLine": span.start.max(1), "endLine": span.end.max(1) },
            }})
        };
        json!({
            "ruleId": id,
            "level": level,
            "message": { "text": message },
            "locations": spans.iter().map(location).collect::<Vec<_>>(),
        })
    };
    let warnings = report.warnings.iter();
    let mut results: Vec<Value> = warnings
        .map(|w| found(w.rule.name(), "warning", &w.message, &[w.span]))
        .collect();
    if let Some((message, spans)) = &report.error {
        results.push(found(ERROR, "error", message, spans));
    }
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "drydock",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(described).collect::<Vec<_>>(),
            }},
            "results": results,
        }],
    })
}

fn outline_as_text(outline: &Outline) -> String {
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
        let need = |need: &dockerfile::OutlineNeed| {
            let required = if need.required { "  (required)" } else { "" };
            format!("{}{required}", need.name)
        };
        part(title, needs.iter().map(need).collect());
    }
    text
}

fn outline_as_json(outline: &Outline) -> Value {
    let arg = |arg: &dockerfile::OutlineArg| {
        json!({
            "name": arg.name,
            "description": arg.description,
            "value": arg.value,
            "lines": lines(arg.span),
        })
    };
    let need = |need: &dockerfile::OutlineNeed| json!({ "name": need.name, "required": need.required, "lines": lines(need.span) });
    json!({
        "name": outline.name,
        "description": outline.description,
        "args": outline.args.iter().map(arg).collect::<Vec<_>>(),
        "secrets": outline.secrets.iter().map(need).collect::<Vec<_>>(),
        "ssh": outline.ssh.iter().map(need).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> LintReport {
        let text = SourceText {
            filename: "Dockerfile".to_owned(),
            data: text.as_bytes().to_vec(),
            ignore: None,
        };
        dockerfile::lint(&text, &BTreeMap::new()).unwrap()
    }

    #[test]
    fn a_finding_is_told_with_its_line_in_every_format() {
        let report = report("FROM alpine AS a\nfrom alpine\nRUN true\n");
        let text = as_text("Dockerfile", &report);
        assert!(text.contains("Dockerfile:2: warning: "), "{text}");
        assert!(text.contains("[ConsistentInstructionCasing]"), "{text}");
        let json = as_json("Dockerfile", &report);
        assert_eq!(json["warnings"][0]["lines"]["start"], 2);
        assert_eq!(json["error"], Value::Null);
        let sarif = as_sarif("Dockerfile", &report);
        let result = &sarif["runs"][0]["results"][0];
        assert_eq!(result["level"], "warning");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["region"]["startLine"], 2);
        let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array();
        assert_eq!(rules.unwrap()[0]["id"], result["ruleId"]);
    }

    #[test]
    fn what_cannot_be_built_is_an_error_with_its_line() {
        let report = report("FROM alpine\nRNU true\n");
        let text = as_text("Dockerfile", &report);
        assert!(text.contains("Dockerfile:2: error: "), "{text}");
        let sarif = as_sarif("Dockerfile", &report);
        assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], ERROR);
    }

    #[test]
    fn an_outline_names_what_is_taken() {
        let text = SourceText {
            filename: "Dockerfile".to_owned(),
            data: b"FROM alpine\nARG A=1\nRUN --mount=type=secret,id=key,required true\n".to_vec(),
            ignore: None,
        };
        let outline = dockerfile::outline(&text, &BTreeMap::new()).unwrap();
        let shown = outline_as_text(&outline);
        assert_eq!(
            shown,
            "BUILD ARGUMENTS\n  A=1\n\nSECRETS\n  key  (required)\n"
        );
        assert_eq!(outline_as_json(&outline)["secrets"][0]["required"], true);
    }
}
