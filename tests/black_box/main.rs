//! Black-box tests: they start the built program with a state of its own each, and know nothing
//! of it but its command line, its gRPC and what it leaves on the machine.
//!
//! `cargo xtask test` installs what they need and builds the program first. A module is a subject;
//! `fixture` is what they have in common.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails the test, too"
)]

mod adds;
mod autostart;
mod bollard;
mod breaks;
mod build_cache;
mod buildctl;
mod concurrency;
mod containers;
mod copies;
mod crash;
mod devices;
mod dockerfile;
mod errors;
mod fixture;
mod frontend_images;
mod gateway;
mod git;
mod git_bundle;
mod git_signatures;
mod git_ssh;
mod graph;
mod history;
mod images;
mod outputs;
mod platforms;
mod program;
mod reuse;
mod rights;
mod run_flags;
mod sessions;
mod shared;
mod sources;
mod steps;
mod traces;
