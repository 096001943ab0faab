//! The socket to which steps send spans of their own.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use spans::Recorder;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::config::Config;

/// The name of the socket in the root, where no other is said.
const SOCKET: &str = "otel-grpc.sock";

/// Listens for spans and answers where. Without the socket, steps have no spans; nothing else is less for
/// it.
pub(super) fn listen(recorder: &Recorder, config: &Config) -> Option<PathBuf> {
    let path = config.otel_socket.clone();
    let path = path.unwrap_or_else(|| config.root.join(SOCKET));
    match serve(recorder, &path) {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "spans of steps are not taken");
            None
        }
    }
}

fn serve(recorder: &Recorder, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // A step may run as any user. The directory keeps other users of the machine out.
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    let server = Server::builder().add_service(recorder.server());
    tokio::spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::error!(%error, "spans of steps are not taken any more");
        }
    });
    Ok(())
}
