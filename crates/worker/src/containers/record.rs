//! What is kept of a container, for as long as it is not removed.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::SystemTime;

use proto::worker as wire;
use serde::{Deserialize, Serialize};

use crate::audience::Rights;
use crate::failure::{Failure, chain};

/// The name of a record's file in the container's directory.
const FILE: &str = "container.json";

/// A container's record, one JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) command: Vec<String>,
    pub(crate) created: SystemTime,
    pub(crate) state: State,
    pub(crate) ports: Vec<Port>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) network: String,
    pub(crate) stop_signal: String,
    pub(crate) auto_remove: bool,
    pub(crate) tty: bool,
    pub(crate) open_stdin: bool,
}

/// Where a container is in its life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum State {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running {
        started: SystemTime,
        pid: u32,
        ip: Option<String>,
    },
    /// Its process has ended.
    Exited {
        started: Option<SystemTime>,
        finished: SystemTime,
        code: i32,
        oom_killed: bool,
    },
}

/// A published port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Port {
    pub(crate) host_ip: String,
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) protocol: String,
}

/// A directory or file of the host in a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) readonly: bool,
}

impl Record {
    /// Refuses whoever may not have what the container has of the host.
    pub(crate) fn check(&self, rights: Rights) -> Result<(), Failure> {
        let host_files = self.mounts.iter().any(|mount| is_host_path(&mount.source));
        rights.check(host_files, self.network == "host")
    }

    /// Writes the record into the container's directory, whole or not at all.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let aside = dir.join("container.json.new");
            let mut file = std::fs::File::create(&aside)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            std::fs::rename(aside, dir.join(FILE))
        };
        write().map_err(|error| {
            Failure::host(error).context(format!("failed to record container `{}`", self.name))
        })
    }

    /// Reads the record of the container in `dir`. One that ran when the worker died has ended
    /// with it.
    pub(crate) fn load(dir: &Path) -> Result<Record, Failure> {
        let read = || -> io::Result<Record> {
            let mut text = Vec::new();
            std::fs::File::open(dir.join(FILE))?.read_to_end(&mut text)?;
            Ok(serde_json::from_slice(&text)?)
        };
        let mut record =
            read().map_err(|e| Failure::user(format!("`{}`: {}", dir.display(), chain(&e))))?;
        let started = match record.state {
            State::Exited { .. } => return Ok(record),
            State::Created => None,
            State::Running { started, .. } => Some(started),
        };
        record.state = State::Exited {
            started,
            finished: SystemTime::now(),
            code: 128 + 9,
            oom_killed: false,
        };
        Ok(record)
    }

    pub(crate) fn exit(&self) -> Option<wire::ExitStatus> {
        match self.state {
            State::Exited {
                code, oom_killed, ..
            } => Some(wire::ExitStatus { code, oom_killed }),
            State::Created | State::Running { .. } => None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    pub(crate) fn to_wire(&self) -> wire::Container {
        let (state, started, finished, pid, ip) = match &self.state {
            State::Created => ("created", None, None, 0, None),
            State::Running { started, pid, ip } => {
                ("running", Some(*started), None, *pid, ip.clone())
            }
            State::Exited {
                started, finished, ..
            } => ("exited", *started, Some(*finished), 0, None),
        };
        wire::Container {
            id: self.id.clone(),
            name: self.name.clone(),
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            command: self.command.clone(),
            created: Some(self.created.into()),
            started: started.map(Into::into),
            finished: finished.map(Into::into),
            state: state.to_owned(),
            exit: self.exit(),
            ports: self.ports.iter().map(Port::to_wire).collect(),
            labels: self.labels.clone(),
            pid,
            ip: ip.unwrap_or_default(),
            mounts: self.mounts.iter().map(Mount::to_wire).collect(),
            network: self.network.clone(),
        }
    }
}

impl Port {
    pub(crate) fn to_wire(&self) -> wire::PublishedPort {
        wire::PublishedPort {
            host_ip: self.host_ip.clone(),
            host_port: u32::from(self.host_port),
            container_port: u32::from(self.container_port),
            protocol: self.protocol.clone(),
        }
    }

    pub(crate) fn parse(port: &wire::PublishedPort) -> Result<Port, Failure> {
        let number = |value: u32, what: &str| {
            u16::try_from(value)
                .map_err(|_| Failure::user(format!("{what} port {value} is not below 65536")))
        };
        let container_port = number(port.container_port, "container")?;
        if container_port == 0 {
            return Err(Failure::user("a published container port must not be 0"));
        }
        let protocol = if port.protocol.is_empty() {
            "tcp"
        } else {
            port.protocol.as_str()
        };
        if !matches!(protocol, "tcp" | "udp") {
            return Err(Failure::user(format!(
                "port {container_port}/{protocol}: only tcp and udp can be published"
            )));
        }
        Ok(Port {
            host_ip: port.host_ip.clone(),
            host_port: number(port.host_port, "host")?,
            container_port,
            protocol: protocol.to_owned(),
        })
    }
}

impl Mount {
    fn to_wire(&self) -> wire::BindMount {
        wire::BindMount {
            source: self.source.clone(),
            destination: self.destination.clone(),
            readonly: self.readonly,
        }
    }
}

/// Whether `name` may name a container: Docker's grammar.
/// Whether what is mounted is a path of the host; else it names a volume.
pub(crate) fn is_host_path(source: &str) -> bool {
    source.starts_with('/')
}

pub(crate) fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() <= 128
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_ran_when_the_worker_died_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record {
            id: "i".into(),
            name: "n".into(),
            image: "a".into(),
            image_id: String::new(),
            command: vec!["true".into()],
            created: SystemTime::now(),
            state: State::Running {
                started: SystemTime::now(),
                pid: 1,
                ip: None,
            },
            ports: Vec::new(),
            mounts: Vec::new(),
            labels: BTreeMap::new(),
            network: String::new(),
            stop_signal: String::new(),
            auto_remove: false,
            tty: false,
            open_stdin: false,
        };
        record.save(dir.path()).unwrap();
        let loaded = Record::load(dir.path()).unwrap();
        assert_eq!(loaded.exit().map(|e| e.code), Some(137));
    }

    #[test]
    fn ports_and_names_are_checked() {
        let port = |host, container, protocol: &str| {
            Port::parse(&wire::PublishedPort {
                host_ip: String::new(),
                host_port: host,
                container_port: container,
                protocol: protocol.into(),
            })
        };
        assert!(port(0, 80, "").is_ok());
        assert!(port(70000, 80, "tcp").is_err());
        assert!(port(1, 0, "tcp").is_err());
        assert!(port(1, 1, "sctp").is_err());
        assert!(is_name("web-1"));
        assert!(!is_name("-x") && !is_name("") && !is_name("a/b"));
    }
}
