//! When and how long to wait before trying again.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The longest wait that a server can ask for. A longer one would look like a hang.
const LONGEST_ASKED: Duration = Duration::from_secs(30);

/// How failures that may pass are retried.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Tries of one request, the first included.
    pub attempts: u32,
    /// The wait before the second try; it doubles with each further one.
    pub first_delay: Duration,
}

impl Default for RetryPolicy {
    /// Four tries within a second: enough for a registry's restarted back end, short enough that a
    /// wrong address is told at once.
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 4,
            first_delay: Duration::from_millis(150),
        }
    }
}

impl RetryPolicy {
    /// The wait after try number `attempt` (from 1) failed; `None` to give up.
    pub(crate) fn wait(&self, attempt: u32, headers: Option<&HeaderMap>) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let own = self.first_delay.saturating_mul(1 << (attempt - 1).min(10));
        let asked = headers
            .and_then(|h| h.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        match asked {
            Some(asked) if asked > LONGEST_ASKED => None,
            Some(asked) => Some(own.max(asked)),
            None => Some(own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let policy = RetryPolicy {
            attempts: 3,
            first_delay: Duration::from_secs(1),
        };
        assert_eq!(policy.wait(1, None), Some(Duration::from_secs(1)));
        assert_eq!(policy.wait(2, None), Some(Duration::from_secs(2)));
        assert_eq!(policy.wait(3, None), None);
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        assert_eq!(policy.wait(1, Some(&headers)), Some(Duration::from_secs(7)));
        headers.insert(RETRY_AFTER, "86400".parse().unwrap());
        assert_eq!(policy.wait(1, Some(&headers)), None);
    }
}
