//! Layers: filesystem changes to tars and back.
//!
//! Owns the tar format, the overlay form of a layer, and compression. What is read here was made
//! by strangers: every length is bounded, and nothing is written but through a
//! [`sys::root::RootDir`]. Knows nothing of where layers and blobs are kept, or of images.
//!
//! Start with [`write_layer`] and [`unpack()`]; [`tar`] is the format below them.

mod add;
pub mod compression;
mod extract;
pub mod tar;
mod unpack;
mod write;

pub use add::{AddError, ExtractOptions, add, extract_archive, is_archive};
pub use compression::{Compression, Encoder, compress, decompress};
pub use extract::{Limits, UnpackError};
pub use unpack::{UnpackOptions, UnpackSummary, adopt_dirs, unpack};
pub use write::{LayerSummary, TreeOptions, WriteError, WriteOptions, tar_tree, write_layer};
