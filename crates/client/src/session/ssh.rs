//! `SSH`: connections to the user's agents.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::sshforward::ssh_server::{Ssh, SshServer};
use proto::sshforward::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;

/// The agent that a build means if it names none.
const DEFAULT: &str = "default";

/// Sockets of agents, by id.
pub(super) struct Agents(Shared<BTreeMap<String, PathBuf>>);

pub(super) fn server(agents: BTreeMap<String, PathBuf>) -> SshServer<Agents> {
    SshServer::new(Agents(Arc::new(agents)))
}

impl Agents {
    fn socket(&self, id: &str) -> Result<&PathBuf, Status> {
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
        self.socket(&request.into_inner().id)?;
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
        let path = self.socket(id.unwrap_or_default())?;
        let failed = |error: std::io::Error| {
            Status::unknown(format!("failed to talk to the ssh agent: {error}"))
        };
        let (reader, mut writer) = UnixStream::connect(path)
            .await
            .map_err(failed)?
            .into_split();
        let mut requests = request.into_inner();
        let sender = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok(Some(message)) = requests.message().await {
                if writer.write_all(&message.data).await.is_err() {
                    return;
                }
            }
            // The agent may be gone, which is as good an end.
            let _ = writer.shutdown().await;
        }));
        let answers = ReaderStream::new(reader).map(move |chunk| {
            // Lives as long as the answers are read.
            let _ = &sender;
            Ok(BytesMessage {
                data: chunk.map_err(failed)?,
            })
        });
        Ok(Response::new(answers.boxed()))
    }
}
