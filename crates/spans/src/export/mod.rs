//! Sends spans on, as the environment says (`OTEL_*`, the same variables as everywhere else).

mod target;

use std::sync::Mutex;
use std::time::Duration;

use proto::collector::ExportTraceServiceRequest;
use proto::trace::ResourceSpans;
use tokio::sync::{mpsc, oneshot};

pub use target::ExporterError;
use target::Target;

/// What may wait to be sent (BuildKit: `util/tracing/forwarder`).
const QUEUE: usize = 1000;

/// How many groups of spans are sent at once.
const BATCH: usize = 512;

/// How long spans wait for others, unless `OTEL_BSP_SCHEDULE_DELAY` says it.
const DELAY: Duration = Duration::from_secs(5);

/// How long a daemon that stops waits for its spans to be sent.
const STOPPING: Duration = Duration::from_secs(5);

/// Sends spans to a collector, in the background.
pub struct Exporter {
    /// Taken when it is shut down.
    queue: Mutex<Option<mpsc::Sender<Vec<ResourceSpans>>>>,
    done: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Exporter {
    /// What the environment asks for, if it does. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// It asks for what there is not; passed over if `OTEL_IGNORE_ERROR` is true.
    pub fn from_environment() -> Result<Option<Exporter>, ExporterError> {
        Exporter::asked_for(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn asked_for(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Exporter>, ExporterError> {
        let target = match Target::asked_for(&variable) {
            Err(error) if is_true(variable("OTEL_IGNORE_ERROR")) => {
                tracing::warn!(%error, "no spans are sent on");
                None
            }
            target => target?,
        };
        let delay = variable("OTEL_BSP_SCHEDULE_DELAY").and_then(|text| text.parse().ok());
        let delay = delay.map_or(DELAY, Duration::from_millis);
        Ok(target.map(|target| Exporter::start(target, delay)))
    }

    fn start(target: Target, delay: Duration) -> Exporter {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (ended, done) = oneshot::channel();
        tokio::spawn(async move {
            send_all(&target, waiting, delay).await;
            // Nobody may wait for it.
            let _ = ended.send(());
        });
        Exporter {
            queue: Mutex::new(Some(queue)),
            done: Mutex::new(Some(done)),
        }
    }

    /// Sends spans when it is their turn. What is too much is lost.
    pub(crate) fn send(&self, spans: Vec<ResourceSpans>) {
        let Ok(queue) = self.queue.lock() else { return };
        if let Some(queue) = &*queue
            && queue.try_send(spans).is_err()
        {
            tracing::warn!("spans are lost: the collector does not take them fast enough");
        }
    }

    /// Sends what is left; gives up after a while.
    pub(crate) async fn shutdown(&self) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.take();
        }
        let done = self.done.lock().ok().and_then(|mut done| done.take());
        if let Some(done) = done
            && tokio::time::timeout(STOPPING, done).await.is_err()
        {
            tracing::warn!("spans are lost: the collector does not answer");
        }
    }
}

/// Sends what comes, several at a time, until nothing will come.
async fn send_all(
    target: &Target,
    mut waiting: mpsc::Receiver<Vec<ResourceSpans>>,
    delay: Duration,
) {
    while let Some(mut spans) = waiting.recv().await {
        let more = async {
            while spans.len() < BATCH {
                match waiting.recv().await {
                    Some(next) => spans.extend(next),
                    None => return,
                }
            }
        };
        // Time is up: what is there is sent.
        let _ = tokio::time::timeout(delay, more).await;
        let request = ExportTraceServiceRequest {
            resource_spans: spans,
        };
        if let Err(error) = target.send(request).await {
            tracing::warn!(error = %rpc::status::chain(&*error), "failed to send spans");
        }
    }
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<bool, String> {
        let variable = |name: &str| {
            let mut found = variables.iter().filter(|(n, _)| *n == name);
            found.next().map(|(_, value)| (*value).to_owned())
        };
        Exporter::asked_for(variable)
            .map(|exporter| exporter.is_some())
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_environment_says_whether_spans_are_sent() {
        assert_eq!(asked(&[]), Ok(false));
        assert_eq!(asked(&[("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
        assert_eq!(asked(&[("OTEL_TRACES_EXPORTER", "otlp")]), Ok(true));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
        assert_eq!(asked(&[endpoint]), Ok(true));
        let none = ("OTEL_TRACES_EXPORTER", "none");
        assert_eq!(asked(&[endpoint, none]), Ok(false));
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        assert_eq!(asked(&[endpoint, http]), Ok(true));
        let unknown = ("OTEL_TRACES_EXPORTER", "console");
        assert_eq!(
            asked(&[unknown]),
            Err("unsupported opentelemetry exporter console".to_owned())
        );
        assert_eq!(asked(&[unknown, ("OTEL_IGNORE_ERROR", "true")]), Ok(false));
        let json = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json");
        assert_eq!(
            asked(&[endpoint, json]),
            Err("unsupported otlp protocol http/json".to_owned())
        );
    }
}
