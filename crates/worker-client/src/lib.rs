//! A worker, seen from the engine: the solver's `Worker` port and the other calls of
//! `worker.proto`, in checked types.
//!
//! Owns the connection to a worker, the tunnel through which the worker reaches clients' sessions,
//! and the conversion of wire messages. Knows nothing of what an op does. Start at [`Worker`].

mod convert;
mod error;
mod port;
mod sandbox;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use oci::{Digest, Platform};
use proto::worker as wire;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Channel;
use wire::worker_client::WorkerClient;

pub use convert::{Item, OpNews};
pub use error::{Remains, WorkerError};
pub use port::{JobPort, SharedKeys, TraceParents};
pub use sandbox::Sandbox;

/// The most that one message of a worker may hold: BuildKit's limit.
const MAX_MESSAGE: usize = 16 << 20;

/// A worker at the other end of a channel.
#[derive(Clone)]
pub struct Worker {
    client: WorkerClient<Channel>,
    describe: Arc<Description>,
}

/// What a worker is.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its lasting name.
    pub id: String,
    /// What it says of itself.
    pub labels: BTreeMap<String, String>,
    /// What it can run, its own platform first; never empty.
    pub platforms: Vec<Platform>,
    /// Its garbage collection policies.
    pub gc_policies: Vec<GcPolicy>,
}

/// A device that steps can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `vendor/class=name`.
    pub name: String,
    /// What its vendor says of it.
    pub annotations: BTreeMap<String, String>,
    /// Whether every build may have it.
    pub auto_allow: bool,
}

/// When a worker throws away what is not in use; sizes in bytes.
#[derive(Clone, Debug, Default)]
pub struct GcPolicy {
    /// Also what is internal.
    pub all: bool,
    /// What was used in this time stays.
    pub keep_duration: Duration,
    /// This much stays always.
    pub reserved_space: i64,
    /// Which records it is for.
    pub filters: Vec<String>,
    /// No more than this stays.
    pub max_used_space: i64,
    /// So much of the disk is to be free.
    pub min_free_space: i64,
}

/// One thing that a worker keeps.
#[derive(Clone, Debug)]
pub struct UsageRecord {
    /// Its name.
    pub id: String,
    /// Whether it can still change.
    pub mutable: bool,
    /// Whether something uses it now.
    pub in_use: bool,
    /// Bytes on disk.
    pub size: i64,
    /// What it is based on.
    pub parents: Vec<String>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When it was last used.
    pub last_used: Option<SystemTime>,
    /// How often it was used.
    pub usage_count: i64,
    /// For people.
    pub description: String,
    /// `regular`, `source.local`, `exec.cachemount` and so on.
    pub record_type: String,
    /// Whether an image uses it too.
    pub shared: bool,
}

/// One platform's part of what is exported.
#[derive(Clone, Debug)]
pub struct ExportRef {
    /// The platform's id in the result, empty for a single one.
    pub key: String,
    /// The ref, `None` for an empty filesystem.
    pub id: Option<Digest>,
    /// The platform.
    pub platform: Platform,
    /// The image config, when the frontend made one.
    pub config: Option<Bytes>,
    /// What is attested of it.
    pub attestations: Vec<ExportAttestation>,
}

/// Something that is attested of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportAttestation {
    /// What kind of thing is said, a URI.
    pub predicate_type: String,
    /// What is said, JSON.
    pub predicate: Bytes,
    /// Whether it is carried out only with images.
    pub inline_only: bool,
    /// The name of the file that holds it in outputs of files.
    pub file_name: String,
}

/// What is to be carried out, and where to.
#[derive(Clone, Debug)]
pub struct Export {
    /// The build.
    pub job: String,
    /// `image`, `oci`, `docker`, `tar` or `local`.
    pub kind: String,
    /// The exporter's attributes.
    pub attrs: BTreeMap<String, String>,
    /// The session that receives the output or answers for credentials.
    pub session: String,
    /// The exporter's index in the build.
    pub target: String,
    /// What.
    pub refs: Vec<ExportRef>,
    /// Whether the result is a map by platform.
    pub multi_platform: bool,
    /// Told to the client beside the output.
    pub metadata: BTreeMap<String, Bytes>,
    /// What the image's config tells of the build that made it.
    pub inline_cache: Vec<CacheEntry>,
}

