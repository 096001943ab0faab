//! `SSH`: connections to the user's agents, and to one of our own that holds keys from files.

mod agent;
mod file;
mod keys;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::sshforward::ssh_server::{Ssh, SshServer};
use proto::sshforward::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use rpc::tunnel::{Tunnel, outgoing};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

pub use keys::{FormatError, KeyError, Keys};

use super::Shared;

/// The agent that a build means if it names none.
const DEFAULT: &str = "default";

/// What a step reaches at the socket that it is given.
#[derive(Debug)]
pub enum SshSource {
    /// An agent's socket. Steps may list its keys and have it sign, and change nothing in it.
    Agent(PathBuf),
    /// A socket of any kind, of which all is passed on.
    Raw(PathBuf),
    /// Keys.
    Keys(Keys),
}

impl SshSource {
    async fn serve(
        &self,
        mut connection: Tunnel<BytesMessage, Streaming<BytesMessage>>,
    ) -> io::Result<()> {
        match self {
            SshSource::Agent(path) => {
                agent::pass_on(UnixStream::connect(path).await?, connection).await
            }
            SshSource::Raw(path) => {
                let mut socket = UnixStream::connect(path).await?;
                tokio::io::copy_bidirectional(&mut connection, &mut socket)
                    .await
                    .map(drop)
            }
            SshSource::Keys(keys) => agent::serve(keys, connection).await,
        }
    }
}

/// Agents by id.
pub(super) struct Agents(Shared<BTreeMap<String, Arc<SshSource>>>);

pub(super) fn server(agents: BTreeMap<String, SshSource>) -> SshServer<Agents> {
    let agents = agents.into_iter().map(|(id, agent)| (id, Arc::new(agent)));
    SshServer::new(Agents(Arc::new(agents.collect())))
}

impl Agents {
    fn agent(&self, id: &str) -> Result<&Arc<SshSource>, Status> {
        let id = if id.is_empty() { DEFAULT } else { id };
        self.0
            .get(id)
            .ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

#[tonic::async_trait]
impl Ssh for Agents {
    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    type ForwardAgentStream = BoxStream<'static, Result<BytesMessage, Status>>;

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request
            .metadata()
            .get("buildkit.ssh.id")
            .and_then(|id| id.to_str().ok());
        let agent = self.agent(id.unwrap_or_default())?.clone();
        let (outgoing, answers) = outgoing::<BytesMessage>();
        let connection = Tunnel::new(request.into_inner(), outgoing);
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            agent.serve(connection).await.map_err(|error| {
                Status::unknown(format!("failed to talk to the ssh agent: {error}"))
            })
        }));
        // Why it ended is told last. The task lives as long as the answers are read.
        let end = futures::stream::once(serving).filter_map(async |ended| match ended {
            Ok(Err(status)) => Some(Err(status)),
            Ok(Ok(())) | Err(_) => None,
        });
        Ok(Response::new(answers.map(Ok).chain(end).boxed()))
    }
}
