//! BuildKit's Control service in front of the engine.
//!
//! Owns the conversion between `moby.buildkit.v1` and the engine's types, in both directions, and
//! nothing else. Start at [`Control`].

mod content;
mod failure;
mod history;
mod paced;
mod request;
mod service;
mod status;
mod trace;
mod usage;

pub use history::{History, HistoryError, Retention};
pub use service::{Control, Version};