/// What a build cache may carry of one vertex.
#[derive(Clone, Debug)]
pub struct CacheEntry {
    /// The vertex's id.
    pub id: Digest,
    /// The keys that stand for it.
    pub keys: Vec<Digest>,
    /// The ids of its outputs.
    pub output_ids: Vec<Digest>,
    /// Whether its results go along whatever the mode says.
    pub results: Option<bool>,
}

/// Which build cache is to be read.
#[derive(Clone, Debug)]
pub struct ImportCache {
    /// The build.
    pub job: String,
    /// `registry` or `local`.
    pub kind: String,
    /// Where it is.
    pub attrs: BTreeMap<String, String>,
    /// The session that has it or answers for credentials.
    pub session: String,
}

/// Which build cache is to be written.
#[derive(Clone, Debug)]
pub struct ExportCache {
    /// The build.
    pub job: String,
    /// `registry` or `local`.
    pub kind: String,
    /// Where to, and how.
    pub attrs: BTreeMap<String, String>,
    /// The session that takes it or answers for credentials.
    pub session: String,
    /// What is known of the build.
    pub entries: Vec<CacheEntry>,
    /// The ids of the build's results.
    pub final_ids: Vec<Digest>,
    /// Whether all results go along, or only what consists of the layers of the build's results.
    pub all: bool,
}

/// What an export gave.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// What the client is told.
    pub response: BTreeMap<String, String>,
    /// The manifests, configs and statements of an image.
    pub documents: Vec<Bytes>,
}

/// What a reference stands for.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The digest of the index or manifest.
    pub digest: Digest,
    /// The platform's config.
    pub config: Bytes,
    /// The full reference.
    pub reference: String,
}

impl Worker {
    /// Asks the worker at `channel` who it is, and serves `sessions` to it: a service that carries
    /// its calls to the sessions of clients.
    ///
    /// # Errors
    /// When the worker does not answer.
    pub async fn connect(
        channel: Channel,
        sessions: impl rpc::tunnel::Inner,
    ) -> Result<Worker, WorkerError> {
        let mut client = WorkerClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let answer = client
            .describe(wire::DescribeRequest {})
            .await?
            .into_inner();
        let describe = Arc::new(convert::description(answer)?);
        convert::serve_sessions(&mut client, sessions).await?;
        Ok(Worker { client, describe })
    }

    /// The devices that steps can be given: those that are `wanted`, or all where nothing is.
    ///
    /// # Errors
    /// When one that is wanted and not optional is not there.
    pub async fn devices(&self, wanted: &[llb::CdiDevice]) -> Result<Vec<Device>, WorkerError> {
        let wanted = wanted.iter().map(|device| wire::WantedDevice {
            name: device.name.clone(),
            optional: device.optional,
        });
        let request = wire::FindDevicesRequest {
            wanted: wanted.collect(),
        };
        let answer = self.client.clone().find_devices(request).await?;
        let devices = answer.into_inner().devices.into_iter();
        Ok(devices
            .map(|device| Device {
                name: device.name,
                annotations: device.annotations,
                auto_allow: device.auto_allow,
            })
            .collect())
    }

    /// What the worker said of itself.
    pub fn description(&self) -> &Description {
        &self.describe
    }

