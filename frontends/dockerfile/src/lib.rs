//! The Dockerfile frontend: Dockerfile text to LLB.
//!
//! Owns the language: lines, variables, instructions, lints, and what each becomes in the build
//! graph. Graphs, names, image configs, warnings and errors are those of BuildKit's
//! `dockerfile.v0` (73ed6825c), byte for byte; `cargo xtask vectors` compares them. Knows nothing of
//! the wire, of sessions or of how a graph is solved.
//!
//! A file goes through `parse` (lines), `instruction` (types), and `lower` (vertices). Start at
//! [`Dockerfile`], then `lower`.

mod build;
mod context;
mod expand;
mod frontend_image;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod git;
mod go;
mod image;
mod image_path;
mod instruction;
mod lint;
mod lower;
mod mend;
mod offline;
mod options;
mod parse;
mod platform;
mod report;
mod requests;
mod sbom;
mod span;
mod suggest;

pub use build::Dockerfile;
pub use frontend_image::{FrontendImage, frontend_image};
pub use lint::{LintOptions, LintOptionsError, LintWarning, Rule};
pub use lower::{Outline, OutlineArg, OutlineNeed};
pub use offline::{SourceText, lint, outline, targets};
pub use requests::{LintReport, Target};
pub use span::LineSpan;
