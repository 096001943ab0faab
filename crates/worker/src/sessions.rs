//! The sessions of clients, as a worker reaches them: through the engine that asked for the op.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use session::SessionCalls;
use tonic::transport::Channel;

use crate::failure::{Class, Failure};

/// How long one client may take to answer before the next is asked, too.
const PATIENCE: Duration = Duration::from_secs(1);

/// The tunnel to the engine; empty until an engine has opened one.
#[derive(Default)]
pub(crate) struct Tunnel {
    channel: Mutex<Option<Channel>>,
}

impl Tunnel {
    /// Uses `channel` from now on.
    pub(crate) fn set(&self, channel: Channel) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
    }

    /// The sessions `ids`, in order of preference.
    pub(crate) fn sessions(self: &Arc<Tunnel>, ids: Vec<String>) -> Sessions {
        Sessions {
            tunnel: self.clone(),
            ids: Arc::new(Mutex::new(ids)),
        }
    }
}

/// The sessions of all clients that wait for an op. More may join while it runs.
#[derive(Clone)]
pub(crate) struct Sessions {
    tunnel: Arc<Tunnel>,
    ids: Arc<Mutex<Vec<String>>>,
}

impl Sessions {
    /// No client: for what needs none.
    pub(crate) fn none(tunnel: &Arc<Tunnel>) -> Sessions {
        tunnel.sessions(Vec::new())
    }

    /// A client has joined.
    pub(crate) fn add(&self, id: String) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if !ids.contains(&id) {
            ids.push(id);
        }
    }

    /// The ids as they are now.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The calls of one session.
    pub(crate) fn calls(&self, id: &str) -> Result<SessionCalls, Failure> {
        let channel = self
            .tunnel
            .channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let channel = channel.ok_or_else(|| {
            Failure::new(
                Class::Transient,
                "no engine has opened a tunnel for sessions",
            )
        })?;
        Ok(SessionCalls::new(channel, id.to_owned()))
    }

    /// Asks the sessions until one answers; the last refusal is told when none does.
    ///
    /// One that does not answer at once holds up nobody: the next is asked beside it, and so is one
    /// that joins meanwhile.
    pub(crate) async fn first<T, Fut>(
        &self,
        mut ask: impl FnMut(SessionCalls) -> Fut,
    ) -> Result<T, Failure>
    where
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut last = Failure::not_found("no active sessions");
        let mut asked = Vec::new();
        let mut answers = FuturesUnordered::new();
        loop {
            let next = self.ids().into_iter().find(|id| !asked.contains(id));
            if let Some(id) = next {
                answers.push(ask(self.calls(&id)?));
                asked.push(id);
            }
            match tokio::time::timeout(PATIENCE, answers.next()).await {
                Ok(Some(Ok(answer))) => return Ok(answer),
                Ok(Some(Err(failure))) => last = failure,
                Ok(None) => return Err(last),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn sessions(ids: &[&str]) -> Sessions {
        let tunnel = Arc::new(Tunnel::default());
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        tunnel.set(endpoint.connect_lazy());
        tunnel.sessions(ids.iter().map(|id| (*id).to_owned()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_answer_holds_up_nobody() {
        let sessions = sessions(&["silent", "refuses", "answers"]);
        let begun = Instant::now();
        let mut number = 0;
        let answer = sessions.first(|_| {
            number += 1;
            let number = number;
            async move {
                match number {
                    1 => std::future::pending().await,
                    2 => Err(Failure::not_found("not here")),
                    _ => Ok(number),
                }
            }
        });
        assert_eq!(answer.await.ok(), Some(3));
        assert!(begun.elapsed() < PATIENCE * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_joins_is_asked_too_and_the_last_refusal_is_told() {
        let sessions = sessions(&["silent"]);
        let joining = sessions.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE * 5).await;
            joining.add("joins".to_owned());
        });
        let mut number = 0;
        let answer = sessions.first(|_| {
            number += 1;
            let number = number;
            async move {
                match number {
                    1 => std::future::pending().await,
                    _ => Ok(number),
                }
            }
        });
        assert_eq!(answer.await.ok(), Some(2));
        let refusing = self::sessions(&["a", "b"]);
        let refused: Result<(), Failure> = refusing
            .first(|_| async { Err(Failure::not_found("no such thing")) })
            .await;
        assert_eq!(refused.unwrap_err().message, "no such thing");
    }
}
