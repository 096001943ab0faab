//! A client of build daemons: the calls of BuildKit's API, and the services that a client serves
//! while its build runs.
//!
//! Owns what the program, the tests and the benchmarks have in common as clients of a daemon. It
//! must not know how anything is shown, nor where flags and settings come from. Nothing of the
//! wire is in its interface, so that its users need not know it.
//!
//! Start at [`Client::solve`].

pub mod containers;
mod control;
mod definition;
pub mod docker_config;
mod dump;
mod error;
pub mod history;
pub mod progress;
pub mod session;
mod solve;
mod token_seed;

pub use control::{Client, Device, GcPolicy, PruneOptions, UsageRecord, Version, WorkerRecord};
pub use rpc::tls::TlsFiles;

pub use definition::{ReadError, SourcePolicy, read_graph};
pub use dump::{DumpedOp, dump_graph};
pub use error::{BuildError, CallFailed, ConnectFailed};
pub use solve::{CacheEntry, Exporter, SolveRequest, SolveResponse};
