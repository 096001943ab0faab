//! Real containers, made by a real launcher. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod crash;
mod fixture;
mod isolation;
mod mounts;
mod network;
mod process;
