//! A picture of the build, redrawn in place.
//!
//! A frame is made as one string and written at once, each line ending in "erase to the right",
//! so a terminal never shows a half-drawn one.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::SystemTime;

use client::progress::Progress;
use console::{Term, measure_text_width, truncate_str};

use super::interval::since;
use super::trace::{Status, Step, Trace};
use super::units::bytes;

/// Lines kept of each step for the report of a failure. Unlike the plain format, this one has not
/// shown most of them before.
const TAIL_LINES: usize = 100;

/// Output lines shown under a running step, where the screen has room.
const LOG_LINES: usize = 6;

/// Cells of a bar.
const BAR_WIDTH: usize = 20;

/// Below this width bars are left out.
const BAR_MIN_COLUMNS: usize = 90;

const ERASE_RIGHT: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";

pub(super) struct Tty {
    trace: Trace,
    term: Term,
    colors: Colors,
    /// Lines of the frame on the screen.
    drawn: usize,
    log_lines: usize,
}

/// One line of the picture.
struct Line {
    text: String,
    timer: String,
    color: Option<&'static str>,
    running: bool,
}

impl Tty {
    pub(super) fn new() -> Tty {
        let log_lines = std::env::var("BUILDKIT_TTY_LOG_LINES")
            .ok()
            .and_then(|lines| lines.parse().ok())
            .unwrap_or(LOG_LINES);
        Tty {
            trace: Trace::new(TAIL_LINES),
            term: Term::stderr(),
            colors: Colors::from_environment(),
            drawn: 0,
            log_lines,
        }
    }

    pub(super) fn update(&mut self, progress: Progress) {
        self.trace.update(progress);
    }

    pub(super) fn refresh(&mut self) {
        self.draw(false);
    }

    pub(super) fn finish(mut self) {
        self.draw(true);
        // A closed standard error has no reader to tell.
        let _ = io::stderr().write_all(&self.trace.failures());
    }

    fn draw(&mut self, last: bool) {
        let (rows, columns) = self.term.size();
        let (rows, columns) = (usize::from(rows.max(4)), usize::from(columns.max(20)));
        let limit = if last { usize::MAX } else { rows - 2 };
        let lines = self.lines(limit, columns);
        let mut frame = String::from(HIDE_CURSOR);
        if self.drawn > 0 {
            let _ = write!(frame, "\x1b[{}A\r", self.drawn);
        }
        let _ = writeln!(
            frame,
            "{}{ERASE_RIGHT}",
            fit(&self.header(last), "", columns)
        );
        for line in &lines {
            let text = fit(&line.text, &line.timer, columns);
            match line.color {
                Some(color) => writeln!(frame, "\x1b[{color}m{text}\x1b[0m{ERASE_RIGHT}"),
                None => writeln!(frame, "{text}{ERASE_RIGHT}"),
            }
            .unwrap_or_default();
        }
        frame.push_str(ERASE_BELOW);
        frame.push_str(SHOW_CURSOR);
        self.drawn = lines.len() + 1;
        self.trace.dirty.clear();
        // A closed terminal has no reader to tell.
        let _ = io::stderr().write_all(frame.as_bytes());
    }

    fn header(&self, last: bool) -> String {
        let (total, completed) = self.trace.counts();
        let now = self.trace.now();
        let spent = self
            .trace
            .first_start
            .map_or(0.0, |start| since(now, start).as_secs_f64());
        let finished = if last && total > 0 && completed == total {
            " FINISHED"
        } else {
            ""
        };
        format!("[+] Building {spent:.1}s ({completed}/{total}){finished}")
    }

    /// The picture below the header, at most `limit` lines: running steps are kept, the oldest
    /// others are left out first, and output is shown where room remains.
    fn lines(&self, limit: usize, columns: usize) -> Vec<Line> {
        let now = self.trace.now();
        let steps = self.trace.started.iter().map(|&id| &self.trace.steps[id]);
        let mut blocks: Vec<(&Step, Vec<Line>)> = steps
            .map(|step| (step, self.block(step, now, columns)))
            .collect();
        let total: usize = blocks.iter().map(|(_, lines)| lines.len()).sum();
        let mut surplus = total.saturating_sub(limit);
        for running in [false, true] {
            for (_, lines) in &mut blocks {
                lines.retain(|line| {
                    let drop = surplus > 0 && line.running == running;
                    surplus -= usize::from(drop);
                    !drop
                });
            }
        }
        let mut room = limit.saturating_sub(blocks.iter().map(|(_, lines)| lines.len()).sum());
        if limit == usize::MAX {
            room = 0;
        }
        for (step, lines) in blocks.iter_mut().rev() {
            if !step.is_completed() && room > self.log_lines {
                let output = self.output(step);
                room -= output.len();
                lines.extend(output);
            }
        }
        blocks.into_iter().flat_map(|(_, lines)| lines).collect()
    }

    /// The lines of one step: itself, its sub-steps, its warnings.
    fn block(&self, step: &Step, now: SystemTime, columns: usize) -> Vec<Line> {
        let (mark, color) = match step {
            step if step.is_canceled() => ("CANCELED ", self.colors.cancel),
            step if step.has_failed() => ("ERROR ", self.colors.error),
            step if step.cached => ("CACHED ", self.colors.run),
            _ => ("", self.colors.run),
        };
        let done = step.is_completed();
        let mut lines = vec![Line {
            text: format!(" => {mark}{}", one_line(&step.name)),
            timer: timer(step.intervals.total(now).as_secs_f64()),
            color: color.filter(|_| done),
            running: !done,
        }];
        lines.extend(
            step.statuses
                .iter()
                .map(|status| self.status(status, now, columns)),
        );
        lines.extend(step.warnings.iter().map(|warning| Line {
            text: format!(" => WARN: {}", one_line(&warning.short)),
            timer: String::new(),
            color: self.colors.warning,
            running: false,
        }));
        lines
    }

