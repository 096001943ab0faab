//! BuildKit's plain format: lines that begin with the number of their step.
//!
//! One step at a time has the word. Another takes over when it is done, or when the first has
//! spoken long enough; then the first is closed with `#n ...`, and named again when it goes on.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, Instant};

use client::progress::Progress;

use super::interval::since;
use super::trace::{Status, Step, StepId, Trace};
use super::units::bytes;

/// A step keeps the word at least this long while it has something to say.
const HOLD: Duration = Duration::from_secs(5);

/// No step waits longer than this for the word.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// A sub-step is told again after this time, or after this part of its total.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
const STATUS_PART: f64 = 0.05;

/// Lines kept of each step for the report of a failure.
const TAIL_LINES: usize = 10;

pub(super) struct Plain<W> {
    out: W,
    trace: Trace,
    /// Numbers of steps, in the order in which they were first printed.
    numbers: HashMap<StepId, usize>,
    /// The step that has the word.
    current: Option<StepId>,
    /// Since when each step has had something to say.
    waiting: HashMap<StepId, Instant>,
    begun: bool,
}

impl<W: Write> Plain<W> {
    pub(super) fn new(out: W) -> Plain<W> {
        Plain {
            out,
            trace: Trace::new(TAIL_LINES),
            numbers: HashMap::new(),
            current: None,
            waiting: HashMap::new(),
            begun: false,
        }
    }

    pub(super) fn update(&mut self, progress: Progress) {
        self.trace.update(progress);
        let now = Instant::now();
        for &id in &self.trace.dirty {
            self.waiting.entry(id).or_insert(now);
        }
    }

    pub(super) fn refresh(&mut self) {
        let (done, open) = self.split_dirty();
        let current = self.current;
        for id in done.iter().copied().filter(|id| Some(*id) == current) {
            self.print(id);
        }
        for id in done.into_iter().filter(|id| Some(*id) != current) {
            self.print(id);
        }
        if open.is_empty() {
            self.keep_one_open();
            return;
        }
        if let Some(id) = self.current.filter(|id| open.contains(id)) {
            self.print(id);
        }
        if let Some(next) = self.next_speaker(&open) {
            self.print(next);
        }
    }

    pub(super) fn finish(mut self) {
        self.refresh();
        // What had no turn yet gets it now; nothing is left unsaid.
        let (_, open) = self.split_dirty();
        for id in open {
            self.print(id);
        }
        let failures = self.trace.failures();
        self.write(&failures);
    }

    /// Steps with news: those completed in order of completion, and the others.
    fn split_dirty(&self) -> (Vec<StepId>, Vec<StepId>) {
        let visible = self.trace.dirty.iter().copied().filter(|&id| {
            let step = &self.trace.steps[id];
            !step.hidden && step.is_started()
        });
        let (mut done, open): (Vec<_>, Vec<_>) =
            visible.partition(|&id| self.trace.steps[id].is_completed());
        done.sort_by_key(|&id| self.trace.steps[id].intervals.latest_end());
        (done, open)
    }

    /// With nothing new to say, a running step is named, so that one sees what is waited for.
    fn keep_one_open(&mut self) {
        if self.current.is_some() {
            return;
        }
        let running = self.trace.started.iter().copied().find(|&id| {
            let step = &self.trace.steps[id];
            !step.hidden && !step.is_completed()
        });
        if let Some(id) = running {
            self.print(id);
        }
    }

    /// Who takes the word from the current step, if anyone.
    fn next_speaker(&self, open: &[StepId]) -> Option<StepId> {
        let speed = |id: StepId| {
            let waited = self
                .waiting
                .get(&id)
                .map_or(0.0, |since| since.elapsed().as_secs_f64());
            self.trace.steps[id].activity as f64 / waited.max(0.001)
        };
        let others = || open.iter().copied().filter(|id| Some(*id) != self.current);
        let busiest = others().max_by(|a, b| speed(*a).total_cmp(&speed(*b)))?;
        let Some(current) = self.current else {
            return Some(busiest);
        };
        let overdue = others().find(|id| self.waited(*id) > MAX_WAIT);
        if overdue.is_some() {
            return overdue;
        }
        let all: f64 = speed(current) + others().map(speed).sum::<f64>();
        let share = (speed(current) / all.max(f64::MIN_POSITIVE)).clamp(0.0, 0.99);
        let hold = HOLD.mul_f64(1.0 / (1.0 - share));
        (self.waited(current) > hold).then_some(busiest)
    }

