//! Transport: how gRPC gets from one process to another, whatever lies between.
//!
//! Owns addresses and listeners ([`listen`]), connections to them ([`connect`]), a connection in
//! memory ([`pipe`]), HTTP/2 inside a stream of byte messages in both roles ([`tunnel`]) and the
//! typed details of errors ([`status`]). Knows no service and nothing of builds.
//!
//! Start at [`tunnel`].

pub mod address;
pub mod calls;
pub mod connect;
pub mod connection;
pub mod helper;
pub mod listen;
pub mod pipe;
pub mod status;
pub mod tls;
pub mod tunnel;

/// The largest message that either side sends or takes, in bytes: what BuildKit's clients allow.
pub const MAX_MESSAGE_SIZE: usize = 16 << 20;

/// An error of any kind, as tower and tonic pass them on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
