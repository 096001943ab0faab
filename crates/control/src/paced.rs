//! Answers that are read from the disk piece by piece.

use tokio::sync::mpsc;
use tonic::Status;

/// Sends what `next` takes from `source`, up to its end, a failure, or until the client has left.
///
/// `next` may block; it is called only when the client has room for what it gives, so that one that
/// does not read holds neither a thread nor more memory than its channel.
pub(crate) async fn send<S, T>(
    source: S,
    next: fn(&mut S) -> Result<Option<T>, Status>,
    sender: mpsc::Sender<Result<T, Status>>,
) where
    S: Send + 'static,
    T: Send + 'static,
{
    let mut rest = Some(source);
    while let Ok(room) = sender.reserve().await {
        let Some(mut source) = rest.take() else {
            return;
        };
        let taken = tokio::task::spawn_blocking(move || {
            let taken = next(&mut source);
            (source, taken)
        });
        let item = match taken.await {
            Ok((source, Ok(Some(item)))) => {
                rest = Some(source);
                Ok(item)
            }
            Ok((_, Ok(None))) => return,
            Ok((_, Err(status))) => Err(status),
            Err(error) => Err(Status::internal(error.to_string())),
        };
        // After a failure nothing is left to take.
        room.send(item);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    fn count(taken: &mut Arc<AtomicU32>) -> Result<Option<u32>, Status> {
        match taken.fetch_add(1, Ordering::SeqCst) {
            5 => Ok(None),
            number => Ok(Some(number)),
        }
    }

    #[tokio::test]
    async fn nothing_is_read_ahead_of_the_client() {
        let taken = Arc::<AtomicU32>::default();
        let (sender, mut receiver) = mpsc::channel(2);
        let sending = tokio::spawn(send(taken.clone(), count, sender));
        for number in 0..3 {
            assert_eq!(receiver.recv().await.unwrap().unwrap(), number);
        }
        let full = async {
            while receiver.len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), full)
            .await
            .unwrap();
        // With one thread, a sender that read ahead would have begun to before it let go of it, and
        // would not end before it has read.
        drop(receiver);
        sending.await.unwrap();
        assert_eq!(taken.load(Ordering::SeqCst), 5, "two waited in the channel");
    }

    #[tokio::test]
    async fn a_failure_is_the_last_message() {
        let (sender, mut receiver) = mpsc::channel(2);
        let next = |left: &mut u32| match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                Ok(Some(fewer))
            }
            None => Err(Status::data_loss("damaged")),
        };
        tokio::spawn(send(1, next, sender));
        assert_eq!(receiver.recv().await.unwrap().unwrap(), 0);
        let failure = receiver.recv().await.unwrap().unwrap_err();
        assert_eq!(failure.message(), "damaged");
        assert!(receiver.recv().await.is_none());
    }
}
