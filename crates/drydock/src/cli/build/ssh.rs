//! `--ssh`: agents and keys that steps may use.

use std::collections::HashSet;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use client::session::{Keys, SshSource};

use crate::error::hinted;

/// An agent, or keys, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ssh {
    id: String,
    /// A socket, or files of keys; the agent of the environment if empty.
    paths: Vec<PathBuf>,
    /// Whether all that comes is passed on, and not only what may be asked of an agent.
    raw: bool,
}

/// All that is offered, each under an id of its own.
pub(super) fn all(given: &[String]) -> anyhow::Result<Vec<Ssh>> {
    let read: Vec<Ssh> = given
        .iter()
        .map(|text| parse(text))
        .collect::<Result<_, _>>()?;
    let mut ids = HashSet::new();
    if let Some(again) = read.iter().find(|ssh| !ids.insert(ssh.id.as_str())) {
        bail!("duplicate agent ID \"{}\"", again.id);
    }
    Ok(read)
}

fn parse(text: &str) -> anyhow::Result<Ssh> {
    let (id, rest) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    let mut ssh = Ssh {
        id: id.to_owned(),
        paths: Vec::new(),
        raw: false,
    };
    for field in rest.split(',').filter(|field| !field.is_empty()) {
        match field.split_once('=') {
            Some(("raw", "true" | "1" | "t" | "T" | "TRUE" | "True")) => ssh.raw = true,
            Some(("raw", "false" | "0" | "f" | "F" | "FALSE" | "False")) => ssh.raw = false,
            Some(("raw", value)) => bail!("invalid value for 'raw': {value}"),
            _ => ssh.paths.push(PathBuf::from(field)),
        }
    }
    if ssh.raw && ssh.paths.len() != 1 {
        bail!("raw mode must supply exactly one socket path for \"{id}\"");
    }
    Ok(ssh)
}

impl Ssh {
    /// Looks what the paths are, and reads keys.
    pub(super) fn open(self) -> anyhow::Result<(String, SshSource)> {
        let Ssh { id, paths, raw } = self;
        let source =
            open(&id, paths, raw).with_context(|| format!("failed to offer ssh `{id}`"))?;
        Ok((id, source))
    }
}

fn open(id: &str, paths: Vec<PathBuf>, raw: bool) -> anyhow::Result<SshSource> {
    let mut sockets = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(&path);
        let metadata = metadata.with_context(|| format!("failed to open `{}`", path.display()))?;
        match metadata.file_type().is_socket() {
            true => sockets.push(path),
            false => files.push(path),
        }
    }
    match (sockets.as_slice(), files.as_slice(), raw) {
        ([], [], _) => {
            let path = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| {
                hinted(
                    "it means the agent, but SSH_AUTH_SOCK is not set",
                    format!("start an agent, or name a socket or keys: `{id}=PATH`"),
                )
            })?;
            Ok(SshSource::Agent(path.into()))
        }
        ([socket], [], true) => Ok(SshSource::Raw(socket.clone())),
        ([socket], [], false) => Ok(SshSource::Agent(socket.clone())),
        ([_, _, ..], [], _) => bail!("only single socket allowed"),
        ([], _, true) => bail!("raw mode only supported with socket paths"),
        ([], keys, false) => Ok(SshSource::Keys(Keys::read(keys)?)),
        (_, _, _) => bail!("invalid combination of keys and sockets"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Ssh {
        parse(text).unwrap()
    }

    #[test]
    fn it_has_an_id_and_perhaps_paths() {
        let plain = read("default");
        assert_eq!((plain.id.as_str(), plain.paths.len()), ("default", 0));
        assert_eq!(read("").id, "default");
        let keys = read("work=/a,/b");
        assert_eq!((keys.id.as_str(), keys.paths.len()), ("work", 2));
        let raw = read("s=/a,raw=true");
        assert_eq!((raw.paths.as_slice(), raw.raw), (&["/a".into()][..], true));
        assert!(!read("s=/a,raw=0").raw);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let why = |text| parse(text).unwrap_err().to_string();
        assert_eq!(why("s=/a,raw=perhaps"), "invalid value for 'raw': perhaps");
        assert_eq!(
            why("s=raw=true"),
            "raw mode must supply exactly one socket path for \"s\""
        );
        let twice = all(&["a=/x".to_owned(), "a=/y".to_owned()]);
        assert_eq!(twice.unwrap_err().to_string(), "duplicate agent ID \"a\"");
    }
}
