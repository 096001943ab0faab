//! `drydock lint` and `drydock outline`: a Dockerfile looked at here, without a daemon.

mod outline;
mod place;
mod sarif;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use dockerfile::{LineSpan, LintReport, SourceText};
use serde_json::{Value, json};

use crate::error::{self, Exit};
use place::{COLUMN_KIND, Lines, Position};

/// Largest Dockerfile that is read.
const MAX_SIZE: u64 = 16 << 20;
/// The name of what comes by standard input.
const STDIN: &str = "Dockerfile";
/// Exit code when the file could not be looked at; 1 says that something was found.
const NOT_LOOKED: u8 = 2;

/// Check a Dockerfile. Ends with exit code 1 when there is something to say, 2 when the file could not be
/// looked at.
///
/// In JSON and SARIF lines and columns count from 1, columns in code units of UTF-16, and the end of a range
/// is the column after it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// How to print what was found.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Show what a Dockerfile takes from outside: arguments, secrets and ssh agents. Ends with exit code 2 when
/// that cannot be told.
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
    /// What the file on standard input is called in what is printed.
    #[arg(long, value_name = "FILE", default_value = STDIN)]
    stdin_filename: String,
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
            (self.stdin_filename.clone(), None)
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
    let (text, report) = looked(|| {
        let text = arguments.input.read()?;
        let report = dockerfile::lint(&text, &arguments.input.options());
        Ok((text, report.context("failed to check the file")?))
    })?;
    match arguments.format {
        Format::Text => print!("{}", as_text(&text.filename, &report)),
        Format::Page => print!("{}", report.page(&text.filename, &text.data)),
        Format::Json => println!("{:#}", as_json(&text, &report)),
        Format::Sarif => println!("{:#}", sarif::log(&text, &report)),
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err(Exit(error::FAILURE).into())
    }
}

/// Prints what the target takes.
pub(super) fn outline(arguments: &OutlineArguments) -> anyhow::Result<()> {
    let (text, outline) = looked(|| {
        let text = arguments.input.read()?;
        let outline = dockerfile::outline(&text, &arguments.input.options());
        Ok((text, outline.context("failed to read the file")?))
    })?;
    match arguments.format {
        OutlineFormat::Text => print!("{}", outline::as_text(&outline)),
        OutlineFormat::Json => println!("{:#}", outline::as_json(&text, &outline)),
    }
    Ok(())
}

