//! The sessions that are open.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use proto::control::BytesMessage;
use rpc::tunnel::{Outgoing, Tunnel, client_over};
use spans::SpanContext;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::{SessionError, health};

/// How many methods a session may say it serves; clients have about fifteen.
const MAX_METHODS: usize = 1000;

/// The longest name, id or key that a client may give, in bytes.
const MAX_TEXT: usize = 4096;

/// Who a client says it is: the metadata of `Control.Session`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The session's id, picked by the client.
    pub id: String,
    /// For people.
    pub name: String,
    /// What makes the local sources of this client the same from build to build.
    pub shared_key: String,
    /// `/package.service/method`, in lower case.
    pub methods: BTreeSet<String>,
    /// How long a health check may take, when the client asks for more than the default.
    pub health_timeout: Option<Duration>,
    /// The span that calls to the client are made for, if its build belongs to a trace.
    pub trace: Option<SpanContext>,
}

impl Identity {
    /// Reads the metadata of `Control.Session`.
    ///
    /// # Errors
    /// When the id is missing or something is longer than any client sends.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Identity, SessionError> {
        let text = |key: &str| -> Result<String, SessionError> {
            let value = metadata
                .get(key)
                .and_then(|v| v.to_str().ok())
                .unwrap_or("");
            if value.len() > MAX_TEXT {
                return Err(SessionError::Invalid("a header is too long"));
            }
            Ok(value.to_owned())
        };
        let id = text("x-docker-expose-session-uuid")?;
        if id.is_empty() {
            return Err(SessionError::Invalid("no id is given"));
        }
        let methods: BTreeSet<String> = metadata
            .get_all("x-docker-expose-session-grpc-method")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_lowercase)
            .take(MAX_METHODS + 1)
            .collect();
        if methods.len() > MAX_METHODS {
            return Err(SessionError::Invalid("too many methods"));
        }
        let health_timeout = text("x-buildkit-session-health-custom-timeout")?
            .parse()
            .ok()
            .map(|ms: u64| Duration::from_millis(ms.max(1000)));
        Ok(Identity {
            id,
            name: text("x-docker-expose-session-name")?,
            shared_key: text("x-docker-expose-session-sharedkey")?,
            methods,
            health_timeout,
            trace: None,
        })
    }
}

/// How long the answer to a build that failed waits for its session to be set up.
const SETTLING: Duration = Duration::from_secs(1);

/// An open session.
#[derive(Debug)]
pub struct Session {
    /// Who it is.
    pub identity: Identity,
    channel: Channel,
    closed: CancellationToken,
}

impl Session {
    /// Whether the client serves `method` (`/package.Service/Method`).
    pub fn supports(&self, method: &str) -> bool {
        self.identity.methods.contains(&method.to_lowercase())
    }

    /// The connection to the client.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Cancelled when the client is gone.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }
}

/// All open sessions by id.
#[derive(Clone, Default)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    open: Mutex<HashMap<String, Arc<Session>>>,
    added: Notify,
}