    fn status(&self, status: &Status, now: SystemTime, columns: usize) -> Line {
        let latest = &status.latest;
        let done = latest.completed.is_some();
        let amount = match (latest.current, latest.total) {
            (0, 0) => String::new(),
            (current, 0) => format!(" {}", bytes(current)),
            (current, total) => {
                let bar = if done || columns < BAR_MIN_COLUMNS {
                    String::new()
                } else {
                    format!(" {}", bar(current, total))
                };
                format!(" {} / {}{bar}", bytes(current), bytes(total))
            }
        };
        let end = latest.completed.unwrap_or(now);
        let spent = latest
            .started
            .map_or(0.0, |start| since(end, start).as_secs_f64());
        Line {
            text: format!(" => => {}{amount}", one_line(&latest.id)),
            timer: timer(spent),
            color: self.colors.run.filter(|_| done),
            running: !done,
        }
    }

    /// What a running step last wrote.
    fn output(&self, step: &Step) -> Vec<Line> {
        let tail = &step.log.tail;
        let skip = tail.len().saturating_sub(self.log_lines);
        let shown = tail.iter().skip(skip).map(|line| Line {
            text: format!(" => => # {}", visible(line)),
            timer: String::new(),
            color: self.colors.faint,
            running: true,
        });
        shown.collect()
    }
}

/// `left` and, at the right edge, `right`, in exactly fewer cells than `columns`.
fn fit(left: &str, right: &str, columns: usize) -> String {
    let room = columns.saturating_sub(measure_text_width(right) + 1);
    let left = truncate_str(left, room, "");
    if right.is_empty() {
        return left.into_owned();
    }
    let padding = room.saturating_sub(measure_text_width(&left));
    format!("{left}{:padding$}{right}", "")
}

fn timer(seconds: f64) -> String {
    let seconds = if seconds < 0.05 { 0.0 } else { seconds };
    format!(" {seconds:.1}s")
}

fn bar(current: i64, total: i64) -> String {
    let part = (current as f64 / total as f64).clamp(0.0, 1.0);
    // In range: `part` is between 0 and 1.
    let filled = (part * BAR_WIDTH as f64) as usize;
    format!("[{}{}]", "=".repeat(filled), " ".repeat(BAR_WIDTH - filled))
}

fn one_line(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

/// A line of output as a terminal would leave it: without its time stamp, without control
/// sequences, and from the last carriage return on.
fn visible(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.split_once(' ').map_or("", |(_, text)| text);
    let text = text.trim_end_matches('\r');
    let text = text.rsplit('\r').next().unwrap_or_default();
    let plain = console::strip_ansi_codes(text).replace('\t', "    ");
    plain.chars().filter(|char| !char.is_control()).collect()
}

/// SGR parameters by meaning; none if colours are off.
struct Colors {
    run: Option<&'static str>,
    cancel: Option<&'static str>,
    warning: Option<&'static str>,
    error: Option<&'static str>,
    faint: Option<&'static str>,
}

impl Colors {
    /// Blue, yellow and red, changed by `BUILDKIT_COLORS` (`run=cyan:error=magenta`), off by `NO_COLOR`.
    fn from_environment() -> Colors {
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            return Colors {
                run: None,
                cancel: None,
                warning: None,
                error: None,
                faint: None,
            };
        }
        let mut colors = Colors {
            run: Some("34"),
            cancel: Some("33"),
            warning: Some("33"),
            error: Some("31"),
            faint: Some("2"),
        };
        let spec = std::env::var("BUILDKIT_COLORS").unwrap_or_default();
        for (field, color) in spec.split(':').filter_map(|item| item.split_once('=')) {
            let Some(code) = color_code(color) else {
                continue;
            };
            match field {
                "run" => colors.run = Some(code),
                "cancel" => colors.cancel = Some(code),
                "warning" => colors.warning = Some(code),
                "error" => colors.error = Some(code),
                _ => {}
            }
        }
        colors
    }
}

fn color_code(name: &str) -> Option<&'static str> {
    Some(match name {
        "black" => "30",
        "red" => "31",
        "green" => "32",
        "yellow" => "33",
        "blue" => "34",
        "magenta" => "35",
        "cyan" => "36",
        "white" => "37",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_is_at_the_right_edge() {
        assert_eq!(fit(" => step", " 1.0s", 20), " => step       1.0s");
        assert_eq!(
            fit(" => a long name of a step", " 1.0s", 20),
            " => a long nam 1.0s"
        );
    }

    #[test]
    fn output_is_shown_as_a_terminal_leaves_it() {
        assert_eq!(visible(b"0.1 plain"), "plain");
        assert_eq!(visible(b"0.1 10%\r20%\r"), "20%");
        assert_eq!(visible(b"0.1 \x1b[31mred\x1b[0m\x07"), "red");
    }

    #[test]
    fn a_bar_never_overflows() {
        assert_eq!(bar(5, 10), "[==========          ]");
        assert_eq!(bar(30, 10), "[====================]");
    }
}
