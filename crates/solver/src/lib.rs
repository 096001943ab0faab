//! What runs, once.
//!
//! Owns keys, ids, matching, jobs, sharing and scheduling: given graphs, it finds what is already
//! known, lets a [`Worker`] carry out the rest, and never lets it do one thing twice for jobs that
//! overlap. Knows nothing of what an op does, of files, of sessions or of the wire: digests and ids
//! come in and go out.
//!
//! Every output of a vertex is first *named* (what would the result be called?) and then *made*
//! (found, or run). `Core` decides, in a pure `step(event) -> effects`, and the driver acts. Start
//! at [`Solver`] for the use, at `step` for the rules.

#![warn(clippy::wildcard_enum_match_arm)]

mod solver;

mod error;
mod ports;
mod progress;

mod step;

mod driver;
mod key;

pub mod sim;

pub use error::{ErrorClass, OpError, SolveError};
pub use ports::{
    DigestRequest, ForeignKeys, JobId, KeyIndex, PinRequest, Pinned, RunRequest, Sessions, Worker,
};
pub use progress::{EventKind, ItemStatus, JobEvent, LogChunk, Progress, Warning};
pub use solver::{Events, InputRecord, Job, JobOptions, Options, Solved, Solver, VertexRecord};
