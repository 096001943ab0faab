//! What all calls of a worker share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use executor::{Launcher, Network};
use oci::{Digest, Platform};
use refs::{Ref, Refs};
use snapshot::LayerId;

use crate::containers::Containers;
use crate::copies::Copies;
use crate::digests::Digests;
use crate::failure::{Class, Failure};
use crate::jobs::{Job, Jobs};
use crate::listings::Listings;
use crate::sessions::Tunnel;

/// How a worker behaves.
pub struct Options {
    /// Where things that live as long as the process are kept: sockets, containers' records.
    pub state_dir: PathBuf,
    /// The worker's lasting name.
    pub id: String,
    /// What it says of itself.
    pub labels: BTreeMap<String, String>,
    /// What it can run, its own platform first.
    pub platforms: Vec<Platform>,
    /// The program's version.
    pub version: String,
    /// The network of a step that asks for none in particular.
    pub step_network: Network,
    /// Whether containers that users run get a bridge by default.
    pub bridge: bool,
    /// What containers get instead of the machine's own resolver settings.
    pub dns: executor::files::DnsOptions,
    /// When what is not in use is thrown away, in order.
    pub gc: Vec<refs::PruneOptions>,
    /// What steps may be given besides the standard devices.
    pub devices: crate::cdi::DeviceOptions,
    /// Where steps of builds that belong to a trace can send their spans: a socket that speaks OTLP.
    pub trace_socket: Option<PathBuf>,
    /// How much of what a step prints is passed on.
    pub log_limits: crate::LogLimits,
}

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) refs: Refs,
    pub(crate) launcher: Launcher,
    pub(crate) registry: registry::Registry,
    pub(crate) resolver: source::ImageResolver,
    pub(crate) fetcher: source::Fetcher,
    pub(crate) http: source::Http,
    pub(crate) exporter: exporter::Exporter,
    pub(crate) tunnel: Arc<Tunnel>,
    pub(crate) digests: Digests,
    pub(crate) copies: Copies,
    /// How clients' directories are listed.
    pub(crate) listings: Listings,
    pub(crate) containers: Containers,
    pub(crate) imports: crate::cache::Imports,
    pub(crate) scratch: crate::scratch::Scratch,
    pub(crate) sandboxes: crate::sandbox::Sandboxes,
    pub(crate) gc: tokio::sync::Notify,
    /// The cache mounts that jobs have emptied because they use nothing of before.
    pub(crate) emptied: dashmap::DashMap<String, BTreeSet<String>>,
    pub(crate) jobs: Jobs,
}

impl Shared {
    /// Whether `job` uses the cache mount `key` for the first time.
    pub(crate) fn is_first_use(&self, job: &str, key: &str) -> bool {
        self.emptied
            .entry(job.to_owned())
            .or_default()
            .insert(key.to_owned())
    }

    /// The ref `id`, kept for `job` until that is released.
    pub(crate) fn find(&self, job: &str, id: Digest) -> Result<Ref, Failure> {
        let found = self.refs.get(&id).ok_or_else(|| {
            // The solver makes it again.
            Failure::new(Class::Transient, format!("ref {id} is not there any more"))
        })?;
        self.job(job)?.lease.add(&found);
        Ok(found)
    }

    /// The sessions `ids` of a call of `job`; later calls of the job that name none use them too.
    pub(crate) fn enter(
        &self,
        job: &str,
        ids: &[String],
    ) -> Result<crate::sessions::Sessions, Failure> {
        let all = self.job(job)?.sessions;
        ids.iter().for_each(|id| all.add(id.clone()));
        Ok(self.tunnel.sessions(ids.to_vec()))
    }

    /// What is kept for the job `id`, from now on until it is released.
    pub(crate) fn job(&self, id: &str) -> Result<Job, Failure> {
        self.jobs.get(id, || {
            let sessions = crate::sessions::Sessions::none(&self.tunnel);
            Job::new(sessions, self.refs.lease(id))
        })
    }

    /// The layers of a ref with their files here: lazy ones are brought in first.
    pub(crate) async fn stack(
        &self,
        reference: &Ref,
        sessions: &crate::sessions::Sessions,
        events: Option<&crate::events::Events>,
    ) -> Result<Vec<LayerId>, Failure> {
        if let Some(layers) = reference.snapshots() {
            return Ok(layers);
        }
        crate::images::materialize(self, reference, sessions, events)
            .await
            .map_err(|failure| crate::cache::give_up(self, reference, failure))?;
        reference.snapshots().ok_or_else(|| {
            Failure::bug(format!("layers of {} were not brought in", reference.id()))
        })
    }
}

/// Parses an id that the engine sent.
pub(crate) fn id(text: &str) -> Result<Digest, Failure> {
    text.parse()
        .map_err(|error| Failure::user(rpc::status::chain(&error)))
}
