//! What is known of a build, put together from the messages of its status stream.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use client::progress::{Progress, ProgressGroup, Vertex, VertexLog, VertexStatus, VertexWarning};

use super::interval::{Intervals, since};

/// A step, by its place in `Trace::steps`.
pub(super) type StepId = usize;

/// Everything known of one build.
#[derive(Default)]
pub(super) struct Trace {
    pub(super) steps: Vec<Step>,
    /// Vertex digest or group id to the step that shows it.
    by_name: HashMap<String, StepId>,
    /// Steps that have started, in that order.
    pub(super) started: Vec<StepId>,
    /// Steps of which something is not printed yet.
    pub(super) dirty: BTreeSet<StepId>,
    /// Daemon's time of the first start.
    pub(super) first_start: Option<SystemTime>,
    /// This machine's clock when the first start was heard of.
    first_heard: Option<SystemTime>,
    /// How many of the last lines of each step are kept.
    tail_lines: usize,
}

/// A vertex, or a group of vertexes shown as one.
#[derive(Default)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) cached: bool,
    pub(super) error: String,
    pub(super) intervals: Intervals,
    pub(super) statuses: Vec<Status>,
    pub(super) warnings: Vec<VertexWarning>,
    pub(super) warnings_printed: usize,
    pub(super) log: Log,
    /// Something happened this many times since the step was last put aside.
    pub(super) activity: u64,
    /// A group of which no member worth showing has started.
    pub(super) hidden: bool,
    /// Members of a group, by digest.
    members: HashMap<String, Vertex>,
}

/// One sub-step and what the printer told of it.
pub(super) struct Status {
    pub(super) latest: VertexStatus,
    pub(super) changed: bool,
    pub(super) printed: Option<(i64, SystemTime)>,
}

/// Lines of output.
#[derive(Default)]
pub(super) struct Log {
    /// Lines not printed yet. The first may have been printed up to `printed`, the last may be
    /// unfinished (`open`).
    pub(super) pending: Vec<Vec<u8>>,
    pub(super) printed: usize,
    pub(super) open: bool,
    /// The last lines, also when printed; the last one may be unfinished.
    pub(super) tail: VecDeque<Vec<u8>>,
}

impl Step {
    pub(super) fn is_started(&self) -> bool {
        self.intervals.is_started()
    }

    pub(super) fn is_completed(&self) -> bool {
        self.intervals.latest_end().is_some()
    }

    pub(super) fn is_canceled(&self) -> bool {
        self.error.ends_with("context canceled")
    }

    /// True if it failed by itself.
    pub(super) fn has_failed(&self) -> bool {
        !self.error.is_empty() && !self.is_canceled()
    }
}

impl Trace {
    pub(super) fn new(tail_lines: usize) -> Trace {
        Trace {
            tail_lines,
            ..Trace::default()
        }
    }

    /// Takes one message in.
    pub(super) fn update(&mut self, progress: Progress) {
        for vertex in progress.vertexes {
            match vertex.group.clone() {
                Some(group) => self.update_group(&group, vertex),
                None => self.update_vertex(vertex),
            }
        }
        for status in progress.statuses {
            self.update_status(status);
        }
        for warning in progress.warnings {
            if let Some(&id) = self.by_name.get(&warning.vertex) {
                self.steps[id].warnings.push(warning);
                self.touch(id);
            }
        }
        for log in progress.logs {
            self.update_log(&log);
        }
    }

    /// Daemon's time now, as far as this machine can tell.
    pub(super) fn now(&self) -> SystemTime {
        let elapsed = self
            .first_heard
            .map_or(Duration::ZERO, |heard| since(SystemTime::now(), heard));
        self.first_start
            .map_or_else(SystemTime::now, |start| start + elapsed)
    }

    /// Steps to show, and how many of them are completed.
    pub(super) fn counts(&self) -> (usize, usize) {
        let shown = || self.steps.iter().filter(|step| !step.hidden);
        (
            shown().count(),
            shown().filter(|step| step.is_completed()).count(),
        )
    }

