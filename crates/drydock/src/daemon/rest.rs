//! What a daemon does now and then, beside its work.

use std::convert::Infallible;
use std::time::Duration;

use rpc::calls::Calls;

use super::parts::Daemon;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Gives memory that builds have let go of back to the system: a daemon that has built much and now
/// waits should be as small as one that has just started.
pub(super) async fn give_back_memory(daemon: &Daemon, calls: &Calls) -> Infallible {
    let mut has_worked = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let works = calls.count() > 0 || !daemon.is_idle();
        if works || has_worked {
            // Beside a task that cannot end with an error there is nothing to be told.
            let _ = tokio::task::spawn_blocking(sys::memory::give_back).await;
        }
        has_worked = works;
    }
}
