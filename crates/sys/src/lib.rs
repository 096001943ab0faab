//! The kernel made safe: mounts, namespaces, control groups, and directories that nothing leaves.
//!
//! This is the only crate with `unsafe`. Each module wraps one kernel interface in types that
//! clean up when dropped. It knows nothing of containers, images or builds: what to mount where is
//! decided by its callers.
//!
//! Start with [`mount`].

pub mod cgroup;
pub mod fdpass;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod pidfd;
pub mod process;
pub mod pty;
pub mod root;
pub mod syncfs;
