//! The calls that a worker makes to a client.

use bytes::Bytes;
use filesync::{Codec, SendOptions};
use futures::{FutureExt as _, Stream, StreamExt as _};
use proto::filesync::auth_client::AuthClient;
use proto::secrets::secrets_client::SecretsClient;
use proto::sshforward::ssh_client::SshClient;
use proto::upload::upload_client::UploadClient;
use proto::{filesync as wire, secrets, sshforward, upload};
use rpc::tunnel::{Tunnel, outgoing};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::output::{DirTarget, TarWriter};
use crate::{HEADER, SessionError};

/// The largest secret that a step may have (BuildKit's limit), in bytes.
const MAX_SECRET: usize = 500 << 10;

/// The client id that BuildKit asks for tokens with.
const CLIENT_ID: &str = "buildkit-client";

/// One session, as a worker calls it.
#[derive(Clone, Debug)]
pub struct SessionCalls {
    pub(crate) channel: Channel,
    id: String,
}

/// A registry login of a client. It has no `Debug`, so that it does not get into a log.
pub struct Login {
    /// Empty when the secret is an identity token.
    pub username: String,
    /// The password or identity token.
    pub secret: String,
}

/// Who fetches the tokens of a client for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The client, with this public key.
    Key(Vec<u8>),
    /// The client says nothing of it.
    Unknown,
    /// The daemon: the client does not want to.
    Declined,
}

/// Which token a client is asked to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchToken {
    /// The registry.
    pub host: String,
    /// The token server.
    pub realm: String,
    /// The service's name at the token server.
    pub service: String,
    /// What the token is for.
    pub scopes: Vec<String>,
}

/// A bearer token that a client fetched. It has no `Debug`, so that it does not get into a log.
pub struct Token {
    /// The token.
    pub token: String,
    /// How long it is valid, in seconds; 0 when the server did not say.
    pub expires_in: i64,
    /// When it was made, in seconds since the epoch; 0 when the server did not say.
    pub issued_at: i64,
}

impl SessionCalls {
    /// Calls the session `id` through `channel`, behind which a [`Proxy`](crate::Proxy) listens.
    pub fn new(channel: Channel, id: String) -> SessionCalls {
        SessionCalls { channel, id }
    }

