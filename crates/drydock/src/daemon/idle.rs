//! When a daemon that was started for a command may leave.

use std::time::{Duration, Instant};

use rpc::calls::Calls;

use super::parts::Daemon;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Resolves when `daemon` had nothing to do and no call to answer for `limit`; without a limit never.
pub(super) async fn wait(daemon: &Daemon, calls: &Calls, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut busy = Instant::now();
    loop {
        tokio::time::sleep(LOOK.min(limit)).await;
        if calls.count() > 0 || !daemon.is_idle() {
            busy = Instant::now();
        } else if busy.elapsed() >= limit {
            return;
        }
    }
}