    /// Resolves an image reference, at its registry or in a client's OCI layout.
    ///
    /// # Errors
    /// Names the reference, the registry and the cause.
    pub async fn resolve_image(
        &self,
        job: &str,
        reference: &str,
        platform: Option<&Platform>,
        mode: &str,
        layout: Option<&frontend::LayoutStore>,
        sessions: Vec<String>,
    ) -> Result<ResolvedImage, WorkerError> {
        let request = wire::ResolveImageRequest {
            job: job.to_owned(),
            reference: reference.to_owned(),
            platform: platform.map(convert::platform_to_wire),
            resolve_mode: mode.to_owned(),
            sessions,
            no_config: false,
            layout: layout.map(|layout| wire::Layout {
                session: layout.session.clone(),
                store: layout.store.clone(),
            }),
        };
        let answer = self
            .client
            .clone()
            .resolve_image(request)
            .await?
            .into_inner();
        Ok(ResolvedImage {
            digest: convert::digest(&answer.digest)?,
            config: answer.config,
            reference: answer.reference,
        })
    }

    /// Asks what pins a source that is not an image.
    ///
    /// # Errors
    /// When the source cannot be reached or is not as it is asked for.
    pub async fn resolve_source(
        &self,
        job: &str,
        source: &frontend::ResolveSource,
        sessions: Vec<String>,
    ) -> Result<frontend::ResolvedSource, WorkerError> {
        let checksum = source.http_checksum.as_ref();
        let request = wire::ResolveSourceRequest {
            job: job.to_owned(),
            identifier: source.identifier.clone(),
            attrs: source.attrs.clone(),
            sessions,
            objects: source.git_objects,
            checksum: checksum.map(|wanted| wire::Checksum {
                algorithm: wanted.algorithm.clone(),
                suffix: wanted.suffix.clone(),
            }),
        };
        let answer = self.client.clone().resolve_source(request).await?;
        convert::resolved_source(source, answer.into_inner())
    }

    /// The line of `known_hosts` for an ssh server, as it answers now; `None` when it does not.
    ///
    /// # Errors
    /// When the worker cannot be asked.
    pub async fn ssh_host_key(&self, host: &str) -> Result<Option<String>, WorkerError> {
        let host = host.to_owned();
        let request = wire::FindHostKeyRequest { host };
        let answer = self.client.clone().find_host_key(request).await?;
        Ok(Some(answer.into_inner().known_host).filter(|line| !line.is_empty()))
    }

