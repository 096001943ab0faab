//! The ops behind `worker.proto`: where refs are made, kept, carried out and run.
//!
//! Owns what an op does. Knows nothing of graphs, jobs' order or clients: the engine says what runs
//! and under which ids, and carries calls to clients' sessions. Start at [`WorkerService`].

mod audience;
mod cache;
mod cdi;
mod containers;
mod convert;
mod copies;
mod credentials;
mod digests;
mod events;
mod export;
mod failure;
mod files;
mod git;
mod images;
mod jobs;
mod listings;
mod load;
mod op;
mod pin;
mod quote;
mod remains;
mod resolve;
mod sandbox;
mod scratch;
mod service;
mod sessions;
mod state;
mod store;
mod view;

pub use audience::ClientRules;
pub use cdi::DeviceOptions;
pub use op::LogLimits;
pub use service::{Parts, WorkerService};
pub use state::Options;
