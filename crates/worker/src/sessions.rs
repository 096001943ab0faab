//! The sessions of clients, as a worker reaches them: through the engine that asked for the op.

use std::sync::{Arc, Mutex, PoisonError};

use session::SessionCalls;
use tonic::transport::Channel;

use crate::failure::{Class, Failure};

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

    /// Asks one session after the other until one answers; the last refusal is told when none does.
    pub(crate) async fn first<T, Fut>(
        &self,
        mut ask: impl FnMut(SessionCalls) -> Fut,
    ) -> Result<T, Failure>
    where
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut last = Failure::not_found("no active sessions");
        for id in self.ids() {
            match ask(self.calls(&id)?).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }
}
