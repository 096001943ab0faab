//! Fixtures for tests: a real registry, images to put in it, an HTTP server that lies on demand,
//! and the built program as a daemon.
//!
//! Owns what stands around the program in a test, never a part of the program itself; nothing
//! here talks to a registry through the crates that are under test. Fixtures end when dropped.
//! The daemon is behind a feature, so that the crates below its client can use the others.
//! Start at [`registry::DockerRegistry`] and [`image::Image`].

#[cfg(feature = "daemon")]
pub mod daemon;
pub mod http;
pub mod image;
pub mod registry;
