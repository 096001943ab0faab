//! File trees: matching their paths, walking, copying, changing and digesting them.
//!
//! Owns the rules by which a path is selected (`.dockerignore`, Go's `filepath.Match`), how one
//! tree is copied into another (`COPY`), and what the content digest of a tree is. Every tree is
//! reached through a [`sys::root::RootDir`]; nothing here knows where a tree is stored, what an
//! image is, or who asked.
//!
//! Start with [`pattern::Matcher`], then [`walk()`], [`copy()`] and [`checksum::Tree`].

pub mod checksum;
pub mod copy;
pub mod dockerignore;
pub mod edit;
mod filter;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod path;
pub mod pattern;
mod resolve;
pub mod walk;

pub use copy::copy;
pub use walk::walk;
