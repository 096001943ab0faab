//! Traces: what was done for a build, when, and at whose call.
//!
//! Owns spans: those of the daemon's own calls and steps, and those that clients send, joined by W3C's
//! `traceparent`. A [`Recorder`] keeps them for a while, so that a build's record can have them, and
//! sends them on where the environment says so. A call that belongs to no trace costs nothing.

mod call;
mod context;
mod document;
mod export;
mod recorder;
mod resource;
mod service;
mod span;

pub use call::{Served, Serving};
pub use context::SpanContext;
pub use export::{Exporter, ExporterError};
pub use recorder::{Listening, Recorder};
pub use span::{Kind, Span};

/// The cause of a failed call or connection.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
