//! Descriptors of kinds the runtime has no type for.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::unix::AsyncFd;

/// Watches a descriptor on the current runtime.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may give up its descriptor while it is \
              watched; what is watched here are owners that never do"
)]
pub(crate) fn watch<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}
