//! Containers that users run: made from an image or a build's result, straight from its layers.

mod attach;
mod create;
mod log;
mod record;
mod run;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::worker as wire;
use refs::Ref;
use snapshot::Active;
use tokio::sync::watch;

pub(crate) use attach::attach;
pub(crate) use create::create;

use crate::failure::{Class, Failure};
use crate::state::Shared;
use log::Log;
use record::Record;

/// All containers, running and ended.
pub(crate) struct Containers {
    dir: PathBuf,
    all: Mutex<HashMap<String, Arc<Entry>>>,
}

/// One container.
pub(crate) struct Entry {
    dir: PathBuf,
    record: Mutex<Record>,
    log: Arc<Log>,
    /// What it is made of, until it starts.
    made: Mutex<Option<Made>>,
    /// What further processes in it begin with.
    further: Further,
    /// The running process.
    live: Mutex<Option<Arc<executor::Container>>>,
    stdin: tokio::sync::Mutex<Option<executor::Input>>,
    /// Its layer; goes with the container.
    layer: Mutex<Option<Active>>,
    exit: watch::Sender<Option<wire::ExitStatus>>,
    _image: Option<Ref>,
}

/// What a further process in a container has unless it is told otherwise.
#[derive(Clone, Debug, Default)]
struct Further {
    env: Vec<String>,
    cwd: String,
    user: String,
}

/// A container that is ready to start.
struct Made {
    spec: Box<create::Prepared>,
}

impl Entry {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Option<Arc<executor::Container>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the container has ended.
    pub(crate) async fn wait(&self) -> wire::ExitStatus {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => (*status).unwrap_or_default(),
            Err(_) => wire::ExitStatus::default(),
        }
    }

    fn signal(&self, signal: i32) -> Result<(), Failure> {
        let name = self.record().name.clone();
        match self.live() {
            Some(container) => container.signal(signal).map_err(|error| {
                Failure::host(error).context(format!("failed to signal container `{name}`"))
            }),
            None => Err(Failure::user(format!("container `{name}` is not running"))),
        }
    }
}

impl Containers {
    /// Takes up the records in `dir`. Containers that ran when the worker died have ended.
    pub(crate) fn open(dir: &Path) -> Result<Containers, Failure> {
        make_dir(dir)?;
        let containers = Containers {
            dir: dir.to_owned(),
            all: Mutex::default(),
        };
        for found in list_dirs(dir)? {
            let path = dir.join(&found);
            let record = match Record::load(&path) {
                Ok(record) if !record.auto_remove => record,
                Ok(_) => {
                    remove_dir(&path);
                    continue;
                }
                Err(failure) => {
                    tracing::warn!(container = %found, %failure, "a container's record is lost");
                    remove_dir(&path);
                    continue;
                }
            };
            record.save(&path)?;
            let log = Log::open(&path.join("log"), true).map_err(Failure::host)?;
            let entry = Entry {
                dir: path,
                log,
                made: Mutex::new(None),
                further: Further::default(),
                live: Mutex::new(None),
                stdin: tokio::sync::Mutex::new(None),
                layer: Mutex::new(None),
                exit: watch::Sender::new(record.exit()),
                record: Mutex::new(record),
                _image: None,
            };
            containers.add(entry)?;
        }
        Ok(containers)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, entry: Entry) -> Result<Arc<Entry>, Failure> {
        let entry = Arc::new(entry);
        let (id, name) = {
            let record = entry.record();
            (record.id.clone(), record.name.clone())
        };
        let mut all = self.all();
        if all.values().any(|other| other.record().name == name) {
            return Err(Failure::new(
                Class::Exists,
                format!(
                    "container name `{name}` is taken; remove that container or pick another name"
                ),
            ));
        }
        all.insert(id, entry.clone());
        Ok(entry)
    }

