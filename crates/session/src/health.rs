//! Whether a client still answers.

use std::time::Duration;

use tokio::time::Instant;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::Session;

/// BuildKit's numbers (`session/grpc.go`).
const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);
const FAILURES: u32 = 2;

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Checks the client again and again; returns when it has failed twice in a row.
pub(crate) async fn watch(session: &Session) {
    if !session.supports(CHECK) {
        // Nothing can be asked; the end of the stream tells when the client leaves.
        return std::future::pending().await;
    }
    let least = session.identity.health_timeout.unwrap_or(TIMEOUT);
    let mut last = Duration::ZERO;
    let mut failures = 0;
    while failures < FAILURES {
        tokio::time::sleep(INTERVAL).await;
        let began = Instant::now();
        let timeout = least.max(last.mul_f32(1.5));
        match tokio::time::timeout(timeout, answers(session)).await {
            Ok(true) => failures = 0,
            Ok(false) | Err(_) => failures += 1,
        }
        last = began.elapsed();
    }
}

/// Asks the client once, if it can be asked, and answers whether it is well.
pub(crate) async fn answers(session: &Session) -> bool {
    if !session.supports(CHECK) {
        return true;
    }
    let mut client = HealthClient::new(session.channel());
    let request = HealthCheckRequest {
        service: String::new(),
    };
    client.check(request).await.is_ok()
}
