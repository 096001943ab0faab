//! What a client serves while its build runs: its files, secrets and credentials, and the places
//! where results go.
//!
//! The daemon calls back inside of the `Session` call. Only what is offered here can be reached.

mod auth;
mod content;
mod files;
mod packets;
mod secrets;
mod send;
mod ssh;
mod upload;

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use proto::control::BytesMessage;
use rpc::tunnel::{self, Tunnel};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::service::Routes;
use tonic::{Request, Status};

use crate::{BuildError, Client};

pub use auth::AuthOptions;
pub use secrets::SecretSource;
pub use ssh::{FormatError, KeyError, Keys, SshSource};

/// What is offered to one build.
#[derive(Default)]
pub struct Session {
    /// A name for people.
    pub name: String,
    /// Names this client and its directory, so that files are not sent twice.
    pub shared_key: String,
    /// Directories by name.
    pub directories: BTreeMap<String, PathBuf>,
    /// OCI layouts by name.
    pub layouts: BTreeMap<String, PathBuf>,
    /// Directories of build caches by name: they are OCI layouts that can be written.
    pub caches: BTreeMap<String, PathBuf>,
    /// Where each exporter's output goes; of the same position as the exporters.
    pub targets: Vec<Target>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// SSH agents by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// How token servers are spoken to.
    pub auth: AuthOptions,
    /// Streams by name, each of which can be read once, at `http://buildkit-session/<name>`.
    pub uploads: BTreeMap<String, Upload>,
}

/// A stream that the daemon reads.
pub type Upload = Pin<Box<dyn AsyncRead + Send>>;

/// A stream that the daemon writes.
pub type Sink = Pin<Box<dyn AsyncWrite + Send>>;

/// Where the output of an exporter goes.
#[derive(Default)]
pub enum Target {
    /// The exporter sends nothing here.
    #[default]
    None,
    /// Into a directory, over what is there.
    Directory(PathBuf),
    /// Into a file, which is there when it is whole.
    File(PathBuf),
    /// Into a stream.
    Stream(Sink),
}

/// The methods served; the daemon calls no others.
const METHODS: [&str; 18] = [
    "/grpc.health.v1.Health/Check",
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.FileSend/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.filesync.v1.Auth/FetchToken",
    "/moby.filesync.v1.Auth/GetTokenAuthority",
    "/moby.filesync.v1.Auth/VerifyTokenAuthority",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
    "/moby.upload.v1.Upload/Pull",
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/List",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.content.v1.Content/Status",
    "/containerd.services.content.v1.Content/ListStatuses",
    "/containerd.services.content.v1.Content/Update",
    "/containerd.services.content.v1.Content/Write",
];

impl Session {
    /// Opens the session `id` at the daemon. The future serves it until the daemon ends it.
    pub(crate) async fn open(
        self,
        client: &Client,
        id: &str,
    ) -> Result<impl Future<Output = ()> + Send + use<>, BuildError> {
        let (outgoing, messages) = tunnel::outgoing::<BytesMessage>();
        let mut request = Request::new(messages);
        let metadata = request.metadata_mut();
        metadata.insert("x-docker-expose-session-uuid", value(id)?);
        metadata.insert("x-docker-expose-session-name", value(&self.name)?);
        metadata.insert(
            "x-docker-expose-session-sharedkey",
            value(&self.shared_key)?,
        );
        for method in METHODS {
            let key = AsciiMetadataKey::from_static("x-docker-expose-session-grpc-method");
            metadata.append(key, AsciiMetadataValue::from_static(method));
        }
        let incoming = client.control().session(request).await?.into_inner();
        let service = self.into_service().await;
        Ok(async move {
            if let Err(error) = tunnel::serve_over(Tunnel::new(incoming, outgoing), service).await {
                tracing::debug!(%error, "the session broke");
            }
        })
    }

    async fn into_service(self) -> Routes {
        // Every service is healthy as long as there is a session; the daemon asks for none by name.
        let (_, health) = tonic_health::server::health_reporter();
        let mut routes = Routes::builder();
        routes
            .add_service(health)
            .add_service(files::server(self.directories))
            .add_service(send::server(self.targets))
            .add_service(auth::server(self.auth))
            .add_service(secrets::server(self.secrets))
            .add_service(ssh::server(self.ssh))
            .add_service(upload::server(self.uploads))
            .add_service(content::server(self.layouts, self.caches));
        routes.routes()
    }
}

/// Header values are ASCII; what is not is left out rather than refused.
fn value(text: &str) -> Result<AsciiMetadataValue, BuildError> {
    let ascii: String = text
        .chars()
        .filter(|char| matches!(char, ' '..='~'))
        .collect();
    let invalid = |_| Status::invalid_argument("the session's name cannot be sent");
    Ok(ascii.parse().map_err(invalid)?)
}

/// Shares state among the clones of a service that tonic makes.
type Shared<T> = Arc<T>;

/// An id nobody else has: 25 digits in base 32.
pub fn random_id() -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    // A hasher's keys are random for each process, and differ for each hasher.
    let random = || RandomState::new().hash_one(std::process::id());
    let mut bits = u128::from(random()) << 64 | u128::from(random());
    let mut id = String::with_capacity(25);
    for _ in 0..25 {
        // In range: the lowest five bits.
        id.push(char::from(DIGITS[(bits & 31) as usize]));
        bits >>= 5;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        let (first, second) = (random_id(), random_id());
        assert_eq!(first.len(), 25);
        assert_ne!(first, second);
    }

    #[test]
    fn what_a_header_cannot_hold_is_left_out() {
        assert_eq!(value("a b\u{e4}\n").unwrap(), "a b");
    }
}