    /// The session's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn request<T>(&self, message: T) -> Result<Request<T>, SessionError> {
        let mut request = Request::new(message);
        let id = self
            .id
            .parse()
            .map_err(|_| SessionError::Invalid("its id is not text"))?;
        request.metadata_mut().insert(HEADER, id);
        Ok(request)
    }

    /// Sends a tree, or several as one, into the output directory `target` of the client.
    ///
    /// # Errors
    /// When the client refuses it or the transfer fails.
    pub async fn send_dir(
        &self,
        target: &DirTarget,
        source: impl Into<filesync::Source>,
        options: SendOptions,
    ) -> Result<(), SessionError> {
        let (answer, incoming) = late_stream();
        let (packets, work) = filesync::send(source, options, incoming);
        let mut request = self.request(packets)?;
        target.write_metadata(request.metadata_mut())?;
        let call = self.packets(request, "/moby.filesync.v1.FileSend/DiffCopy", answer);
        let (called, sent) = tokio::join!(call, work);
        called?;
        sent.map_err(|error| SessionError::Files(error.into()))
    }

    /// Makes a call that carries packets both ways and hands its answers over. A refusal is told
    /// here; the transfer only sees that the other side is gone.
    pub(crate) async fn packets(
        &self,
        request: Request<filesync::Packets>,
        path: &'static str,
        answer: oneshot::Sender<Streaming<filesync::wire::Packet>>,
    ) -> Result<(), SessionError> {
        let mut client = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = http::uri::PathAndQuery::from_static(path);
        let stream = client
            .streaming(request, path, Codec::default())
            .await?
            .into_inner();
        // A transfer that has failed meanwhile wants no answers.
        let _ = answer.send(stream);
        Ok(())
    }

    /// Opens the output file `target` of the client.
    ///
    /// # Errors
    /// When the target's metadata cannot be told.
    pub fn send_tar(&self, target: &DirTarget) -> Result<TarWriter, SessionError> {
        let (outgoing, stream) = outgoing::<wire::BytesMessage>();
        let mut request = self.request(stream)?;
        target.write_metadata(request.metadata_mut())?;
        Ok(TarWriter::open(self.channel.clone(), request, outgoing))
    }

    /// The client's login for a registry; `None` to go without.
    ///
    /// # Errors
    /// When the client cannot be asked.
    pub async fn credentials(&self, host: &str) -> Result<Option<Login>, SessionError> {
        let request = self.request(wire::CredentialsRequest {
            host: host.to_owned(),
        })?;
        match AuthClient::new(self.channel.clone())
            .credentials(request)
            .await
        {
            Ok(answer) => {
                let answer = answer.into_inner();
                let login = Login {
                    username: answer.username,
                    secret: answer.secret,
                };
                Ok(Some(login).filter(|l| !l.secret.is_empty() || !l.username.is_empty()))
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Who fetches the client's tokens for a registry.
    ///
    /// # Errors
    /// When the client cannot be asked.
    pub async fn token_authority(
        &self,
        host: &str,
        salt: &[u8],
    ) -> Result<Authority, SessionError> {
        let request = self.request(wire::GetTokenAuthorityRequest {
            host: host.to_owned(),
            salt: salt.to_vec().into(),
        })?;
        match AuthClient::new(self.channel.clone())
            .get_token_authority(request)
            .await
        {
            Ok(answer) => Ok(Authority::Key(answer.into_inner().public_key.to_vec())),
            Err(status) => match status.code() {
                tonic::Code::Unimplemented => Ok(Authority::Unknown),
                // A client that is gone has this code, too; whoever asks it next is told so.
                tonic::Code::Unavailable => Ok(Authority::Declined),
                _ => Err(status.into()),
            },
        }
    }

    /// Has the client sign `payload` with the key that [`SessionCalls::token_authority`] told.
    ///
    /// # Errors
    /// When the client cannot, or cannot be asked.
    pub async fn sign(
        &self,
        host: &str,
        salt: &[u8],
        payload: &[u8],
    ) -> Result<Vec<u8>, SessionError> {
        let request = self.request(wire::VerifyTokenAuthorityRequest {
            host: host.to_owned(),
            salt: salt.to_vec().into(),
            payload: payload.to_vec().into(),
        })?;
        let answer = AuthClient::new(self.channel.clone())
            .verify_token_authority(request)
            .await?;
        Ok(answer.into_inner().signed.to_vec())
    }

    /// Has the client fetch a token, so that its password stays with it; `None` when it cannot.
    ///
    /// # Errors
    /// What the token server or the client answered.
    pub async fn fetch_token(&self, ask: &FetchToken) -> Result<Option<Token>, SessionError> {
        let request = self.request(wire::FetchTokenRequest {
            client_id: CLIENT_ID.to_owned(),
            host: ask.host.clone(),
            realm: ask.realm.clone(),
            service: ask.service.clone(),
            scopes: ask.scopes.clone(),
        })?;
        match AuthClient::new(self.channel.clone())
            .fetch_token(request)
            .await
        {
            Ok(answer) => {
                let answer = answer.into_inner();
                Ok(Some(Token {
                    token: answer.token,
                    expires_in: answer.expires_in,
                    issued_at: answer.issued_at,
                }))
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// The value of a secret.
    ///
    /// # Errors
    /// [`SessionError::is_not_found`] when the client does not have it.
    pub async fn secret(&self, id: &str) -> Result<Bytes, SessionError> {
        let message = secrets::GetSecretRequest {
            id: id.to_owned(),
            ..secrets::GetSecretRequest::default()
        };
        let request = self.request(message)?;
        let answer = SecretsClient::new(self.channel.clone())
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .get_secret(request)
            .await?;
        let data = answer.into_inner().data;
        if data.len() > MAX_SECRET {
            return Err(SessionError::Invalid("a secret is larger than 500 KiB"));
        }
        Ok(data)
    }

    /// Whether the client forwards the ssh agent `id`.
    ///
    /// # Errors
    /// [`SessionError::is_not_found`] when it does not.
    pub async fn ssh_check(&self, id: &str) -> Result<(), SessionError> {
        let request = self.request(sshforward::CheckAgentRequest { id: id.to_owned() })?;
        SshClient::new(self.channel.clone())
            .check_agent(request)
            .await?;
        Ok(())
    }

    /// Carries one connection to the client's ssh agent `id`, until either side ends it.
    ///
    /// # Errors
    /// When the client refuses it or the connection breaks.
    pub async fn ssh_forward(
        &self,
        id: &str,
        mut connection: UnixStream,
    ) -> Result<(), SessionError> {
        let (outgoing, stream) = outgoing::<sshforward::BytesMessage>();
        let mut request = self.request(stream)?;
        append(request.metadata_mut(), "buildkit.ssh.id", &[id.to_owned()])?;
        let incoming = SshClient::new(self.channel.clone())
            .forward_agent(request)
            .await?
            .into_inner();
        let mut tunnel = Tunnel::new(incoming, outgoing);
        tokio::io::copy_bidirectional(&mut connection, &mut tunnel)
            .await
            .map(|_| ())
            .map_err(|source| SessionError::Io {
                what: "failed to forward ssh agent",
                source,
            })
    }

    /// What the client serves under `http://<host><path>` for one reader.
    ///
    /// # Errors
    /// When the client does not have it.
    pub async fn upload(
        &self,
        host: &str,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, SessionError>> + use<>, SessionError> {
        let mut request = self.request(futures::stream::pending::<upload::BytesMessage>())?;
        append(request.metadata_mut(), "urlhost", &[host.to_owned()])?;
        append(request.metadata_mut(), "urlpath", &[path.to_owned()])?;
        let stream = UploadClient::new(self.channel.clone())
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .pull(request)
            .await?
            .into_inner();
        Ok(stream.map(|message| Ok(message?.data)))
    }
}

/// A stream that begins when the answer to a call has come. A client's gRPC library tells that it
/// accepts a call only with its first message, and that may be an answer to ours: so packets must
/// flow before.
pub(crate) fn late_stream() -> (
    oneshot::Sender<Streaming<filesync::wire::Packet>>,
    impl Stream<Item = Result<filesync::wire::Packet, Status>> + Send + Unpin,
) {
    let (sender, receiver) = oneshot::channel();
    let stream = receiver.map(|stream| match stream {
        Ok(stream) => Streaming::left_stream(stream),
        Err(_) => futures::stream::empty().right_stream(),
    });
    (sender, Box::pin(stream.flatten_stream()))
}

/// Adds values under `key`. When one is not printable ASCII all are escaped as in a URL's query,
/// and the key is marked (BuildKit: `session/filesync/filesync.go`).
pub(crate) fn append(
    metadata: &mut MetadataMap,
    key: &str,
    values: &[String],
) -> Result<(), SessionError> {
    let name = |text: &str| {
        AsciiMetadataKey::from_bytes(text.as_bytes())
            .map_err(|_| SessionError::Invalid("a header's name is not text"))
    };
    let value = |text: &str| {
        AsciiMetadataValue::try_from(text)
            .map_err(|_| SessionError::Invalid("a header's value is not text"))
    };
    let plain = values
        .iter()
        .all(|v| v.bytes().all(|b| (0x20..0x7f).contains(&b)));
    if !plain {
        metadata.insert(name(&format!("{key}-encoded"))?, value("1")?);
    }
    for text in values {
        let text = if plain { text.clone() } else { escape(text) };
        metadata.append(name(key)?, value(&text)?);
    }
    Ok(())
}

/// Go's `url.QueryEscape`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ascii_is_escaped_and_marked() {
        let mut metadata = MetadataMap::new();
        append(&mut metadata, "followpaths", &["a b".into()]).unwrap();
        assert_eq!(metadata.get("followpaths").unwrap(), "a b");
        assert!(metadata.get("followpaths-encoded").is_none());
        append(
            &mut metadata,
            "include-patterns",
            &["ä b".into(), "c".into()],
        )
        .unwrap();
        assert_eq!(metadata.get("include-patterns").unwrap(), "%C3%A4+b");
        assert_eq!(metadata.get("include-patterns-encoded").unwrap(), "1");
    }
}
