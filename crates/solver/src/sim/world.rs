//! Jobs, worker and index, all played by a seed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use llb::{Graph, OpKind, Selector, Vertex};
use oci::Digest;

use super::Report;
use super::content::{Content, Versions, carry_out, digest, evaluate, of_source};
use super::rng::Rng;
use super::story::Story;
use super::universe::Universe;
use crate::step::{Core, Effect, Event, Goal, JobNo, Limits, News, OpNo, Outcome, RequestNo, Run};
use crate::{ErrorClass, OpError, SolveError};

/// How rough a run is, in times per thousand.
struct Weather {
    failures: u64,
    transients: u64,
    evictions: u64,
    /// How many results vanish although a job keeps them: a worker that breaks its promise.
    disasters: u32,
    ends: u64,
    withdrawals: u64,
    ignores: u64,
    lost_links: u64,
}

/// More than any run takes: one that does not end fails.
const MAX_STEPS: u64 = 1_000_000;

pub(super) struct World {
    seed: u64,
    rng: Rng,
    weather: Weather,
    universe: Universe,
    core: Core,
    effects: Vec<Effect>,
    pending: BTreeMap<OpNo, Pending>,
    store: BTreeMap<Digest, Stored>,
    links: HashMap<Digest, Digest>,
    jobs: BTreeMap<JobNo, SimJob>,
    next_job: JobNo,
    injected: BTreeSet<String>,
    /// Whether a result has vanished that was kept.
    is_broken: bool,
    /// What was worked on when the step began whose effects are looked at.
    making: HashSet<(JobNo, Digest)>,
    pub(super) report: Report,
}

struct Stored {
    content: Content,
    kept_by: BTreeSet<JobNo>,
}

struct SimJob {
    versions: Versions,
    requests: BTreeMap<RequestNo, (Arc<Graph>, Goal)>,
    next_request: RequestNo,
    story: Story,
}

/// Something the core has asked for.
struct Pending {
    call: Call,
    aborted: bool,
    /// Those who wait for a run.
    waiters: Vec<(JobNo, Digest)>,
    /// An answer that was found when it was asked, and may be old when it is given.
    early: Option<Outcome>,
}

enum Call {
    Pin(JobNo, Arc<Vertex>),
    Exists(JobNo, Vec<Digest>),
    Digest(Digest, Vec<Selector>),
    Load(Digest, String),
    Run(Run),
}

impl World {
    pub(super) fn new(seed: u64, mut rng: Rng) -> World {
        let mut some = |most: usize| {
            if rng.per_mille(400) {
                0
            } else {
                rng.below(most) as u64
            }
        };
        let weather = Weather {
            failures: some(60),
            transients: some(60),
            evictions: some(200),
            disasters: u32::try_from(some(4)).unwrap_or(0),
            ends: some(40),
            withdrawals: some(40),
            ignores: some(100),
            lost_links: some(300),
        };
        let size = rng.between(3, 40);
        let universe = Universe::random(&mut rng, size);
        let limits = Limits {
            heavy: rng.between(1, 4),
            light: rng.between(1, 4),
        };
        World {
            seed,
            rng,
            weather,
            universe,
            core: Core::new(limits),
            effects: Vec::new(),
            pending: BTreeMap::new(),
            store: BTreeMap::new(),
            links: HashMap::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            injected: BTreeSet::new(),
            is_broken: false,
            making: HashSet::new(),
            report: Report::default(),
        }
    }

    /// Plays jobs that overlap until all have ended, then one more that finds everything there.
    pub(super) fn play(&mut self) {
        let jobs = self.rng.between(1, 8) as u64;
        while self.next_job < jobs || !self.jobs.is_empty() {
            if self.next_job < jobs && (self.jobs.is_empty() || self.rng.per_mille(100)) {
                self.begin_job();
            }
            self.disturb();
            self.move_on();
        }
        self.drain();
        self.assert_idle();
        self.play_again();
    }

