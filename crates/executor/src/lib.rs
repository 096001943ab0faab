//! One process in one container.
//!
//! This crate owns everything between "a root filesystem, mounts and an OCI spec" and "exited with
//! code 3": namespaces, the root, devices, users, capabilities, system call filters, control groups,
//! networks, terminals. It does not know what a build, an image or a snapshot is.
//!
//! ```text
//! Launcher::create ──▶ plan (spec, lowered) ──▶ launch (a process of its own) ──clone3──▶ child
//!     Container ◀── handle ◀──────────── events ────────────┘                              │
//!                                        reports ◀─────────────────── execve ◀─────────────┘
//! ```
//!
//! Start with [`Launcher`], then read `launch/container.rs`: what a child does to become a container.

pub mod files;
pub mod network;
pub mod publish;
pub mod seccomp;
pub mod spec;
pub mod user;

mod container;
mod error;
mod handle;
mod launch;
mod plan;
mod protocol;
mod stdio;
mod stubs;
mod watch;

pub use container::{Container, Exit, Process};
pub use error::{CreateError, LostError, SpecError, StartError};
pub use handle::{ContainerRequest, Launcher, LauncherOptions, MountAt, sweep};
pub use launch::{LAUNCHER_NAME, is_launcher, launcher_main};
pub use network::{Network, NetworkError, NetworkOptions, bridge_available};
pub use oci_spec::runtime::{Process as ProcessSpec, Spec};
pub use stdio::{Input, Output, Stdio};
pub use stubs::Stubs;