    /// What each failed step last wrote.
    pub(super) fn failures(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for step in self
            .started
            .iter()
            .map(|&id| &self.steps[id])
            .filter(|step| step.has_failed())
        {
            out.extend_from_slice(format!("------\n > {}:\n", step.name).as_bytes());
            for line in &step.log.tail {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            out.extend_from_slice(b"------\n");
        }
        out
    }

    fn step(&mut self, name: &str) -> (StepId, bool) {
        if let Some(&id) = self.by_name.get(name) {
            return (id, false);
        }
        let id = self.steps.len();
        self.steps.push(Step::default());
        self.by_name.insert(name.to_owned(), id);
        (id, true)
    }

    fn touch(&mut self, id: StepId) {
        self.steps[id].activity += 1;
        self.dirty.insert(id);
    }

    fn hear_start(&mut self, start: SystemTime) {
        if self.first_start.is_none() {
            self.first_start = Some(start);
            self.first_heard = Some(SystemTime::now());
        }
    }

    fn update_vertex(&mut self, vertex: Vertex) {
        let (id, _) = self.step(&vertex.digest);
        let step = &mut self.steps[id];
        let was_started = step.is_started();
        let Some(start) = vertex.started else {
            // The graph is told before it runs. A step that runs is not reset by that.
            if !was_started {
                step.name = vertex.name;
            }
            return;
        };
        let news = step.intervals.set(start, vertex.completed)
            | (step.name != vertex.name)
            | (step.cached != vertex.cached)
            | (step.error != vertex.error);
        (step.name, step.cached, step.error) = (vertex.name, vertex.cached, vertex.error);
        if !was_started {
            self.started.push(id);
            self.hear_start(start);
        }
        if news {
            self.touch(id);
        }
    }

    fn update_group(&mut self, group: &ProgressGroup, vertex: Vertex) {
        let (id, new) = self.step(&group.id);
        self.by_name.insert(vertex.digest.clone(), id);
        let step = &mut self.steps[id];
        if new {
            (step.name, step.hidden) = (group.name.clone(), true);
        }
        let was_hidden = step.hidden;
        let mut news = false;
        if let Some(start) = vertex.started {
            news |= step.intervals.set(start, vertex.completed);
            step.hidden &= group.weak;
        }
        step.members.insert(vertex.digest.clone(), vertex.clone());
        let cached = step.members.values().all(|member| member.cached);
        if step.error.is_empty() && !vertex.error.is_empty() {
            (step.error, step.hidden, news) = (vertex.error, false, true);
        }
        news |= step.cached != cached;
        step.cached = cached;
        let hidden = step.hidden;
        if let Some(start) = vertex.started {
            self.hear_start(start);
        }
        if was_hidden && !hidden {
            self.started.push(id);
            news = true;
        }
        if news && !hidden {
            self.touch(id);
        }
    }

    fn update_status(&mut self, status: VertexStatus) {
        let Some(&id) = self.by_name.get(&status.vertex) else {
            return;
        };
        let statuses = &mut self.steps[id].statuses;
        match statuses
            .iter_mut()
            .find(|known| known.latest.id == status.id)
        {
            Some(known) => (known.latest, known.changed) = (status, true),
            None => statuses.push(Status {
                latest: status,
                changed: true,
                printed: None,
            }),
        }
        self.touch(id);
    }

    fn update_log(&mut self, message: &VertexLog) {
        let Some(&id) = self.by_name.get(&message.vertex) else {
            return;
        };
        let step = &mut self.steps[id];
        let start = step.intervals.latest_start().unwrap_or(message.timestamp);
        let stamp = stamp(since(message.timestamp, start));
        step.log.push(&message.data, &stamp, self.tail_lines);
        self.touch(id);
    }
}

impl Log {
    fn push(&mut self, data: &[u8], stamp: &str, tail_lines: usize) {
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if self.open {
                // An open line is the last of both lists; it is put there below.
                extend_last(self.pending.last_mut(), text);
                extend_last(self.tail.back_mut(), text);
            } else {
                let line = [stamp.as_bytes(), b" ", text].concat();
                self.tail.push_back(line.clone());
                self.pending.push(line);
                if self.tail.len() > tail_lines {
                    self.tail.pop_front();
                }
            }
            self.open = !ends;
        }
    }
}

fn extend_last(line: Option<&mut Vec<u8>>, text: &[u8]) {
    if let Some(line) = line {
        line.extend_from_slice(text);
    }
}

/// Seconds with as many digits as fit in five characters.
fn stamp(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 10.0 => format!("{s:.3}"),
        s if s < 100.0 => format!("{s:.2}"),
        s => format!("{s:.1}"),
    }
}