    /// Ends what is left over after all jobs have ended.
    fn drain(&mut self) {
        while let Some((op, _)) = self.pending.pop_first() {
            let outcome = Outcome::Failed(OpError::canceled());
            self.step(Event::Done { op, outcome });
        }
    }

    fn assert_idle(&self) {
        assert!(self.core.is_idle(), "something is left over");
    }

    /// In calm weather a build that was done is found, whatever happened before.
    fn play_again(&mut self) {
        self.weather = Weather {
            failures: 0,
            transients: 0,
            evictions: 0,
            disasters: 0,
            ends: 0,
            withdrawals: 0,
            ignores: 0,
            lost_links: 0,
        };
        let goal = self.universe.pick(&mut self.rng);
        let mut runs = Vec::new();
        for _ in 0..2 {
            let job = self.new_job(Versions::new());
            self.ask(job, goal, Goal::Make);
            let before = self.report.runs;
            while self
                .jobs
                .get(&job)
                .is_some_and(|job| !job.requests.is_empty())
            {
                self.move_on();
            }
            runs.push(self.report.runs - before);
            self.end_job(job);
        }
        assert_eq!(runs[1], 0, "a build that was done was not found");
        self.drain();
        self.assert_idle();
    }

    fn new_job(&mut self, versions: Versions) -> JobNo {
        let job = self.next_job;
        self.next_job += 1;
        let entry = SimJob {
            versions,
            requests: BTreeMap::new(),
            next_request: 0,
            story: Story::default(),
        };
        self.jobs.insert(job, entry);
        self.step(Event::Begin {
            job,
            salt: Digest::of(format!("{} {job}", self.seed)),
        });
        job
    }

    fn begin_job(&mut self) {
        let mut versions = Versions::new();
        for at in 0..self.universe.len() {
            versions.insert(format!("local://{at}"), self.rng.below(6) as u64);
            versions.insert(format!("docker-image://{at}"), self.rng.below(2) as u64);
        }
        let job = self.new_job(versions);
        for _ in 0..self.rng.between(1, 3) {
            let goal = if self.rng.per_mille(850) {
                Goal::Make
            } else {
                Goal::Name
            };
            let wanted = self.universe.pick(&mut self.rng);
            self.ask(job, wanted, goal);
        }
    }

    fn ask(&mut self, job: JobNo, wanted: (usize, u32), goal: Goal) {
        let ignores = self.weather.ignores;
        let rng = &mut self.rng;
        let definition = self.universe.graph(wanted, |_| rng.per_mille(ignores));
        let graph = Arc::new(Graph::new(&definition).expect("the universe is legal"));
        let Some(entry) = self.jobs.get_mut(&job) else {
            return;
        };
        let request = entry.next_request;
        entry.next_request += 1;
        entry.requests.insert(request, (graph.clone(), goal));
        let is_ignoring = graph.vertices().any(|vertex| vertex.ignore_cache());
        entry.story.is_blurred |= is_ignoring || self.is_broken;
        let known = entry.story.len();
        self.step(Event::Ask {
            job,
            request,
            graph: graph.clone(),
            durations: Vec::new(),
            goal,
        });
        self.jobs[&job].story.check_order(&graph, known);
    }

    fn end_job(&mut self, job: JobNo) {
        // What is told of a job that has ended is for nobody.
        self.jobs.remove(&job);
        self.step(Event::End { job });
        for stored in self.store.values_mut() {
            stored.kept_by.remove(&job);
        }
    }