/// Does `look`. That it cannot be done is told at once, since its exit code is another than usual.
fn looked<T>(look: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    look().map_err(|failure| {
        // What went wrong is said; the code here is the one of this program's other commands.
        let _ = error::report(&failure);
        Exit(NOT_LOOKED).into()
    })
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

/// Where something is; `null` for what is about the whole file.
fn range(file: &Lines<'_>, span: LineSpan) -> Value {
    let position = |at: Position| json!({ "line": at.line, "column": at.column });
    match file.region(span) {
        Some(region) => json!({ "start": position(region.start), "end": position(region.end) }),
        None => Value::Null,
    }
}

/// Spans in the order of the file, those that touch as one. What is about the whole file is in none.
fn joined(spans: &[LineSpan]) -> Vec<LineSpan> {
    let mut sorted: Vec<LineSpan> = spans.iter().copied().filter(|s| s.start > 0).collect();
    sorted.sort_by_key(|span| span.start);
    let mut joined: Vec<LineSpan> = Vec::new();
    for span in sorted {
        match joined.last_mut() {
            Some(last) if span.start <= last.end.saturating_add(1) => {
                last.end = last.end.max(span.end);
            }
            _ => joined.push(span),
        }
    }
    joined
}

fn as_json(text: &SourceText, report: &LintReport) -> Value {
    let file = Lines::of(&text.data);
    let warning = |warning: &dockerfile::LintWarning| {
        json!({
            "rule": warning.rule.name(),
            "description": warning.rule.description(),
            "url": warning.rule.url(),
            "help": warning.rule.mend(),
            "message": warning.message,
            "lines": lines(warning.span),
            "range": range(&file, warning.span),
        })
    };
    let error = report.error.as_ref().map(|(message, spans)| {
        let spans = joined(spans);
        json!({
            "message": message,
            "lines": spans.iter().copied().map(lines).collect::<Vec<_>>(),
            "ranges": spans.iter().map(|span| range(&file, *span)).collect::<Vec<_>>(),
            "help": report.help,
        })
    });
    json!({
        "file": text.filename,
        "columnKind": COLUMN_KIND,
        "warnings": report.warnings.iter().map(warning).collect::<Vec<_>>(),
        "error": error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: impl AsRef<[u8]>) -> SourceText {
        SourceText {
            filename: "sub dir/Dockerfile".to_owned(),
            data: data.as_ref().to_vec(),
            ignore: None,
        }
    }

    fn look(data: impl AsRef<[u8]>) -> (SourceText, LintReport) {
        let text = text(data);
        let report = dockerfile::lint(&text, &BTreeMap::new()).unwrap();
        (text, report)
    }

    /// The results of the only run.
    fn results(sarif: &Value) -> Vec<Value> {
        let run = &sarif["runs"][0];
        assert_eq!(run["columnKind"], "utf16CodeUnits");
        let results = run["results"].as_array().unwrap();
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            let rule = &run["tool"]["driver"]["rules"][index];
            assert_eq!(rule["id"], result["ruleId"]);
            let location = &result["locations"][0]["physicalLocation"];
            assert_eq!(location["artifactLocation"]["uri"], "sub%20dir/Dockerfile");
        }
        results.clone()
    }

    fn region(result: &Value) -> [u64; 4] {
        let region = &result["locations"][0]["physicalLocation"]["region"];
        ["startLine", "startColumn", "endLine", "endColumn"]
            .map(|name| region[name].as_u64().unwrap_or_default())
    }

    #[test]
    fn a_finding_is_told_with_its_place_in_every_format() {
        let (file, report) = look("FROM alpine AS a\n  from alpine\nRUN true\n");
        let text = as_text("Dockerfile", &report);
        assert!(text.contains("Dockerfile:2: warning: "), "{text}");
        assert!(text.contains("[ConsistentInstructionCasing]"), "{text}");
        let json = as_json(&file, &report);
        let found = &json["warnings"][0];
        assert_eq!(found["lines"], json!({ "start": 2, "end": 2 }));
        let range =
            json!({ "start": { "line": 2, "column": 3 }, "end": { "line": 2, "column": 14 } });
        assert_eq!(found["range"], range);
        assert_eq!(json["columnKind"], "utf16CodeUnits");
        assert_eq!(json["error"], Value::Null);
        let sarif = sarif::log(&file, &report);
        let result = &results(&sarif)[0];
        assert_eq!(result["level"], "warning");
        assert_eq!(region(result), [2, 3, 2, 14]);
    }

    #[test]
    fn what_cannot_be_built_is_an_error_with_its_place() {
        let (file, report) = look("FROM alpine\nRNU true\n");
        let text = as_text("Dockerfile", &report);
        assert!(text.contains("Dockerfile:2: error: "), "{text}");
        let sarif = sarif::log(&file, &report);
        let result = &results(&sarif)[0];
        assert_eq!(result["ruleId"], sarif::ERROR);
        assert_eq!(region(result), [2, 1, 2, 9]);
        let json = as_json(&file, &report);
        assert_eq!(json["error"]["ranges"][0]["end"]["column"], 9);
    }

    #[test]
    fn what_is_about_the_whole_file_is_at_its_beginning() {
        let (file, report) = look("");
        assert_eq!(
            region(&results(&sarif::log(&file, &report))[0]),
            [1, 0, 0, 0]
        );
        let json = as_json(&file, &report);
        assert_eq!(json["error"]["lines"], json!([]));
    }

    /// Lines that are not plain: the place of the only error or warning of each.
    #[test]
    fn columns_are_those_of_the_text() {
        for (data, expected) in [
            // Characters of one and of two units.
            ("FROM a\nRNU \u{f6}\u{1f980}\n", [2, 1, 2, 8]),
            ("FROM a\r\nRNU b\r\n", [2, 1, 2, 6]),
            ("\u{feff}RNU a\n", [1, 1, 1, 6]),
            (
                "FROM a\nCOPY --chmod=x <<E /b\n\u{1f980}\nE\n",
                [2, 1, 4, 2],
            ),
            ("FROM a\r\nRUN --mount=type=x \\\r\n  b\r\n", [2, 1, 3, 4]),
        ] {
            let (file, report) = look(data);
            let results = results(&sarif::log(&file, &report));
            let error = results.iter().find(|result| result["level"] == "error");
            assert_eq!(
                region(error.expect(data)),
                expected,
                "{data:?}: {results:#?}"
            );
        }
    }

    #[test]
    fn spans_that_touch_are_one() {
        let span = |(start, end)| LineSpan { start, end };
        let join = |spans: &[(u32, u32)]| -> Vec<(u32, u32)> {
            let spans: Vec<_> = spans.iter().copied().map(span).collect();
            joined(&spans).iter().map(|s| (s.start, s.end)).collect()
        };
        assert_eq!(
            join(&[(3, 3), (1, 1), (2, 2), (6, 7), (0, 0)]),
            [(1, 3), (6, 7)]
        );
        assert_eq!(join(&[]), []);
    }

    #[test]
    fn an_outline_names_what_is_taken() {
        let text = text("FROM alpine\nARG A=1\nRUN --mount=type=secret,id=key,required true\n");
        let outline = dockerfile::outline(&text, &BTreeMap::new()).unwrap();
        assert_eq!(
            outline::as_text(&outline),
            "BUILD ARGUMENTS\n  A=1\n\nSECRETS\n  key  (required)\n"
        );
        let json = outline::as_json(&text, &outline);
        assert_eq!(json["secrets"][0]["required"], true);
        assert_eq!(
            json["args"][0]["range"]["end"],
            json!({ "line": 2, "column": 8 })
        );
    }
}
