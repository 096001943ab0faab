//! An ssh agent of a client in a step: a socket whose connections go through the session.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use llb::SshMount;
use session::SessionCalls;
use sys::mount::{Bind, MountFd};
use sys::root::{Follow, RootDir};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::failure::{Class, Failure};
use crate::scratch::Scratch;
use crate::sessions::Sessions;

/// The name of the socket in the agent's directory.
const SOCKET: &str = "agent.sock";

/// A forwarded agent: as long as it lives, connections are served.
pub(crate) struct Agent {
    pub(crate) mount: MountFd,
    /// Where the socket is.
    dir: TempDir,
    server: JoinHandle<()>,
}

impl Agent {
    /// Listens in a directory of its own for a step that mounts the agent `mount.id`. `None` when no
    /// session has that agent.
    pub(crate) async fn forward(
        sessions: &Sessions,
        mount: &SshMount,
        scratch: &Scratch,
    ) -> Result<Option<Agent>, Failure> {
        let id = mount.id.clone();
        match agent(sessions, &id).await {
            Ok(_) => {}
            Err(failure) if failure.class == Class::NotFound => return Ok(None),
            Err(failure) => {
                return Err(failure.context(format!("failed to reach ssh agent {id}")));
            }
        }
        let sessions = sessions.clone();
        let listen = || -> std::io::Result<(TempDir, UnixListener, MountFd)> {
            // The directory is only for us; the socket in it has the mode that the step asks for.
            let name = Path::new(SOCKET);
            let dir = scratch.directory()?;
            let root = RootDir::open(dir.path())?;
            let listener = UnixListener::bind(dir.path().join(name))?;
            root.chown(name, mount.uid, mount.gid, Follow::No)?;
            root.chmod(name, mount.mode & 0o777)?;
            let fd = root.resolve(name, Follow::No)?;
            let bind = sys::mount::bind_clone(
                fd.as_fd(),
                Bind {
                    readonly: false,
                    recursive: false,
                },
            )?;
            Ok((dir, listener, bind))
        };
        let (dir, listener, bind) = listen()
            .map_err(|e| Failure::host(e).context(format!("failed to forward ssh agent {id}")))?;
        let server = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (sessions, id) = (sessions.clone(), id.clone());
                tokio::spawn(async move {
                    // Who had the agent before may have left: another client may wait for the step.
                    let ended = match agent(&sessions, &id).await {
                        Ok(calls) => calls.ssh_forward(&id, connection).await.map_err(Into::into),
                        Err(failure) => Err(failure),
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%error, "an ssh agent connection ended");
                    }
                });
            }
        });
        Ok(Some(Agent {
            mount: bind,
            dir,
            server,
        }))
    }

    /// The socket, for a process of the daemon's own.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The session of a client that has the agent `id` now.
async fn agent(sessions: &Sessions, id: &str) -> Result<SessionCalls, Failure> {
    let check = sessions.first(|calls| {
        let id = id.to_owned();
        async move {
            let checked = calls.ssh_check(&id).await;
            checked.map_err(Failure::from).map(|()| calls)
        }
    });
    check.await
}

/// What is said when an agent that is needed is not there.
pub(crate) fn missing(id: &str) -> Failure {
    Failure::not_found(format!("no SSH key {id:?} forwarded from the client"))
}
