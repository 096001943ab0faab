//! The frontend behind a small engine: what Dockerfiles become, and what is said of wrong ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod engine;

mod errors;
mod graphs;
mod images;
mod page;
mod scale;
mod warnings;
