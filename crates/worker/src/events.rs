//! What a long call tells its caller while it runs.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use proto::worker as wire;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::failure::Failure;

/// How many events may wait for a slow caller before the op that makes them waits too.
const QUEUE: usize = 256;

/// The stream that a long call answers.
pub(crate) type EventStream = ReceiverStream<Result<wire::OpEvent, Status>>;

/// Sends events to the caller; clones share the stream. A caller that is gone is not an error here:
/// the call's task is ended by [`run`].
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Result<wire::OpEvent, Status>>);

impl Events {
    /// For a call that tells nothing while it runs.
    pub(crate) fn none() -> Events {
        Events(mpsc::channel(1).0)
    }

    async fn send(&self, event: wire::op_event::Event) {
        // The receiver is gone only when the call has ended, and then nobody listens.
        let _ = self.0.send(Ok(wire::OpEvent { event: Some(event) })).await;
    }

    /// Passes on what a step printed; 1 is stdout, 2 stderr.
    pub(crate) async fn output(&self, stream: i64, data: Bytes) {
        let time = Some(SystemTime::now().into());
        self.send(wire::op_event::Event::Log(wire::Log { stream, data, time }))
            .await;
    }

    /// Tells of an item; for blocking threads as well as async code, so an update is dropped when
    /// the queue is full. An end then waits for room, by itself.
    pub(crate) fn item(&self, progress: wire::Progress) {
        let is_end = progress.completed.is_some();
        let event = wire::op_event::Event::Progress(progress);
        let event = Ok(wire::OpEvent { event: Some(event) });
        if let Err(TrySendError::Full(event)) = self.0.try_send(event)
            && is_end
            && let Ok(runtime) = Handle::try_current()
        {
            let sender = self.0.clone();
            // Fails when the caller has gone.
            runtime.spawn(async move { sender.send(event).await });
        }
    }

    /// Tells that an item began or ended.
    pub(crate) async fn item_edge(&self, progress: wire::Progress) {
        self.send(wire::op_event::Event::Progress(progress)).await;
    }
}

/// Keeps what happens very often from being told each time.
pub(crate) struct Limiter {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Limiter {
    pub(crate) fn new(every: Duration) -> Limiter {
        let last = Mutex::new(None);
        Limiter { every, last }
    }

    /// Whether it is time again.
    pub(crate) fn allows(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let allows = last.is_none_or(|last| now.duration_since(last) >= self.every);
        if allows {
            *last = Some(now);
        }
        allows
    }
}

/// Runs `op` in a task of its own and answers the stream of its events, which ends with its
/// outcome. When the caller drops the stream the op's future is dropped: it is cancelled.
pub(crate) fn run<F, Fut>(op: F) -> EventStream
where
    F: FnOnce(Events) -> Fut,
    Fut: Future<Output = Result<wire::Done, Failure>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let future = op(Events(sender.clone()));
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = future => outcome,
            () = sender.closed() => return,
        };
        let last = match outcome {
            Ok(done) => Ok(wire::OpEvent {
                event: Some(wire::op_event::Event::Done(done)),
            }),
            Err(failure) => Err(failure.into()),
        };
        let _ = sender.send(last).await;
    });
    ReceiverStream::new(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn a_caller_that_leaves_cancels_the_op() {
        struct Told(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.take().map(|sender| sender.send(()));
            }
        }
        let (sender, dropped) = tokio::sync::oneshot::channel();
        let told = Told(Some(sender));
        let stream = run(move |_| async move {
            let _told = told;
            std::future::pending().await
        });
        drop(stream);
        dropped.await.unwrap();
    }

    #[tokio::test]
    async fn the_outcome_is_the_last_event() {
        let mut stream = run(|events| async move {
            events.output(1, "hello".into()).await;
            Ok(wire::Done::default())
        });
        assert!(matches!(
            stream.next().await.unwrap().unwrap().event,
            Some(wire::op_event::Event::Log(_))
        ));
        assert!(matches!(
            stream.next().await.unwrap().unwrap().event,
            Some(wire::op_event::Event::Done(_))
        ));
        assert!(stream.next().await.is_none());
    }
}