impl Sessions {
    /// An empty registry.
    pub fn new() -> Sessions {
        Sessions::default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.inner
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session over the streams of a `Control.Session` call and serves it until the client
    /// leaves or its health check fails twice. A later session of the same id takes the place of an
    /// earlier one, as in BuildKit.
    ///
    /// # Errors
    /// When the client does not speak HTTP/2 in the stream.
    pub async fn accept<S>(
        &self,
        identity: Identity,
        incoming: S,
        outgoing: Outgoing<BytesMessage>,
    ) -> Result<(), SessionError>
    where
        S: Stream<Item = Result<BytesMessage, Status>> + Unpin + Send + 'static,
    {
        let id = identity.id.clone();
        let tunnel = Tunnel::new(incoming, outgoing);
        let closed = tunnel.closed();
        let channel = client_over(tunnel)
            .await
            .map_err(|source| SessionError::Connect {
                id: id.clone(),
                source,
            })?;
        let session = Arc::new(Session {
            identity,
            channel,
            closed: closed.clone(),
        });
        self.lock().insert(id.clone(), session.clone());
        self.inner.added.notify_waiters();
        let _entry = Entry {
            sessions: self.clone(),
            session: session.clone(),
        };
        tokio::select! {
            () = closed.cancelled() => {}
            () = health::watch(&session) => {
                tracing::warn!(session = %id, "session healthcheck failed fatally");
                closed.cancel();
            }
        }
        Ok(())
    }

    /// The session `id`, if it is open. An id of the form `prefix:id` means `id`.
    pub fn find(&self, id: &str) -> Option<Arc<Session>> {
        let id = id.split_once(':').map_or(id, |(_, real)| real);
        self.lock().get(id).cloned()
    }

    /// The session `id`; waits for it up to `timeout`.
    ///
    /// # Errors
    /// When it has not been opened by then.
    pub async fn get(&self, id: &str, timeout: Duration) -> Result<Arc<Session>, SessionError> {
        let search = async {
            loop {
                let added = self.inner.added.notified();
                tokio::pin!(added);
                added.as_mut().enable();
                if let Some(session) = self.find(id) {
                    return session;
                }
                added.await;
            }
        };
        tokio::time::timeout(timeout, search)
            .await
            .map_err(|_| SessionError::NotFound(id.to_owned()))
    }

    /// Waits until the session `id` is open and its connection set up on both sides, for a second at
    /// most: for an answer after which the client closes it.
    ///
    /// What still arrives while BuildKit's client closes a session (`session/grpchijack`), it takes for
    /// more than that is, and logs an HTTP/2 error in front of the one that matters.
    pub async fn settle(&self, id: &str) {
        if id.is_empty() {
            return;
        }
        let settled = async {
            if let Ok(session) = self.get(id, SETTLING).await {
                health::answers(&session).await;
            }
        };
        // It is about what the client shows, so it is given up without a word.
        let _ = tokio::time::timeout(SETTLING, settled).await;
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Takes a session out of the registry when it ends, unless a later one has its place.
struct Entry {
    sessions: Sessions,
    session: Arc<Session>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.session.closed.cancel();
        let mut open = self.sessions.lock();
        let id = &self.session.identity.id;
        if open
            .get(id)
            .is_some_and(|current| Arc::ptr_eq(current, &self.session))
        {
            open.remove(id);
        }
    }
}

/// A status for a session that is not there or has gone.
pub(crate) fn gone(id: &str) -> Status {
    Status::new(
        Code::Unavailable,
        SessionError::NotFound(id.to_owned()).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt as _;
    use rpc::tunnel::outgoing;
    use tonic::{Request, Response};
    use tonic_health::pb::health_server::{Health, HealthServer};
    use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

    use super::*;

    #[test]
    fn metadata_are_read_and_bounded() {
        let mut metadata = MetadataMap::new();
        assert!(Identity::from_metadata(&metadata).is_err());
        metadata.insert("x-docker-expose-session-uuid", "abc".parse().unwrap());
        for method in ["/a.B/C", "/d.E/F"] {
            metadata.append(
                "x-docker-expose-session-grpc-method",
                method.parse().unwrap(),
            );
        }
        let identity = Identity::from_metadata(&metadata).unwrap();
        assert_eq!(identity.id, "abc");
        assert!(identity.methods.contains("/a.b/c") && identity.methods.contains("/d.e/f"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_session_is_awaited_and_then_named() {
        let sessions = Sessions::new();
        let error = sessions.get("x", Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "no active session for x: context deadline exceeded"
        );
    }

    /// Counts what it is asked, and answers that it is well.
    #[derive(Clone, Default)]
    struct Well {
        asked: Arc<AtomicUsize>,
    }

    #[tonic::async_trait]
    impl Health for Well {
        type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

        async fn check(
            &self,
            _: Request<HealthCheckRequest>,
        ) -> Result<Response<HealthCheckResponse>, Status> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(Response::new(HealthCheckResponse::default()))
        }

        async fn watch(
            &self,
            _: Request<HealthCheckRequest>,
        ) -> Result<Response<Self::WatchStream>, Status> {
            Err(Status::unimplemented("nobody watches"))
        }
    }

    #[tokio::test]
    async fn a_session_is_settled_when_its_client_has_answered() {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-docker-expose-session-uuid", "abc".parse().unwrap());
        metadata.insert(
            "x-docker-expose-session-grpc-method",
            "/grpc.health.v1.Health/Check".parse().unwrap(),
        );
        let identity = Identity::from_metadata(&metadata).unwrap();
        let sessions = Sessions::new();
        let (to_client, of_daemon) = outgoing::<BytesMessage>();
        let (to_daemon, of_client) = outgoing::<BytesMessage>();
        let well = Well::default();
        let routes = tonic::service::Routes::new(HealthServer::new(well.clone()));
        // It is waited for also while it is not open yet.
        let settled = sessions.settle("abc");
        let open = async {
            let client = Tunnel::new(of_daemon.map(Ok), to_daemon);
            let incoming = of_client.map(Ok);
            tokio::join!(
                rpc::tunnel::serve_over(client, routes),
                sessions.accept(identity, incoming, to_client),
            )
        };
        tokio::select! {
            biased;
            () = settled => {}
            _ = open => unreachable!("it stays open"),
        }
        assert_eq!(well.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_not_opened_is_not_waited_for_long() {
        let began = tokio::time::Instant::now();
        Sessions::new().settle("x").await;
        assert_eq!(began.elapsed(), SETTLING);
        Sessions::new().settle("").await;
        assert_eq!(began.elapsed(), SETTLING);
    }
}