    /// Reads a file of a ref; `length` 0 reads to the end.
    ///
    /// # Errors
    /// [`WorkerError::is_not_found`] when there is no such file.
    pub async fn read_file(
        &self,
        job: &str,
        id: Digest,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, WorkerError> {
        let request = wire::ReadFileRequest {
            job: job.to_owned(),
            id: id.to_string(),
            path: path.to_owned(),
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            length: i64::try_from(length).unwrap_or(i64::MAX),
            sandbox: None,
        };
        Ok(self
            .client
            .clone()
            .read_file(request)
            .await?
            .into_inner()
            .data)
    }

    /// Lists a directory of a ref.
    ///
    /// # Errors
    /// [`WorkerError::is_not_found`] when there is no such directory.
    pub async fn read_dir(
        &self,
        job: &str,
        id: Digest,
        path: &str,
        include: &str,
    ) -> Result<Vec<frontend::FileStat>, WorkerError> {
        let request = wire::ReadDirRequest {
            job: job.to_owned(),
            id: id.to_string(),
            path: path.to_owned(),
            include_pattern: include.to_owned(),
            sandbox: None,
        };
        let answer = self.client.clone().read_dir(request).await?.into_inner();
        Ok(answer.entries.into_iter().map(convert::file_stat).collect())
    }

    /// Metadata of one file of a ref.
    ///
    /// # Errors
    /// [`WorkerError::is_not_found`] when there is no such file.
    pub async fn stat_file(
        &self,
        job: &str,
        id: Digest,
        path: &str,
    ) -> Result<frontend::FileStat, WorkerError> {
        let request = wire::StatFileRequest {
            job: job.to_owned(),
            id: id.to_string(),
            path: path.to_owned(),
            sandbox: None,
        };
        let answer = self.client.clone().stat_file(request).await?.into_inner();
        answer
            .stat
            .map(convert::file_stat)
            .ok_or_else(|| WorkerError::protocol("StatFile answered without a stat"))
    }

    /// Carries refs out and tells `news` how it goes. Dropping the future cancels the export.
    ///
    /// # Errors
    /// What stopped the export.
    pub async fn export(
        &self,
        export: Export,
        news: impl FnMut(OpNews) + Send,
    ) -> Result<Exported, WorkerError> {
        let request = convert::export_to_wire(export);
        let stream = self.client.clone().export(request).await?.into_inner();
        let done = convert::follow(stream, news).await?;
        Ok(Exported {
            response: done.response,
            documents: done.documents,
        })
    }

    /// Reads a build cache and answers its keys with the ids for which they stand. What it has is
    /// there for the job from now on.
    ///
    /// # Errors
    /// When it cannot be found or read.
    pub async fn import_cache(
        &self,
        import: ImportCache,
        news: impl FnMut(OpNews) + Send,
    ) -> Result<Vec<(Digest, Digest)>, WorkerError> {
        let request = wire::ImportCacheRequest {
            job: import.job,
            kind: import.kind,
            attrs: import.attrs,
            session: import.session,
        };
        let stream = self
            .client
            .clone()
            .import_cache(request)
            .await?
            .into_inner();
        Ok(convert::follow(stream, news).await?.links)
    }

    /// Writes a build cache and answers what the client is told.
    ///
    /// # Errors
    /// What stopped it.
    pub async fn export_cache(
        &self,
        export: ExportCache,
        news: impl FnMut(OpNews) + Send,
    ) -> Result<BTreeMap<String, String>, WorkerError> {
        let request = wire::ExportCacheRequest {
            job: export.job,
            kind: export.kind,
            attrs: export.attrs,
            session: export.session,
            entries: export.entries.iter().map(convert::cache_entry).collect(),
            final_ids: export.final_ids.iter().map(ToString::to_string).collect(),
            all: export.all,
        };
        let stream = self
            .client
            .clone()
            .export_cache(request)
            .await?
            .into_inner();
        Ok(convert::follow(stream, news).await?.response)
    }

    /// What the worker keeps: records that match one of `filter`, unused for `age` at least.
    ///
    /// # Errors
    /// When a filter cannot be read.
    pub async fn disk_usage(
        &self,
        filter: Vec<String>,
        age: Duration,
    ) -> Result<Vec<UsageRecord>, WorkerError> {
        let request = wire::DiskUsageRequest {
            filter,
            age_limit_ns: convert::nanoseconds(age),
        };
        let answer = self.client.clone().disk_usage(request).await?.into_inner();
        Ok(answer.records.into_iter().map(convert::usage).collect())
    }

    /// Throws away what `policy` says and nothing uses; a policy without bounds means all of it.
    ///
    /// # Errors
    /// When a filter cannot be read.
    pub async fn prune(
        &self,
        policy: GcPolicy,
    ) -> Result<impl Stream<Item = Result<UsageRecord, WorkerError>> + Send + use<>, WorkerError>
    {
        let request = wire::PruneRequest {
            filter: policy.filters,
            all: policy.all,
            keep_duration_ns: convert::nanoseconds(policy.keep_duration),
            reserved_space: policy.reserved_space,
            max_used_space: policy.max_used_space,
            min_free_space: policy.min_free_space,
        };
        let removed = self.client.clone().prune(request).await?.into_inner();
        Ok(removed.map(|record| Ok(convert::usage(record?))))
    }

    /// Ends a job: what it touched is no longer kept for it. With `flush` the call answers when all
    /// that it made is durable.
    ///
    /// # Errors
    /// When the worker cannot be reached or cannot write its records.
    pub async fn release_job(&self, job: &str, flush: bool) -> Result<(), WorkerError> {
        let request = wire::ReleaseJobRequest {
            job: job.to_owned(),
            flush,
        };
        self.client.clone().release_job(request).await?;
        Ok(())
    }
}
