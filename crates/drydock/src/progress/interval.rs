//! The times in which a step was worked on.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Intervals by their start. An end that is not there lies ahead.
#[derive(Clone, Debug, Default)]
pub(super) struct Intervals(BTreeMap<SystemTime, Option<SystemTime>>);

impl Intervals {
    /// Notes that work began at `start`, and ended if `end` is given. True if that is news.
    pub(super) fn set(&mut self, start: SystemTime, end: Option<SystemTime>) -> bool {
        self.0.insert(start, end) != Some(end)
    }

    pub(super) fn is_started(&self) -> bool {
        !self.0.is_empty()
    }

    /// Start of the latest run of work.
    pub(super) fn latest_start(&self) -> Option<SystemTime> {
        self.merged().last().map(|(start, _)| *start)
    }

    /// End of the latest run of work, once it has one.
    pub(super) fn latest_end(&self) -> Option<SystemTime> {
        self.merged().last().and_then(|(_, end)| *end)
    }

    /// Time worked until `now`; what overlaps counts once.
    pub(super) fn total(&self, now: SystemTime) -> Duration {
        let spans = self.merged();
        spans
            .iter()
            .map(|(start, end)| since(end.unwrap_or(now), *start))
            .sum()
    }

    fn merged(&self) -> Vec<(SystemTime, Option<SystemTime>)> {
        let mut merged: Vec<(SystemTime, Option<SystemTime>)> = Vec::new();
        for (&start, &end) in &self.0 {
            match merged.last_mut() {
                // What has no end swallows everything after it.
                Some((_, None)) => break,
                Some((_, last @ Some(_))) if *last >= Some(start) => {
                    *last = end.map(|end| last.map_or(end, |last| last.max(end)));
                }
                _ => merged.push((start, end)),
            }
        }
        merged
    }
}

/// Time from `start` to `end`; zero if the clock went back.
pub(super) fn since(end: SystemTime, start: SystemTime) -> Duration {
    end.duration_since(start).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn total(spans: &[(u64, Option<u64>)]) -> u64 {
        let mut intervals = Intervals::default();
        for &(start, end) in spans {
            intervals.set(at(start), end.map(at));
        }
        intervals.total(at(100)).as_secs()
    }

    #[test]
    fn overlaps_count_once() {
        assert_eq!(total(&[(1, Some(3)), (2, Some(5))]), 4);
        assert_eq!(total(&[(1, Some(9)), (2, Some(5))]), 8);
        assert_eq!(total(&[(1, Some(2)), (5, Some(6))]), 2);
    }

    #[test]
    fn what_has_no_end_runs_until_now() {
        assert_eq!(total(&[(90, None)]), 10);
        assert_eq!(total(&[(90, Some(95)), (92, None)]), 10);
        assert_eq!(total(&[(90, None), (95, Some(96))]), 10);
    }

    #[test]
    fn a_second_run_is_open_again() {
        let mut intervals = Intervals::default();
        intervals.set(at(1), Some(at(2)));
        assert_eq!(intervals.latest_end(), Some(at(2)));
        assert!(intervals.set(at(5), None));
        assert_eq!(intervals.latest_end(), None);
        assert!(!intervals.set(at(5), None));
    }
}