    fn waited(&self, id: StepId) -> Duration {
        self.waiting
            .get(&id)
            .map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Gives the word to `id` and prints all it has to say.
    fn print(&mut self, id: StepId) {
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(id).or_insert(next);
        if self.current != Some(id) {
            self.hand_over(id, number);
        }
        let now = self.trace.now();
        let step = &mut self.trace.steps[id];
        let mut out = Vec::new();
        let has_open_status = statuses(step, number, &mut out);
        for warning in &step.warnings[step.warnings_printed..] {
            out.extend_from_slice(format!("#{number} WARN: {}\n", warning.short).as_bytes());
        }
        step.warnings_printed = step.warnings.len();
        log(step, number, &mut out);
        if step.is_completed() && !has_open_status {
            if step.log.open && !step.log.pending.is_empty() {
                out.push(b'\n');
                step.log.pending.clear();
                (step.log.printed, step.log.open) = (0, false);
            }
            let spent = step.intervals.total(now).as_secs_f64();
            let end = if step.is_canceled() {
                "CANCELED".to_owned()
            } else if step.has_failed() {
                format!("ERROR: {}", step.error)
            } else if step.cached {
                "CACHED".to_owned()
            } else {
                format!("DONE {spent:.1}s")
            };
            out.extend_from_slice(format!("#{number} {end}\n").as_bytes());
            step.activity = 0;
            self.current = None;
            self.waiting.remove(&id);
        }
        self.trace.dirty.remove(&id);
        self.write(&out);
    }

    fn hand_over(&mut self, id: StepId, number: usize) {
        let mut out = String::new();
        if let Some(old) = self.current.replace(id) {
            let step = &mut self.trace.steps[old];
            if step.log.open {
                out.push('\n');
            }
            step.log.printed = 0;
            step.activity = 0;
            self.waiting.remove(&old);
            let _ = writeln!(out, "#{} ...", self.numbers[&old]);
        }
        if self.begun {
            out.push('\n');
        }
        self.begun = true;
        let _ = writeln!(out, "#{number} {}", self.trace.steps[id].name);
        self.waiting.insert(id, Instant::now());
        self.write(out.as_bytes());
    }

    fn write(&mut self, text: &[u8]) {
        // A closed standard error has no reader to tell.
        let _ = self.out.write_all(text);
        let _ = self.out.flush();
    }
}

/// Prints sub-steps that moved on; true if one of them is not done.
fn statuses(step: &mut Step, number: usize, out: &mut Vec<u8>) -> bool {
    let mut has_open = false;
    for status in step.statuses.iter_mut().filter(|status| status.changed) {
        status.changed = false;
        has_open |= status.latest.completed.is_none();
        if !is_worth_a_line(status) {
            continue;
        }
        let latest = &status.latest;
        status.printed = Some((latest.current, latest.timestamp));
        let amount = match (latest.current, latest.total) {
            (0, 0) => String::new(),
            (current, 0) => format!(" {}", bytes(current)),
            (current, total) => format!(" {} / {}", bytes(current), bytes(total)),
        };
        let end = latest.completed.unwrap_or(latest.timestamp);
        let spent = latest
            .started
            .map_or(0.0, |start| since(end, start).as_secs_f64());
        let spent = if spent > 0.01 {
            format!(" {spent:.1}s")
        } else {
            String::new()
        };
        let done = if latest.completed.is_some() {
            " done"
        } else {
            ""
        };
        out.extend_from_slice(format!("#{number} {}{amount}{spent}{done}\n", latest.id).as_bytes());
    }
    has_open
}

fn is_worth_a_line(status: &Status) -> bool {
    let latest = &status.latest;
    let Some((current, at)) = status.printed.filter(|_| latest.completed.is_none()) else {
        return true;
    };
    let part = match latest.total {
        0 => 0.0,
        total => (latest.current - current) as f64 / total as f64,
    };
    part >= STATUS_PART || since(latest.timestamp, at) >= STATUS_INTERVAL
}

/// Prints output; an unfinished last line is printed as far as it goes.
fn log(step: &mut Step, number: usize, out: &mut Vec<u8>) {
    let log = &mut step.log;
    let last = log.pending.len().saturating_sub(1);
    for (index, line) in log.pending.iter().enumerate() {
        if index == 0 && log.printed > 0 {
            out.extend_from_slice(&line[log.printed.min(line.len())..]);
        } else {
            out.extend_from_slice(format!("#{number} ").as_bytes());
            out.extend_from_slice(line);
        }
        if index != last || !log.open {
            out.push(b'\n');
        }
    }
    if log.open {
        log.pending.drain(..last);
        log.printed = log.pending.first().map_or(0, Vec::len);
    } else {
        log.pending.clear();
        log.printed = 0;
    }
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
