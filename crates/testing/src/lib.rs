//! Fixtures for tests: a real registry, images to put in it, and an HTTP server that lies on
//! demand.
//!
//! Owns what stands around the program in a test, never a part of the program itself; nothing
//! here talks to a registry through the crates that are under test. Fixtures end when dropped.
//! Start at [`registry::DockerRegistry`] and [`image::Image`].

pub mod http;
pub mod image;
pub mod registry;