    /// The container of that name, id or unambiguous beginning of an id.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Entry>, Failure> {
        let all = self.all();
        if let Some(entry) = all.values().find(|e| e.record().name == name) {
            return Ok(entry.clone());
        }
        let mut matching = all
            .iter()
            .filter(|(id, _)| !name.is_empty() && id.starts_with(name));
        match (matching.next(), matching.next()) {
            (Some((_, entry)), None) => Ok(entry.clone()),
            (Some(_), Some(_)) => Err(Failure::user(format!(
                "`{name}` is the beginning of several containers' ids"
            ))),
            (None, _) => Err(Failure::not_found(format!("no such container: `{name}`"))),
        }
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.all()
            .values()
            .filter(|e| e.record().is_running())
            .count()
    }

    /// The containers, the newest first; without `ended` only those that run.
    pub(crate) fn list(&self, ended: bool) -> Vec<wire::Container> {
        let all = self.all();
        let mut records: Vec<Record> = all
            .values()
            .map(|e| e.record().clone())
            .filter(|record| ended || record.is_running())
            .collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        records.iter().map(Record::to_wire).collect()
    }

    /// Whether a container uses the image with this id.
    pub(crate) fn uses_image(&self, id: &str) -> Option<String> {
        let all = self.all();
        let found = all
            .values()
            .map(|e| e.record().clone())
            .find(|r| r.image_id == id);
        found.map(|record| record.name)
    }

    fn take(&self, entry: &Entry) {
        let id = entry.record().id.clone();
        self.all().remove(&id);
        remove_dir(&entry.dir);
    }

    /// Forgets a container. One that runs is killed first, if `force` says so.
    pub(crate) async fn remove(&self, name: &str, force: bool) -> Result<(), Failure> {
        let entry = self.find(name)?;
        if entry.record().is_running() {
            if !force {
                return Err(Failure::user(format!(
                    "container `{name}` is running; stop it first, or remove it with force"
                )));
            }
            kill(&entry);
            entry.wait().await;
        }
        self.take(&entry);
        Ok(())
    }

    /// Kills all containers; for the end of the worker.
    pub(crate) async fn shutdown(&self) {
        let running: Vec<Arc<Entry>> = self
            .all()
            .values()
            .filter(|e| e.record().is_running())
            .cloned()
            .collect();
        running.iter().for_each(|entry| kill(entry));
        for entry in running {
            entry.wait().await;
        }
    }
}

fn kill(entry: &Entry) {
    if let Some(container) = entry.live()
        && let Err(error) = container.kill()
    {
        tracing::warn!(%error, "failed to kill a container");
    }
}

/// Starts a created container.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    name: &str,
) -> Result<wire::StartContainerResponse, Failure> {
    let entry = shared.containers.find(name)?;
    run::start(shared, &entry, None).await
}

/// Asks a container to stop, and kills it after `timeout`.
pub(crate) async fn stop(shared: &Shared, name: &str, timeout: Duration) -> Result<(), Failure> {
    let entry = shared.containers.find(name)?;
    if !entry.record().is_running() {
        return Ok(());
    }
    let signal = signal_number(&entry.record().stop_signal)?;
    entry.signal(signal)?;
    if tokio::time::timeout(timeout, entry.wait()).await.is_err() {
        kill(&entry);
        entry.wait().await;
    }
    Ok(())
}

/// Sends a signal by its name or number.
pub(crate) fn send_signal(shared: &Shared, name: &str, signal: &str) -> Result<(), Failure> {
    shared.containers.find(name)?.signal(signal_number(signal)?)
}

/// Reads what a container has printed.
pub(crate) fn logs(
    shared: &Shared,
    request: &wire::LogsRequest,
) -> Result<tokio_stream::wrappers::ReceiverStream<Result<wire::LogChunk, tonic::Status>>, Failure>
{
    let entry = shared.containers.find(&request.container)?;
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    let mut reader = entry.log.read(request.follow).map_err(Failure::host)?;
    let mut first = match usize::try_from(request.tail) {
        Ok(lines) => {
            let frames = entry.log.frames().map_err(Failure::host)?;
            reader.skip_present();
            log::tail(frames, lines)
        }
        Err(_) => Vec::new(),
    };
    tokio::spawn(async move {
        let chunk = |frame: log::Frame| wire::LogChunk {
            stream: frame.stream,
            data: frame.data,
            time: Some(frame.time.into()),
        };
        for frame in first.drain(..) {
            if sender.send(Ok(chunk(frame))).await.is_err() {
                return;
            }
        }
        loop {
            let next = tokio::select! {
                next = reader.next() => next,
                () = sender.closed() => return,
            };
            let message = match next {
                Ok(Some(frame)) => Ok(chunk(frame)),
                Ok(None) => return,
                Err(error) => Err(Failure::host(error).into()),
            };
            let failed = message.is_err();
            if sender.send(message).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

/// A signal by name (`SIGTERM`, `TERM`) or number; empty is SIGTERM.
pub(crate) fn signal_number(name: &str) -> Result<i32, Failure> {
    use std::str::FromStr as _;
    if name.is_empty() {
        return Ok(nix::sys::signal::Signal::SIGTERM as i32);
    }
    if let Ok(number) = name.parse::<i32>()
        && (1..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    nix::sys::signal::Signal::from_str(&full)
        .map(|signal| signal as i32)
        .map_err(|_| Failure::user(format!("invalid signal: {name}")))
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|error| {
        Failure::host(error).context(format!("failed to make `{}`", dir.display()))
    })
}

fn remove_dir(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "failed to remove a container's directory");
    }
}

fn list_dirs(dir: &Path) -> Result<Vec<String>, Failure> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    };
    read().map_err(|e| Failure::host(e).context(format!("failed to list `{}`", dir.display())))
}
