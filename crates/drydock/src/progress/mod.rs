//! Shows a build while it runs: one trace of what is known, four ways to print it.

mod interval;
mod metrics;
mod plain;
mod rawjson;
mod trace;
mod tty;
mod units;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use client::progress::{Progress, VertexWarning};

use plain::Plain;
use rawjson::RawJson;
use tty::Tty;

pub(crate) use metrics::Metrics;
pub(crate) use units::bytes;

/// How a build is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// `tty` on a terminal, else `plain`.
    #[default]
    Auto,
    /// A picture redrawn in place.
    Tty,
    /// Lines, each with the number of its step.
    Plain,
    /// One JSON object for each message.
    Rawjson,
    /// Nothing.
    #[value(alias = "none")]
    Quiet,
}

/// Between two prints, so that bursts are shown as one. BuildKit's printers use the same.
const PRINT_INTERVAL: Duration = Duration::from_millis(100);

/// Longest time that something known stays unprinted.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_millis(150);

/// Standard output or standard error.
type Out = Box<dyn Write + Send>;

enum Printer {
    Plain(Plain<Out>),
    Tty(Tty),
    RawJson(RawJson<Out>),
    Quiet,
}

/// Prints the messages of one build on standard error.
pub(crate) struct Display {
    printer: Printer,
    printed: Option<Instant>,
    warnings: Vec<VertexWarning>,
    copy: Option<RawJson<File>>,
    metrics: Option<Metrics>,
}

impl Display {
    /// Chooses the printer; `BUILDKIT_PROGRESS` decides where `mode` is `auto`.
    pub(crate) fn new(mode: Mode) -> Result<Display, DisplayError> {
        let mode = match mode {
            Mode::Auto => from_environment()?,
            Mode::Tty | Mode::Plain | Mode::Rawjson | Mode::Quiet => mode,
        };
        let printer = match mode {
            Mode::Auto if io::stderr().is_terminal() => Printer::Tty(Tty::new()),
            Mode::Tty if !io::stderr().is_terminal() => return Err(DisplayError::NoTerminal),
            Mode::Tty => Printer::Tty(Tty::new()),
            Mode::Auto | Mode::Plain => Printer::Plain(Plain::new(Box::new(io::stderr()))),
            Mode::Rawjson => Printer::RawJson(RawJson::new(Box::new(io::stderr()))),
            Mode::Quiet => Printer::Quiet,
        };
        Ok(Display::of(printer))
    }

    /// The same on standard output, for what is over: it needs no picture.
    pub(crate) fn on_stdout(mode: Mode) -> Result<Display, DisplayError> {
        let mode = match mode {
            Mode::Auto => from_environment()?,
            Mode::Tty | Mode::Plain | Mode::Rawjson | Mode::Quiet => mode,
        };
        let out: Out = Box::new(io::stdout());
        Ok(Display::of(match mode {
            Mode::Auto | Mode::Tty | Mode::Plain => Printer::Plain(Plain::new(out)),
            Mode::Rawjson => Printer::RawJson(RawJson::new(out)),
            Mode::Quiet => Printer::Quiet,
        }))
    }

    fn of(printer: Printer) -> Display {
        Display {
            printer,
            printed: None,
            warnings: Vec::new(),
            copy: None,
            metrics: None,
        }
    }

    /// Also writes every message to a file, as JSON.
    pub(crate) fn copied_to(self, file: File) -> Display {
        Display {
            copy: Some(RawJson::new(file)),
            ..self
        }
    }

    /// Also has steps counted.
    pub(crate) fn counted_by(self, metrics: Metrics) -> Display {
        Display {
            metrics: Some(metrics),
            ..self
        }
    }

    /// True if lines for people are printed.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self.printer, Printer::Plain(_) | Printer::Tty(_))
    }

    /// Takes a message in, and prints if the last print is long enough ago.
    pub(crate) fn update(&mut self, progress: Progress) {
        self.warnings.extend(progress.warnings.iter().cloned());
        if let Some(copy) = &mut self.copy {
            copy.update(&progress);
        }
        if let Some(metrics) = &self.metrics {
            metrics.update(&progress);
        }
        match &mut self.printer {
            Printer::Plain(plain) => plain.update(progress),
            Printer::Tty(tty) => tty.update(progress),
            Printer::RawJson(raw) => raw.update(&progress),
            Printer::Quiet => {}
        }
        if self.printed.is_none_or(|at| at.elapsed() >= PRINT_INTERVAL) {
            self.refresh();
        }
    }

    /// Prints what is known and not yet printed.
    pub(crate) fn refresh(&mut self) {
        self.printed = Some(Instant::now());
        match &mut self.printer {
            Printer::Plain(plain) => plain.refresh(),
            Printer::Tty(tty) => tty.refresh(),
            Printer::RawJson(_) | Printer::Quiet => {}
        }
    }

    /// Prints the rest, with the last lines of every step that failed, and gives the warnings.
    pub(crate) fn finish(self) -> Vec<VertexWarning> {
        match self.printer {
            Printer::Plain(plain) => plain.finish(),
            Printer::Tty(tty) => tty.finish(),
            Printer::RawJson(_) | Printer::Quiet => {}
        }
        self.warnings
    }
}

/// The display cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DisplayError {
    #[error("progress `tty` needs standard error to be a terminal")]
    NoTerminal,
    #[error("progress mode `{0}` in BUILDKIT_PROGRESS is not known")]
    UnknownMode(String),
}

fn from_environment() -> Result<Mode, DisplayError> {
    match std::env::var("BUILDKIT_PROGRESS") {
        Ok(value) if !value.is_empty() => {
            clap::ValueEnum::from_str(&value, true).map_err(|_| DisplayError::UnknownMode(value))
        }
        _ => Ok(Mode::Auto),
    }
}

/// Prints the summary of `warnings` that follows a build.
pub(crate) fn print_warnings(mut out: impl Write, warnings: &[VertexWarning], debug: bool) {
    let mut seen = Vec::new();
    for warning in warnings {
        if !seen.contains(&warning) {
            seen.push(warning);
        }
    }
    let count = match seen.len() {
        0 => return,
        1 => "1 warning found".to_owned(),
        n => format!("{n} warnings found"),
    };
    let hint = if debug {
        ""
    } else {
        " (use drydock --debug to expand)"
    };
    let mut text = format!("\n {count}{hint}:\n");
    for warning in seen {
        text.push_str(&format!(" - {}\n", warning.short));
        if !debug {
            continue;
        }
        for line in &warning.detail {
            text.push_str(&format!("{line}\n"));
        }
        if !warning.url.is_empty() {
            text.push_str(&format!("More info: {}\n", warning.url));
        }
        if let Some(source) = &warning.source {
            text.push_str(&crate::excerpt::render(source));
        }
        text.push('\n');
    }
    // A closed standard error has no reader to tell.
    let _ = out.write_all(text.as_bytes());
}