    /// Things that happen by themselves.
    fn disturb(&mut self) {
        if self.rng.per_mille(self.weather.evictions) {
            let is_free = |stored: &Stored| stored.kept_by.is_empty();
            self.evict(is_free);
        }
        if self.weather.disasters > 0 && self.rng.per_mille(10) {
            self.weather.disasters -= 1;
            self.evict(|_| true);
            self.is_broken = true;
        }
        if self.rng.per_mille(self.weather.lost_links) {
            self.links.clear();
        }
        let Some(&job) = self.any_job() else { return };
        if self.rng.per_mille(self.weather.ends) {
            return self.end_job(job);
        }
        let requests: Vec<RequestNo> = self.jobs[&job].requests.keys().copied().collect();
        if requests.is_empty() {
            if self.rng.per_mille(300) {
                self.end_job(job);
            } else if self.rng.per_mille(100) {
                let wanted = self.universe.pick(&mut self.rng);
                self.ask(job, wanted, Goal::Make);
            }
        } else if self.rng.per_mille(self.weather.withdrawals) {
            let request = *self.rng.pick(&requests);
            if let Some(job) = self.jobs.get_mut(&job) {
                job.requests.remove(&request);
            }
            self.step(Event::Withdraw { job, request });
        }
    }

    fn any_job(&mut self) -> Option<&JobNo> {
        if self.jobs.is_empty() {
            return None;
        }
        let at = self.rng.below(self.jobs.len());
        self.jobs.keys().nth(at)
    }

    fn evict(&mut self, may: impl Fn(&Stored) -> bool) {
        let free: Vec<Digest> = self
            .store
            .iter()
            .filter(|(_, stored)| may(stored))
            .map(|(id, _)| *id)
            .collect();
        if !free.is_empty() {
            let id = *self.rng.pick(&free);
            self.store.remove(&id);
            self.report.evictions += 1;
        }
    }

    /// Lets one thing that was asked for end.
    fn move_on(&mut self) {
        if self.pending.is_empty() {
            let waits = self.jobs.values().any(|job| !job.requests.is_empty());
            assert!(!waits, "a job waits for nothing");
            return;
        }
        let at = self.rng.below(self.pending.len());
        let op = *self
            .pending
            .keys()
            .nth(at)
            .expect("the number is below the length");
        let pending = self.pending.remove(&op).expect("the key was just read");
        let outcome = self.outcome(pending);
        self.step(Event::Done { op, outcome });
    }

    fn outcome(&mut self, pending: Pending) -> Outcome {
        if pending.aborted && self.rng.per_mille(700) {
            return Outcome::Failed(OpError::canceled());
        }
        if let Some(early) = pending.early {
            return early;
        }
        self.answer(&pending.call)
    }

    fn answer(&mut self, call: &Call) -> Outcome {
        if let Call::Exists(job, ids) = call {
            return Outcome::Exists(ids.iter().map(|id| self.keep(*id, *job)).collect());
        }
        if self.rng.per_mille(self.weather.failures) {
            let message = format!("injected {}", self.injected.len());
            self.injected.insert(message.clone());
            return Outcome::Failed(OpError::new(ErrorClass::User, message));
        }
        if self.rng.per_mille(self.weather.transients) && !matches!(call, Call::Pin(..)) {
            return gone();
        }
        match call {
            Call::Pin(job, vertex) => self.pin(*job, vertex),
            Call::Exists(..) => gone(),
            Call::Digest(id, selectors) => match self.store.get(id) {
                Some(stored) => Outcome::Digest(digest(&stored.content, selectors)),
                None => gone(),
            },
            Call::Load(id, filename) if self.store.contains_key(id) => {
                let graph = Graph::new(&self.universe.definition(filename));
                let graph = Arc::new(graph.expect("the universe is legal"));
                Outcome::Definition {
                    graph,
                    durations: Vec::new(),
                }
            }
            Call::Load(..) => gone(),
            Call::Run(run) => self.carry_out(run),
        }
    }

    fn keep(&mut self, id: Digest, job: JobNo) -> bool {
        let lives = self.jobs.contains_key(&job);
        let Some(stored) = self.store.get_mut(&id) else {
            return false;
        };
        if lives {
            stored.kept_by.insert(job);
        }
        true
    }

    fn put(&mut self, id: Digest, content: Content, job: JobNo) {
        let stored = Stored {
            content,
            kept_by: BTreeSet::new(),
        };
        self.store.entry(id).or_insert(stored);
        self.keep(id, job);
    }

