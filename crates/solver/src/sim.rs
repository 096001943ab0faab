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
mod story;
mod world;

use std::panic;

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
    let play = || {
        let mut world = World::new(seed, Rng::new(seed));
        world.play();
        world.report
    };
    // The world is gone if this panics: nobody sees it half changed.
    panic::catch_unwind(panic::AssertUnwindSafe(play)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        panic!("seed {seed}: {}", text.unwrap_or("a panic without words"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    /// How many seeds are played when nobody asks for more.
    const FEW: u64 = 300;

    fn number(name: &str, default: u64) -> u64 {
        match std::env::var(name) {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("`{name}` is no number: `{text}`")),
            Err(_) => default,
        }
    }

    /// `DRYDOCK_SIM_SEEDS` is how many seeds are played, `DRYDOCK_SIM_FROM` the first of them.
    #[test]
    fn simulated_runs_keep_every_promise() {
        let from = number("DRYDOCK_SIM_FROM", 0);
        let seeds = number("DRYDOCK_SIM_SEEDS", FEW);
        let next = AtomicU64::new(from);
        let play = || {
            let mut total = Report::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds {
                    return total;
                }
                total.add(run(seed));
            }
        };
        let mut total = Report::default();
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
            for player in players {
                match player.join() {
                    Ok(part) => total.add(part),
                    Err(panic) => panic::resume_unwind(panic),
                }
            }
        });
        println!("{seeds} seeds from {from}: {total:?}");
        // Rough weather has been seen, unless a seed is looked at by itself.
        let rough = [total.results, total.joins, total.aborts, total.evictions];
        assert!(seeds < FEW || rough.iter().all(|times| *times > 0));
    }

    #[test]
    fn a_seed_replays_a_run() {
        assert_eq!(run(7), run(7));
    }
}
