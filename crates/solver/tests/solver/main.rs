//! The solver with a worker that only pretends.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod fake;
mod graphs;

mod builds;
mod order;
mod progress;
mod sharing;