    fn pin(&mut self, job: JobNo, vertex: &Vertex) -> Outcome {
        let OpKind::Source(source) = &vertex.op().kind else {
            return gone();
        };
        let Some(entry) = self.jobs.get(&job) else {
            return gone();
        };
        let content = of_source(&source.identifier, &entry.versions);
        let id = Digest::of(format!("source {content:?}"));
        if source.identifier.starts_with("local://") {
            self.put(id, content, job);
        }
        Outcome::Pinned(vec![id])
    }

    fn carry_out(&mut self, run: &Run) -> Outcome {
        let contents = if let OpKind::Source(source) = &run.vertex.op().kind {
            // What a source holds is in its id: look for the version that has it.
            let of = |version| {
                let versions = [(source.identifier.clone(), version)].into();
                of_source(&source.identifier, &versions)
            };
            let has_id =
                |content: &Content| Digest::of(format!("source {content:?}")) == run.output_ids[0];
            let found = (0..6).map(of).find(has_id);
            vec![found.expect("the id of a source is that of one of its versions")]
        } else {
            let mut inputs = Vec::new();
            for id in &run.inputs {
                match id.map(|id| self.store.get(&id)) {
                    None => inputs.push(None),
                    Some(Some(stored)) => inputs.push(Some(stored.content.clone())),
                    Some(None) => return gone(),
                }
            }
            carry_out(&run.vertex, &inputs)
        };
        assert_eq!(contents.len(), run.output_ids.len());
        for (id, content) in run.output_ids.iter().zip(contents) {
            self.put(*id, content, run.job);
        }
        Outcome::Ran
    }

