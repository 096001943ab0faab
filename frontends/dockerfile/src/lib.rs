//! The Dockerfile frontend: Dockerfile text to LLB.
//!
//! Owns the language: lines ([`parse`]), variables, instructions, lints, and what each becomes in
//! the build graph. Graphs, names, image configs, warnings and errors are those of BuildKit's
//! `dockerfile.v0` (73ed6825c), byte for byte. Knows nothing of the wire, of sessions or of how a
//! graph is solved.

mod expand;
mod go;
mod instruction;
mod lint;
pub mod parse;
mod span;
mod suggest;
