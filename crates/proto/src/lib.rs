//! Messages and services of the wire, generated from `/proto`.
//!
//! Owns nothing by hand: each module below is one protobuf package under a short name. Maps are
//! `BTreeMap`s, so that equal messages encode to equal bytes.

/// Everything generated, in modules nested as the packages are.
#[allow(clippy::all, missing_docs, rustdoc::all)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use packages::containerd::services::content::v1 as content;
pub use packages::drydock::worker::v1 as worker;
pub use packages::errdefs;
pub use packages::fsutil::types as fsutil;
pub use packages::google::rpc;
pub use packages::moby::buildkit::secrets::v1 as secrets;
pub use packages::moby::buildkit::v1 as control;
pub use packages::moby::buildkit::v1::apicaps;
pub use packages::moby::buildkit::v1::frontend;
pub use packages::moby::buildkit::v1::sourcepolicy;
pub use packages::moby::buildkit::v1::sourcepolicy::policysession;
pub use packages::moby::buildkit::v1::types;
pub use packages::moby::exporter::v1 as exporter;
pub use packages::moby::filesync::v1 as filesync;
pub use packages::moby::sshforward::v1 as sshforward;
pub use packages::moby::upload::v1 as upload;
pub use packages::opentelemetry::proto::collector::trace::v1 as collector;
pub use packages::opentelemetry::proto::common::v1 as telemetry;
pub use packages::opentelemetry::proto::resource::v1 as resource;
pub use packages::opentelemetry::proto::trace::v1 as trace;
pub use packages::pb;
pub use packages::stack;

/// The encoded `FileDescriptorSet` of every package, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