    /// Lets the core take an event and does what it says.
    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.report.steps += 1;
            assert!(self.report.steps < MAX_STEPS, "a run without end");
            self.making = self.core.making();
            let mut effects = std::mem::take(&mut self.effects);
            self.core.step(event, &mut effects);
            self.core.check();
            for effect in effects.drain(..) {
                self.perform(effect, &mut events);
            }
            self.effects = effects;
        }
    }

    fn perform(&mut self, effect: Effect, events: &mut Vec<Event>) {
        match effect {
            Effect::Pin { op, job, vertex } => self.begin(op, Call::Pin(job, vertex)),
            Effect::Exists { op, job, ids } => self.begin(op, Call::Exists(job, ids)),
            Effect::Digest {
                op, id, selectors, ..
            } => {
                self.begin(op, Call::Digest(id, selectors));
            }
            Effect::Load {
                op, id, filename, ..
            } => self.begin(op, Call::Load(id, filename)),
            Effect::Run(run) => self.begin_run(run),
            Effect::Join { op, job, vertex } => {
                self.report.joins += 1;
                let run = self.pending.get_mut(&op).expect("what is joined runs");
                run.waiters.push((job, vertex));
                let is_making = self.is_making(job);
                self.jobs[&job].story.check_run(vertex, None, is_making);
            }
            Effect::Leave { op, job, vertex } => {
                let run = self.pending.get_mut(&op).expect("what is left runs");
                run.waiters.retain(|waiter| *waiter != (job, vertex));
            }
            Effect::Abort { op } => self.abort(op),
            Effect::Lookup { job, vertex, key } => {
                let link = self.links.get(&key).copied();
                events.push(Event::Link { job, vertex, link });
            }
            Effect::SetLink { key, id } => drop(self.links.insert(key, id)),
            Effect::Tell { job, vertex, news } => self.told(job, vertex, &news),
            Effect::Answer {
                job,
                request,
                answer,
            } => self.answered(job, request, answer),
        }
    }

    fn begin(&mut self, op: OpNo, call: Call) {
        let waiters = match &call {
            Call::Run(run) => run.waiters.clone(),
            Call::Pin(..) | Call::Exists(..) | Call::Digest(..) | Call::Load(..) => Vec::new(),
        };
        let is_early = matches!(call, Call::Exists(..)) && self.rng.per_mille(500);
        let early = is_early.then(|| self.answer(&call));
        let pending = Pending {
            call,
            aborted: false,
            waiters,
            early,
        };
        assert!(self.pending.insert(op, pending).is_none());
    }

    fn begin_run(&mut self, run: Run) {
        self.report.runs += 1;
        assert!(!run.waiters.is_empty(), "a run for nobody");
        // The pin of another job may have brought a source in.
        let is_source = matches!(run.vertex.op().kind, OpKind::Source(_));
        let is_there = |id: &Digest| self.store.contains_key(id);
        assert!(
            is_source || !run.output_ids.iter().all(is_there),
            "`{}` runs though its results are there",
            run.vertex.name()
        );
        for pending in self.pending.values() {
            if let Call::Run(other) = &pending.call {
                let both = other
                    .output_ids
                    .iter()
                    .any(|id| run.output_ids.contains(id));
                assert!(!both, "`{}` runs twice", run.vertex.name());
            }
        }
        for (job, vertex) in &run.waiters {
            let Some(entry) = self.jobs.get(job) else {
                continue;
            };
            let used = (*job == run.job).then_some(&*run.inputs);
            let is_making = self.is_making(*job);
            entry.story.check_run(*vertex, used, is_making);
        }
        self.begin(run.op, Call::Run(run));
    }

    fn abort(&mut self, op: OpNo) {
        self.report.aborts += 1;
        let pending = self
            .pending
            .get_mut(&op)
            .expect("only what was asked for is aborted");
        pending.aborted = true;
        assert!(pending.waiters.is_empty(), "stopped though somebody waits");
        if !matches!(pending.call, Call::Run(_)) && self.rng.per_mille(500) {
            self.pending.remove(&op);
        }
    }

    /// Whether a vertex of a job is worked on, or was when the step began.
    fn is_making(&self, job: JobNo) -> impl Fn(&Digest) -> bool {
        move |digest| self.making.contains(&(job, *digest)) || self.core.is_making(job, digest)
    }

    fn told(&mut self, job: JobNo, vertex: Digest, news: &News) {
        // What is told of a job that has ended is for nobody.
        let Some(mut entry) = self.jobs.remove(&job) else {
            return;
        };
        entry.story.is_blurred |= self.is_broken;
        entry.story.tell(vertex, news, self.is_making(job));
        self.jobs.insert(job, entry);
    }

    fn answered(&mut self, job: JobNo, request: RequestNo, answer: Result<Digest, SolveError>) {
        let Some(entry) = self.jobs.get_mut(&job) else {
            return;
        };
        let Some((graph, goal)) = entry.requests.remove(&request) else {
            return;
        };
        match answer {
            Ok(id) => {
                self.report.results += 1;
                if goal == Goal::Make {
                    self.check_result(job, &graph, id);
                }
            }
            Err(error) => {
                self.report.errors += 1;
                self.check_error(&error);
            }
        }
    }

    fn check_result(&self, job: JobNo, graph: &Graph, id: Digest) {
        let entry = &self.jobs[&job];
        let expected = evaluate(graph, &self.universe, &entry.versions);
        if let Some(stored) = self.store.get(&id) {
            assert_eq!(stored.content, expected, "a wrong result");
            assert!(self.is_broken || stored.kept_by.contains(&job), "not kept");
        }
        let is_making = self.is_making(job);
        entry.story.check_result(graph, is_making);
    }

    fn check_error(&self, error: &SolveError) {
        match error.class() {
            ErrorClass::User => {
                let message = &error.error.message;
                let message = message.rsplit(": ").next().unwrap_or(message);
                assert!(self.injected.contains(message), "{error}");
                assert!(error.vertex.is_some(), "{error}");
            }
            // What vanishes by itself is made anew.
            ErrorClass::Transient => assert!(self.weather.transients > 0, "{error}"),
            ErrorClass::Canceled => {
                // A job that ended is not told any more.
                panic!("a job that lives was cancelled");
            }
            ErrorClass::Host | ErrorClass::Bug => panic!("{error}"),
        }
    }
}

fn gone() -> Outcome {
    Outcome::Failed(OpError::new(ErrorClass::Transient, "it is gone"))
}
