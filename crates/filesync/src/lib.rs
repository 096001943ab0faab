//! File trees on the wire: fsutil's packets, in both roles.
//!
//! The *sender* has a tree and lists it; the *receiver* compares the list with what it has, asks
//! for the files that differ and applies the rest. Owns the protocol and how a received tree is
//! written; knows neither which call carries the packets nor who is at the other end.
//!
//! Start at [`send()`] and [`receive()`]; `docs/filesync.md` describes the protocol.

mod merge;
mod order;
mod packets;
mod receive;
mod send;
mod source;
mod split;
#[cfg(test)]
mod tests;
pub mod wire;

pub use packets::{Codec, Packets};
pub use receive::{
    Differ, METADATA_FILE, Progress, ReceiveError, ReceiveOptions, Received, receive, receive_parts,
};
pub use send::{SendError, SendOptions, send};
pub use source::{Source, Tree};
pub use split::Split;
