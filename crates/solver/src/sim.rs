//! The rules under fire: random graphs, jobs, delays, failures, cancels and evictions, by seed.
//!
//! A run builds a random universe of ops, lets several jobs ask for parts of it at once, and plays
//! worker and index to `Core` in a random order. After every step the core's invariants are
//! checked. Every result is compared with what a naive evaluator gets that knows no keys and runs
//! everything in order. Nothing may run twice at once, run though it is there, hang, or be left
//! over. The same seed gives the same run.

mod rng;
mod universe;

mod content;
mod world;

use rng::Rng;
use world::World;

/// What happened in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events the core took.
    pub steps: u64,
    /// Ops that were begun.
    pub runs: u64,
    /// Times a job joined what another had begun.
    pub joins: u64,
    /// Ops that were stopped.
    pub aborts: u64,
    /// Questions that were answered with a result.
    pub results: u64,
    /// Questions that were answered with an error.
    pub errors: u64,
    /// Results that vanished.
    pub evictions: u64,
}

impl Report {
    /// Adds another run's numbers.
    pub fn add(&mut self, other: Report) {
        self.steps += other.steps;
        self.runs += other.runs;
        self.joins += other.joins;
        self.aborts += other.aborts;
        self.results += other.results;
        self.errors += other.errors;
        self.evictions += other.evictions;
    }
}

/// Plays the run of a seed.
///
/// # Panics
/// When something happens that must not. The message names the seed.
pub fn run(seed: u64) -> Report {
    let mut world = World::new(seed, Rng::new(seed));
    world.play();
    world.report
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `DRYDOCK_SIM_SEEDS` is how many seeds are played, `DRYDOCK_SIM_FIRST` the first of them.
    #[test]
    fn random_runs_keep_every_promise() {
        let number = |name: &str, default: u64| {
            std::env::var(name)
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(default)
        };
        let first = number("DRYDOCK_SIM_FIRST", 0);
        let mut total = Report::default();
        for seed in first..first + number("DRYDOCK_SIM_SEEDS", 300) {
            total.add(run(seed));
        }
        println!("{total:?}");
        assert!(total.results > 0 && total.joins > 0 && total.aborts > 0 && total.evictions > 0);
    }

    #[test]
    fn a_seed_replays_a_run() {
        assert_eq!(run(7), run(7));
    }
}
