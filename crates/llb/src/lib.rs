//! The build graph as typed, checked data.
//!
//! Owns the meaning of LLB: what an op says ([`Op`]), the bytes it has ([`Op::encode`]), which
//! graphs are legal ([`Graph`]), and when two vertices would give the same result ([`Keying`]).
//! Knows nothing of how an op is carried out, of jobs, or of stored results. A definition is
//! turned into a [`Graph`] once, where it comes in; after that nothing can fail on its content.
//! Start at [`Op`], then [`Graph`].

mod graph;

mod op;

mod exec;
mod file;

mod metadata;

mod definition;

pub mod builder;

mod caps;
mod convert;
mod decode;
mod encode;
mod keying;
mod name;
mod wire;

pub use caps::{CAPABILITIES, UnknownCapability, has_capability};
pub use decode::{DecodeError, InvalidOp};
pub use definition::Definition;
pub use encode::encode_terminal;
pub use exec::{
    CacheMount, CacheSharing, CdiDevice, ContentMatching, ExecOp, HostIp, Meta, Mount, MountKind,
    NetMode, ProxyEnv, SecretEnv, SecretMount, SecurityMode, SshMount, Ulimit,
};
pub use file::{
    ActionInput, CopyAction, FileAction, FileActionKind, FileOp, MkDirAction, MkFileAction, Owner,
    RmAction, SymlinkAction, UserRef,
};
pub use graph::{Graph, Use, Vertex};
pub use keying::{InputKeying, Keying, Selector};
pub use metadata::{
    LinuxResources, Location, OpMetadata, Position, ProgressGroup, Range, SourceInfo, SourceMap,
};
pub use op::{BuildOp, DiffOp, Input, MergeOp, Op, OpKind, PassthroughOp, SourceOp};
