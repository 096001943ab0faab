//! From a created container to one that has ended.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use executor::publish::{self, Protocol};
use executor::{ContainerRequest, CreateError, Output, Stdio, Stubs};
use proto::worker as wire;
use tokio::io::AsyncReadExt as _;

use super::Entry;
use super::log::{Log, MAX_FRAME};
use super::record::{Port, State};
use crate::failure::{Class, Failure, chain};
use crate::state::Shared;

/// A terminal's size where nobody has said one.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Starts a container; an attached caller may say the size of its terminal.
pub(super) async fn start(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    size: Option<(u16, u16)>,
) -> Result<wire::StartContainerResponse, Failure> {
    let made = entry
        .made
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let (id, name, tty, open_stdin) = {
        let record = entry.record();
        (
            record.id.clone(),
            record.name.clone(),
            record.tty,
            record.open_stdin,
        )
    };
    let made = made.ok_or_else(|| {
        Failure::user(format!(
            "container `{name}` has been started before; run a new one"
        ))
    })?;
    let prepared = *made.spec;
    let spec = executor::spec::container(prepared.step, executor::spec::RunOptions::default())
        .map_err(|error| Failure::user(chain(&error)))?;
    let (rows, cols) = size.unwrap_or(DEFAULT_SIZE);
    let request = ContainerRequest {
        id: id.clone(),
        spec,
        rootfs: prepared.rootfs,
        mounts: prepared.mounts,
        stdio: if tty {
            Stdio::Tty { rows, cols }
        } else {
            Stdio::Pipes { stdin: open_stdin }
        },
        network: prepared.network,
        stubs: Stubs::Kept,
    };
    let mut container = match shared.launcher.create(request).await {
        Ok(container) => container,
        Err(error) => {
            let failure = create_failure(error);
            ended(shared, entry, 127, false);
            return Err(failure);
        }
    };
    let ip = container.ip();
    let mut ports = entry.record().ports.clone();
    let publications = match publish_all(&mut ports, ip).await {
        Ok(publications) => publications,
        Err(failure) => {
            ended(shared, entry, 125, false);
            return Err(failure);
        }
    };
    *entry.stdin.lock().await = container.stdin.take().filter(|_| tty || open_stdin);
    let outputs = [(container.stdout.take(), 1), (container.stderr.take(), 2)];
    let ports = {
        let mut record = entry.record();
        record.state = State::Running {
            started: SystemTime::now(),
            pid: container
                .pid()
                .and_then(|pid| u32::try_from(pid).ok())
                .unwrap_or(0),
            ip: ip.map(|ip| ip.to_string()),
        };
        record.ports = ports;
        record.save(&entry.dir)?;
        record.ports.iter().map(Port::to_wire).collect()
    };
    let container = Arc::new(container);
    *entry.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(container.clone());
    tokio::spawn(follow(
        shared.clone(),
        entry.clone(),
        container,
        outputs,
        publications,
    ));
    Ok(wire::StartContainerResponse { ports })
}

/// A start that failed, in the classes that tell a missing program from one that cannot be run.
pub(super) fn create_failure(error: CreateError) -> Failure {
    let class = match error.exit_code() {
        Some(127) => Class::NotFound,
        Some(126) => Class::Denied,
        Some(_) | None => Class::User,
    };
    Failure::new(class, chain(&error))
}

type Publications = Vec<publish::Published>;

/// Publishes the ports of a container, and notes which ports of the host were picked.
async fn publish_all(ports: &mut [Port], ip: Option<Ipv4Addr>) -> Result<Publications, Failure> {
    let mut publications = Vec::new();
    for port in ports {
        let ip =
            ip.ok_or_else(|| Failure::user("a container without an address cannot publish ports"))?;
        let host: IpAddr = match port.host_ip.as_str() {
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            text => text.parse().map_err(|_| {
                Failure::user(format!("invalid address `{text}` of a published port"))
            })?,
        };
        let (from, to) = (
            SocketAddr::new(host, port.host_port),
            SocketAddr::new(IpAddr::V4(ip), port.container_port),
        );
        let protocol = match port.protocol.as_str() {
            "udp" => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        let publication = publish::publish(protocol, from, to)
            .await
            .map_err(|error| Failure::user(format!("failed to publish port {from}: {error}")))?;
        port.host_port = publication.address().port();
        publications.push(publication);
    }
    Ok(publications)
}

/// Keeps what a container prints, and notes its end.
async fn follow(
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    container: Arc<executor::Container>,
    outputs: [(Option<Output>, i64); 2],
    publications: Publications,
) {
    let [(out, _), (err, _)] = outputs;
    let exit = {
        let (exit, (), ()) = tokio::join!(
            container.wait(),
            keep(out, 1, &entry.log),
            keep(err, 2, &entry.log)
        );
        exit
    };
    drop(publications);
    let (code, oom) = match exit {
        Ok(exit) => (exit.code, exit.oom),
        Err(error) => {
            tracing::warn!(%error, "a container was lost");
            (128 + 9, false)
        }
    };
    *entry.stdin.lock().await = None;
    *entry.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
    drop(container);
    ended(&shared, &entry, code, oom);
}

/// Notes the end of a container, and forgets it where that was asked for.
fn ended(shared: &Shared, entry: &Entry, code: i32, oom_killed: bool) {
    let remove = {
        let mut record = entry.record();
        let started = match record.state {
            State::Running { started, .. } => Some(started),
            State::Created | State::Exited { .. } => None,
        };
        record.state = State::Exited {
            started,
            finished: SystemTime::now(),
            code,
            oom_killed,
        };
        if let Err(failure) = record.save(&entry.dir) {
            tracing::warn!(%failure, "a container's end was not recorded");
        }
        record.auto_remove
    };
    entry.log.close();
    // Its files go now: an ended container cannot be started again.
    drop(
        entry
            .layer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
    );
    if remove {
        shared.containers.take(entry);
    }
    entry
        .exit
        .send_replace(Some(wire::ExitStatus { code, oom_killed }));
}

async fn keep(output: Option<Output>, stream: i64, log: &Arc<Log>) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; MAX_FRAME];
    while let Ok(length) = output.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        if let Err(error) = log.append(stream, &buffer[..length]) {
            tracing::warn!(%error, "a container's output was lost");
        }
    }
}
