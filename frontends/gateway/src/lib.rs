//! Frontends that are not part of the daemon: BuildKit's gateway API in front of a [`Bridge`].
//!
//! Owns the `LLBBridge` service, what a frontend holds by name while it runs (results, containers),
//! and the conversion between the wire and [`frontend`]'s types. Knows nothing of how anything is
//! solved. A client that drives a build itself finds it by its id: start at [`Builds`].
//!
//! [`Bridge`]: frontend::Bridge

mod build;
mod builds;
mod container;
mod policy;
mod process;
mod program;
mod service;
mod verify;

mod convert;
mod failure;
mod result;

pub use build::Facts;
pub use builds::{Builds, Served};
pub use convert::Shown;
pub use failure::failure;
pub use policy::read_policy;
pub use program::{Program, run as run_program};
pub use service::Service;
pub use verify::{Verdict, Verifier};
