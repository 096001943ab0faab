//! Secrets of a step: values that a client's session gives, as files or in the environment.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use llb::SecretMount;
use sys::mount::{Attr, Bind, MountFd};
use sys::root::{Follow, RootDir};

use crate::failure::{Class, Failure};
use crate::sessions::Sessions;

/// A secret's value. It has no `Debug`, no `Display` and cannot be serialized, so that it does not
/// get into a log, a key or a record.
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// Asks the sessions of the step for the secret `id`, one after the other; `None` when none has
    /// it.
    pub(crate) async fn fetch(sessions: &Sessions, id: &str) -> Result<Option<Secret>, Failure> {
        let answer = sessions.first(|calls| {
            let id = id.to_owned();
            async move { calls.secret(&id).await.map_err(Failure::from) }
        });
        match answer.await {
            Ok(data) => Ok(Some(Secret(data.to_vec()))),
            Err(failure) if failure.class == Class::NotFound => Ok(None),
            Err(failure) => Err(failure.context(format!("failed to get secret {id}"))),
        }
    }

    /// The secret as the value of an environment variable.
    pub(crate) fn into_env(self, id: &str) -> Result<String, Failure> {
        let text = String::from_utf8(self.0).map_err(|_| {
            Failure::user(format!(
                "secret {id} is not text, so no environment variable can hold it"
            ))
        })?;
        if text.contains('\0') {
            return Err(Failure::user(format!(
                "secret {id} has a NUL byte, so no environment variable can hold it"
            )));
        }
        Ok(text)
    }

    /// The secret as a read-only file in memory.
    pub(crate) fn into_file(self, mount: &SecretMount) -> Result<MountFd, Failure> {
        let place = || -> std::io::Result<MountFd> {
            let size = (self.0.len() as u64).next_multiple_of(4096) + 4096;
            let flags = Attr::NOSUID | Attr::NODEV | Attr::NOEXEC;
            let tmpfs = super::mounts::memory(size, 0o700, flags)?;
            let root = RootDir::from_fd(tmpfs.try_clone()?.into_fd());
            let path = Path::new("secret");
            let mut file = root.create(path, mount.mode & 0o777, true)?;
            file.write_all(&self.0)?;
            root.chown(path, mount.uid, mount.gid, Follow::No)?;
            root.chmod(path, mount.mode & 0o7777)?;
            let fd = root.resolve(path, Follow::No)?;
            sys::mount::bind_clone(
                fd.as_fd(),
                Bind {
                    readonly: true,
                    recursive: false,
                },
            )
        };
        place().map_err(|error| {
            Failure::host(error).context(format!("failed to mount secret {}", mount.id))
        })
    }
}

/// What is said when a secret that is needed is not there (BuildKit: `solver/llbsolver/mounts`).
pub(crate) fn missing(id: &str) -> Failure {
    Failure::not_found(format!("secret {id}: not found"))
}
